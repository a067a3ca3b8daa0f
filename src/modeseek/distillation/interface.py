"""`modeseek.distill`: optimise a renderer for a prompt, or any module along a gradient.

    distill(renderer, prior, "a red sphere", method="msd", steps=150)      the recipe of a method on an image prior
    distill(points, MSD(denoiser=D), steps=150)                            any gradient

The first form looks up the recipe of the method (`modeseek.recommend`), applies the settings given by keyword, builds its gradient and runs
the second form. Every setting is therefore stated once.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modeseek.core.errors import InvalidInput
from modeseek.core.identity import described, digest
from modeseek.distillation.loop import Step, Stop, optimise
from modeseek.distillation.recipes import Recipe, build_gradient
from modeseek.distillation.recommend import recommend
from modeseek.distillation.settings import changed
from modeseek.gradients import Gradient
from modeseek.priors.base import ImagePrior
from modeseek.priors.consistent import consistent_encode
from modeseek.priors.pipelines.text import PromptEmbeds
from modeseek.priors.sharded import sharded
from modeseek.priors.view_dependent import ViewDependentPrior
from modeseek.scaling.ranks import ALONE, Ranks

LOOP_SETTINGS = ("steps", "optimiser", "lr", "schedule", "warmup", "space", "refresh", "encode", "decode")


def distill(
    representation: nn.Module,
    model: ImagePrior | Gradient,
    prompt: str | Sequence[str] | PromptEmbeds | None = None,
    *,
    method: str | Recipe | None = None,
    negative: str = "",
    views: Callable[[], Sequence[str]] | None = None,
    azimuths: Callable[[], Tensor] | None = None,
    accumulate: int = 1,
    stop: Stop | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 25,
    ranks: Ranks = ALONE,
    **settings: Any,
) -> Iterator[Step]:
    """Optimise a representation; yield each step.

    Args:
        representation: module whose forward gives a batch: images (batch, channels, height, width) in [0, 1] for an image prior, x itself
            for a gradient. Images of another size than the prior's are resized, bilinear with antialiasing, in either direction.
        model: an image prior (`modeseek.load_prior`, `modeseek.NetworkPrior`), or a gradient (`modeseek.MSD`, ...).
        prompt: with a prior: one prompt for all images of the batch, a list with one each, or their `PromptEmbeds`.
        method: with a prior: the name of a recipe, "msd" by default ("sds", "sdi", "vsd", ...; `modeseek.RECIPES`), or a `Recipe`.
        negative: with a prior: negative prompt.
        views: with a prior: a function that returns the view name of each image of the current batch ("front", "side", ...), for renderers
            with moving cameras. Each name is appended to the prompt, and the method's recipe for views of an object is used.
        azimuths: with `views`: the azimuths of the current batch in degrees; turns Perp-Neg on.
        accumulate: forward and backward passes averaged in one step.
        stop: convergence rule; None: run all steps.
        seed: seed of all randomness.
        checkpoint: file that is written every `every` steps and at the end, and from which a killed run resumes with the same result.
        every: steps between checkpoints.
        ranks: processes that share the work (`modeseek.scaling.ranks`).
        settings: with a prior, any field of `Recipe` (steps, lr, guidance, bandwidth, refresh, space, ...); with a gradient, steps
            and optimiser, lr, schedule, warmup, space, refresh, encode, decode (`modeseek.distillation.loop.optimise`).

    Raises:
        InvalidInput: an unknown setting or method, a missing prompt, a number of prompts that does not divide the batch.
        NonFiniteError: x or its gradient became NaN or infinite; the last good state is in the checkpoint.
        OutputError: the checkpoint belongs to another run.

    Example:
        >>> from modeseek import MSD, ExactSampler, Points, fractal
        >>> points = Points(torch.tensor([[0.5, 0.5]]))
        >>> for step in distill(points, MSD(denoiser=fractal("A"), sampler=ExactSampler(steps=5)), steps=3):
        ...     pass
        >>> step.index, step.calls
        (2, 24.0)
    """
    loop: dict[str, Any] = {"accumulate": accumulate, "stop": stop, "seed": seed, "checkpoint": checkpoint, "every": every, "ranks": ranks}
    if not is_prior(model):
        given = {"prompt": prompt, "method": method, "views": views, "azimuths": azimuths, "negative": negative or None}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise InvalidInput(f"{', '.join(wrong)} need an image prior as the second argument, got {type(model).__name__}, a gradient")
        check_gradient(model)
        check_names(settings, LOOP_SETTINGS, what="setting of the loop")
        if "steps" not in settings:
            raise InvalidInput("a distillation along a gradient needs its number of steps: distill(x, gradient, steps=150)")
        return optimise(representation, model, **settings, **loop)  # type: ignore[arg-type]
    prior: ImagePrior = model  # type: ignore[assignment]
    recipe = recipe_of(method, kind="image" if views is None else "view", **settings)
    return optimise_recipe(
        representation, prior, prompts_of(prompt), recipe, negative=negative, views=views, azimuths=azimuths, optimiser=None, **loop
    )


def optimise_recipe(
    representation: nn.Module,
    prior: ImagePrior,
    prompts: Sequence[str] | PromptEmbeds,
    recipe: Recipe,
    *,
    guidance: float | None = None,
    negative: str = "",
    views: Callable[[], Sequence[str]] | None = None,
    azimuths: Callable[[], Tensor] | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] | None = None,
    latents: bool = False,
    seed: int = 0,
    ranks: Ranks = ALONE,
    **loop: Any,
) -> Iterator[Step]:
    """Run a recipe on a prior; the body of `distill` that the tasks share.

    Args:
        representation, prior, prompts, negative, views, azimuths, seed, ranks: as of `distill`.
        recipe: the complete settings.
        guidance: scale used where the recipe states none; None: the prior's own.
        optimiser: a factory `(parameters, lr) -> Optimizer` in place of the recipe's optimiser.
        latents: whether the representation gives x itself, not an image.
        loop: accumulate, stop, checkpoint, every, identity (None: of all settings and the prior).

    Raises:
        InvalidInput: residuals in image space of a representation that gives latents, or a chain for views: each step has other cameras,
            and a chain is valid for its images only.
    """
    if azimuths is not None and views is None:
        raise InvalidInput("azimuths turn Perp-Neg on between the names of views: give views as well")
    if views is not None and recipe.method == "msd-persistent":
        raise InvalidInput("msd-persistent needs the same images at every step, and views have new cameras: choose msd or mean-shift")
    if latents and recipe.space != "latent":
        raise InvalidInput("free latents are not images: choose space='latent', or the representation mlp or pixels")
    shared = sharded(prior, ranks)
    conditioned: Any = shared if views is None else ViewDependentPrior(prior=shared, names=views, azimuths=azimuths)
    gradient = build_gradient(recipe, conditioned, cast("Sequence[str]", prompts), guidance=guidance, negative=negative, seed=seed)
    if loop.get("identity") is None:
        stated = described([prior, prompts if isinstance(prompts, PromptEmbeds) else list(prompts), recipe, guidance, negative])
        loop["identity"] = digest(f"{described(gradient)} {stated} {views is not None} {azimuths is not None}")
    ranks.shard_gradient(representation)
    ranks.sum_gradients(getattr(gradient, "optimiser", None))
    size = RenderedSize()

    def encode(image: Tensor) -> Tensor:
        size.last, size.channels = (image.shape[-2], image.shape[-1]), image.shape[1]
        return consistent_encode(resized(image, prior.image_size), shared.encode, shared.decode, corrections=recipe.corrections)

    def decode(x: Tensor) -> Tensor:
        image = resized(shared.decode(x), size.last or prior.image_size)
        return image.mean(1, keepdim=True) if size.channels == 1 else image.expand(-1, size.channels, -1, -1)

    return optimise(
        representation,
        gradient,
        steps=recipe.steps,
        optimiser=optimiser or recipe.optimiser,
        lr=recipe.lr,
        schedule=recipe.schedule,
        warmup=recipe.warmup,
        encode=None if latents else encode,
        decode=None if recipe.space == "latent" else decode,
        space=recipe.space,
        refresh=recipe.refresh,
        seed=seed,
        ranks=ranks,
        **loop,
    )


class RenderedSize:
    """The size of the images that were encoded last, to which a target is resized back, and their channels: 1 or 3."""

    last: tuple[int, int] | None = None
    channels: int = 3


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at `size` (height, width): bilinear with antialiasing where theirs differs, unchanged where it does not."""
    return image if tuple(image.shape[-2:]) == tuple(size) else interpolate(image, size=size, mode="bilinear", antialias=True)


def recipe_of(method: str | Recipe | None, *, kind: str, **settings: Any) -> Recipe:
    """Return the recipe of a method with the settings given by keyword.

    Raises:
        InvalidInput: an unknown method or setting, with the closest one named, or a setting that the method does not read.
    """
    check_names(settings, tuple(field.name for field in fields(Recipe) if field.name != "method"), what="setting of a recipe")
    base = method if isinstance(method, Recipe) else recommend(kind, method or "msd")
    return changed(base, settings, name=method if isinstance(method, str) else None)


def prompts_of(prompt: str | Sequence[str] | PromptEmbeds | None) -> list[str] | PromptEmbeds:
    """A list of prompts, or embeddings as they are.

    Raises:
        InvalidInput: there is none.
    """
    if isinstance(prompt, PromptEmbeds):
        return prompt
    if prompt is None or (not isinstance(prompt, str) and not prompt):
        raise InvalidInput("an image prior needs a prompt: distill(renderer, prior, 'a red sphere'); an unconditional one takes ''")
    return [prompt] if isinstance(prompt, str) else list(prompt)


def is_prior(model: Any) -> bool:
    """Whether `model` is an image prior: it makes denoisers and maps images to x."""
    return callable(getattr(model, "denoiser", None)) and callable(getattr(model, "encode", None)) and hasattr(model, "event")


def check_gradient(model: Any) -> None:
    """Raise `InvalidInput` unless `model` is called like a gradient, with `progress` and `rng`."""
    try:
        accepted = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        accepted = ()  # type: ignore[assignment]
    names = {parameter.name for parameter in accepted}
    if {"progress", "rng"} <= names or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted):
        return
    raise InvalidInput(
        f"the second argument must be an image prior or a gradient, got {type(model).__name__}; "
        "a denoiser D(x, sigma) becomes a gradient as modeseek.MSD(denoiser=D), and a prior as modeseek.NetworkPrior(...)"
    )


def check_names(settings: dict[str, Any], known: Sequence[str], *, what: str) -> None:
    """Raise `InvalidInput` for the first setting that is not known, with the closest name that is."""
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise InvalidInput(f"{name!r} is not a {what}{hint}")
