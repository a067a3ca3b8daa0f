r"""Text to 3-D, mean shift against score distillation under equal conditions, with the ideal and with the learned denoiser.

Conditions and settings are those of `modeseek.reproduction.compared_objects`: one NeRF, 250 steps of four views, one denoiser call per view
and step (`calls` says where a draw needs more). `tune` rows are the pairs of prompt and seed that settings were chosen on, `score` rows are
others. Scores are those of `modeseek.solids.evaluation` against the exact solids; "aligned" ones are after the rotation about the vertical
axis, of at most 30 degrees, that names of views leave free. `paired` has the differences to SDS at random and at annealed levels over the
same prompts and seeds, with 95 % bootstrap intervals that resample whole prompts.

The learned denoiser is that of `--prior`; with `--prior solids-ideal` there is the ideal one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modeseek.core.errors import InvalidInput
from modeseek.plots.images import save_sheet, tiled
from modeseek.reproduction.compared_objects import BASELINES, IDEAL, SCORE_OBJECTS, SCORE_SEEDS, TUNE_OBJECTS, TUNE_SEEDS, compared
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import shown
from modeseek.reproduction.object_cells import faces
from modeseek.reproduction.object_scores import ALIGNED, DIFFERENCE, paired, summary
from modeseek.reproduction.tables import Row, write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import PriorChoice

COLUMNS = ["IoU", "PSNR", "SSIM", "Chamfer", "F-score", *ALIGNED, "front", "back"]
Key = tuple[str, ...]


def cells(settings: Settings) -> list[Cell]:
    """The cells of `compared`.

    Raises:
        InvalidInput: a seed: the experiment has its own, for tuning and for scoring.
    """
    if settings.seed:
        raise InvalidInput(f"compare3d has its own seeds, {SCORE_SEEDS} for scoring: leave out --seed (got {settings.seed})")
    ideal = PriorChoice(name=IDEAL, device=settings.prior.device)
    if settings.quick:
        return list(compared((ideal,), prompts=1, seeds=1, tune=False, steps=10))
    priors = (ideal,) if settings.prior.name == IDEAL else (ideal, settings.prior)
    return list(compared(priors, seeds=min(settings.images, len(SCORE_SEEDS))))


def grouped(results: Sequence[Result]) -> dict[Key, list[Result]]:
    """Results by (denoiser, split, method, row), in the order of the cells."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.row[name] for name in ("denoiser", "split", "method", "row")), []).append(result)
    return groups


def differences(groups: dict[Key, list[Result]]) -> list[Row]:
    """A row per baseline, denoiser, split, method and score: mean difference over the same prompts and seeds, its 95 % interval."""
    rows = []
    for baseline in BASELINES:
        for key, group in groups.items():
            if key[2:] not in BASELINES[: BASELINES.index(baseline) + 1] and (*key[:2], *baseline) in groups:
                rows += paired(group, groups[(*key[:2], *baseline)])
    return rows


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    groups = grouped(results)
    lists: dict[str, Any] = {
        "tune": {"prompts": TUNE_OBJECTS, "seeds": TUNE_SEEDS},
        "score": {"prompts": SCORE_OBJECTS, "seeds": SCORE_SEEDS},
    }
    config: dict[str, Any] = {"seed": settings.seed, "quick": settings.quick, **lists}
    notes = " ".join((__doc__ or "").split())
    write_results(folder, "compare3d", rows=[summary(group) for group in groups.values()], config=config, columns=COLUMNS, notes=notes)
    write_results(folder / "paired", "compare3d, paired", rows=differences(groups), config=config, columns=DIFFERENCE, notes=notes)
    for denoiser in dict.fromkeys(key[0] for key in groups):
        shown_groups = {key: group for key, group in groups.items() if key[:2] == (denoiser, "score")}
        prompts = list(dict.fromkeys(result.row["prompt"] for group in shown_groups.values() for result in group))
        rows = []
        for group in shown_groups.values():
            first = {result.row["prompt"]: result for result in reversed(group)}
            rows.append(torch.stack([tiled(shown(faces(first[prompt])), 2) for prompt in prompts]))
        names = [f"{key[2]}\n{key[3]}" for key in shown_groups]
        titles = [prompt.split(",")[0].replace(" on ", "\non ") for prompt in prompts]
        save_sheet(folder / f"compare3d-{denoiser}.png", rows, rows_named=names, columns_named=titles, width=1.6)


EXPERIMENT = Experiment(
    name="compare3d",
    summary="text to 3-D under equal conditions, ideal and learned denoiser, tuned and scored apart",
    cells=cells,
    finish=finish,
)
