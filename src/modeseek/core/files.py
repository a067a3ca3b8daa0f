"""Atomic file writes: write a temporary file in the same folder, then rename it.

This module also makes file names from prompts (`safe_name`) and checks files when they are read: only JSON and safetensors are accepted,
and weights must not contain NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeseek.core.errors import OutputError, WeightsError

Allowed = Literal["finite", "infinite", "any"]


def write_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Call `write` on a temporary file in the same folder, then rename it to `path`.

    The temporary file's name ends in ".part", so a partial file left by a killed process is never read as a complete one.

    Args:
        path: of the file.
        write: writes the file it is given.
        durable: wait until the content is on the disk before renaming, so that a power failure leaves the old or the new file as well.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full. What was at `path` stays.
    """
    temporary = path.with_name(f".{path.name[-160:]}.{os.getpid()}-{secrets.token_hex(4)}.part")  # threads and machines may share it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        raise OutputError(f"cannot write {path}: {_reason(error)}; free some space or choose another folder") from error
    finally:
        with suppress(OSError):  # a read-only disk refuses this too, and must not hide the error above
            temporary.unlink()


def _reason(error: Exception) -> str:
    """Return the operating system's message for an error, in one line."""
    words = getattr(error, "strerror", None) or str(error)
    found = re.search(r'message: "([^"]+)"', words)  # of the form Error while serializing: I/O error: Os { code: 28, ... }
    return found[1] if found else " ".join(words.split()) or type(error).__name__


def slug(text: str, limit: int = 60) -> str:
    """Lower-case ASCII letters, digits and hyphens of a text, at most `limit` of them; different texts may give the same."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-") or "cell"


def safe_name(*words: str, limit: int = 80) -> str:
    """A name for a file or folder: lower-case ASCII letters, digits and hyphens, at most `limit` bytes; distinct words give distinct names.

    Where letters are lost (punctuation, other alphabets, length), a hash of the words is appended.

    Example:
        >>> safe_name("a red cube", "msd"), safe_name("a red cube!", "msd")
        ('a-red-cube-msd', 'a-red-cube-msd-3fbe0e7e')
    """
    plain = "-".join(words).replace(" ", "-")
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", plain) and "-" not in "".join(words[:-1]) and len(plain) <= limit:
        return plain
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]
    *head, last = (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)
    tail = f"{last[:24]}-{digest}".strip("-") if head else digest  # a method at the end is kept whole
    start = "-".join(filter(None, head)) if head else last
    return f"{start[: limit - len(tail) - 1].strip('-')}-{tail}".strip("-")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN and infinities raise `ValueError`, because JSON has no such values."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        OutputError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is not a JSON file ({error}); move it away or choose another folder") from error
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has these keys.

    Raises:
        OutputError: the file cannot be read, is not JSON, or is not such an object.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise OutputError(f"{path} holds a JSON {type(found).__name__}, expected an object; move it away or choose another folder")
    missing = [key for key in keys if key not in found]
    if missing:
        raise OutputError(f"{path} has no {', '.join(repr(key) for key in missing)}; move it away or choose another folder")
    return found


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; views are stored as separate tensors."""
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, metadata=metadata), durable=True)


def read_tensors(path: Path, *, kind: str, allow: Allowed = "finite") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose metadata says `"modeseek": kind`.

    Args:
        path: of the file.
        kind: what the file must say it holds.
        allow: which values are accepted: "finite", "infinite" (all but NaN), or "any".

    Raises:
        WeightsError: the file is missing, truncated, no safetensors file, of another kind, or has values that are not allowed.
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
    if allow != "any":
        check_finite(tensors, path, allow=allow)
    return tensors, metadata


def check_finite(tensors: Mapping[str, Tensor], source: Path | str, *, allow: Allowed = "finite") -> None:
    """Raise `WeightsError` where a tensor holds NaN, or infinity unless `allow` is "infinite"; the message names the first."""
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel() and value.element_size() > 1 and not value.is_meta:
            lowest, highest = map(float, torch.aminmax(value))  # NaN propagates; makes no copy of the tensor
            if math.isnan(lowest) or (allow == "finite" and math.isinf(max(-lowest, highest))):
                raise WeightsError(f"{source}: {name} holds NaN or infinite values; the file is damaged, or the training diverged")


def write_state(path: Path, state: dict[str, Any], *, kind: str) -> None:
    """Write nested dicts, lists, numbers, strings and tensors (a training state) as one safetensors file."""
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
        WeightsError: the file is missing, truncated, no safetensors file, of another kind, or contains NaN.
    """
    tensors, metadata = read_tensors(path, kind=kind, allow="infinite")

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            if "__tensor__" in value:
                return tensors[value["__tensor__"]]
            return {k: fill(v) for k, v in value["__dict__"]}
        return [fill(v) for v in value] if isinstance(value, list) else value

    try:
        return fill(json.loads(metadata["structure"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} has no readable structure ({type(error).__name__}: {error}); the file is damaged") from error
