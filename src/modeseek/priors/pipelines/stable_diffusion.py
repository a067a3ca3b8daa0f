"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022) and SDXL (Podell et al. 2023): a UNet that attends to the prompt's tokens.

Both are classifier-free guided. A UNet with `time_cond_proj_dim` (latent consistency models, Luo et al. 2023, arXiv 2310.04378) was
distilled from a guided one and takes the scale as an embedding of s - 1; it is evaluated once, without a negative prompt. SDXL has two
text encoders, their pooled text, and the image's size and crop as further inputs; where no negative prompt is given it is a zero
embedding if the pipeline says so (`force_zeros_for_empty_prompt`), as in diffusers.

Further conditions, by name: `clip_skip` (layers of CLIP left out, of the prompt alone, as in diffusers), `ip_adapter_image` and
`ip_adapter_image_embeds` (Ye et al. 2023, arXiv 2308.06721), which go through the pipeline's own image encoder: as in diffusers, one entry
per adapter, its images shared by all items; embeddings may have a row per item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts, Reader, checked_embeds
from modeseek.priors.pipelines.text_family import ATTENTION, ENCODERS, TextFamily

IMAGES = ("ip_adapter_image", "ip_adapter_image_embeds")


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusion(TextFamily):
    """Inputs and calls of Stable Diffusion's UNet."""

    part: str = "unet"
    lora_targets: tuple[str, ...] = ATTENTION
    guidance: GuidanceKind = "classifier-free"

    kinds: ClassVar[tuple[str, ...]] = ("discrete", "edm", "flow")
    encoders: ClassVar[tuple[str, ...]] = (*ENCODERS, "image_encoder", "feature_extractor")
    settings: ClassVar[tuple[str, ...]] = ("clip_skip", *IMAGES)
    flow_time: ClassVar[float] = 1000.0
    """A UNet trained as a flow is called with t of 1000."""

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        images = {name: settings.pop(name) for name in IMAGES if settings.get(name) is not None}
        found = super().conditions(prompts, **settings)
        return found | self.image_conditions(len(prompts), images, negative=False)

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        images = {name: settings[name] for name in IMAGES if settings.get(name) is not None}
        return super().opposite(negatives) | self.image_conditions(len(negatives), images, negative=True)

    def image_conditions(self, count: int, images: dict[str, Any], *, negative: bool) -> Conditions:
        """Embeddings of an IP-Adapter's images for `count` items; of no image for the negative side.

        Raises:
            InvalidInput: an image without an IP-Adapter, or an IP-Adapter without an image.
        """
        layers = _adapter_layers(self.pipeline.unet)
        if not images:
            if layers:
                raise InvalidInput(f"an IP-Adapter is loaded, so each prompt needs an image: give {IMAGES[0]}= (or unload_ip_adapter())")
            return {}
        if not layers:
            raise InvalidInput(f"{', '.join(images)} needs an IP-Adapter: pipeline.load_ip_adapter(...)")
        image, embeds = (images.get(name) for name in IMAGES)
        if image is not None and (not isinstance(image, list) or len(image) != len(layers)):
            image = [image]  # one adapter may have several images
        try:
            found = self.pipeline.prepare_ip_adapter_image_embeds(image, embeds, self.device, 1, True)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the IP-Adapter does not take these images ({str(error).splitlines()[0]})") from error
        halves = [both.chunk(2)[0 if negative else 1] for both in found]
        for rows in halves:
            if len(rows) not in (1, count):
                raise InvalidInput(f"{len(rows)} images for {count} prompts: give one for all, or one per prompt")
        return {f"image {index}": rows.expand(count, *rows.shape[1:]) for index, rows in enumerate(halves)}

    def readers(self) -> list[Reader]:
        return [(self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length)]

    def encode(self, prompts: list[str], *, negative: bool = False, clip_skip: int | None = None) -> Conditions:
        skip, encoder = checked_skip(clip_skip, self.pipeline), self.pipeline.text_encoder
        if skip is not None and not hasattr(encoder, "text_model"):  # where diffusers' own code looks for the last layer norm
            return {"tokens": self._skipped(prompts, skip)}
        tokens, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False, clip_skip=skip)
        return {"tokens": tokens}

    def _skipped(self, prompts: list[str], skip: int) -> Tensor:
        """Tokens of the layer before the last `skip`, through the last layer norm, as in diffusers' `encode_prompt`."""
        pipe, tokenizer = self.pipeline, self.pipeline.tokenizer
        limits = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True, "return_tensors": "pt"}
        read = tokenizer(pipe.maybe_convert_prompt(prompts, tokenizer), **limits)
        mask = read.attention_mask.to(self.device) if getattr(pipe.text_encoder.config, "use_attention_mask", False) else None
        states = pipe.text_encoder(read.input_ids.to(self.device), attention_mask=mask, output_hidden_states=True).hidden_states
        return pipe.text_encoder.final_layer_norm(states[-(skip + 1)])

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        checked_embeds(embeds, width=self.pipeline.unet.config.cross_attention_dim)
        return {"tokens": embeds.tokens.to(self.device)}

    def inputs(self, z: Tensor, conditions: Conditions) -> dict[str, Any]:
        """Keyword arguments of the UNet besides z and t.

        Raises:
            InvalidInput: the IP-Adapters of the pipeline changed after the conditions were made.
        """
        unet = self.pipeline.unet
        found: dict[str, Any] = {"encoder_hidden_states": conditions["tokens"].to(unet.dtype), "return_dict": False}
        dim = unet.config.time_cond_proj_dim
        if dim is not None:
            embedding = self.pipeline.get_guidance_scale_embedding(conditions["guidance"].cpu() - 1, embedding_dim=dim)
            found["timestep_cond"] = embedding.to(z.device, unet.dtype)
        images = [conditions[name].to(unet.dtype) for name in sorted(conditions) if name.startswith("image ")]
        if len(_adapter_layers(unet)) != len(images):
            raise InvalidInput("the IP-Adapters of the pipeline changed after this denoiser was made: make it again with their images")
        if images:
            found["added_cond_kwargs"] = {"image_embeds": images}
        return found

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        return unet(z.to(unet.dtype), t, **self.inputs(z, conditions))[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusionXL(StableDiffusion):
    """Inputs and calls of SDXL's UNet, its size conditioning set to whole images of `image_size`."""

    image_size: tuple[int, int]

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        found = super().opposite(negatives, **settings)
        if not isinstance(negatives, PromptEmbeds) and self.pipeline.config.force_zeros_for_empty_prompt:
            kept = torch.tensor([negative is not None for negative in negatives], device=self.device)
            for name in ("tokens", "pooled"):
                value = found[name]
                found[name] = torch.where(kept.reshape(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
        return found

    def readers(self) -> list[Reader]:
        tokenizers = (self.pipeline.tokenizer, self.pipeline.tokenizer_2)
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in tokenizers if tokenizer is not None]

    def encode(self, prompts: list[str], *, negative: bool = False, clip_skip: int | None = None) -> Conditions:
        skip = checked_skip(clip_skip, self.pipeline)
        found = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False, clip_skip=skip)
        return {"tokens": found[0], "pooled": found[2], "sizes": self._sizes(len(prompts), found[0].device)}

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        config = self.pipeline.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        checked_embeds(embeds, width=config.cross_attention_dim, pooled=pooled)
        assert embeds.pooled is not None
        tokens, pool = embeds.tokens.to(self.device), embeds.pooled.to(self.device)
        return {"tokens": tokens, "pooled": pool, "sizes": self._sizes(len(embeds), tokens.device)}

    def _sizes(self, count: int, device: torch.device) -> Tensor:
        height, width = self.image_size
        return torch.tensor([height, width, 0, 0, height, width], device=device).repeat(
            count, 1
        )  # original size, crop's corner, target size

    def inputs(self, z: Tensor, conditions: Conditions) -> dict[str, Any]:
        found = super().inputs(z, conditions)
        added = found.get("added_cond_kwargs", {})
        added |= {"text_embeds": conditions["pooled"].to(self.pipeline.unet.dtype), "time_ids": conditions["sizes"]}
        return found | {"added_cond_kwargs": added}


def guidance_kind(unet: Any) -> GuidanceKind:
    """How a UNet is guided: a scale that was distilled into it enters as an embedding."""
    return "classifier-free" if unet.config.time_cond_proj_dim is None else "embedded"


def checked_skip(clip_skip: int | None, pipeline: Any) -> int | None:
    """The layers of CLIP to leave out.

    Raises:
        InvalidInput: no whole number from 0 to the layers of the first text encoder less one.
    """
    if clip_skip is None:
        return None
    encoder = pipeline.text_encoder if pipeline.text_encoder is not None else pipeline.text_encoder_2
    layers = encoder.config.num_hidden_layers
    if not isinstance(clip_skip, int) or not 0 <= clip_skip < layers:
        raise InvalidInput(f"clip_skip is a number of layers from 0 to {layers - 1}, got {clip_skip!r}")
    return clip_skip


def _adapter_layers(unet: Any) -> list[Any]:
    """The projections of the IP-Adapters on a UNet."""
    projection = getattr(unet, "encoder_hid_proj", None)
    return list(getattr(projection, "image_projection_layers", []))
