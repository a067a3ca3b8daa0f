"""The adapter of each supported pipeline class of diffusers: one function per family, and their table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from modeseek.core.denoiser import DiscreteLevels
from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.auraflow import auraflow
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.chroma import chroma
from modeseek.priors.pipelines.classes import ClassConditional, Unconditional, class_names
from modeseek.priors.pipelines.codecs import Codec, LatentCodec, PixelCodec
from modeseek.priors.pipelines.controlnet import ControlNet
from modeseek.priors.pipelines.deepfloyd import deepfloyd
from modeseek.priors.pipelines.flow import Flux, StableDiffusion3
from modeseek.priors.pipelines.flux2 import flux2
from modeseek.priors.pipelines.levels import Levels, Prediction, SchedulerLevels
from modeseek.priors.pipelines.pixart import pixart
from modeseek.priors.pipelines.qwen_image import qwen_image
from modeseek.priors.pipelines.sana import sana
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion, StableDiffusionXL, guidance_kind
from modeseek.priors.pipelines.z_image import z_image


@dataclass(frozen=True)
class Model:
    """A loaded pipeline and the settings of its load.

    Args:
        pipeline: diffusers' object.
        device: where x lives.
        image_size: (height, width) in pixels; None: the model's own.
        name: of its folder, file or hub id.
        index: model_index.json, where there is one.
        prediction, table: overrides of what the scheduler says.
    """

    pipeline: Any
    device: torch.device
    image_size: tuple[int, int] | None = None
    name: str = ""
    index: Mapping[str, Any] = field(default_factory=dict)
    prediction: Prediction | None = None
    table: DiscreteLevels | None = None

    @cached_property
    def levels(self) -> Callable[[], Levels]:
        """The noise levels that the pipeline's scheduler states, read again whenever it changes."""
        return SchedulerLevels(self.pipeline, self.prediction, self.table)

    @property
    def factor(self) -> int:
        """Pixels of an image to one of its latent, along one side."""
        channels = getattr(getattr(getattr(self.pipeline, "vae", None), "config", None), "block_out_channels", None)
        return 2 ** (len(channels) - 1) if channels else int(self.pipeline.vae_scale_factor)

    def size(self, own: tuple[int, int] | None, multiple: int) -> tuple[int, int]:
        """The image's size in pixels: the one given, else the model's own.

        Raises:
            InvalidInput: no multiple of `multiple`, or neither is stated.
        """
        if self.image_size is None and own is None:
            raise InvalidInput("the network's configuration states no sample_size: give image_size=(height, width)")
        height, width = self.image_size or own  # type: ignore[misc]
        if height < multiple or width < multiple or height % multiple or width % multiple:
            raise InvalidInput(f"image_size must be multiples of {multiple} for this model, got {(height, width)}")
        return height, width

    def prior(
        self,
        family: Any,
        levels: Callable[[], Levels],
        channels: int,
        image_size: tuple[int, int],
        *,
        codec: Codec | None = None,
        factor: int | None = None,
    ) -> PipelinePrior:
        """A prior in latents, or in pixels where the pipeline class has no autoencoder; `factor` pixels to a latent along one side."""
        latent = hasattr(self.pipeline, "vae")
        factor = factor or (self.factor if latent else 1)
        stated = levels().data_std
        return PipelinePrior(
            pipeline=self.pipeline,
            family=family,
            levels=levels,
            codec=codec or (LatentCodec(self.pipeline) if latent else PixelCodec(channels)),
            event=(channels, image_size[0] // factor, image_size[1] // factor),
            image_size=image_size,
            data_std=stated or (1.0 if latent else 0.5),  # the autoencoder's scale brings latents to 1; images in [-1, 1] have about 0.5
            device=self.device,
        )


def side(size: int | tuple[int, int] | None, factor: int = 1) -> tuple[int, int] | None:
    """A `sample_size` of a configuration, one number or two or none, times a factor.

    Raises:
        InvalidInput: a size that is not a positive whole number.
    """
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size if isinstance(size, list | tuple) and len(size) == 2 else (0, 0)
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise InvalidInput(f"the network's configuration has sample_size {size!r}, which is no side in pixels: correct its config.json")
    return height * factor, width * factor


def check_channels(pipeline: Any, channels: int, returned: int | None = None) -> None:
    """Raise `InvalidInput` if a network takes or returns other channels than a latent has: then it needs inputs that no prompt gives."""
    vae = getattr(pipeline, "vae", None)
    latent = channels if vae is None else vae.config.latent_channels
    if returned is not None and returned != channels and channels == latent:
        raise InvalidInput(
            f"its network returns {returned} channels for latents of {channels}: this is another model's network, not supported"
        )
    if channels == latent:
        return
    kinds = {
        9: "an inpainting model",
        8: "a model that edits a given image (InstructPix2Pix) or upscales",
        7: "an upscaler",
        5: "a depth model",
    }
    kind = kinds.get(channels, "a model with further image inputs") if vae is None or latent == 4 else "another model's network"
    raise InvalidInput(f"its UNet takes {channels} channels and its autoencoder's latents have {latent}: this is {kind}, not supported")


def _stable_diffusion(model: Model) -> PipelinePrior:
    unet = model.pipeline.unet
    check_channels(model.pipeline, unet.config.in_channels, unet.config.out_channels)
    size = model.size(side(unet.config.sample_size, model.factor), model.factor)
    if unet.config.addition_embed_type not in (None, "text"):
        raise InvalidInput(
            f"its UNet takes {unet.config.addition_embed_type} inputs (addition_embed_type): this is not Stable Diffusion 1 or 2"
        )
    adapter = StableDiffusion if getattr(model.pipeline, "controlnet", None) is None else ControlNet
    family = adapter(pipeline=model.pipeline, device=model.device, guidance=guidance_kind(unet), name=model.name)
    return model.prior(family, model.levels, unet.config.in_channels, size)


def _sdxl(model: Model) -> PipelinePrior:
    unet = model.pipeline.unet
    if model.pipeline.config.get("requires_aesthetics_score"):
        raise InvalidInput(
            "this is SDXL's refiner, which finishes images of the base model and takes an aesthetic score: load the base model"
        )
    check_channels(model.pipeline, unet.config.in_channels, unet.config.out_channels)
    if unet.config.addition_embed_type != "text_time":
        raise InvalidInput(f"its UNet's addition_embed_type is {unet.config.addition_embed_type!r}, not 'text_time': this is not SDXL")
    encoders = (model.pipeline.text_encoder, model.pipeline.text_encoder_2)
    if encoders[0] is None and encoders[1] is not None and unet.config.cross_attention_dim == encoders[1].config.hidden_size:
        raise InvalidInput("this is SDXL's refiner (its network reads one text encoder): load the base model")
    size = model.size(side(unet.config.sample_size, model.factor), model.factor)
    family = StableDiffusionXL(pipeline=model.pipeline, device=model.device, guidance=guidance_kind(unet), name=model.name, image_size=size)
    return model.prior(family, model.levels, unet.config.in_channels, size)


def _sd3(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    check_channels(model.pipeline, config.in_channels)
    size = model.size(side(config.sample_size, model.factor), model.factor * config.patch_size)
    family = StableDiffusion3(pipeline=model.pipeline, device=model.device, name=model.name)
    return model.prior(family, model.levels, config.in_channels, size)


def _flux(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    size = model.size(side(model.pipeline.default_sample_size, model.factor), 2 * model.factor)
    distilled = bool(config.guidance_embeds)
    family = Flux(
        pipeline=model.pipeline,
        device=model.device,
        tokens=512 if distilled else 256,
        guidance="embedded" if distilled else "classifier-free",
        name=model.name,
    )
    check_channels(model.pipeline, config.in_channels // 4)
    return model.prior(family, model.levels, config.in_channels // 4, size)


def _dit(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    own = side(config.sample_size, model.factor)
    if own is None or model.image_size not in (None, own):
        raise InvalidInput(f"DiT's images have one size, {own}: image_size={model.image_size} is not possible")
    count = config.num_embeds_ada_norm
    family = ClassConditional(
        pipeline=model.pipeline,
        device=model.device,
        part="transformer",
        classes=count,
        no_class=count,
        names=_names(model),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    )
    return model.prior(family, model.levels, config.in_channels, own)


def _pixels(model: Model) -> PipelinePrior:
    unet = model.pipeline.unet
    size = model.size(side(unet.config.sample_size), 2 ** (len(unet.config.block_out_channels) - 1))
    family: Any = Unconditional(pipeline=model.pipeline, device=model.device)
    table = getattr(unet, "class_embedding", None)
    if isinstance(table, nn.Embedding):
        family = ClassConditional(
            pipeline=model.pipeline, device=model.device, part="unet", classes=table.num_embeddings, names=_names(model)
        )
    elif table is not None:
        raise InvalidInput(f"classes given as {unet.config.class_embed_type!r} are not supported: only a UNet with num_class_embeds")
    return model.prior(family, model.levels, unet.config.in_channels, size)


def _names(model: Model) -> dict[str, int]:
    """Names of classes, from the folder's index or from the pipeline in memory."""
    labels = getattr(model.pipeline, "labels", None)
    return class_names(model.index.get("id2label") or {}) or dict(labels or {})


FAMILIES: dict[str, Callable[[Model], PipelinePrior]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "LatentConsistencyModelPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusionXLImg2ImgPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "StableDiffusionControlNetPipeline": _stable_diffusion,
    "PixArtAlphaPipeline": pixart,
    "PixArtSigmaPipeline": pixart,
    "SanaPipeline": sana,
    "AuraFlowPipeline": auraflow,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
    "ChromaPipeline": chroma,
    "Flux2Pipeline": flux2,
    "Flux2KleinPipeline": flux2,
    "IFPipeline": deepfloyd,
    "DiTPipeline": _dit,
    "DDPMPipeline": _pixels,
    "DDIMPipeline": _pixels,
}
"""diffusers' class name -> adapter: the families this package supports; a subclass of one counts as it."""


def family_of(pipeline: Any) -> Callable[[Model], PipelinePrior]:
    """The adapter of a pipeline object.

    Raises:
        InvalidInput: an object of another kind.
    """
    for kind in type(pipeline).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    raise InvalidInput(f"{type(pipeline).__name__} is not supported; supported are {', '.join(FAMILIES)}")
