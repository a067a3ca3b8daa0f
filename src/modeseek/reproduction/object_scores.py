"""Rows of scored objects: means with bootstrap errors, and paired differences of two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from modeseek.metrics.bootstrap import bootstrap_error, bootstrap_interval
from modeseek.reproduction.tables import Row
from modeseek.sweeps.cells import Result

ALIGNED = ["aligned IoU", "aligned PSNR", "aligned F-score"]
PAIRED = ["IoU", "PSNR", "SSIM", "F-score", *ALIGNED, "front", "back"]
DIFFERENCE = ["difference", "low", "high", "pairs"]
"""Columns of `paired`."""


def summary(group: Sequence[Result]) -> Row:
    """Means over objects with bootstrap standard errors; the objects one by one, each with its prompt and seed."""
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for result in group for name in result.row["metrics"]):
        values = torch.tensor([float(result.row["metrics"][name]) for result in group if name in result.row["metrics"]])
        metrics[name] = float(values.mean())
        if len(values) > 1:
            metrics[f"{name} error"] = bootstrap_error(lambda x: float(x.mean()), values)
    objects = [{key: result.row[key] for key in ("prompt", "seed", "metrics", "calls", "seconds")} for result in group]
    head = {key: value for key, value in group[0].row.items() if key not in ("prompt", "seed")}
    return {**head, "metrics": metrics, "seconds": sum(o["seconds"] for o in objects) / len(objects), "objects": objects}


def paired(group: Sequence[Result], base: Sequence[Result]) -> list[Row]:
    """Differences of two methods over the prompts and seeds that both have.

    Returns:
        A row per score: the mean difference `group` minus `base`, and where there are several prompts its 95 % bootstrap interval
        ("low", "high"), which resamples whole prompts.
    """
    scores = {(r.row["prompt"], r.row["seed"]): r.row["metrics"] for r in base}
    named = ("density", "denoiser", "split", "guidance", "calls", "sampler")
    head = {name: group[0].row[name] for name in named if name in group[0].row}
    (method, row), (other_method, other_row) = ((r.row["method"], r.row["row"]) for r in (group[0], base[0]))
    head["method"] = f"{method} ({row}) - {other_method} ({other_row})"
    rows = []
    for name in PAIRED:
        by_prompt: dict[str, list[float]] = {}
        for result in group:
            other = scores.get((result.row["prompt"], result.row["seed"]), {})
            if name in other and name in result.row["metrics"]:
                by_prompt.setdefault(result.row["prompt"], []).append(result.row["metrics"][name] - other[name])
        if not by_prompt:
            continue
        pairs = sum(map(len, by_prompt.values()))
        metrics: dict[str, Any] = {"pairs": pairs, "difference": sum(sum(values) for values in by_prompt.values()) / pairs}
        if len(by_prompt) > 1:
            metrics["low"], metrics["high"] = bootstrap_interval(list(by_prompt.values()))
        rows.append({**head, "row": name, "metrics": metrics, "seconds": 0.0})
    return rows
