"""Cells of experiments on objects: one object per cell, distilled, fitted to the truth, or the exact solid itself.

The arrays of a cell hold a turntable of 24 images as bytes, the front first. With the embedded prior the metrics are those of
`modeseek.solids.evaluation`, against the exact solid of the prompt. With other priors CLIP-SIM of the turntable is the only score, where
CLIP is on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.distillation.recipes import Recipe, scale_of
from modeseek.representations.nerf import Cameras
from modeseek.reproduction.image_cells import PAPER_PROMPTS, described, to_stored
from modeseek.reproduction.image_scores import CLIP_LARGE, clip_model, clip_similarity
from modeseek.solids.captions import COMPOSITES, parse
from modeseek.solids.evaluation import score_object, side_accuracy, true_images, true_weights
from modeseek.solids.fitting import fit_to_truth
from modeseek.sweeps.cells import Result
from modeseek.sweeps.worker import opened
from modeseek.tasks.prior_choice import has_solids
from modeseek.tasks.text_to_3d import TURNTABLE, ObjectRun, around, steps_of, volume_of

HELD_OUT_OBJECTS = (
    "a red house, grey background",
    "an orange car, white background",
    "a green rocket, navy background",
    "a red sphere on a green cube, white background",
    "a purple pyramid on a yellow cube, grey background",
    "a cyan torus on a pink sphere, black background",
)
"""Captions held out of the training of `solids`; three of the objects have a front and a back."""
FACES = (0, 6, 12, 18)  # of the turntable: front, left, back, right
SIDE = 64  # of its images


def prompts_of(prior: str) -> tuple[str, ...]:
    """Six held-out captions for the embedded prior, six of the paper's prompts for others."""
    return HELD_OUT_OBJECTS if has_solids(prior) else PAPER_PROMPTS[: len(HELD_OUT_OBJECTS)]


@dataclass(frozen=True, kw_only=True)
class DistilledObject:
    """One object distilled under one recipe.

    Args:
        spec: prior, prompt, recipe and seed.
        method, row: names for the table.
    """

    spec: ObjectRun
    method: str
    row: str

    @property
    def prompt(self) -> str:
        return self.spec.prompt

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    @property
    def title(self) -> str:
        return f"{self.method} {self.row} {self.prompt[:60]} {self.recipe.steps} steps seed {self.spec.seed}"

    def run(self) -> Result:
        run = self.spec
        prior = opened(run.prior)
        nerf = volume_of(run, prior)
        calls = 0.0
        for step in steps_of(run, prior, nerf):
            calls = step.calls
        turntable = around(nerf, TURNTABLE, size=SIDE)
        metrics = score_object(nerf, run.prompt) if has_solids(run.prior.name) else similarity(turntable, run.prompt)
        row = _row(run.prior.name, self.method, self.row, run.prompt, run.seed, metrics, calls)
        row |= {
            "denoiser": "ideal" if run.prior.name == "solids-ideal" else "learned",
            "guidance": f"CFG {scale_of(run.recipe, prior):g}",
            "sampler": described(run.recipe),
        }
        return Result(row, {"turntable": to_stored(turntable)})


@dataclass(frozen=True, kw_only=True)
class FittedObject:
    """The small NeRF fitted to true renders, an upper bound for its distillation."""

    prompt: str
    steps: int
    seed: int

    @property
    def title(self) -> str:
        return f"fitted {self.prompt} {self.steps} steps seed {self.seed}"

    def run(self) -> Result:
        nerf = fit_to_truth(self.prompt, steps=self.steps, seed=self.seed)
        row = _row("solids", "fit", "upper bound: true renders", self.prompt, self.seed, score_object(nerf, self.prompt), 0.0)
        return Result(row | {"sampler": f"{self.steps} steps"}, {"turntable": to_stored(around(nerf, TURNTABLE, size=SIDE))})


@dataclass(frozen=True, kw_only=True)
class TrueObject:
    """The exact solid, and how well the classifier recognises its front and back."""

    prompt: str

    @property
    def title(self) -> str:
        return f"truth {self.prompt}"

    def run(self) -> Result:
        metrics = side_accuracy(self._show, self.prompt) if parse(self.prompt)[0].shape in COMPOSITES else {}
        turntable = self._show(Cameras.orbit([360.0 * k / TURNTABLE for k in range(TURNTABLE)], 20.0))
        row = _row("solids", "truth", "the solid itself", self.prompt, 0, metrics, 0.0)
        return Result(row, {"turntable": to_stored(turntable)})

    def _show(self, cameras: Cameras) -> Tensor:
        scene, _ = parse(self.prompt)
        return true_images(scene, true_weights(scene, cameras, size=SIDE))


def similarity(turntable: Tensor, prompt: str) -> dict[str, float]:
    """ "CLIP-SIM" of a turntable, where CLIP is on disk."""
    model = clip_model(CLIP_LARGE)
    if model is None:
        return {}
    return {"CLIP-SIM": 100 * float(clip_similarity(model, turntable.float().cpu(), [prompt] * len(turntable)).mean())}


def faces(result: Result) -> Tensor:
    """Front, left, back and right: (4, 3, h, w) of bytes."""
    return result.arrays["turntable"][torch.tensor(FACES)]


def _row(density: str, method: str, row: str, prompt: str, seed: int, metrics: dict[str, float], calls: float) -> dict[str, Any]:
    head = {"density": density, "denoiser": "none", "guidance": "none", "method": method, "row": row, "sampler": ""}
    return {**head, "prompt": prompt, "seed": seed, "metrics": metrics, "calls": calls}
