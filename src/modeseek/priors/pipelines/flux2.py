"""Flux.2 (Black Forest Labs 2025): dev, guidance-distilled, and the smaller Klein, classifier-free guided.

    prediction    u = n - y on z = (1-t) y + t n; the network takes t in [0, 1]
    text          hidden states of three layers of Mistral Small (dev) or Qwen3 (Klein), 512 tokens
    codec         AutoencoderKLFlux2: 2 x 2 patches of the latent as channels, normalised by the moments of a batch norm

So x has 4 times the channels of the autoencoder's latent and half its height and width. A Klein that was also distilled to few steps
(`is_distilled` in its configuration) was trained for guidance=1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.codecs import latent_of
from modeseek.priors.pipelines.text import PromptEmbeds, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import ATTENTION, TEXT_ATTENTION, TextFamily, call_default, template_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Flux2(TextFamily):
    """Inputs and calls of Flux.2's transformer."""

    lora_targets: tuple[str, ...] = (*ATTENTION, *TEXT_ATTENTION, "to_qkv_mlp_proj")

    @property
    def distillation(self) -> str | None:
        """A Klein that was distilled to few steps says so in its configuration."""
        return "its configuration says is_distilled" if self.pipeline.config.get("is_distilled") else super().distillation

    def readers(self) -> list[Reader]:
        processor = self.pipeline.tokenizer
        tokenizer = getattr(processor, "tokenizer", processor)  # dev has a processor around it

        def render(text: str) -> str:
            if not hasattr(self.pipeline, "system_message"):
                chat: list[dict[str, Any]] = [{"role": "user", "content": text}]
                return processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
            parts = {"system": self.pipeline.system_message, "user": text}
            chat = [{"role": role, "content": [{"type": "text", "text": words}]} for role, words in parts.items()]
            return processor.apply_chat_template(chat, tokenize=False)

        return [(tokenizer, call_default(self.pipeline, "max_sequence_length") - template_tokens(tokenizer, render))]

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        settings = {name: call_default(self.pipeline, name) for name in ("max_sequence_length", "text_encoder_out_layers")}
        return {"tokens": self.pipeline.encode_prompt(prompts, device=self.device, **settings)[0]}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.transformer.config.joint_attention_dim)
        return {"tokens": embeds.tokens.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        transformer, (height, width) = self.pipeline.transformer, z.shape[2:]
        tokens = conditions["tokens"].to(transformer.dtype)
        one = torch.arange(1, device=z.device)
        rows, columns, words = (torch.arange(count, device=z.device) for count in (height, width, tokens.shape[1]))
        output = transformer(
            hidden_states=z.flatten(2).transpose(1, 2).to(transformer.dtype),
            timestep=t,
            guidance=conditions.get("guidance"),
            encoder_hidden_states=tokens,
            txt_ids=torch.cartesian_prod(one, one, one, words),
            img_ids=torch.cartesian_prod(one, rows, columns, one),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, (height, width))


@dataclass(frozen=True)
class Flux2Codec:
    """AutoencoderKLFlux2 of a pipeline: x = (patches(z) - mean) / std, z the posterior's mean or a draw."""

    pipeline: Any

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        vae = self.pipeline.vae
        z = latent_of(vae.encode((2 * image - 1).to(vae.dtype)), rng)
        mean, std = self._moments(z)
        return ((pixel_unshuffle(z, 2) - mean) / std).to(image.dtype)

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, std = self._moments(x)
        return (vae.decode(pixel_shuffle(x * std + mean, 2).to(vae.dtype)).sample / 2 + 0.5).to(x.dtype)

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        vae = self.pipeline.vae
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.to(like).reshape(-1, 1, 1), std.to(like).reshape(-1, 1, 1)


def flux2(model: Any) -> PipelinePrior:
    """The prior of a loaded Flux.2 pipeline, dev or Klein."""
    pipe = model.pipeline
    own = pipe.default_sample_size * model.factor
    size = model.size((own, own), 2 * model.factor)
    dev = type(pipe).__name__ == "Flux2Pipeline"
    family = Flux2(pipeline=pipe, device=model.device, name=model.name, guidance="embedded" if dev else "classifier-free")
    channels = pipe.transformer.config.in_channels
    return model.prior(family, model.levels, channels, size, codec=Flux2Codec(pipe), factor=2 * model.factor)
