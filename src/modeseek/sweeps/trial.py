"""Write the results of a run once, into a temporary folder, to measure their time and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from modeseek.distillation.recipes import ALL_RECIPES, scale_of
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.priors.base import ImagePrior
from modeseek.representations.nerf import NeRF, degenerate
from modeseek.tasks import text_to_3d, text_to_image
from modeseek.tasks.provenance import described
from modeseek.tasks.text_to_3d import ObjectRun
from modeseek.tasks.text_to_image import ImageRun

Clock = Callable[[], float]


def image_results(run: ImageRun, made: nn.Module, prior: ImagePrior, clock: Clock) -> float:
    """Seconds for the frames and the results of a run of images."""
    facts = described(run, "image", recipes=ALL_RECIPES) | {"guidance": scale_of(run.recipe, prior)}
    lines = [{"step": float(step), "calls": float(step), "residual": 1.0} for step in range(run.recipe.steps)]
    with tempfile.TemporaryDirectory() as folder:
        begun, out = clock(), Path(folder)
        for step in text_to_image.frame_steps(run.recipe.steps):
            text_to_image.save_frame(out, step, text_to_image.images_of(made, prior))
        text_to_image.finish(out, run, "", lines, text_to_image.images_of(made, prior), facts)
        return clock() - begun


def object_results(run: ObjectRun, nerf: NeRF, prior: ImagePrior, clock: Clock) -> float:
    """Seconds for the previews and the results of a 3-D run; one preview is written, and counted as often as the run writes one."""
    steps = text_to_3d.preview_steps(run.recipe.steps)
    facts = described(run, "3d", recipes=VIEW_RECIPES) | {"guidance": scale_of(run.recipe, prior)}
    lines = [{"step": float(step), "calls": float(step)} for step in range(run.recipe.steps)]
    with tempfile.TemporaryDirectory() as folder:
        begun, out = clock(), Path(folder)
        text_to_3d.save_preview(out, 0, nerf)
        degenerate(nerf.field)
        once = clock() - begun
        text_to_3d.finish(out, run, "", lines, nerf, facts)
        return clock() - begun + (len(steps) - 1) * once
