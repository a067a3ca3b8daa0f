"""Fingerprints of the settings and weights of a run, which prevent it from reusing a checkpoint or a cell of other settings.

`described` turns settings into text: dataclasses field by field, tensors and frozen networks by a digest of their values. `folder_digest`
does the same for a model's folder. Large tensors and files are sampled at fixed places: a digest of a model of several gigabytes takes
a fraction of a second, and two trainings of one network differ almost everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED = 4096  # values of a tensor that is larger
BLOCKS, BLOCK = 64, 4096  # of a file that is larger than their product
DEPTH = 12


def digest(text: str) -> str:
    """Sixteen hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def described(value: Any, depth: int = DEPTH) -> str:
    """Return settings as text that is the same in every process.

    Frozen networks enter with their values. Networks that are trained enter with their class and shapes alone, and objects that are not
    dataclasses with their class, since their state changes during a run.

    Example:
        >>> from modeseek.core.schedules import LinearBandwidth
        >>> described(LinearBandwidth(start=1.0, end=0.5))
        'LinearBandwidth(start=1.0, end=0.5)'
    """
    if depth == 0:
        return type(value).__name__
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}:{_tensor_digest(value)}"
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value):
        inside = ", ".join(f"{f.name}={described(getattr(value, f.name, None), depth - 1)}" for f in fields(value) if f.init)
        return f"{type(value).__name__}({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {described(inner, depth - 1)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple | range):
        return "[" + ", ".join(described(inner, depth - 1) for inner in value) + "]"
    if value is None or isinstance(value, str | int | float | complex | bool | bytes | Path):
        return repr(value)
    if isinstance(parts := getattr(value, "components", None), Mapping):  # a diffusers pipeline
        return f"{type(value).__name__}{described({k: v for k, v in parts.items() if isinstance(v, nn.Module)}, depth - 1)}"
    if isinstance(value, Callable) and hasattr(value, "__qualname__"):  # type: ignore[arg-type]
        return f"{value.__module__}.{value.__qualname__}"  # type: ignore[attr-defined]
    return type(value).__name__


def _module(module: nn.Module) -> str:
    parameters = list(module.named_parameters())
    if any(parameter.requires_grad for _, parameter in parameters):
        return f"{type(module).__name__}({', '.join(f'{name}{tuple(p.shape)}' for name, p in parameters)})"
    return f"{type(module).__name__}:{digest(' '.join(_tensor_digest(p) for _, p in parameters))}"


def _tensor_digest(value: Tensor) -> str:
    if value.is_meta:
        return "meta"
    flat = value.detach().flatten()
    if len(flat) > SAMPLED:
        flat = flat[torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).long().to(flat.device)]
    plain = flat.cpu().to(torch.float64) if flat.is_floating_point() else flat.cpu()
    return hashlib.sha256(f"{value.dtype}".encode() + plain.numpy().tobytes()).hexdigest()[:16]


def folder_digest(folder: Path, suffixes: tuple[str, ...] = (".json", ".txt", ".model", ".safetensors")) -> str:
    """A digest of the names, sizes and contents of a folder's files with these suffixes, whatever the folder is called; or of one file."""
    whole = hashlib.sha256()
    for path in sorted(p for p in ([folder] if folder.is_file() else folder.rglob("*")) if p.suffix in suffixes and p.is_file()):
        size = path.stat().st_size
        whole.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= BLOCKS * BLOCK:
                whole.update(file.read())
                continue
            for k in range(BLOCKS):
                file.seek(math.floor(k * (size - BLOCK) / (BLOCKS - 1)))
                whole.update(file.read(BLOCK))
    return whole.hexdigest()[:16]
