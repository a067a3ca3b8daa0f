r"""Repair: a damaged image returned to the data by local steps, where fitting a fresh sample would lose the image.

A true render is blurred, recoloured, partly erased or mixed with another one. Each method then takes whole steps (the image becomes the
target) at the same number of denoiser calls. What counts is the distance to the undamaged image: a sampler that starts from noise ignores
the damaged one and ends at some other camera. The prior is given the caption, not the image.

    damaged, repaired   PSNR to the undamaged image before and after, in dB
    gain                their difference
    to data             PSNR of the repaired image to the nearest true render, in dB

`TUNE` captions choose the settings in `REPAIRS`; the table has `SCORE` captions alone. No render of the images behind the table is in the
ideal denoiser's set: its cameras have another seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from modeseek.core.schedules import ExponentialBandwidth
from modeseek.distillation.loop import optimise
from modeseek.gradients import MSD, SDS, Gradient, MeanShift, NoiseLevels
from modeseek.gradients.noise_levels import Anneal
from modeseek.metrics.shapes import psnr
from modeseek.plots.images import save_sheet
from modeseek.priors.consistent import consistent_encode
from modeseek.priors.solids_ideal import psnr_to_nearest, render_density
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import ExactSampler
from modeseek.representations import Points
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import opened, shown, to_stored
from modeseek.reproduction.tables import write_results
from modeseek.solids.captions import parse
from modeseek.solids.renders import true_renders
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.sampling import sampled

Damage = Literal["blurred", "recoloured", "part erased", "mixed"]
DAMAGES: tuple[Damage, ...] = ("blurred", "recoloured", "part erased", "mixed")
TUNE = ("a red house, grey background, front view", "a purple pyramid on a yellow cube, white background, side view")
SCORE = (
    "an orange car, white background, side view",
    "a green rocket, navy background, front view",
    "a blue boat, grey background, back view",
    "a red sphere on a green cube, white background, front view",
    "a cyan torus on a pink sphere, black background, side view",
    "a yellow cylinder, navy background, overhead view",
)
CALLS = 24
CORRECTIONS = 3  # of each encoding, with the learned prior
RENDERS = 1024
OTHER_CAMERAS = 1  # seed of the cameras behind the damaged images; the density has 0
COLUMNS = ["damaged", "repaired", "gain", "to data"]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A method with its settings.

    Args:
        method, row: names for the table.
        gradient: class with everything bound but the denoiser and the levels.
        calls: denoiser calls of one step.
        levels: first and last bandwidth or noise level, in x: (ideal prior, learned prior).
        lr: share of the way to the target that a step takes.
    """

    method: str
    row: str
    gradient: partial[Any]
    calls: int = 1
    levels: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.5), (1.0, 0.3))
    lr: float = 1.0

    def build(self, denoiser: Any, *, ideal: bool) -> Gradient:
        """The gradient on a denoiser."""
        start, end = self.levels[0 if ideal else 1]
        if self.gradient.func is not SDS:
            return self.gradient(denoiser=denoiser, bandwidth=ExponentialBandwidth(start=start, end=end))
        anneal: Anneal = "linear" if self.lr == 1 else "none"
        levels = NoiseLevels(low=end, high=start, distribution="loguniform", weight="x0", anneal=anneal)
        return self.gradient(denoiser=denoiser, levels=levels)


REPAIRS = (
    Repair(method="mean shift", row="one call", gradient=partial(MeanShift)),
    Repair(
        method="MSD",
        row="exact sampler, 8 calls",
        gradient=partial(MSD, sampler=ExactSampler(steps=8, solver="ddim", sigma_max=80.0)),
        calls=8,
    ),
    Repair(method="MSD", row="reverse process, 8 calls", gradient=partial(MSD, sampler=ReverseSampler(steps=8)), calls=8),
    Repair(method="SDS", row="level falling as l", gradient=partial(SDS)),
    Repair(method="SDS", row="random level, quarter steps", gradient=partial(SDS), lr=0.25),
)


def damaged(image: Tensor, damage: Damage, other: Tensor) -> Tensor:
    """An image (n, 3, h, w) in [0, 1] with one kind of damage; `other`, of the same shape, is what it is mixed with."""
    if damage == "blurred":
        return interpolate(avg_pool2d(image, 4), scale_factor=4, mode="bilinear")
    if damage == "recoloured":
        return (0.6 * image + 0.4 * image.roll(1, dims=1)).clamp(0, 1)
    if damage == "mixed":
        return 0.65 * image + 0.35 * other
    broken = image.clone()
    height, width = image.shape[-2:]
    broken[:, :, height // 2 : height * 3 // 4, width // 4 : width * 5 // 8] = 0.5
    return broken


@dataclass(frozen=True, kw_only=True)
class RepairCell:
    """One method on the images of one caption with one kind of damage.

    Args:
        caption: with its view.
        damage: kind of damage.
        repair: the method; None: a DDIM sample, which does not use the image.
        prior: "solids-ideal" or "solids".
        images: number of cameras.
        renders: of the ideal denoiser's set and of `to data`.
        calls: denoiser calls per image.
        corrections: of each encoding; the ideal prior has no codec.
        seed: of the noise.
    """

    caption: str
    damage: Damage
    repair: Repair | None
    prior: PriorChoice
    images: int = 4
    renders: int = RENDERS
    calls: int = CALLS
    corrections: int = 0
    seed: int = 0

    @property
    def title(self) -> str:
        name = f"{self.repair.method} {self.repair.row}" if self.repair is not None else "DDIM"
        return f"repair {self.prior.name} {self.damage} {name} {self.caption[:40]}"

    def run(self) -> Result:
        prior = opened(self.prior)
        truth = true_renders(*parse(self.caption), self.images + 1, seed=OTHER_CAMERAS)
        image, other = truth[:-1], truth[1:]
        broken = damaged(image, self.damage, other)
        result = self._repaired(prior, broken).clamp(0, 1)
        before, after = psnr(broken, image), psnr(result, image)
        to_data = psnr_to_nearest(result, render_density(*parse(self.caption), self.renders, 0))
        metrics = {"damaged": before, "repaired": after, "gain": after - before, "to data": to_data}
        method, row = (self.repair.method, self.repair.row) if self.repair is not None else ("DDIM", "a fresh sample")
        found: dict[str, Any] = {"density": self.prior.name, "denoiser": "ideal" if self._ideal else "learned", "guidance": "none"}
        found |= {"method": method, "row": row, "sampler": self.damage, "prompt": self.caption, "calls": float(self.calls)}
        return Result(
            found | {"metrics": {name: float(values.mean()) for name, values in metrics.items()}},
            {"images": to_stored(torch.stack([image[0], broken[0], result[0]]))},
        )

    @property
    def _ideal(self) -> bool:
        return self.prior.name == "solids-ideal"

    def _repaired(self, prior: Any, broken: Tensor) -> Tensor:
        prompts = [self.caption] * len(broken)
        if self.repair is None:
            return sampled(prior, prompts, guidance=prior.default_guidance, steps=self.calls, seeds=range(len(broken)))
        made = Points(broken)
        encode: Callable[[Tensor], Tensor] = partial(
            consistent_encode, encode=prior.encode, decode=prior.decode, corrections=self.corrections
        )
        gradient = self.repair.build(prior.denoiser(prompts), ideal=self._ideal)
        steps = self.calls // self.repair.calls
        options: dict[str, Any] = {"optimiser": "sgd", "lr": self.repair.lr, "space": "image", "seed": self.seed}
        for _ in optimise(made, gradient, steps=steps, encode=encode, decode=prior.decode, **options):
            pass
        return made().detach()


def cells(settings: Settings) -> list[Cell]:
    priors = [PriorChoice(name="solids-ideal"), settings.prior]
    captions, damages = (SCORE[:1], DAMAGES[:1]) if settings.quick else (SCORE, DAMAGES)
    size: dict[str, int] = {"images": 1, "renders": 64, "calls": 8} if settings.quick else {}
    return [
        RepairCell(caption=caption, damage=damage, repair=repair, prior=prior, corrections=corrections, seed=settings.seed, **size)
        for prior, corrections in zip(priors, (0, CORRECTIONS), strict=True)
        for damage in damages
        for repair in (*REPAIRS, None)
        for caption in captions
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        key = tuple(result.row[name] for name in ("denoiser", "sampler", "method", "row"))
        groups.setdefault(key, []).append(result)
    rows = []
    for group in groups.values():
        metrics = {name: sum(r.row["metrics"][name] for r in group) / len(group) for name in COLUMNS}
        seconds = sum(r.row["seconds"] for r in group) / len(group)
        rows.append({**group[0].row, "metrics": metrics, "seconds": seconds, "prompts": [r.row["prompt"] for r in group]})
    config = {"seed": settings.seed, "quick": settings.quick, "tune": list(TUNE), "score": list(SCORE)}
    write_results(folder, "repair", rows=rows, config=config, columns=COLUMNS, notes=" ".join((__doc__ or "").split()))
    for denoiser in dict.fromkeys(row["denoiser"] for row in rows):
        lines, names = [], []
        for damage in dict.fromkeys(row["sampler"] for row in rows):
            of_it = [group[0] for key, group in groups.items() if key[:2] == (denoiser, damage)]
            lines.append(torch.cat([shown(of_it[0].arrays["images"][:2]), *(shown(r.arrays["images"][2:]) for r in of_it)]))
            names.append(str(damage))
        heads = ["truth", "damaged", *(f"{key[2]}\n{key[3][:24]}" for key in groups if key[:2] == (denoiser, rows[0]["sampler"]))]
        save_sheet(folder / f"repair-{denoiser}.png", lines, rows_named=names, columns_named=heads)


EXPERIMENT = Experiment(
    name="repair", summary="damaged images returned to the data by local steps, mean shift against SDS", cells=cells, finish=finish
)
