"""A check at load: one evaluation of the network and one round trip of the codec, on the smallest batch and a small image.

What it finds would otherwise appear in the middle of a run: networks that need further inputs, text encoders of another model, prompts
without an effect, autoencoders of another shape, NaN from weights in a dtype that overflows. Cost: two prompts, one network call on two
items, one image encoded and decoded, all at no more than 16 x 16 latents (32 x 32 pixels without an autoencoder). `check=False` skips it.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from modeseek.core.errors import InvalidInput, ModeseekError
from modeseek.priors.pipelines.base import PipelinePrior

PROMPTS = ("a photo of a red cube", "an old map")
LATENT_SIDE, PIXEL_SIDE = 16, 32


def check_prior(prior: PipelinePrior) -> None:
    """Evaluate a prior once.

    Raises:
        InvalidInput: it does not work, or its prompt has no effect; the message says what was found and that `check=False` skips this.
    """
    small, title = smallest(prior), type(prior.pipeline).__name__
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_network(small)
            check_codec(small)
    except ModeseekError:
        raise
    except Exception as error:  # whatever a foreign model raises is a fault of the model here
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"this {title} does not work: {type(error).__name__}, {words} (found by one evaluation; check=False skips it)"
        ) from error
    if getattr(prior.pipeline, "_all_hooks", None):
        prior.pipeline.maybe_free_model_hooks()  # offloaded parts go back, as after a call of the pipeline


def smallest(prior: PipelinePrior) -> PipelinePrior:
    """The prior at a size that is cheap to evaluate; at its own where the network has one size."""
    if getattr(prior.family, "fixed_size", False):
        return prior
    channels, *sides = prior.event
    factors = [pixels // side for pixels, side in zip(prior.image_size, sides, strict=True)]
    limit = PIXEL_SIDE if factors == [1, 1] else LATENT_SIDE
    height, width = (min(side, limit) for side in sides)
    return replace(prior, event=(channels, height, width), image_size=(height * factors[0], width * factors[1]))


def check_network(prior: PipelinePrior) -> None:
    """D at two prompts, in one batch.

    Raises:
        InvalidInput: an output of another shape, NaN or infinite values, or a prompt without an effect.
    """
    kind = prior.family.guidance
    prompts = [""] * 2 if kind == "none" else list(getattr(prior.family, "examples", PROMPTS))
    x = torch.randn(1, *prior.event, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1).to(prior.device)
    low, high = prior.sigmas
    sigma = min(max(1.0, low), high)
    settings = prior.family.example_settings(prior.image_size) if hasattr(prior.family, "example_settings") else {}
    denoised = prior.denoiser(prompts, guidance=1.0, **settings)(
        prior.data_std * x * (1 + sigma**2) ** 0.5, torch.tensor(sigma, device=prior.device)
    )
    if denoised.shape != x.shape:
        raise InvalidInput(f"its network returns {tuple(denoised.shape[1:])} for x of {tuple(x.shape[1:])}")
    if not bool(denoised.isfinite().all()):
        raise InvalidInput(
            "its network returns NaN or infinite values: broken weights, or a dtype that they overflow (try float32 or bfloat16)"
        )
    if kind != "none" and torch.equal(denoised[0], denoised[1]):
        raise InvalidInput(
            "its prompt has no effect on its network: are text encoder and network of one model? (check=False skips this check)"
        )


def check_codec(prior: PipelinePrior) -> None:
    """One image to x and back.

    Raises:
        InvalidInput: a decoded image of another shape, or NaN or infinite values.
    """
    if getattr(prior.pipeline, "vae", True) is None:
        return
    image = torch.linspace(0, 1, prior.image_size[1], device=prior.device).expand(1, 3, *prior.image_size)
    x = prior.encode(image)
    back = prior.decode(x)
    if back.shape != image.shape:
        raise InvalidInput(f"its autoencoder decodes {tuple(image.shape[1:])} to {tuple(back.shape[1:])}")
    if not bool(x.isfinite().all() and back.isfinite().all()):
        raise InvalidInput("its autoencoder returns NaN or infinite values: load it with vae_dtype='float32'")
