"""`load_prior`: a folder or a model id in diffusers' layout, of any supported family, as an image prior.

Loading checks the family first, then each network's weights, and freezes everything. The adapters that differ between families are put
together here, one function each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from modeseek.core.errors import InvalidInput, WeightsError
from modeseek.core.libraries import quiet_libraries
from modeseek.priors.pipelines.base import PipelinePrior, memory_advice
from modeseek.priors.pipelines.classes import ClassConditional, Unconditional, class_names
from modeseek.priors.pipelines.codecs import LatentCodec, PixelCodec
from modeseek.priors.pipelines.components import check_others, load_networks
from modeseek.priors.pipelines.flow import Flux, StableDiffusion3
from modeseek.priors.pipelines.folders import LEFT_OUT, locate, read_index
from modeseek.priors.pipelines.levels import discrete_view, flow_view
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion, StableDiffusionXL

Dtype = Literal["float32", "bfloat16", "float16", "float64"]


def load_prior(
    path_or_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: Dtype = "float32",
    vae_dtype: Dtype | None = None,
    image_size: tuple[int, int] | None = None,
    variant: str | None = None,
    t5: bool = True,
    download: bool = False,
) -> PipelinePrior:
    """An image prior from a pipeline that diffusers wrote.

    Supported: Stable Diffusion 1.x and 2.x, SDXL, Stable Diffusion 3, Flux, DiT, and pixel models (DDPM, DDIM) with or without classes.
    What a network predicts, its noise levels and the scale of its latents are read from the model's own configuration.

    Args:
        path_or_id: a folder with model_index.json, or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
        device: where the networks go, and x with them.
        dtype: of the networks; x keeps its own.
        vae_dtype: of the autoencoder; None: as `dtype`, but float32 where that is float16 and the autoencoder would overflow (SDXL).
        image_size: (height, width) in pixels; None: the model's own.
        variant: weight files to prefer, such as "fp16".
        t5: False leaves the third text encoder of Stable Diffusion 3 out, which saves most of its memory.
        download: whether a model that is not on disk may be fetched from the hub.

    Raises:
        InvalidInput: no pipeline, an unsupported family, an unknown device, dtype or size, a model that was taken off the hub.
        WeightsError: the model is not on disk; weights missing, broken, incomplete or pickled.
        MissingPackage: diffusers cannot be imported.
        OutOfMemory: the model does not fit on the device.
    """
    device, network_dtype = checked_device(device), checked_dtype(dtype)
    if network_dtype == torch.bfloat16 and not has_bfloat16(device):
        warnings.warn("this processor has no bfloat16 arithmetic and emulates it: dtype='float32' is many times faster", stacklevel=2)
    left_out = LEFT_OUT if t5 else (*LEFT_OUT, "text_encoder_3", "tokenizer_3")
    with quiet_libraries():
        folder = locate(path_or_id, supported=tuple(FAMILIES), variant=variant, left_out=left_out, download=download)
        index = read_index(folder, tuple(FAMILIES))
        if not t5 and index["_class_name"] != "StableDiffusion3Pipeline":
            raise InvalidInput(f"t5=False is for Stable Diffusion 3; {index['_class_name']} has no text encoder to leave out")
        index |= {name: [None, None] for name in left_out if name in index}
        check_others(folder, index)
        with memory_advice(f"loading {folder}"):
            pipeline = assemble(folder, index, load_networks(folder, index, dtype=network_dtype, variant=variant))
            cast_autoencoder(pipeline, network_dtype, vae_dtype)
            pipeline.to(device)
            if device.type in ("cpu", "cuda") and hasattr(pipeline, "unet"):
                pipeline.unet.to(memory_format=torch.channels_last)  # a fifth faster from batches of 8 on, in float32 on AVX2
        return FAMILIES[index["_class_name"]](Model(pipeline, index, device, image_size))


def assemble(folder: Path, index: dict[str, Any], networks: dict[str, nn.Module | None]) -> Any:
    """diffusers' pipeline around networks that are already loaded: its tokenizers and its scheduler come from the folder."""
    import diffusers

    parts: dict[str, Any] = networks | {name: None for name, entry in index.items() if entry == [None, None]}
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    try:
        return getattr(diffusers, index["_class_name"]).from_pretrained(folder, local_files_only=True, **parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{folder} does not make a {index['_class_name']} ({words}); fetch it again") from error


def cast_autoencoder(pipeline: Any, dtype: torch.dtype, vae_dtype: Dtype | None) -> None:
    """Bring the autoencoder to its dtype."""
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        if vae_dtype is not None:
            raise InvalidInput(f"{type(pipeline).__name__} has no autoencoder: vae_dtype has no meaning for it")
        return
    overflows = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    vae.to(checked_dtype(vae_dtype) if vae_dtype is not None else torch.float32 if overflows else dtype)


def checked_device(device: str | torch.device) -> torch.device:
    """The device, checked to be there."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"device {device!r} is unknown: give cpu, cuda, cuda:1 or mps") from error
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(found.type, 1)
    if (found.index or 0) >= count:
        raise InvalidInput(f"device {found} was asked for, but torch {torch.__version__} sees {count} of that kind: give device='cpu'")
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; a CPU without (AVX2 alone, say) takes 18 times as long for it as for float32."""
    return device.type != "cpu" or any(there for name, there in getattr(torch.cpu, "get_capabilities", dict)().items() if "bf16" in name)


def checked_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a name."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise InvalidInput(f"dtype {dtype!r} is unknown: choose {', '.join(known)}")
    return known[dtype]


# ---------------------------------------------------------------- one function a family
@dataclass(frozen=True)
class Model:
    """A loaded pipeline and what was asked of it."""

    pipeline: Any
    index: dict[str, Any]
    device: torch.device
    asked_size: tuple[int, int] | None

    def image(self, own: tuple[int, int], multiple: int) -> tuple[int, int]:
        """The image's size: the one asked for, else the model's own."""
        height, width = self.asked_size or own
        if height < multiple or width < multiple or height % multiple or width % multiple:
            raise InvalidInput(f"image_size must be multiples of {multiple} for this model, got {(height, width)}")
        return height, width

    @property
    def factor(self) -> int:
        """Pixels of a image to one of its latent, along one side."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    def prior(self, family: Any, view: Any, channels: int, image_size: tuple[int, int]) -> PipelinePrior:
        """A prior in latents, or in pixels where the pipeline has no autoencoder."""
        latent = getattr(self.pipeline, "vae", None) is not None
        factor = self.factor if latent else 1
        return PipelinePrior(
            pipeline=self.pipeline,
            family=family,
            view=view[0],
            codec=LatentCodec(self.pipeline) if latent else PixelCodec(channels),
            event=(channels, image_size[0] // factor, image_size[1] // factor),
            image_size=image_size,
            sigmas=view[1],
            data_std=1.0 if latent else 0.5,  # the autoencoder's scale brings latents to 1; images in [-1, 1] have about 0.5
            device=self.device,
        )


def side(size: int | tuple[int, int], factor: int = 1) -> tuple[int, int]:
    """A `sample_size` of a configuration, one number or two, times a factor."""
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor


def _stable_diffusion(model: Model) -> PipelinePrior:
    config = model.pipeline.unet.config
    size = model.image(side(config.sample_size, model.factor), model.factor)
    family = StableDiffusion(pipeline=model.pipeline, device=model.device)
    return model.prior(family, discrete_view(model.pipeline.scheduler), config.in_channels, size)


def _sdxl(model: Model) -> PipelinePrior:
    config = model.pipeline.unet.config
    size = model.image(side(config.sample_size, model.factor), model.factor)
    family = StableDiffusionXL(pipeline=model.pipeline, device=model.device, image_size=size)
    return model.prior(family, discrete_view(model.pipeline.scheduler), config.in_channels, size)


def _sd3(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    size = model.image(side(config.sample_size, model.factor), model.factor * config.patch_size)
    family = StableDiffusion3(pipeline=model.pipeline, device=model.device)
    return model.prior(family, flow_view(model.pipeline.scheduler), config.in_channels, size)


def _flux(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    size = model.image(side(model.pipeline.default_sample_size, model.factor), 2 * model.factor)
    distilled = bool(config.guidance_embeds)
    guidance: Any = "embedded" if distilled else "classifier-free"
    family = Flux(pipeline=model.pipeline, device=model.device, tokens=512 if distilled else 256, guidance=guidance)
    return model.prior(family, flow_view(model.pipeline.scheduler), config.in_channels // 4, size)


def _dit(model: Model) -> PipelinePrior:
    config = model.pipeline.transformer.config
    own = side(config.sample_size, model.factor)
    if model.asked_size not in (None, own):
        raise InvalidInput(f"DiT's images have one size, {own}: image_size={model.asked_size} is not possible")
    count = config.num_embeds_ada_norm
    names = class_names(model.index.get("id2label") or {})
    family = ClassConditional(
        pipeline=model.pipeline,
        device=model.device,
        part="transformer",
        classes=count,
        nothing=count,
        names=names,
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    )
    return model.prior(family, discrete_view(model.pipeline.scheduler), config.in_channels, own)


def _pixels(model: Model) -> PipelinePrior:
    unet = model.pipeline.unet
    size = model.image(side(unet.config.sample_size), 2 ** (len(unet.config.block_out_channels) - 1))
    family: Any = Unconditional(pipeline=model.pipeline, device=model.device)
    table = getattr(unet, "class_embedding", None)
    if isinstance(table, nn.Embedding):
        names = class_names(model.index.get("id2label") or {})
        family = ClassConditional(pipeline=model.pipeline, device=model.device, part="unet", classes=table.num_embeddings, names=names)
    elif table is not None:
        raise InvalidInput(f"classes given as {unet.config.class_embed_type!r} are not supported: only a UNet with num_class_embeds")
    return model.prior(family, discrete_view(model.pipeline.scheduler), unet.config.in_channels, size)


FAMILIES: dict[str, Callable[[Model], PipelinePrior]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "DiTPipeline": _dit,
    "DDPMPipeline": _pixels,
    "DDIMPipeline": _pixels,
}
"""diffusers' class name -> adapter: the families this package knows."""
