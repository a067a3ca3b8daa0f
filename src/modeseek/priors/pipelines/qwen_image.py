"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): a rectified-flow transformer that reads the hidden states of a vision-language model.

    prediction    u = n - y on z = (1-t) y + t n, over 2 x 2 patches; the network takes t in [0, 1]
    text          Qwen2.5-VL with the pipeline's template, whose tokens are dropped; prompts have different lengths and a mask
    codec         AutoencoderKLQwenImage, a video autoencoder used on one frame, with a mean and a standard deviation for each channel

diffusers' sampler rescales the guided prediction of each patch to the norm of the conditional one. That is not done here: guidance is
D_u + s (D_c - D_u), as in every other family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.codecs import latent_of
from modeseek.priors.pipelines.flow import from_patches, to_patches
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default, padded


@dataclass(frozen=True, kw_only=True, eq=False)
class QwenImage(TextFamily):
    """Inputs and calls of Qwen-Image's transformer."""

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, call_default(self.pipeline, "max_sequence_length"))]

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
