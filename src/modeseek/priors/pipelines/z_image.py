"""Z-Image (Alibaba Tongyi 2025, arXiv 2511.22699): a single-stream rectified-flow transformer over text and image tokens.

    prediction    y - n on z = (1-t) y + t n, so its sign is changed; the network takes 1 - t
    text          Qwen3 with its chat template, at most 512 tokens; the network takes a list of sequences of different lengths

diffusers writes the guided prediction as u_c + w (u_c - u_u), so its `guidance_scale` w is s - 1. Z-Image-Turbo was distilled
for s = 1 (w = 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default, padded, template_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class ZImage(TextFamily):
    """Inputs and calls of Z-Image's transformer."""

    @property
    def default_guidance(self) -> float:
        """The pipeline's default scale in the convention of this package, s = w + 1; 1 for a distilled model."""
        return 1.0 if self.distillation else 1.0 + float(call_default(self.pipeline, "guidance_scale"))

    def readers(self) -> list[Reader]:
        tokenizer = self.pipeline.tokenizer
        settings = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        before = template_tokens(tokenizer, lambda text: tokenizer.apply_chat_template([{"role": "user", "content": text}], **settings))
        return [(tokenizer, call_default(self.pipeline, "max_sequence_length") - before)]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        limit = call_default(self.pipeline, "max_sequence_length")
        rows, _ = self.pipeline.encode_prompt(list(prompts), self.device, do_classifier_free_guidance=False, max_sequence_length=limit)
        mask = torch.stack([torch.arange(limit, device=row.device) < len(row) for row in rows])
        return {"tokens": torch.cat([padded(row[None], limit) for row in rows]), "mask": mask}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.cap_feat_dim, mask=True)
        assert embeds.mask is not None
        limit = call_default(self.pipeline, "max_sequence_length")
        return {"tokens": padded(embeds.tokens.to(self.device), limit), "mask": padded(embeds.mask.to(self.device).bool(), limit)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        lengths = conditions["mask"].sum(1).tolist()
        tokens = [row[:length].to(transformer.dtype) for row, length in zip(conditions["tokens"], lengths, strict=True)]
        frames = list(z.to(transformer.dtype).unsqueeze(2).unbind(0))
        return -torch.stack(transformer(frames, 1 - t, tokens, return_dict=False)[0]).squeeze(2)


def z_image(model: Any) -> PipelinePrior:
    """The prior of a loaded Z-Image pipeline."""
    family = ZImage(pipeline=model.pipeline, device=model.device, name=model.name)
    size = model.size((1024, 1024), 2 * model.factor)
    return model.prior(family, model.levels, model.pipeline.transformer.in_channels, size)
