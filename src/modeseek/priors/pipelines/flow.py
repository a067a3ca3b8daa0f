"""Rectified-flow transformers: Stable Diffusion 3 (Esser et al. 2024) and Flux (Black Forest Labs 2024).

Stable Diffusion 3 is classifier-free guided; without its third text encoder (T5) those tokens are zeros, as in diffusers. Flux dev was
distilled from a guided model and takes the scale as an input: `guidance` goes there, with no second evaluation and no negative prompt.
A Flux that has no such input is guided by the formula; Flux schnell was made for guidance=1. Flux sees its latent as a sequence of
2 x 2 patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.stable_diffusion import ATTENTION
from modeseek.priors.pipelines.text import check_prompts, warn_of_cuts

TEXT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SD3_TOKENS = 256  # of T5, as in diffusers


@dataclass(frozen=True, kw_only=True)
class StableDiffusion3:
    """Inputs and calls of Stable Diffusion 3's transformer."""

    pipeline: Any
    device: torch.device
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION + TEXT_ATTENTION

    @property
    def network(self) -> nn.Module:
        return self.pipeline.transformer

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        return self._encode(check_prompts(prompts, *self._readers()))

    def opposite(self, negative: str) -> Conditions:
        warn_of_cuts([negative], *self._readers())
        return self._encode([negative])

    def _readers(self) -> list[tuple[Any, int]]:
        pipe = self.pipeline
        limits = [
            (pipe.tokenizer, pipe.tokenizer_max_length),
            (pipe.tokenizer_2, pipe.tokenizer_max_length),
            (pipe.tokenizer_3, SD3_TOKENS),
        ]
        return [(tokenizer, limit) for tokenizer, limit in limits if tokenizer is not None]

    def _encode(self, prompts: list[str]) -> Conditions:
        settings = {"device": self.device, "do_classifier_free_guidance": False, "max_sequence_length": SD3_TOKENS}
        tokens, _, pooled, _ = self.pipeline.encode_prompt(prompts, None, None, **settings)
        return {"tokens": tokens, "pooled": pooled}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        tokens, pooled = (conditions[name].to(transformer.dtype) for name in ("tokens", "pooled"))
        time = t * self.pipeline.scheduler.config.num_train_timesteps
        inputs = {"timestep": time, "encoder_hidden_states": tokens, "pooled_projections": pooled}
        return transformer(hidden_states=z.to(transformer.dtype), return_dict=False, **inputs)[0]


@dataclass(frozen=True, kw_only=True)
class Flux:
    """Inputs and calls of Flux's transformer; `tokens` are those of T5 (512 for dev, 256 for schnell)."""

    pipeline: Any
    device: torch.device
    tokens: int
    guidance: GuidanceKind
    lora_targets: tuple[str, ...] = ATTENTION + TEXT_ATTENTION

    @property
    def network(self) -> nn.Module:
        return self.pipeline.transformer

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        return self._encode(check_prompts(prompts, *self._readers()))

    def opposite(self, negative: str) -> Conditions:
        warn_of_cuts([negative], *self._readers())
        return self._encode([negative])

    def _readers(self) -> list[tuple[Any, int]]:
        return [(self.pipeline.tokenizer, self.pipeline.tokenizer_max_length), (self.pipeline.tokenizer_2, self.tokens)]

    def _encode(self, prompts: list[str]) -> Conditions:
        tokens, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=self.tokens)
        return {"tokens": tokens, "pooled": pooled}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        tokens, pooled = (conditions[name].to(transformer.dtype) for name in ("tokens", "pooled"))
        height, width = z.shape[2] // 2, z.shape[3] // 2
        places = {"txt_ids": torch.zeros(tokens.shape[1], 3, device=z.device), "img_ids": patch_places(height, width, z.device)}
        inputs = {"timestep": t, "guidance": conditions.get("guidance"), "encoder_hidden_states": tokens, "pooled_projections": pooled}
        patches = transformer(hidden_states=to_patches(z).to(transformer.dtype), return_dict=False, **inputs, **places)[0]
        return from_patches(patches, height, width)


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


def patch_places(height: int, width: int, device: torch.device) -> Tensor:
    """(h w, 3): zero, row and column of each patch, for the rotary embedding."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(device, torch.float32)
