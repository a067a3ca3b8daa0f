r"""Default settings by what x is: an image, or a view of an object. `recommend(kind, method)` is the table that the documentation shows.

    kind     x                                                     recipes
    image    one image per item, optimised on its own              `modeseek.distillation.recipes.ALL_RECIPES`
    view     views of one object: renders from moving cameras      `VIEW_RECIPES`; `PAPER_VIEW_RECIPES` with the paper's optimiser

Points in the plane are optimised with a gradient directly (`modeseek.MSD(denoiser=D)`); settings found for them do not transfer to images.
Bandwidths and noise levels of a recipe are per coordinate and in units of the data's standard deviation (`ImagePrior.data_std`), and are
clamped to the range in which the prior's network was trained.
"""

from __future__ import annotations

from dataclasses import replace

from modeseek.core.errors import InvalidInput
from modeseek.distillation.recipes import ALL_RECIPES, METHOD_RECIPES, RECIPES, Recipe, get_recipe

_VIEW = Recipe(
    method="msd-reverse", space="image", steps=250, lr=0.06, schedule="cosine", warmup=0.08, sampler_steps=3, bandwidth=(3.0, 0.4)
)
VIEW_RECIPES: dict[str, Recipe] = {
    "msd": _VIEW,
    **{name: replace(RECIPES[name], steps=250, lr=0.02, schedule="cosine") for name in ("msd-published", "sds", "vsd", "sdi")},
    **{name: replace(recipe, steps=250, lr=0.02, schedule="cosine") for name, recipe in METHOD_RECIPES.items()},
    **{name: replace(_VIEW, method=name, sampler_steps=10, bandwidth=(8.0, 0.4)) for name in ("sds-annealed", "mean-shift")},
}
"""Recipes for views of an object, for a small volume; `modeseek 3d --method NAME`.

So few steps need a higher learning rate than the paper's, and a falling one. Residuals that pass through the encoder allow a third of the
rate of residuals in image space: at 0.08 SDS ends in a diffuse density. "mean-shift", the default of `modeseek 3d`,
"sds-annealed" and "msd", whose draws by the reverse process cost three calls, are those of `modeseek.reproduction.compared_objects`.
"""
PAPER_VIEW_RECIPES = {
    name: replace(recipe, steps=10_000, lr=1e-2, schedule="constant", warmup=0.0) for name, recipe in VIEW_RECIPES.items()
}
"""The same with the paper's optimiser, for the paper's volume (Thamizharasan et al. 2025, section 4.4)."""
KINDS: dict[str, dict[str, Recipe]] = {"image": ALL_RECIPES, "view": VIEW_RECIPES}


def recommend(kind: str = "image", method: str = "msd") -> Recipe:
    """Return the default settings of a method.

    Args:
        kind: "image", or "view" for renders of an object from moving cameras.
        method: name of the method, "msd" being mean-shift distillation with the settings that worked best.

    Raises:
        InvalidInput: an unknown kind, or a method without settings for it.

    Example:
        >>> recommend("image").steps, recommend("view").steps
        (400, 250)
    """
    if kind not in KINDS:
        raise InvalidInput(f"kind {kind!r} is unknown: choose {' or '.join(KINDS)}")
    return get_recipe(method, recipes=KINDS[kind])
