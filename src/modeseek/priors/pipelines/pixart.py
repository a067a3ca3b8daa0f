"""PixArt-alpha (Chen et al. 2023, arXiv 2310.00426) and PixArt-Sigma (Chen et al. 2024, arXiv 2403.04692): a DiT that attends to T5.

prediction    eps on z = a y + b n, with a learned variance in the second half of the channels, which is dropped
text          T5, 120 tokens (alpha) or 300 (Sigma), with a mask over the padding
sizes         the 1024-pixel PixArt-alpha alone: the image's height and width and their ratio are inputs
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default


@dataclass(frozen=True, kw_only=True, eq=False)
class PixArt(TextFamily):
    """Inputs and calls of PixArt's transformer.

    Args:
        image_size: (height, width) in pixels of the size inputs, or None for a network without them.
    """

    image_size: tuple[int, int] | None
    kinds: ClassVar[tuple[str, ...]] = ("discrete",)

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, call_default(self.pipeline, "max_sequence_length"))]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        settings = {name: call_default(self.pipeline, name) for name in ("clean_caption", "max_sequence_length")}
        tokens, mask, _, _ = self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.device, **settings)
        return self.with_size({"tokens": tokens, "mask": mask})

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.caption_channels, mask=True)
        assert embeds.mask is not None
        return self.with_size({"tokens": embeds.tokens.to(self.device), "mask": embeds.mask.to(self.device)})

    def with_size(self, conditions: Conditions) -> Conditions:
        """Conditions with (height, width, height / width) where the network takes them."""
        if self.image_size is not None:
            height, width = self.image_size
            size = torch.tensor([[height, width, height / width]], device=self.device)
            conditions["size"] = size.repeat(len(conditions["tokens"]), 1)
        return conditions

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        size = conditions["size"].to(transformer.dtype) if self.image_size is not None else None
        added = {"resolution": None, "aspect_ratio": None} if size is None else {"resolution": size[:, :2], "aspect_ratio": size[:, 2:]}
        tokens = {"encoder_hidden_states": conditions["tokens"].to(transformer.dtype), "encoder_attention_mask": conditions["mask"]}
        output = transformer(z.to(transformer.dtype), timestep=t, added_cond_kwargs=added, return_dict=False, **tokens)[0]
        return output[:, : z.shape[1]]


def pixart(model: Any) -> PipelinePrior:
    """The prior of a loaded PixArt pipeline."""
    config = model.pipeline.transformer.config
    own = config.sample_size * model.factor
    size = model.size((own, own), model.factor * config.patch_size)
    sized = type(model.pipeline).__name__ == "PixArtAlphaPipeline" and config.sample_size == 128
    family = PixArt(pipeline=model.pipeline, device=model.device, name=model.name, image_size=size if sized else None)
    return model.prior(family, model.levels, config.in_channels, size)
