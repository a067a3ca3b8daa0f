"""The networks of a pipeline folder, each loaded by itself, so that errors name the part that is missing, broken or foreign.

Only safetensors are opened: a pickle can run code. diffusers and transformers fill weights that a file lacks with random ones and
merely log it; here that is an error.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from modeseek.core.errors import InvalidInput, MissingPackage, WeightsError
from modeseek.core.files import check_finite

QUANTISERS = {
    "quanto": "optimum-quanto",
    "modelopt": "nvidia-modelopt",
    "gguf": "gguf",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
}
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
NETWORKS = ("unet", "transformer", "controlnet", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def load_networks(folder: Path, index: dict[str, Any], *, dtype: torch.dtype, variant: str | None) -> dict[str, nn.Module | None]:
    """Each network that the index names, frozen, in evaluation mode; the autoencoder in float32, to be cast by the caller.

    Raises:
        InvalidInput: a network of a foreign library.
        WeightsError: weights missing, incomplete, truncated, pickled, or of another shape.
    """
    named = {name: index[name] for name in NETWORKS if name in index}
    return {
        name: load_network(folder / name, *entry, dtype=torch.float32 if name == "vae" else dtype, variant=variant) if entry[0] else None
        for name, entry in named.items()
    }


def load_network(folder: Path, library: str, kind: str, *, dtype: torch.dtype, variant: str | None) -> nn.Module:
    """One network.

    Raises:
        InvalidInput: its class is not of diffusers or transformers.
        MissingPackage: its weights need a package that is not installed.
        WeightsError: weights that are missing, incomplete or broken.
    """
    import diffusers
    import transformers

    network_class: Any = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), kind, None)
    if not (isinstance(network_class, type) and issubclass(network_class, diffusers.ModelMixin | transformers.PreTrainedModel)):
        raise InvalidInput(f"{folder} is a {library} {kind}, which is no network of diffusers or transformers; code of others is not run")
    check_files(folder, variant)
    check_quantisation(folder)
    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if variant is not None and list(folder.glob(f"*.{variant}*.safetensors")):
        settings["variant"] = variant
    try:
        loaded: Any = cast(Any, network_class).from_pretrained(folder, **settings)
    except (ImportError, NotImplementedError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingPackage(f"{folder} needs a package that is not installed, or not for this device ({words})") from error
    except Exception as error:  # diffusers and transformers raise many kinds for weights that do not fit
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"the weights in {folder} do not load ({words}); were they cut short? Fetch them again") from error
    network, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        raise WeightsError(f"the weights in {folder} lack {len(missing)} tensors of a {kind}, such as {missing[0]}; fetch them again")
    check_finite(network.state_dict(), folder)
    return network.eval().requires_grad_(False)


def check_files(folder: Path, variant: str | None) -> None:
    """Raise `WeightsError` unless the folder holds a configuration and safetensors of the variant, or of no variant."""
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} has no config.json: the download may be incomplete; fetch it again (download=True)")
    check_indices(folder)
    files = [path.name for path in folder.glob("*.safetensors")]
    plain = [name for name in files if name.count(".") == 1]  # a variant stands between two dots
    if plain or (variant is not None and any(f".{variant}" in name for name in files)):
        return
    if files:
        named = sorted(files)[0].split(".")[1].split("-")[0]
        raise WeightsError(f"{folder} holds only {', '.join(sorted(files))}: give variant={named!r} (--variant {named})")
    pickles = sorted(path.name for suffix in ("bin", "ckpt", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickles:
        raise WeightsError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code and are not opened; convert to safetensors"
        )
    raise WeightsError(f"{folder} holds no weights (*.safetensors): the download may be incomplete; fetch it again (download=True)")


def check_indices(folder: Path) -> None:
    """Raise `WeightsError` where an index of shards names a file that is not a safetensors file in this folder.

    diffusers opens whatever an index names, pickles included.
    """
    for path in folder.glob("*.index.json"):
        if path.name.startswith("pytorch_model") or ".bin." in path.name:
            continue  # the index of pickled weights, which is not used
        try:
            named = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise WeightsError(f"{path} is not readable as an index of weights ({error}); fetch it again") from error
        for name in named:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise WeightsError(f"{path} names {name!r}; only .safetensors files in its own folder are opened, pickles can run code")


def check_quantisation(folder: Path) -> None:
    """Check that the package that quantised the weights, if any, is installed.

    Raises:
        MissingPackage: it is not.
        WeightsError: the configuration is not readable.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stated = config.get("quantization_config") or {}
        method = stated.get("quant_method", stated.get("quant_type")) if stated else None
    except (ValueError, AttributeError, OSError) as error:
        raise WeightsError(f"{folder / 'config.json'} is not readable ({error}); fetch it again") from error
    package = QUANTISERS.get(str(method), str(method)) if method else None
    if package is not None and find_spec(package.replace("-", "_").replace("optimum_quanto", "optimum")) is None:
        raise MissingPackage(f"the weights in {folder} are quantised with {method}, which needs {package}: pip install {package}")


def check_others(folder: Path, index: dict[str, Any]) -> None:
    """Raise `WeightsError` where a tokenizer or the scheduler is missing: diffusers would make one up from the folder above."""
    for name, entry in index.items():
        if name in NETWORKS or not isinstance(entry, list) or entry[0] is None:
            continue
        if not (folder / name).is_dir():
            raise WeightsError(f"{folder / name} is missing: the download may be incomplete; fetch it again (download=True)")
        if name.startswith("tokenizer") and not any((folder / name / file).is_file() for file in VOCABULARIES):
            raise WeightsError(f"{folder / name} holds no vocabulary ({', '.join(VOCABULARIES)}); fetch it again (download=True)")
