"""DeepFloyd IF (Shonenkov et al. 2023): a pixel-space UNet at 64 x 64 after Imagen (Saharia et al. 2022), the setting of DreamFusion.

    prediction    eps on z = a y + b n, with a learned variance in the second half of the channels, which is dropped
    text          T5, 77 tokens
    codec         none: x is the image in [-1, 1]

This is the first stage; the super-resolution stages are other pipelines. The thresholding of its sampler is not applied: D is the
network's own prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default

TOKENS = 77  # a constant inside the pipeline


@dataclass(frozen=True, kw_only=True, eq=False)
class DeepFloyd(TextFamily):
    """Inputs and calls of the UNet of DeepFloyd IF's first stage."""

    part: str = "unet"
    kinds: ClassVar[tuple[str, ...]] = ("discrete",)

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, TOKENS)]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        settings = {"clean_caption": call_default(self.pipeline, "clean_caption"), "device": self.device}
        return {"tokens": self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, **settings)[0]}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.unet.config.encoder_hid_dim)
        return {"tokens": embeds.tokens.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        tokens = conditions["tokens"].to(unet.dtype)
        return unet(z.to(unet.dtype), t, encoder_hidden_states=tokens, return_dict=False)[0][:, : z.shape[1]]


def deepfloyd(model: Any) -> PipelinePrior:
    """The prior of a loaded DeepFloyd IF pipeline."""
    config = model.pipeline.unet.config
    size = model.size((config.sample_size, config.sample_size), 2 ** (len(config.block_out_channels) - 1))
    family = DeepFloyd(pipeline=model.pipeline, device=model.device, name=model.name)
    return model.prior(family, model.levels, config.in_channels, size)
