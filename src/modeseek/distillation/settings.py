"""Which methods read a setting of a recipe, so that none that was given is ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from modeseek.core.errors import InvalidInput

DRAWS = ("msd-split", "msd-proximal", "msd-reverse", "msd-persistent")
READ_BY: dict[str, tuple[str, ...]] = {
    "sampler_steps": (*DRAWS, "sdi"),
    "bandwidth": (*DRAWS, "sds-annealed", "mean-shift", "hd-ode"),
    "first": ("msd-proximal", "msd-persistent"),
    "interval": ("msd-split",),
    "scaling": ("msd-split",),
    "inversion": ("sdi",),
    "eta": ("sdi",),
    "as_published": ("sdi",),
    "lora_lr": ("vsd",),
}
"""The methods that read a setting; settings that are not listed are read by all but those of `IGNORED_BY`."""
IGNORED_BY: dict[str, tuple[str, ...]] = {
    "noise": ("sdi", "mean-shift", "hd-ode", "consistent3d"),  # Consistent3D's noise is shared by its definition
    "guidance": ("csd",),
    "timesteps": ("msd-reverse", "ism", "consistent3d", "dsd", "sds-annealed", "mean-shift", "hd-ode"),
}
"""The methods that do not read a setting."""


def ignored(method: str, names: Iterable[str]) -> list[str]:
    """The settings of `names` that `method` does not read."""
    return [name for name in names if method not in READ_BY.get(name, (method,)) or method in IGNORED_BY.get(name, ())]


def changed(recipe: Any, changes: Mapping[str, Any], *, name: str | None = None) -> Any:
    """Return the recipe with changes; `name` is what messages call its method, where that is not `recipe.method`.

    Raises:
        InvalidInput: a change of a setting that the recipe's method does not read, or a value outside its range.
    """
    unread = ignored(recipe.method, changes)
    if unread:
        raise InvalidInput(f"method {name or recipe.method} does not read {', '.join(unread)}: leave it out")
    if recipe.method in ("cfd", "dsd") and changes.get("noise") == "fresh":
        raise InvalidInput(f"{recipe.method} follows the noise of each image, so it cannot be fresh: choose noise fixed, or leave it out")
    return replace(recipe, **changes)
