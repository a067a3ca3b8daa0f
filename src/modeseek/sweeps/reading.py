"""Reading a sweep: prompts from a text file, seeds like "0-7", everything from a YAML file."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from modeseek.core.errors import InvalidInput
from modeseek.sweeps.sweep import Method, Sweep, applied, methods_of
from modeseek.tasks.text_to_image import PriorChoice

MOST_SEEDS = 100_000


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt per line; empty lines and lines that start with # are skipped.

    Raises:
        InvalidInput: the file is missing, no text, or without prompts.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(f"cannot read prompts from {path}: {reason}; give a text file with one prompt per line") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no UTF-8 text ({error.reason}); give a text file with one prompt per line") from None
    found = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not found:
        raise InvalidInput(f"{path} holds no prompt: write one per line")
    if any("\0" in prompt for prompt in found):
        raise InvalidInput(f"{path} is no text: it holds zero bytes")
    return found


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds and ranges, separated by commas.

    Raises:
        InvalidInput: anything else, a range that descends, or a seed beyond 2^63 - 1.

    Example:
        >>> read_seeds("0-3,7")
        (0, 1, 2, 3, 7)
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part)
        if match is None:
            raise InvalidInput(f"seeds are numbers and ranges such as 0-7,12, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < 2**63 or last - first >= MOST_SEEDS:
            raise InvalidInput(f"a range of seeds ascends, stays below 2^63 and has at most {MOST_SEEDS} seeds, got {part!r}")
        found += range(first, last + 1)
    return tuple(found)


def read_shard(text: str) -> tuple[int, int]:
    """ "3/16" -> (3, 16).

    Raises:
        InvalidInput: anything else.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidInput(f"a shard is K/N with K from 1 to N, such as 3/16, got {text!r}")
    return int(match[1]), int(match[2])


def read_sweep(path: Path) -> Sweep:
    """A sweep from a YAML file.

    Keys: `prompts` (a list, or the name of a text file), `methods` (names, or mappings with `name`, `method` and recipe settings),
    `seeds` (a list, or a string such as "0-7"), `task`, `priors` (names, or mappings of `PriorChoice`), `settings` (recipe settings of
    every method), and the other arguments of `Sweep`.

    Raises:
        InvalidInput: the file is missing or no YAML, or has an unknown key or a wrong value; the message names it.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} must hold keys such as prompts, methods and seeds, got {type(found).__name__}")
    known = {f.name for f in fields(Sweep)} | {"settings"}
    unknown = sorted(str(key) for key in found if key not in known)
    if unknown:
        raise InvalidInput(f"{path}: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    task, preset = found.get("task", "image"), found.get("preset", "cpu")
    if task not in ("image", "3d"):
        raise InvalidInput(f"{path}: task must be image or 3d, got {task!r}")
    settings = _mapping(found.pop("settings", {}), path, "settings")
    prompts = found.get("prompts", ())
    found["prompts"] = read_prompts(path.parent / prompts) if isinstance(prompts, str) else _texts(prompts, path, "prompts")
    entries = [_method(entry, path, task, preset) for entry in _list(found.get("methods", ["msd"]), path, "methods")]
    shared = applied([method for method, _ in entries], _settings(settings))
    found["methods"] = tuple(applied([method], own)[0] for method, (_, own) in zip(shared, entries, strict=True))
    seeds = found.get("seeds", "0")
    found["seeds"] = read_seeds(",".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds))
    found["priors"] = tuple(_prior(entry, path) for entry in _list(found.get("priors", ["solids"]), path, "priors"))
    return Sweep(**found)


def _method(entry: Any, path: Path, task: Any, preset: Any) -> tuple[Method, dict[str, Any]]:
    """A method of the file with its name, and the settings of its own."""
    if isinstance(entry, str):
        entry = {"method": entry}
    entry = dict(_mapping(entry, path, "a method"))
    base = str(entry.pop("method", "msd"))
    name = str(entry.pop("name", base))
    (found,) = methods_of([base], task, preset=str(preset))
    return replace(found, name=name), _settings(entry)


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items() if value is not None}


def _prior(entry: Any, path: Path) -> PriorChoice:
    if isinstance(entry, str):
        return PriorChoice(name=entry)
    try:
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in _mapping(entry, path, "a prior").items()}
        return PriorChoice(**settings)
    except TypeError as error:
        raise InvalidInput(f"{path}: a prior has no such setting ({error})") from None


def _mapping(value: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {what} must be keys with values, got {value!r}")
    return value


def _list(value: Any, path: Path, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{path}: {what} must be a list, got {value!r}")
    return value


def _texts(value: Any, path: Path, what: str) -> tuple[str, ...]:
    values = _list(value, path, what)
    if not all(isinstance(entry, str) and entry.strip() for entry in values):
        raise InvalidInput(f"{path}: {what} must be texts that are not empty")
    return tuple(values)
