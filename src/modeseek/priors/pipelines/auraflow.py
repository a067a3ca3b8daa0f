"""AuraFlow (fal.ai 2024): a rectified-flow transformer with learned positions.

prediction    u = n - y on z = (1-t) y + t n; the network takes t in [0, 1]
text          UMT5, 256 tokens; those of the padding are zeros, and no mask is given to the network
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default


@dataclass(frozen=True, kw_only=True, eq=False)
class AuraFlow(TextFamily):
    """Inputs and calls of AuraFlow's transformer."""

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, call_default(self.pipeline, "max_sequence_length"))]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        return {"tokens": self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.device)[0]}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.joint_attention_dim)
        return {"tokens": embeds.tokens.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        tokens = conditions["tokens"].to(transformer.dtype)
        return transformer(z.to(transformer.dtype), encoder_hidden_states=tokens, timestep=t.to(transformer.dtype), return_dict=False)[0]


def auraflow(model: Any) -> PipelinePrior:
    """The prior of a loaded AuraFlow pipeline."""
    config = model.pipeline.transformer.config
    own = config.sample_size * model.factor
    size = model.size((own, own), model.factor * config.patch_size)
    family = AuraFlow(pipeline=model.pipeline, device=model.device, name=model.name)
    return model.prior(family, model.levels, config.in_channels, size)
