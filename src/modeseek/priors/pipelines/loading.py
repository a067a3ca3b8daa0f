"""`load_prior`: a pipeline in memory, a folder, a checkpoint file or a model id, of any supported family, as an image prior.

A pipeline in memory is used as it stands: nothing of it is moved, cast or frozen. Loading from disk checks the family first, then each
network's weights, and freezes everything. Both end with one evaluation (`checks`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from modeseek.core.denoiser import DiscreteLevels
from modeseek.core.errors import InvalidInput, ModeseekError, WeightsError
from modeseek.core.libraries import quiet_libraries
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.checks import check_prior
from modeseek.priors.pipelines.components import check_others, load_networks
from modeseek.priors.pipelines.conditioned import memory_advice
from modeseek.priors.pipelines.families import FAMILIES, Model, family_of
from modeseek.priors.pipelines.folders import LEFT_OUT, locate, read_index
from modeseek.priors.pipelines.levels import Prediction
from modeseek.priors.pipelines.single_file import open_single_file

Dtype = Literal["float32", "bfloat16", "float16", "float64"]


def load_prior(
    source: str | Path | Any,
    *,
    device: str | torch.device | None = None,
    dtype: Dtype | None = None,
    vae_dtype: Dtype | None = None,
    image_size: tuple[int, int] | None = None,
    variant: str | None = None,
    subfolder: str | None = None,
    config: str | Path | None = None,
    t5: bool = True,
    download: bool = False,
    prediction: Prediction | None = None,
    levels: DiscreteLevels | None = None,
    check: bool = True,
) -> PipelinePrior:
    """An image prior from a pipeline of diffusers: in memory, or from disk.

    A pipeline object is used exactly as it stands, on its device and in its dtypes, with its scheduler, LoRAs, textual inversions,
    offloading, quantised or compiled networks; what is changed on it later acts at the next call. What a network predicts, its noise
    levels, the scale of its latents and its guidance are read from the model's own configuration.

    Args:
        source: a diffusers pipeline; a folder with model_index.json; a `.safetensors` checkpoint of a whole pipeline; or a hub id such as
            "stable-diffusion-v1-5/stable-diffusion-v1-5".
        device: where the networks go, and x with them; "cpu" by default. Not for an object.
        dtype: of the networks, "float32" by default; x keeps its own. Not for an object.
        vae_dtype: of the autoencoder; None: as `dtype`, but float32 where that is float16 and the autoencoder would overflow (SDXL).
        image_size: (height, width) in pixels; None: the model's own.
        variant: weight files to prefer, such as "fp16".
        subfolder: of the folder or hub model, where the pipeline lies in one.
        config: for a checkpoint file: a folder in diffusers' layout with its configuration and tokenizers.
        t5: False leaves the third text encoder of Stable Diffusion 3 out, which saves most of its memory.
        download: whether a model that is not on disk may be fetched from the hub.
        prediction: what the network predicts, "eps", "v", "x0" or "flow", where the scheduler's configuration is wrong.
        levels: its noise levels, where the scheduler's are wrong.
        check: evaluate network and codec once at load. Cost: two prompts, one network call on two items of 16 x 16 latents.

    Raises:
        InvalidInput: no pipeline, an unsupported family or scheduler, an unknown device, dtype or size, a model that does not work.
        WeightsError: the model is not on disk; weights missing, broken, incomplete or pickled.
        MissingPackage: diffusers cannot be imported, or a package that the weights need is not installed.
        OutOfMemory: the model does not fit on the device.
    """
    if image_size is not None and not (isinstance(image_size, tuple | list) and len(image_size) == 2):
        raise InvalidInput(f"image_size is (height, width), got {image_size!r}")
    if isinstance(source, str | Path):
        with quiet_libraries():
            model = open_model(
                *(source, device or "cpu", dtype or "float32", vae_dtype, variant, subfolder, config, t5, download),
            )
    else:
        given = {"device": device, "dtype": dtype, "vae_dtype": vae_dtype, "variant": variant, "subfolder": subfolder, "config": config}
        model = opened(source, {name: value for name, value in given.items() if value is not None} | ({} if t5 else {"t5": t5}))
    model = Model(model.pipeline, model.device, image_size, model.name, model.index, prediction, levels)
    if getattr(model.pipeline, "scheduler", None) is None:
        raise InvalidInput(f"this {type(model.pipeline).__name__} has no scheduler, which states what its network predicts and where")
    try:
        prior = family_of(model.pipeline)(model)
    except (AttributeError, TypeError) as error:
        words = f"this {type(model.pipeline).__name__} lacks a part or a setting of its class ({error})"
        raise InvalidInput(f"{words}: was a network of another class put into it?") from error
    prior.levels()  # a scheduler that is not understood is refused here
    if check:
        check_prior(prior)
    return prior


def opened(pipeline: Any, given: dict[str, Any]) -> Model:
    """A pipeline in memory as a `Model`.

    Raises:
        InvalidInput: no pipeline of diffusers, or settings that would change it.
    """
    with quiet_libraries():
        from diffusers import DiffusionPipeline
    if not isinstance(pipeline, DiffusionPipeline):
        raise InvalidInput(f"load_prior takes a folder, a file, a model id or a pipeline of diffusers, got a {type(pipeline).__name__}")
    if given:
        raise InvalidInput(f"a pipeline in memory is used as it stands: change it before, and leave {', '.join(given)} out")
    family_of(pipeline)
    name = str(getattr(pipeline.config, "_name_or_path", None) or "")
    return Model(pipeline, torch.device(pipeline._execution_device), name=Path(name).name if Path(name).is_dir() else name)


def open_model(
    source: str | Path,
    device: str | torch.device,
    dtype: Dtype,
    vae_dtype: Dtype | None,
    variant: str | None,
    subfolder: str | None,
    config: str | Path | None,
    t5: bool,
    download: bool,
) -> Model:
    """The pipeline of a folder, a file or a model id; arguments as of `load_prior`."""
    place, network_dtype = checked_device(device), checked_dtype(dtype)
    if network_dtype == torch.bfloat16 and not has_bfloat16(place):
        warnings.warn("this processor has no bfloat16 arithmetic and emulates it: dtype='float32' is many times faster", stacklevel=3)
    left_out = LEFT_OUT if t5 else (*LEFT_OUT, "text_encoder_3", "tokenizer_3")
    supported = tuple(FAMILIES)
    path = Path(source).expanduser()
    with memory_advice(f"loading {source}"):
        if path.is_file() and path.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
            if variant is not None or subfolder is not None:
                raise InvalidInput(f"{path} is one file: it has neither a variant nor a subfolder")
            if not t5:
                raise InvalidInput(f"t5=False reads a folder or an id without its third text encoder; {path} is one file: leave it out")
            pipeline, index = open_single_file(path, config=config, supported=supported, dtype=network_dtype, download=download)
        else:
            if config is not None:
                raise InvalidInput(f"config= is for a checkpoint file; {source} has its own configuration")
            folder = locate(source, supported=supported, variant=variant, left_out=left_out, download=download, subfolder=subfolder)
            index = read_index(folder, supported)
            if not t5 and index["_class_name"] != "StableDiffusion3Pipeline":
                raise InvalidInput(f"t5=False is for Stable Diffusion 3; {index['_class_name']} has no text encoder to leave out")
            index |= {name: [None, None] for name in left_out if name in index}
            check_others(folder, index)
            pipeline = assemble(folder, index, load_networks(folder, index, dtype=network_dtype, variant=variant))
        cast_autoencoder(pipeline, network_dtype, vae_dtype)
        try:
            pipeline.to(place)
        except ModeseekError:
            raise
        except ValueError as error:  # quantised networks stay where their package put them
            raise InvalidInput(
                f"{source} cannot be moved to {place} ({str(error).strip().splitlines()[0]}): load it with diffusers"
            ) from error
        if place.type in ("cpu", "cuda") and isinstance(getattr(pipeline, "unet", None), nn.Module):
            pipeline.unet.to(memory_format=torch.channels_last)  # a fifth faster from batches of 8 on, in float32 on AVX2
    name = path.name if path.exists() else str(source)
    return Model(pipeline, place, name=name, index=index)


def assemble(folder: Path, index: dict[str, Any], networks: dict[str, nn.Module | None]) -> Any:
    """diffusers' pipeline around networks that are already loaded: its tokenizers and its scheduler come from the folder.

    Raises:
        WeightsError: the folder lacks parts of the pipeline, or they do not fit.
    """
    import diffusers

    parts: dict[str, Any] = networks | {name: None for name, entry in index.items() if entry == [None, None]}
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    try:
        return getattr(diffusers, index["_class_name"]).from_pretrained(folder, local_files_only=True, **parts)
    except ModeseekError:
        raise
    except Exception as error:  # diffusers and transformers raise many kinds for configurations that do not fit
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{folder} does not make a {index['_class_name']} ({words}); fetch it again") from error


def cast_autoencoder(pipeline: Any, dtype: torch.dtype, vae_dtype: Dtype | None) -> None:
    """Bring the autoencoder to its dtype.

    Raises:
        InvalidInput: a dtype for a pipeline without an autoencoder.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        if vae_dtype is not None:
            raise InvalidInput(f"{type(pipeline).__name__} has no autoencoder: vae_dtype has no meaning for it")
        return
    overflows = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    vae.to(checked_dtype(vae_dtype) if vae_dtype is not None else torch.float32 if overflows else dtype)


def checked_device(device: str | torch.device) -> torch.device:
    """The torch device of a name, if this machine has it.

    Raises:
        InvalidInput: an unknown kind of device, or one that this machine does not have.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"device {device!r} is unknown: give cpu, cuda, cuda:1 or mps") from error
    if found.type not in ("cpu", "cuda", "mps", "xpu"):
        raise InvalidInput(f"networks cannot be evaluated on device {device!r}: give cpu, cuda, cuda:1 or mps")
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(found.type, 1)
    if (found.index or 0) >= count:
        raise InvalidInput(f"device {found} is not there: torch {torch.__version__} finds {count} of that kind: give device='cpu'")
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; a CPU without (AVX2 alone, say) takes 18 times as long for it as for float32."""
    return device.type != "cpu" or any(there for name, there in getattr(torch.cpu, "get_capabilities", dict)().items() if "bf16" in name)


def checked_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        InvalidInput: an unknown name.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise InvalidInput(f"dtype {dtype!r} is unknown: choose {', '.join(known)}")
    return known[dtype]
