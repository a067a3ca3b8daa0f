"""Rows of Table 4: every method as published, at equal denoiser calls and at the best settings found; MSD with wide kernels; mean shift."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace

from modeseek.core.errors import InvalidInput
from modeseek.distillation.recipes import ALL_RECIPES, RECIPES, Recipe
from modeseek.reproduction.image_cells import DistilledImages, prompts_of
from modeseek.tasks.text_to_image import PriorChoice


def equal_calls(recipe: Recipe, budget: float) -> Recipe:
    """The recipe at no more than `budget` denoiser calls, and close to it: each estimate serves as many steps as needed.

    Up to a twentieth of the steps is left out where that fits the budget better.

    Raises:
        InvalidInput: one estimate costs more than the budget.

    Example:
        >>> fitted = equal_calls(RECIPES["vsd"], 400)
        >>> fitted.refresh, fitted.steps, fitted.calls
        (3, 399, 399)
    """
    each = replace(recipe, steps=1).calls
    if each > budget:
        raise InvalidInput(f"one estimate of {recipe.method} costs {each:g} denoiser calls, more than the budget of {budget:g}")
    fitted: list[Recipe] = []
    for refresh in range(recipe.refresh, recipe.steps + 1):
        lengths = range(math.ceil(0.95 * recipe.steps), recipe.steps + 1)
        choices = [replace(recipe, refresh=refresh, steps=steps) for steps in lengths]
        fitted += choices[: bisect_right(choices, budget, key=lambda choice: choice.calls)][-1:]
        if choices[-1].calls <= budget:
            break
    return max(fitted, key=lambda choice: (choice.calls, choice.steps))


WIDE = "wide kernel, cached targets"
FURTHER: tuple[tuple[str, str, str], ...] = (
    ("msd", "MSD", WIDE),
    ("msd-persistent", "MSD", "persistent chain"),
    ("mean-shift", "mean shift", "one call"),
    ("sds-annealed", "SDS", "levels of mean shift"),
)
"""Recipe, method and row; the last two were not tuned on images."""
METHODS: tuple[tuple[str, str], ...] = (
    ("sds", "SDS"),
    ("vsd", "VSD"),
    ("sdi", "SDI"),
    ("msd-published", "MSD"),
)


def methods_of(prior: PriorChoice) -> tuple[tuple[str, str], ...]:
    """`METHODS` that a prior allows: the ideal denoiser has no network for VSD to adapt and no guidance scale for SDI to negate."""
    return tuple(m for m in METHODS if prior.name != "solids-ideal" or m[0] not in ("vsd", "sdi"))


def published(prior: PriorChoice, seeds: int, seed: int, *, steps: int | None = None) -> list[DistilledImages]:
    """Every method at its published settings and cost."""
    return [_cell(prior, seeds, seed, name, method, "as published", _stepped(RECIPES[name], steps)) for name, method in methods_of(prior)]


def at_equal_calls(prior: PriorChoice, seeds: int, seed: int, budget: float, *, steps: int | None = None) -> list[DistilledImages]:
    """Every method at `budget` denoiser calls: published settings, the best found, and those of `FURTHER`."""
    cells = []
    for name, method in methods_of(prior):
        recipe = equal_calls(_stepped(RECIPES[name], steps), budget)
        cells.append(_cell(prior, seeds, seed, name, method, "as published, equal calls", recipe))
    for name, method in (m for m in methods_of(prior) if m[0] in BEST):
        recipe = equal_calls(_stepped(BEST[name], steps), budget)
        cells.append(_cell(prior, seeds, seed, name, method, "best settings, equal calls", recipe))
    for name, method, row in FURTHER:
        recipe = equal_calls(_stepped(ALL_RECIPES[name], steps), budget)
        cells.append(_cell(prior, seeds, seed, name, method, f"{row}, equal calls", recipe))
    return cells


def _stepped(recipe: Recipe, steps: int | None) -> Recipe:
    return recipe if steps is None else replace(recipe, steps=steps)


def _cell(prior: PriorChoice, seeds: int, seed: int, name: str, method: str, row: str, recipe: Recipe) -> DistilledImages:
    return DistilledImages(prior=prior, prompts=prompts_of(prior.name), seeds=seeds, recipe=recipe, method=method, row=row, seed=seed)


BEST: dict[str, Recipe] = {
    "sds": replace(RECIPES["sds"], space="image", noise="fresh", schedule="cosine"),
    "vsd": replace(RECIPES["vsd"], space="image", noise="fresh", lora_lr=1e-3),
    "sdi": replace(RECIPES["sdi"], space="image", as_published=False, eta=0.0),
}
"""The best settings that `modeseek run search4` found for the baselines; each searched over as many settings as MSD. Of SDI two tied;
this is the one that is better in Table 4."""
