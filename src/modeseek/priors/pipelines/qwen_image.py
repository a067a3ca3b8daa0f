"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): a rectified-flow transformer that reads the hidden states of a vision-language model.

    prediction    u = n - y on z = (1-t) y + t n, over 2 x 2 patches; the network takes t in [0, 1]
    text          Qwen2.5-VL with the pipeline's template, whose tokens are dropped; prompts have different lengths and a mask
    codec         AutoencoderKLQwenImage, a video autoencoder used on one frame, with moments for each channel

The guided prediction u_g = u_u + s (u_c - u_u) of each patch is rescaled to the norm of the conditional one, as in the pipeline's own
sampler:

    D = z - t u_g |u_c| / |u_g|,   z = x / (1 + sigma),  t u = z - D

so D is not linear in s. `dataclasses.replace(prior, family=dataclasses.replace(prior.family, guided_pair=GuidedPair))` gives plain
guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.core.denoiser import as_sigma, per_item
from modeseek.core.guidance import GuidedPair
from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.codecs import latent_of
from modeseek.priors.pipelines.flow import from_patches, to_patches
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default, padded, template_tokens


@dataclass(frozen=True, kw_only=True)
class RescaledPair(GuidedPair):
    """Guidance of a rectified flow whose prediction keeps the norm of the conditional one in each 2 x 2 patch; a `Denoiser`."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if self.scale == 1 or not bool(inside.any()):
            return self.denoiser(x, sigma)
        if self.scale == 0:  # D_u itself, which no rule changes
            return super().__call__(x, sigma)
        strong, weak = self.pair(x, sigma)
        guided = weak + per_item(torch.where(inside, self.scale, 1.0).to(x), x) * (strong - weak)
        z = x / (1 + per_item(sigma, x))
        conditional, combined = to_patches(z - strong), to_patches(z - guided)
        factor = conditional.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        return z - from_patches(combined * factor, x.shape[2] // 2, x.shape[3] // 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class QwenImage(TextFamily):
    """Inputs and calls of Qwen-Image's transformer.

    Args:
        guided_pair: how D_c and D_u are combined.
    """

    guided_pair: type[GuidedPair] = RescaledPair

    def readers(self) -> list[Reader]:
        pipe = self.pipeline
        kept = template_tokens(pipe.tokenizer, pipe.prompt_template_encode.format) - pipe.prompt_template_encode_start_idx
        return [(pipe.tokenizer, call_default(pipe, "max_sequence_length") - kept)]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        limit = call_default(self.pipeline, "max_sequence_length")
        tokens, mask = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=limit)
        return self.masked(tokens, mask)

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.joint_attention_dim, mask=True)
        return self.masked(embeds.tokens.to(self.device), embeds.mask)

    def masked(self, tokens: Tensor, mask: Tensor | None) -> Conditions:
        """Tokens and mask padded to the longest sequence, so that those of D_c and D_u can be concatenated."""
        limit = call_default(self.pipeline, "max_sequence_length")
        mask = torch.ones(tokens.shape[:2], device=tokens.device) if mask is None else mask.to(tokens.device)
        return {"tokens": padded(tokens, limit), "mask": padded(mask.bool(), limit)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        length = int(conditions["mask"].sum(1).max())
        tokens, mask = conditions["tokens"][:, :length].to(transformer.dtype), conditions["mask"][:, :length]
        height, width = z.shape[2] // 2, z.shape[3] // 2
        patches = transformer(
            hidden_states=to_patches(z).to(transformer.dtype),
            timestep=t,
            guidance=conditions.get("guidance"),
            encoder_hidden_states=tokens,
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, height, width)]] * len(z),
            return_dict=False,
        )[0]
        return from_patches(patches, height, width)


@dataclass(frozen=True)
class QwenCodec:
    """AutoencoderKLQwenImage of a pipeline on one frame: x = (z - mean) / std of each channel, z the posterior's mean or a draw."""

    pipeline: Any

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        vae = self.pipeline.vae
        z = latent_of(vae.encode((2 * image - 1).to(vae.dtype).unsqueeze(2)), rng)
        mean, std = self._moments(z)
        return ((z.squeeze(2) - mean) / std).to(image.dtype)

    def decode(self, x: Tensor) -> Tensor:
        mean, std = self._moments(x)
        vae = self.pipeline.vae
        return (vae.decode((x * std + mean).to(vae.dtype).unsqueeze(2)).sample.squeeze(2) / 2 + 0.5).to(x.dtype)

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.pipeline.vae.config
        return like.new_tensor(config.latents_mean).reshape(-1, 1, 1), like.new_tensor(config.latents_std).reshape(-1, 1, 1)


def qwen_image(model: Any) -> PipelinePrior:
    """The prior of a loaded Qwen-Image pipeline."""
    pipe, factor = model.pipeline, model.pipeline.vae_scale_factor
    own = pipe.default_sample_size * factor
    size = model.size((own, own), 2 * factor)
    embedded = bool(pipe.transformer.config.guidance_embeds)
    family = QwenImage(pipeline=pipe, device=model.device, name=model.name, guidance="embedded" if embedded else "classifier-free")
    channels = pipe.transformer.config.in_channels // 4
    return model.prior(family, model.levels, channels, size, codec=QwenCodec(pipe), factor=factor)
