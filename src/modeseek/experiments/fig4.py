"""Figure 4: distance to DDIM pictures against iterations (as the paper) and against denoiser calls (what is paid)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.experiments.base import Experiment, Settings
from modeseek.experiments.cells import Cell, Result
from modeseek.experiments.pictures import prompts_of, score_rows
from modeseek.experiments.table4 import cells as table4_cells
from modeseek.experiments.tables import write_results
from modeseek.plots import Curve, save_curves

NOTES = "`frechet-solids` of every method's pictures at marked steps; the floor is another set of DDIM pictures."


def cells(settings: Settings) -> list[Cell]:
    return table4_cells(settings)


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)
    reference = results[0].arrays["pictures"]
    rows, by_step, by_call = [], [], []
    for result in results[2:]:
        marks = sorted(int(name[3:]) for name in result.arrays if name.startswith("at "))
        scored = [score_rows([result], prompts, settings.prior, reference=reference, arrays=f"at {mark}")[0] for mark in marks]
        distances = [row["metrics"].get("frechet-solids", 0.0) for row in scored]
        calls = [result.row["calls_at"][str(mark)] for mark in marks]
        label = f"{result.row['method']}, {result.row['row']}"
        by_step.append(Curve(label, marks, distances))
        by_call.append(Curve(label, calls, distances))
        rows += [{**row, "sampler": f"step {mark}", "calls": paid} for row, mark, paid in zip(scored, marks, calls, strict=True)]
    floor = score_rows([results[1]], prompts, settings.prior, reference=reference)[0]["metrics"].get("frechet-solids", 0.0)
    by_step.append(Curve("DDIM, another set", [1, max(by_step[0].x)], [floor, floor]))
    by_call.append(Curve("DDIM, another set", [32, max(max(curve.x) for curve in by_call)], [floor, floor]))
    panels = [("by iteration", "step", "frechet-solids", by_step), ("by cost", "denoiser calls", "frechet-solids", by_call)]
    save_curves(folder / "fig4.png", panels, log_x=True, log_y=True)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    write_results(folder, "fig4", rows=rows, config=config, columns=["frechet-solids", "judge"], notes=NOTES)


EXPERIMENT = Experiment(name="fig4", summary="distance to DDIM by iterations and by calls (Figure 4)", cells=cells, finish=finish)
