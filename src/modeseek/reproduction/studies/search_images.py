"""Search for the settings of Table 4: eight per method, at the same denoiser calls, prompts, seeds and score.

Four held-out prompts, two images each (one with --images 1), 400 denoiser calls per image. The score is the Frechet distance to 32 DDIM
images per prompt. The best settings of the baselines are in `image_methods.BEST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

from modeseek.distillation.recipes import RECIPES, Recipe
from modeseek.gradients.base import NoisePolicy
from modeseek.gradients.cached import Space
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import REFERENCE_SEED, DistilledImages, SampledImages, prompts_of, score_rows
from modeseek.reproduction.image_methods import equal_calls
from modeseek.reproduction.paper.table4 import BUDGET, COLUMNS
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result

SPACES: tuple[Space, ...] = ("latent", "image")
NOISES: tuple[NoisePolicy, ...] = ("fresh", "fixed")
RATES: tuple[Literal["constant", "cosine"], ...] = ("constant", "cosine")


def knobs() -> list[tuple[str, str, Recipe]]:
    """Return eight settings of each method as (method, row name, recipe)."""
    found: list[tuple[str, str, Recipe]] = []
    for space, noise, schedule in product(SPACES, NOISES, RATES):
        found.append(("SDS", f"{space} {noise} {schedule}", replace(RECIPES["sds"], space=space, noise=noise, schedule=schedule)))
    for space, noise, lr in product(SPACES, NOISES, (1e-4, 1e-3)):
        found.append(("VSD", f"{space} {noise} lora {lr:g}", replace(RECIPES["vsd"], space=space, noise=noise, lora_lr=lr)))
    for space, inversion, schedule in product(SPACES, (-1.0, 1.0), RATES):
        recipe = replace(RECIPES["sdi"], as_published=False, eta=0.0, space=space, inversion=inversion, schedule=schedule)
        found.append(("SDI", f"{space} inverted at {inversion:g} s {schedule}", recipe))
    for last, noise in product((20.0, 8.0, 2.0, 0.3), NOISES):
        found.append(("MSD", f"l 80 to {last:g} {noise}", replace(RECIPES["msd"], bandwidth=(80.0, last), noise=noise)))
    return found


def cells(settings: Settings) -> list[Cell]:
    prompts = prompts_of(settings.prior.name)[1:9:2]
    seeds, steps = (1, 40) if settings.quick else (min(2, settings.images), 400)
    found: list[Cell] = [SampledImages(prior=settings.prior, prompts=prompts, seeds=32, first=REFERENCE_SEED)]
    for method, row, recipe in knobs():
        fitted = equal_calls(replace(recipe, steps=steps), BUDGET * steps / 400)
        found.append(
            DistilledImages(
                prior=settings.prior, prompts=prompts, seeds=seeds, recipe=fitted, method=method, row=row, seed=settings.seed + 7
            )
        )
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = cells[0].prompts  # type: ignore[attr-defined]
    rows = score_rows(results[1:], prompts, settings.prior, reference=results[0].arrays["images"])
    rows.sort(key=lambda row: (row["method"], row["metrics"].get("frechet-solids", 0.0)))
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name, "prompts": list(prompts)}
    write_results(folder, "search4", rows=rows, config=config, columns=COLUMNS[:4], notes=__doc__ or "")


EXPERIMENT = Experiment(name="search4", summary="every method's knobs on images, eight settings each", cells=cells, finish=finish)
