"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022) and SDXL (Podell et al. 2023): a UNet that attends to the prompt's tokens.

Both are classifier-free guided. SDXL has two text encoders, their pooled text, and the image's size and crop as further inputs; its
empty negative prompt is a zero embedding where the pipeline says so (`force_zeros_for_empty_prompt`), as in diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.text import check_prompts, warn_of_cuts

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class StableDiffusion:
    """Inputs and calls of Stable Diffusion's UNet."""

    pipeline: Any
    device: torch.device
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION

    @property
    def network(self) -> nn.Module:
        return self.pipeline.unet

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        tokenizer = self.pipeline.tokenizer
        return self._encode(check_prompts(prompts, (tokenizer, tokenizer.model_max_length)))

    def opposite(self, negative: str) -> Conditions:
        warn_of_cuts([negative], (self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length))
        return self._encode([negative])

    def _encode(self, prompts: list[str]) -> Conditions:
        tokens, _ = self.pipeline.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return {"tokens": tokens}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        return unet(z.to(unet.dtype), t, encoder_hidden_states=conditions["tokens"].to(unet.dtype), return_dict=False)[0]


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL:
    """Inputs and calls of SDXL's UNet, its size conditioning set to whole images of `image_size`."""

    pipeline: Any
    device: torch.device
    image_size: tuple[int, int]
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION

    @property
    def network(self) -> nn.Module:
        return self.pipeline.unet

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        return self._encode(check_prompts(prompts, *self._readers()))

    def opposite(self, negative: str) -> Conditions:
        warn_of_cuts([negative], *self._readers())
        found = self._encode([negative])
        if not negative and self.pipeline.config.force_zeros_for_empty_prompt:
            found |= {name: torch.zeros_like(found[name]) for name in ("tokens", "pooled")}
        return found

    def _readers(self) -> list[tuple[Any, int]]:
        tokenizers = (self.pipeline.tokenizer, self.pipeline.tokenizer_2)
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in tokenizers if tokenizer is not None]

    def _encode(self, prompts: list[str]) -> Conditions:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        height, width = self.image_size
        sizes = torch.tensor([height, width, 0, 0, height, width], device=tokens.device)  # original size, crop's corner, target size
        return {"tokens": tokens, "pooled": pooled, "sizes": sizes.repeat(len(prompts), 1)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        tokens, pooled = (conditions[name].to(unet.dtype) for name in ("tokens", "pooled"))
        added = {"text_embeds": pooled, "time_ids": conditions["sizes"]}
        return unet(z.to(unet.dtype), t, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False)[0]
