r"""Text to 3-D under equal conditions: the ideal and the learned denoiser, prompts and seeds for tuning kept apart from those for scoring.

Every method has the same NeRF, cameras, optimiser and number of steps, one denoiser call per view and step (`calls` says where a sampler
needs more), the residual at the image, random backgrounds. Only `COMPARED` differs:

    SDS              sigma log-uniform, gradient weighted as |x - D|^2/2
    SDS, annealed    sigma = l, falling as the bandwidth of mean shift does
    mean shift       y = D(x; l), one call
    MSD              one draw y of q(y|x) per step; of the ideal density exact and in one call, of the learned one by the reverse process

Settings are chosen on `TUNE_OBJECTS` x `TUNE_SEEDS` alone. Nothing of `SCORE_OBJECTS` x `SCORE_SEEDS` is used for that, but scored objects
showed that backgrounds needed another treatment, the same for every method, and prompted a wider start of the levels (docs/provenance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser
from modeseek.core.schedules import ExponentialBandwidth
from modeseek.distillation.loop import optimise
from modeseek.distillation.recipes import Recipe
from modeseek.gradients import MSD, SDS, Estimate, Gradient, MeanShift, NoiseLevels
from modeseek.gradients.base import residual
from modeseek.priors.solids_ideal import IdealSolidsPrior, render_density
from modeseek.priors.view_dependent import ViewDependentPrior
from modeseek.product.reverse import ReverseSampler
from modeseek.reproduction.image_cells import to_stored
from modeseek.solids.captions import parse
from modeseek.solids.evaluation import score_object
from modeseek.sweeps.cells import Result
from modeseek.sweeps.worker import opened
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.text_to_3d import TURNTABLE, ObjectRun, around, prompt_of, volume_of

DenoiserName = Literal["ideal", "learned"]
Split = Literal["tune", "score"]

TUNE_OBJECTS = ("a red house, grey background", "an orange car, white background", "a green rocket, navy background")
TUNE_SEEDS = (0, 7)
SCORE_OBJECTS = (
    "a yellow mushroom, grey background",
    "a cyan robot, white background",
    "a blue boat, navy background",
    "a red sphere on a green cube, white background",
    "a purple pyramid on a yellow cube, grey background",
    "a cyan torus on a pink sphere, black background",
    "a green cone on a blue cylinder, grey background",
    "an orange cube on a red torus, white background",
)
SCORE_SEEDS = (10, 11, 12, 13)
"""All prompts are held out of the learned prior's training; six of the eleven objects have a front and a back."""

IDEAL = "solids-ideal"
STEPS, LR, WARMUP = 250, 0.06, 0.08
REVERSE_STEPS = 3  # of a draw with the learned denoiser, from l to a tenth of it
Bandwidths = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ComparedMethod:
    """A method with its settings; levels are standard deviations per coordinate of x.

    Args:
        name, row: for the table.
        kind: which gradient.
        ideal, learned: first and last bandwidth, or highest and lowest noise level, with either denoiser.
    """

    name: str
    row: str
    kind: Literal["sds", "sds-annealed", "mean-shift", "draw"]
    ideal: Bandwidths
    learned: Bandwidths

    def levels(self, denoiser: DenoiserName) -> Bandwidths:
        """First and last level with a denoiser."""
        return self.ideal if denoiser == "ideal" else self.learned

    def gradient(self, name: DenoiserName, denoiser: Denoiser, draw: Callable[[Tensor, Tensor, torch.Generator], Tensor]) -> Gradient:
        """The gradient on a denoiser; `draw` samples q of the ideal density."""
        start, end = self.levels(name)
        bandwidth = ExponentialBandwidth(start=start, end=end)
        if self.kind == "mean-shift":
            return MeanShift(denoiser=denoiser, bandwidth=bandwidth)
        if self.kind == "draw" and name == "ideal":
            return ExactDraw(draw=draw, bandwidth=bandwidth)
        if self.kind == "draw":
            return MSD(denoiser=denoiser, bandwidth=bandwidth, sampler=ReverseSampler(steps=REVERSE_STEPS, sigma_min=start))
        anneal: Any = "linear" if self.kind == "sds-annealed" else "none"
        levels = NoiseLevels(low=end, high=start, distribution="loguniform", weight="x0", anneal=anneal)
        return SDS(denoiser=denoiser, levels=levels)


COMPARED = (
    ComparedMethod(name="SDS", row="random level", kind="sds", ideal=(20.0, 0.05), learned=(20.0, 0.05)),
    ComparedMethod(name="SDS", row="annealed level", kind="sds-annealed", ideal=(8.0, 0.5), learned=(8.0, 0.4)),
    ComparedMethod(name="mean shift", row="one call", kind="mean-shift", ideal=(8.0, 0.5), learned=(8.0, 0.4)),
    ComparedMethod(name="MSD", row="one draw per step", kind="draw", ideal=(8.0, 0.5), learned=(3.0, 0.4)),
)
BASELINES = (("SDS", "random level"), ("SDS", "annealed level"))
"""(method, row) that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class ExactDraw:
    """MSD with exact draws of q(y|x) of the ideal density, whose cost is that of one denoiser call: x - y; a `Gradient`.

    Args:
        draw: (x, bandwidth, generator) -> y.
        bandwidth: schedule of l.
    """

    draw: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    bandwidth: ExponentialBandwidth

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        bandwidth = self.bandwidth(progress, x, None)
        target = self.draw(x, bandwidth, rng)
        return Estimate(x - target, target, {"calls": 1.0, "bandwidth": bandwidth, "residual": residual(x, target)})


@dataclass(frozen=True, kw_only=True)
class ComparedObject:
    """One object under one method of `COMPARED`.

    Args:
        prompt, seed: of the object.
        prior: "solids-ideal", or a learned prior of the same captions.
        split: "tune" or "score": which list the prompt and the seed are from.
        method: the method and its settings.
        steps: optimiser steps.
    """

    prompt: str
    seed: int
    prior: PriorChoice
    split: Split
    method: ComparedMethod
    steps: int = STEPS

    @property
    def denoiser(self) -> DenoiserName:
        """Which column of the table this is."""
        return "ideal" if self.prior.name == IDEAL else "learned"

    @property
    def title(self) -> str:
        return f"{self.denoiser} {self.split} {self.method.name} {self.method.row} {self.prompt[:50]} {self.steps} steps seed {self.seed}"

    def run(self) -> Result:
        prior = opened(self.prior)
        recipe = Recipe(method="sds", space="image", steps=self.steps, lr=LR, schedule="cosine")
        run = ObjectRun(prompt=self.prompt, prior=self.prior, recipe=recipe, seed=self.seed)
        nerf = volume_of(run, prior)
        viewed, prompt = ViewDependentPrior(prior=prior, names=lambda: nerf.view_names), prompt_of(run, nerf)

        def draw(x: Tensor, bandwidth: Tensor, rng: torch.Generator) -> Tensor:
            assert isinstance(prior, IdealSolidsPrior)
            return exact_draw(prior, [f"{prompt}, {name} view" for name in nerf.view_names], x, bandwidth, rng)

        denoiser = viewed.denoiser([prompt] * nerf.settings.views.count)
        gradient = self.method.gradient(self.denoiser, denoiser, draw)
        settings: dict[str, Any] = {
            "steps": self.steps,
            "lr": LR,
            "schedule": "cosine",
            "warmup": WARMUP,
            "space": "image",
            "seed": self.seed,
        }
        calls = 0.0
        for step in optimise(nerf, gradient, optimiser=partial(_adamw, nerf), encode=prior.encode, decode=prior.decode, **settings):
            calls = step.calls
        first, last = self.method.levels(self.denoiser)
        row: dict[str, Any] = {"density": "solids", "denoiser": self.denoiser, "split": self.split, "method": self.method.name}
        row |= {"row": self.method.row, "sampler": f"levels {first:g} to {last:g}", "guidance": f"CFG {prior.default_guidance:g}"}
        row |= {"prompt": self.prompt, "seed": self.seed, "metrics": score_object(nerf, self.prompt, align=True), "calls": calls}
        return Result(row, {"turntable": to_stored(around(nerf, TURNTABLE, size=64))})


def _adamw(nerf: Any, parameters: Any, lr: float) -> torch.optim.Optimizer:
    del parameters  # the NeRF's own groups, without its fixed background
    return torch.optim.AdamW(nerf.groups(lr), betas=(0.9, 0.99), eps=1e-15)


@torch.no_grad()
def exact_draw(prior: IdealSolidsPrior, captions: Sequence[str], x: Tensor, bandwidth: Tensor, rng: torch.Generator) -> Tensor:
    """One y ~ q(y|x) per item, a render with probability proportional to exp(-|x - u|^2 / 2 l^2): (batch, 3, 64, 64)."""
    found = []
    for caption, item, level in zip(captions, x, bandwidth, strict=True):
        density = render_density(*parse(caption), prior.count, prior.seed)
        weights = density.log_weights(item.flatten()[None], level).softmax(1)
        chosen = torch.multinomial(weights.cpu(), 1, generator=rng)[0].to(weights.device)
        found.append((density.points[chosen] + density.centre).reshape(item.shape).to(item))
    return torch.stack(found)


def compared(
    priors: Sequence[PriorChoice], *, prompts: int = 8, seeds: int = 4, tune: bool = True, steps: int = STEPS
) -> list[ComparedObject]:
    """Cells of every method: all of the tuning pairs, and the first prompts and seeds of the scoring lists, ordered so that every
    prompt has its first seed before any has its second."""
    splits: list[tuple[Split, tuple[str, ...], tuple[int, ...]]] = [("score", SCORE_OBJECTS[:prompts], SCORE_SEEDS[:seeds])]
    if tune:
        splits.insert(0, ("tune", TUNE_OBJECTS, TUNE_SEEDS))
    return [
        ComparedObject(prompt=prompt, seed=seed, prior=prior, split=split, method=method, steps=steps)
        for prior in priors
        for split, objects, numbers in splits
        for seed in numbers
        for prompt in objects
        for method in COMPARED
    ]
