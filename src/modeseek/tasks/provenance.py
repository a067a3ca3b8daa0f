"""Where each setting of a run comes from, and the Python code that repeats the run. run.json keeps both; the run's page shows them.

A setting is `given` where its value differs from what the method's recipe or the task would have used, `recipe` where the recipe's value
is used, `prior` where the prior decides, and `default` otherwise. A value that is given and equals the default counts as the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

Setting = dict[str, Any]  # {"value": ..., "source": ...}


def method_of(recipe: Any, recipes: Mapping[str, Any]) -> str:
    """The name of the recipe that differs from `recipe` in the fewest fields; its own `method` where none has that method."""
    rivals = {name: other for name, other in recipes.items() if other.method == recipe.method}
    if not rivals:
        return str(recipe.method)
    return min(rivals, key=lambda name: len(changes(recipe, rivals[name])))


def changes(recipe: Any, base: Any) -> dict[str, Any]:
    """Fields of `recipe` that differ from `base`, with their values."""
    return {f.name: getattr(recipe, f.name) for f in fields(recipe) if getattr(recipe, f.name) != getattr(base, f.name)}


def settings_of(run: Any, *, recipes: Mapping[str, Any], from_prior: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting of a run with its source.

    Args:
        run: a dataclass with `prompt`, `prior` and perhaps `recipe`.
        recipes: of the task, by name.
        from_prior: what the prior decides where the run leaves it open (None), such as {"guidance": 3.0, "image_size": [64, 64]}.
    """
    found: dict[str, Setting] = {}
    for field in fields(run):
        value = getattr(run, field.name)
        if field.name == "prior":
            found["prior"] = _plain(value.name, "default" if value.name == type(value)().name else "given")
            found |= {f.name: _sourced(value, f, from_prior) for f in fields(value) if f.name != "name"}
        elif field.name == "recipe":
            name = method_of(value, recipes)
            base = recipes.get(name, value)
            found["method"] = _plain(name, "given")
            for f in fields(value):
                if f.name != "method":
                    own = getattr(value, f.name)
                    found[f.name] = _from_prior(f.name, own, from_prior) or _plain(
                        own, "recipe" if own == getattr(base, f.name) else "given"
                    )
        elif field.name not in found or value is not None:
            found[field.name] = _sourced(run, field, from_prior)
    return found


def _sourced(owner: Any, field: Field[Any], from_prior: Mapping[str, Any]) -> Setting:
    value = getattr(owner, field.name)
    return _from_prior(field.name, value, from_prior) or _plain(value, "default" if value == _default(field) else "given")


def _from_prior(name: str, value: Any, from_prior: Mapping[str, Any]) -> Setting | None:
    return _plain(from_prior[name], "prior") if value is None and name in from_prior else None


def _plain(value: Any, source: str) -> Setting:
    value = value if isinstance(value, str | int | float | bool | list | tuple) or value is None else str(value)
    return {"value": value, "source": source}


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def code_of(run: Any, *, recipes: Mapping[str, Any], recipes_name: str) -> str:
    """Return a Python expression that recreates `run`, without default values.

    Args:
        run: a dataclass such as `ImageRun`.
        recipes: the named recipes that its `recipe` may vary.
        recipes_name: the name of that mapping in the code.
    """
    words = []
    for field in fields(run):
        value = getattr(run, field.name)
        if value != _default(field):
            is_recipe = field.name == "recipe" and is_dataclass(value)
            words.append(f"{field.name}={_recipe_code(value, recipes, recipes_name) if is_recipe else _value_code(value)}")
    return f"{type(run).__name__}({', '.join(words)})"


def _recipe_code(recipe: Any, recipes: Mapping[str, Any], recipes_name: str) -> str:
    name = method_of(recipe, recipes)
    if name not in recipes:
        return _value_code(recipe)
    varied = changes(recipe, recipes[name])
    base = f'{recipes_name}["{name}"]'
    return f"replace({base}, {', '.join(f'{key}={value!r}' for key, value in varied.items())})" if varied else base


def _value_code(value: Any) -> str:
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    words = [f"{f.name}={_value_code(getattr(value, f.name))}" for f in fields(value) if getattr(value, f.name) != _default(f)]
    return f"{type(value).__name__}({', '.join(words)})"


def described(
    run: Any,
    task: str,
    *,
    recipes: Mapping[str, Any] | None = None,
    recipes_name: str = "",
    command: str = "",
    from_prior: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what run.json records besides the config: task, method, settings with sources, and how to repeat the run.

    Args:
        run: a dataclass such as `ImageRun`.
        task: image, 3d, sample or edit.
        recipes: of the task, by name.
        recipes_name: the name of that mapping in Python.
        command: the command line, where there was one.
        from_prior: what the prior decided; empty before it is loaded.
    """
    named = recipes or {}
    found: dict[str, Any] = {"task": task}
    if hasattr(run, "recipe"):
        found["method"] = method_of(run.recipe, named)
    found["settings"] = settings_of(run, recipes=named, from_prior=from_prior or {})
    found["python"] = code_of(run, recipes=named, recipes_name=recipes_name)
    return found | ({"command": command} if command else {})
