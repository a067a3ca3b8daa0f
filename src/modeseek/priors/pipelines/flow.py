"""Rectified-flow transformers with several text encoders: Stable Diffusion 3 (Esser et al. 2024) and Flux (Black Forest Labs 2024).

Both predict u = n - y at z = (1-t) y + t n. Stable Diffusion 3 takes t in training steps and is classifier-free guided; without its third
text encoder (T5) the tokens of that encoder are zeros, as in diffusers. Flux takes t in [0, 1] and its latent as a sequence of 2 x 2
patches. Flux dev was distilled from a guided model and takes the scale as an input, without a second evaluation and without a negative
prompt. A Flux without that input (schnell) is guided by the formula; it was made for no guidance, which is its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeseek.priors.pipelines.base import Conditions
from modeseek.priors.pipelines.stable_diffusion import checked_skip
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily

SD3_TOKENS = 256  # of T5, as in diffusers


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusion3(TextFamily):
    """Inputs and calls of Stable Diffusion 3's transformer."""

    settings: ClassVar[tuple[str, ...]] = ("clip_skip",)

    def readers(self) -> list[Reader]:
        pipe = self.pipeline
        clip = [(pipe.tokenizer, pipe.tokenizer_max_length), (pipe.tokenizer_2, pipe.tokenizer_max_length)]
        return [(tokenizer, limit) for tokenizer, limit in [*clip, (pipe.tokenizer_3, SD3_TOKENS)] if tokenizer is not None]

    def encode(self, prompts: list[str], *, negative: bool = False, clip_skip: int | None = None) -> Conditions:
        settings: dict[str, Any] = {"device": self.device, "do_classifier_free_guidance": False, "max_sequence_length": SD3_TOKENS}
        settings["clip_skip"] = checked_skip(clip_skip, self.pipeline)
        tokens, _, pooled, _ = self.pipeline.encode_prompt(prompts, None, None, **settings)
        return {"tokens": tokens, "pooled": pooled}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        config = self.pipeline.transformer.config
        return pooled_conditions(embeds, self.device, config.joint_attention_dim, config.pooled_projection_dim)

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        tokens, pooled = (conditions[name].to(transformer.dtype) for name in ("tokens", "pooled"))
        time = t * self.pipeline.scheduler.config.num_train_timesteps
        inputs = {"timestep": time, "encoder_hidden_states": tokens, "pooled_projections": pooled}
        return transformer(hidden_states=z.to(transformer.dtype), return_dict=False, **inputs)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Flux(TextFamily):
    """Inputs and calls of Flux's transformer.

    Args:
        tokens: length of T5's sequence, 512 for dev and 256 for schnell.
    """

    tokens: int

    @property
    def distillation(self) -> str | None:
        """A Flux without a guidance input is schnell, or another model distilled to need no guidance."""
        return "its network has no guidance input, as Flux schnell" if self.guidance != "embedded" else None

    def readers(self) -> list[Reader]:
        pairs = [(self.pipeline.tokenizer, self.pipeline.tokenizer_max_length), (self.pipeline.tokenizer_2, self.tokens)]
        return [(tokenizer, limit) for tokenizer, limit in pairs if tokenizer is not None]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        tokens, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=self.tokens)
        return {"tokens": tokens, "pooled": pooled}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        config = self.pipeline.transformer.config
        return pooled_conditions(embeds, self.device, config.joint_attention_dim, config.pooled_projection_dim)

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        tokens, pooled = (conditions[name].to(transformer.dtype) for name in ("tokens", "pooled"))
        height, width = z.shape[2] // 2, z.shape[3] // 2
        ids = {"txt_ids": torch.zeros(tokens.shape[1], 3, device=z.device), "img_ids": patch_ids(height, width, z.device)}
        inputs = {"timestep": t, "guidance": conditions.get("guidance"), "encoder_hidden_states": tokens, "pooled_projections": pooled}
        patches = transformer(hidden_states=to_patches(z).to(transformer.dtype), return_dict=False, **inputs, **ids)[0]
        return from_patches(patches, height, width)


def pooled_conditions(embeds: PromptEmbeds, device: torch.device, width: int, pooled: int) -> Conditions:
    """Tokens and pooled embedding, checked."""
    checked_embeds(embeds, width=width, pooled=pooled)
    assert embeds.pooled is not None
    return {"tokens": embeds.tokens.to(device), "pooled": embeds.pooled.to(device)}


def to_patches(z: Tensor) -> Tensor:
    """(batch, channels, 2 h, 2 w) -> (batch, h w, 4 channels)."""
    batch, channels, height, width = z.shape
    grid = z.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(batch, height * width // 4, channels * 4)


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """(batch, h w, 4 channels) -> (batch, channels, 2 h, 2 w); the inverse of `to_patches`.

    Example:
        >>> z = torch.arange(32.0).reshape(1, 2, 4, 4)
        >>> bool((from_patches(to_patches(z), 2, 2) == z).all())
        True
    """
    grid = patches.reshape(len(patches), height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(patches), -1, 2 * height, 2 * width)


def patch_ids(height: int, width: int, device: torch.device) -> Tensor:
    """(h w, 3): zero, row and column of each patch, for the rotary embedding."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(device, torch.float32)
