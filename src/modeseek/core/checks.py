"""Checks of settings: numbers in a range, names from a list. Each raises `InvalidInput`, which states the given and the expected value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from modeseek.core.errors import InvalidInput

LARGEST = 1e6
"""Bound of settings that have no natural one (guidance scales, learning rates): far beyond use, and finite in float32."""
SEEDS = 2**63
"""Seeds are below this."""


def check_number(name: str, value: Any, *, low: float = -LARGEST, high: float = LARGEST, above: float | None = None) -> None:
    """Raise `InvalidInput` unless `value` is a finite number in [low, high], and greater than `above` where that is given.

    Example:
        >>> check_number("lr", 0.1, above=0)
        >>> check_number("lr", float("nan"), above=0)
        Traceback (most recent call last):
            ...
        modeseek.core.errors.InvalidInput: lr must be a number greater than 0 and at most 1e+06, got nan
    """
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (fits and low <= value <= high and (above is None or value > above)):
        least = f"greater than {above:g}" if above is not None else f"from {low:g}"
        raise InvalidInput(f"{name} must be a number {least} {'and at most' if above is not None else 'to'} {high:g}, got {value!r}")


def check_integer(name: str, value: Any, *, low: int = 1, high: int = 10**9) -> None:
    """Raise `InvalidInput` unless `value` is an integer in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_seed(name: str, value: Any) -> None:
    """Raise `InvalidInput` unless `value` is an integer in [0, 2^63)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < SEEDS:
        raise InvalidInput(f"{name} must be a whole number from 0 to 2^63 - 1, got {value!r}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise `InvalidInput` unless there is a seed, and all are in range and different."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise InvalidInput(f"give at least one seed, each once, got {tuple(seeds)}")
    for seed in seeds:
        check_seed("a seed", seed)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `InvalidInput` unless `value` is one of `choices`."""
    if value not in choices:
        raise InvalidInput(f"{name} {value!r} is unknown: choose {', '.join(map(str, choices))}")


def check_prompt(name: str, value: Any, *, empty: bool = False) -> None:
    """Raise `InvalidInput` unless `value` is a text without zero bytes or lone surrogates, and not blank unless `empty` allows it."""
    if not isinstance(value, str) or (not empty and not value.strip()):
        raise InvalidInput(f"{name} must be a text that is not empty, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is no valid Unicode text: {value!r}") from error
    if "\0" in value:
        raise InvalidInput(f"{name} holds a zero byte: {value!r}")
