"""Table 4: text to image, ten prompts: DDIM, SDS, VSD, SDI and MSD at their published cost, and all at equal denoiser calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modeseek.plots.images import save_sheet
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import (
    REFERENCE_SEED,
    DistilledImages,
    ReconstructedImages,
    SampledImages,
    baseline_row,
    prompts_of,
    score_rows,
    shown,
)
from modeseek.reproduction.image_methods import at_equal_calls, published
from modeseek.reproduction.image_scores import missing
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import has_solids

BUDGET = 400
COLUMNS = ["frechet-solids", "similarity-solids", "classifier", "view", "FID", "CLIP-SIM"]
NOTES = (
    "Coordinate-MLP images of ten prompts held out of the prior's training. `frechet-solids` is the Frechet distance of features of the "
    "embedded image-text model to a DDIM set, `similarity-solids` its image-text cosine, `classifier` the share of images on which an "
    "independent classifier finds every attribute of the prompt but the view, `view` the share with the right view; +- bootstrap standard "
    "errors, for the distance within prompts (none with one image per prompt). They are not FID and CLIP score, whose published values for "
    "Stable Diffusion are in brackets. `calls` are denoiser calls per image. The DDIM row is the mean over disjoint sets of other DDIM "
    "images, each as large as any other row, +- the spread of one set: the lower limit of the distance. One such set encoded and decoded, "
    "or fitted by the coordinate network, shows what the autoencoder and the representation cost."
)


def sizes(settings: Settings) -> tuple[int, int, int | None]:
    """Images per prompt, reference images per prompt, optimiser steps (None: the recipes')."""
    return (1, 4, 40) if settings.quick else (settings.images, 32, None)


def sets(settings: Settings) -> list[SampledImages]:
    """The DDIM reference, and other DDIM images."""
    prior, (_, many, _) = settings.prior, sizes(settings)
    firsts = (REFERENCE_SEED, 1000 * settings.seed)
    return [SampledImages(prior=prior, prompts=prompts_of(prior.name), seeds=many, first=first) for first in firsts]


def distilled_cells(settings: Settings) -> list[DistilledImages]:
    """The cells of the distilled rows."""
    seeds, _, steps = sizes(settings)
    rows = at_equal_calls(settings.prior, seeds, settings.seed, BUDGET if steps is None else steps, steps=steps)
    return rows + published(settings.prior, seeds, settings.seed, steps=steps)


def cells(settings: Settings) -> list[Cell]:
    seeds, _, steps = sizes(settings)
    drawn = sets(settings)
    few = replace(drawn[1], seeds=seeds)
    network = ReconstructedImages(drawn=few, way="network")
    reconstructed = [ReconstructedImages(drawn=few, way="autoencoder"), network if steps is None else replace(network, steps=steps)]
    return [*drawn, *reconstructed, *distilled_cells(settings)]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)
    reference = results[0].arrays["images"]
    rows = [baseline_row(results[1], prompts, settings.prior, reference=reference, seeds=sizes(settings)[0])]
    rows += score_rows(results[2:], prompts, settings.prior, reference=reference)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name, "budget": BUDGET, "prompts": list(prompts)}
    columns = COLUMNS if has_solids(settings.prior.name) else COLUMNS[-2:]
    notes = f"{NOTES} {missing(settings.prior.name)}".rstrip()
    write_results(folder, "table4", rows=rows, config=config, columns=columns, notes=notes)
    firsts = [shown(result.arrays["images"].unflatten(0, (len(prompts), -1))[:, 0]) for result in results[1:]]
    names = [f"{row['method']}\n{row['row']}\n{row['calls']:g} calls" for row in rows]
    save_sheet(folder / "table4.png", firsts, rows_named=names, columns_named=[_short(prompt) for prompt in prompts])


def _short(prompt: str) -> str:
    return prompt.split(",")[0][:34].replace(" on ", "\non ")


EXPERIMENT = Experiment(name="table4", summary="text to image, every method (Table 4)", cells=cells, finish=finish)
