"""Sana (Xie et al. 2024, arXiv 2410.10629): a transformer with linear attention on the latents of a deep-compression autoencoder.

prediction    u = n - y on z = (1-t) y + t n; the network takes t in training steps times its `timestep_scale`
text          Gemma 2, 300 tokens; a prompt is preceded by the pipeline's instruction, a negative prompt is not
codec         AutoencoderDC (Chen et al. 2024, arXiv 2410.10733), deterministic, 32 pixels to a latent
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import TextFamily, call_default


@dataclass(frozen=True, kw_only=True, eq=False)
class Sana(TextFamily):
    """Inputs and calls of Sana's transformer."""

    def readers(self) -> list[Reader]:
        tokenizer = self.pipeline.tokenizer
        return [(tokenizer, call_default(self.pipeline, "max_sequence_length") - 2 + len(tokenizer("").input_ids))]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        settings = {name: call_default(self.pipeline, name) for name in ("clean_caption", "max_sequence_length")}
        if not negative:
            settings["complex_human_instruction"] = call_default(self.pipeline, "complex_human_instruction")
        tokens, mask, _, _ = self.pipeline.encode_prompt(prompts, False, device=self.device, **settings)
        return {"tokens": tokens, "mask": mask}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.caption_channels, mask=True)
        assert embeds.mask is not None
        return {"tokens": embeds.tokens.to(self.device), "mask": embeds.mask.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        time = t * (self.pipeline.scheduler.config.num_train_timesteps * transformer.config.timestep_scale)
        tokens = {"encoder_hidden_states": conditions["tokens"].to(transformer.dtype), "encoder_attention_mask": conditions["mask"]}
        return transformer(z.to(transformer.dtype), timestep=time, return_dict=False, **tokens)[0][:, : z.shape[1]]


def sana(model: Any) -> PipelinePrior:
    """The prior of a loaded Sana pipeline."""
    config, factor = model.pipeline.transformer.config, model.pipeline.vae_scale_factor
    own = config.sample_size * factor
    size = model.size((own, own), factor * config.patch_size)
    family = Sana(pipeline=model.pipeline, device=model.device, name=model.name)
    return model.prior(family, model.levels, config.in_channels, size, factor=factor)
