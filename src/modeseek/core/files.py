"""Writing files so that nothing is ever half written: a temporary neighbour first, then one atomic rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeseek.core.errors import OutputError, WeightsError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file beside `path`, then rename it over `path`.

    The temporary's name ends in ".part", so that what a kill leaves behind is never taken for a file of `path`'s kind.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, NaN and infinities refused: they are no JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        OutputError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is not a JSON file ({error}); move it away or choose another folder") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; views are written as tensors of their own."""
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, metadata=metadata))


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose metadata says `"modeseek": kind`.

    Raises:
        WeightsError: the file is missing, truncated, no safetensors file, or of another kind.
    """
    if not path.is_file():
        raise WeightsError(f"no weight file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no readable safetensors file ({error}); was it cut short?") from error
    if metadata.get("modeseek") != kind:
        raise WeightsError(f"{path} holds {metadata.get('modeseek', 'foreign weights')!r}, expected {kind!r}")
    return tensors, metadata


def write_state(path: Path, state: dict[str, Any], *, kind: str) -> None:
    """Write a nest of dicts, lists, numbers, strings and tensors (a training state) as one safetensors file."""
    tensors: dict[str, Tensor] = {}

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[f"t{len(tensors)}"] = value.detach().clone().contiguous()
            return {"__tensor__": f"t{len(tensors) - 1}"}
        if isinstance(value, dict):
            return {"__dict__": [[strip_key(k), strip(v)] for k, v in value.items()]}
        return [strip(v) for v in value] if isinstance(value, list | tuple) else value

    def strip_key(key: Any) -> Any:
        return key if isinstance(key, str | int) else str(key)

    structure = json.dumps(strip(state))
    write_tensors(path, tensors or {"empty": torch.zeros(1)}, {"modeseek": kind, "structure": structure})


def read_state(path: Path, *, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        WeightsError: the file is missing, truncated, no safetensors file, or of another kind.
    """
    tensors, metadata = read_tensors(path, kind=kind)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            if "__tensor__" in value:
                return tensors[value["__tensor__"]]
            return {k: fill(v) for k, v in value["__dict__"]}
        return [fill(v) for v in value] if isinstance(value, list) else value

    return fill(json.loads(metadata["structure"]))
