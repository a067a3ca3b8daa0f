"""Figure 5: what one draw of the product density looks like, by bandwidth and by the step of the optimisation it is taken at.

A published run is stopped at k = 100, 200 and 400 steps; from each image x^k one draw with bandwidth 1000, 10 and 0.01 (timesteps) is
made for four seeds and decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from modeseek.distillation.recipes import RECIPES, Recipe, build_gradient
from modeseek.plots.images import save_sheet
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import prompts_of, shown, to_stored
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.sweeps.worker import opened
from modeseek.tasks.text_to_image import PriorChoice, distilled, images_of

BANDWIDTHS = (1e3, 10.0, 1e-2)
DRAWS = 4


@dataclass(frozen=True, kw_only=True)
class BandwidthCell:
    """One published run, and the draws from its images at `stops`.

    Args:
        prior, prompt: what is drawn.
        recipe: of the run.
        stops: steps k at which draws are made.
        seed: of the run and the draws.
    """

    prior: PriorChoice
    prompt: str
    recipe: Recipe
    stops: tuple[int, ...]
    seed: int = 0

    @property
    def title(self) -> str:
        return f"bandwidths {self.prior.name} {self.recipe.steps} steps"

    def run(self) -> Result:
        prior = opened(self.prior)
        guidance = prior.default_guidance
        made, steps = distilled(prior, [self.prompt], self.recipe, guidance=guidance, seeds=[self.seed], seed=self.seed)
        arrays, metrics = {}, {}
        calls = 0.0
        for step in steps:
            calls = step.calls
            if step.index + 1 not in self.stops:
                continue
            k = step.index + 1
            image = images_of(made, prior)
            arrays[f"image {k}"] = to_stored(image)
            for bandwidth in BANDWIDTHS:
                gradient = build_gradient(
                    replace(self.recipe, bandwidth=(bandwidth, bandwidth)), prior, [self.prompt] * DRAWS, guidance=guidance, seed=self.seed
                )
                x = prior.encode(image).detach().expand(DRAWS, -1, -1, -1).contiguous()
                drawn = gradient(x, progress=0.0, rng=torch.Generator().manual_seed(self.seed + k)).target
                with torch.no_grad():
                    shown_draws = prior.decode(drawn).clamp(0, 1)
                arrays[f"draws {k} {bandwidth:g}"] = to_stored(shown_draws)
                metrics[f"spread {k} {bandwidth:g}"] = float(shown_draws.std(0).mean())
                metrics[f"distance {k} {bandwidth:g}"] = float((shown_draws - image).pow(2).mean().sqrt())
        row = {"density": self.prior.name, "denoiser": "learned", "guidance": f"CFG {guidance:g}", "method": "MSD", "row": "as published"}
        return Result({**row, "sampler": self.prompt, "metrics": metrics, "calls": calls}, arrays)


def cells(settings: Settings) -> list[Cell]:
    recipe, stops = RECIPES["msd-published"], (100, 200, 400)
    if settings.quick:
        recipe, stops = replace(recipe, steps=40), (10, 20, 40)
    return [BandwidthCell(prior=settings.prior, prompt=prompts_of(settings.prior.name)[1], recipe=recipe, stops=stops, seed=settings.seed)]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    result, stops = results[0], cells[0].stops  # type: ignore[attr-defined]
    images, rows = [], []
    for k in stops:
        for bandwidth in BANDWIDTHS:
            images.append(shown(torch.cat([result.arrays[f"image {k}"], result.arrays[f"draws {k} {bandwidth:g}"]])))
            found = {name: result.row["metrics"][f"{name} {k} {bandwidth:g}"] for name in ("spread", "distance")}
            rows.append({**result.row, "row": f"k = {k}, bandwidth {bandwidth:g}", "metrics": found})
    names = [row["row"].replace(", ", "\n") for row in rows]
    save_sheet(folder / "fig5.png", images, rows_named=names, columns_named=["x", *(f"draw {i}" for i in range(DRAWS))])
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    notes = (
        "`spread`: standard deviation over four draws; `distance`: their root mean square distance to the image they were drawn around; "
        "images from 0 to 1. `calls` are those of the run the images come from."
    )
    write_results(folder, "fig5", rows=rows, config=config, columns=["spread", "distance"], notes=notes)


EXPERIMENT = Experiment(name="fig5", summary="one draw by bandwidth and step (Figure 5)", cells=cells, finish=finish)
