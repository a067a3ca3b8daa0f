"""Figure 4: distance to DDIM images against iterations, as in the paper, and against denoiser calls, which are the cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.plots import Curve, save_curves
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import baseline_row, prompts_of, score_rows
from modeseek.reproduction.image_scores import missing
from modeseek.reproduction.paper.table4 import distilled_cells, sets, sizes
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import has_solids

NOTES = "Frechet distance of every method's images at marked steps; the black line is the mean of other sets of DDIM images."
COLOURS = {"SDS": "C0", "VSD": "C1", "SDI": "C2", "MSD": "C3", "mean shift": "C5"}
OWN_COLOURS = {"persistent chain": "C4", "levels of mean shift": "C9"}  # rows of a method that has another solid line
LINES = (("as published, equal calls", ":"), ("as published", "--"), ("", "-"))  # the first whose words a row has


def cells(settings: Settings) -> list[Cell]:
    return [*sets(settings), *distilled_cells(settings)]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)
    metric = "frechet-solids" if has_solids(settings.prior.name) else "FID"
    reference, baseline_of = results[0].arrays["images"], results[1]
    rows, by_step, by_call = [], [], []
    for result in results[2:]:
        marks = sorted(int(name[3:]) for name in result.arrays if name.startswith("at "))
        scored = [score_rows([result], prompts, settings.prior, reference=reference, arrays=f"at {mark}")[0] for mark in marks]
        calls = [result.row["calls_at"][str(mark)] for mark in marks]
        rows += [{**row, "sampler": f"step {mark}", "calls": paid} for row, mark, paid in zip(scored, marks, calls, strict=True)]
        if metric in scored[0]["metrics"]:
            distances = [row["metrics"][metric] for row in scored]
            method, kind = result.row["method"], result.row["row"]
            line = next(line for words, line in LINES if words in kind)
            colour = next((own for words, own in OWN_COLOURS.items() if words in kind), COLOURS[method])
            by_step.append(Curve(f"{method}, {kind}", marks, distances, line=line, colour=colour))
            by_call.append(Curve(f"{method}, {kind}", calls, distances, line=line, colour=colour))
    if by_step:
        baseline = baseline_row(baseline_of, prompts, settings.prior, reference=reference, seeds=sizes(settings)[0])["metrics"][metric]
        by_step.append(Curve("DDIM, another set", [min(by_step[0].x), max(by_step[0].x)], [baseline, baseline], colour="black"))
        dearest = max(max(curve.x) for curve in by_call)
        by_call.append(Curve("DDIM, another set", [baseline_of.row["calls"], dearest], [baseline, baseline], colour="black"))
        panels = [("by iteration", "step", metric, by_step), ("by cost", "denoiser calls", metric, by_call)]
        save_curves(folder / "fig4.png", panels, log_x=True, log_y=True)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    notes = f"{NOTES} {missing(settings.prior.name)}".rstrip()
    write_results(folder, "fig4", rows=rows, config=config, columns=[metric, "classifier"], notes=notes)


EXPERIMENT = Experiment(name="fig4", summary="distance to DDIM by iterations and by calls (Figure 4)", cells=cells, finish=finish)
