"""Location of a pipeline on disk: a folder in diffusers' layout, or a model id of the Hugging Face hub in its cache.

Nothing is downloaded unless `download` is set. `HF_HUB_OFFLINE`, `HF_HOME` and `HF_HUB_CACHE` have the meaning that huggingface_hub gives
them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from modeseek.core.errors import InvalidInput, WeightsError

MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REMOVED = {f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}" for name in ("2", "2-base", "2-1", "2-1-base")}
"""Taken off the hub by their owner -> copies kept by others; named in the message, never put in their place: trust is the user's choice."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")  # never needed for D, the encoder or the decoder


def locate(
    path_or_id: str | Path,
    *,
    supported: tuple[str, ...],
    variant: str | None,
    left_out: tuple[str, ...] = LEFT_OUT,
    download: bool,
    subfolder: str | None = None,
) -> Path:
    """The folder of a pipeline, fetched first where `download` allows it, without the parts to be left out.

    Raises:
        InvalidInput: neither a folder nor a model id; a model that was taken off the hub; a family that is not supported.
        WeightsError: the model is not on disk and may not, or could not, be downloaded.
    """
    if not str(path_or_id).strip():
        raise InvalidInput("the name of the prior is empty: give solids, a folder in diffusers' layout, or a hub id")
    path = Path(path_or_id).expanduser()
    if subfolder is not None:
        if not path.is_dir():
            found = _cached(str(path_or_id)) if MODEL_ID.fullmatch(str(path_or_id)) else None
            if found is None:
                raise InvalidInput(f"a subfolder needs a folder or a model in the hub's cache; {path_or_id} is neither")
            path = found
        path = path / subfolder
        if not path.is_dir():
            raise InvalidInput(f"{path.parent} has no folder {subfolder}")
    if path.is_dir():
        return path
    if path.is_file():
        raise InvalidInput(
            f"{path} is a file: a folder in diffusers' layout (with model_index.json) or a .safetensors checkpoint is expected"
        )
    name = str(path_or_id)
    if not MODEL_ID.fullmatch(name):
        raise InvalidInput(f"there is no folder {name}, and it is no model id of the form owner/name")
    cached = _cached(name)
    if cached is not None and (not download or _offline() or name in REMOVED):
        return cached
    if name in REMOVED:
        raise InvalidInput(
            f"{name} was taken off the hub by its owner; a copy kept by others is {REMOVED[name]}: give that id if you trust it"
        )
    if not download or _offline():
        raise WeightsError(_how_to_get(name, download))
    return _download(name, supported, variant, left_out)


def read_index(folder: Path, supported: tuple[str, ...]) -> dict[str, Any]:
    """model_index.json of a folder, checked to be of a supported family.

    Raises:
        InvalidInput: there is none, it is not readable, or names another family.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        words = f"{folder} is no diffusers pipeline: it has no model_index.json"
        if (folder / "config.json").is_file():
            raise InvalidInput(f"{words}; it holds a single network: give the folder above it")
        inside = sorted(entry.parent.name for entry in folder.glob("*/model_index.json"))
        raise InvalidInput(
            f"{words}; "
            + (f"{inside[0]} in it is one: give subfolder={inside[0]!r}" if inside else "give the folder that save_pretrained wrote")
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        family = str(index["_class_name"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InvalidInput(f"{path} is not readable as the index of a pipeline ({error}); fetch it again") from error
    for name in ("unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        entry = index.get(name, [None, None])
        if not isinstance(entry, list) or len(entry) != 2:
            raise InvalidInput(f"{path} is not readable as the index of a pipeline ({name} is {entry!r}); fetch it again")
    if family not in supported:
        raise InvalidInput(f"{folder} holds a {family}, which is not supported; supported are {', '.join(supported)}")
    return index


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _how_to_get(name: str, download: bool) -> str:
    from huggingface_hub import constants

    looked = f"{name} is not on disk: there is no such folder, and it is not in the hub's cache {constants.HF_HUB_CACHE}"
    if download:
        return f"{looked}; HF_HUB_OFFLINE is set, so it was not downloaded: unset it, or copy the model here"
    return f"{looked}; allow the download (download=True, --download), or run `hf download {name}`"


def _download(name: str, supported: tuple[str, ...], variant: str | None, left_out: tuple[str, ...]) -> Path:
    """Fetch the index first, so that nothing large comes for a family that cannot be used; then safetensors and small files only."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        read_index(Path(hf_hub_download(name, "model_index.json")).parent, supported)
        return Path(DiffusionPipeline.download(name, use_safetensors=True, variant=variant, **dict.fromkeys(left_out)))
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError as well: the hub did not answer
        raise WeightsError(
            f"{name} could not be downloaded: the hub cannot be reached; check the connection, or copy the model here"
        ) from error
    except EntryNotFoundError as error:
        raise InvalidInput(f"{name} is no diffusers pipeline: it has no model_index.json on the hub") from error
    except InvalidInput:
        raise
    except Exception as error:  # the hub's library changes its HTTP client, and with it the errors, between versions
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{name} could not be downloaded ({words}); check the id, the connection, and `hf auth login` for gated models"
        ) from error
