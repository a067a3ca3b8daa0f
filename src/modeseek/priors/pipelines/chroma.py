"""Chroma (Rock 2025): Flux schnell without its guidance and pooled-text inputs, trained again with classifier-free guidance.

prediction    u = n - y on z = (1-t) y + t n, over 2 x 2 patches; the network takes t in [0, 1]
text          T5, 512 tokens, with a mask that keeps the first token of the padding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.flow import from_patches, patch_ids, to_patches
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default


@dataclass(frozen=True, kw_only=True, eq=False)
class Chroma(TextFamily):
    """Inputs and calls of Chroma's transformer."""

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, call_default(self.pipeline, "max_sequence_length"))]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        found = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return {"tokens": found[0], "mask": found[2]}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.joint_attention_dim, mask=True)
        assert embeds.mask is not None
        return {"tokens": embeds.tokens.to(self.device), "mask": embeds.mask.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        height, width = z.shape[2] // 2, z.shape[3] // 2
        tokens, mask = (conditions[name].to(transformer.dtype) for name in ("tokens", "mask"))
        patches = transformer(
            hidden_states=to_patches(z).to(transformer.dtype),
            timestep=t,
            encoder_hidden_states=tokens,
            attention_mask=torch.cat([mask, mask.new_ones(len(z), height * width)], 1),
            txt_ids=torch.zeros(tokens.shape[1], 3, device=z.device),
            img_ids=patch_ids(height, width, z.device),
            return_dict=False,
        )[0]
        return from_patches(patches, height, width)


def chroma(model: Any) -> PipelinePrior:
    """The prior of a loaded Chroma pipeline."""
    own = model.pipeline.default_sample_size * model.factor
    size = model.size((own, own), 2 * model.factor)
    family = Chroma(pipeline=model.pipeline, device=model.device, name=model.name)
    channels = model.pipeline.transformer.config.in_channels // 4
    return model.prior(family, model.levels, channels, size)
