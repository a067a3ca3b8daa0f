r"""Quality of the embedded prior, measured against true renders.

Fidelity, one row per held-out caption and view, in dB of peak signal-to-noise ratio (median over the seeds):

    sample_db    DDIM sample to the nearest of many true renders of its caption and view
    true_db      true render to its nearest other: what a perfect sample would have
    codec_db     true render to its own reconstruction by the autoencoder: what the codec allows
    edges        mean absolute finite difference of the samples over that of their nearest renders (no dB: 1 is right)

A sample that is sharp but wrong has a low `sample_db`, and no classifier is involved. A blurred mean of the renders has a high one, and
`edges` below 1. `right` and `view` are the shares of samples on which the attribute classifier accepts everything named but the view, and
the view.

Denoiser by noise level, one row per level: the learned D and the ideal D* = softmax over the encoded true renders, at x = z + sigma n with
z an encoded render outside the set. `gap` is the root mean square of D - D* per latent coordinate, `learned` and `ideal` are
those of D - z and D* - z. Levels whose `gap` is large against `ideal` are those the network has not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeseek.densities import EmpiricalDensity
from modeseek.metrics.shapes import psnr
from modeseek.plots import Curve, save_curves
from modeseek.plots.images import save_sheet
from modeseek.priors.solids import GUIDANCE
from modeseek.priors.solids_ideal import IdealSolidsPrior, RenderDensity, psnr_to_nearest
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import opened, shown, to_stored
from modeseek.reproduction.tables import write_results
from modeseek.reproduction.training.quality import prompts
from modeseek.solids.captions import parse
from modeseek.solids.renders import true_renders
from modeseek.solids.scoring import scorer
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.sampling import sampled

CAPTIONS = 64
CAPTION_SEED = 1  # of the captions; `quality.prompts` has 0 for the classifier's
LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
FIDELITY_COLUMNS = ["sample_db", "true_db", "codec_db", "edges", "right", "view"]
LEVEL_COLUMNS = ["sigma", "gap", "learned", "ideal"]
SHEET = 8  # captions on the sheet


@dataclass(frozen=True, kw_only=True)
class FidelityCell:
    """Samples of one caption against its true renders.

    Args:
        caption: with its view.
        prior: which model.
        seeds: samples.
        renders: true renders in the set.
        steps: of DDIM.
        guidance: scale; None: that of the embedded prior, 1 for the ideal denoiser.
    """

    caption: str
    prior: PriorChoice = field(default_factory=PriorChoice)
    seeds: int = 4
    renders: int = 1024
    steps: int = 32
    guidance: float | None = None

    @property
    def title(self) -> str:
        return f"fidelity {self.prior.name[-24:]} {self.caption}"

    @torch.no_grad()
    def run(self) -> Result:
        prior = opened(self.prior)
        scale = self._scale(prior)
        truth = true_renders(*parse(self.caption), self.renders)
        prompts = [self.caption] * self.seeds
        samples = sampled(prior, prompts, guidance=scale, steps=self.steps, seeds=range(self.seeds))
        density = RenderDensity(truth)
        _, nearest = density.nearest(2 * samples.flatten(1) - 1)
        some = truth[: max(2, self.renders // 16)]
        codec = psnr(prior.decode(prior.encode(some[:16])).clamp(0, 1), some[:16])
        agreement = scorer().agreement(samples, prompts)
        metrics = {
            "sample_db": float(psnr_to_nearest(samples, density).median()),
            "true_db": float(nearest_other(truth, len(some)).median()),
            "codec_db": float(codec.median()),
            "edges": edges(samples) / edges(truth[nearest]),
            "right": float(agreement["all"].mean()),
            "view": float(agreement["view"].mean()),
        }
        row: dict[str, Any] = {"density": self.prior.name, "denoiser": "learned", "guidance": f"CFG {scale:g}", "method": "DDIM"}
        row |= {"row": self.caption, "sampler": f"{self.steps} steps, {self.seeds} seeds", "metrics": metrics, "calls": float(self.steps)}
        return Result(row, {"samples": to_stored(samples[:2]), "nearest": to_stored(truth[nearest[:2]])})

    def _scale(self, prior: Any) -> float:
        if self.guidance is not None:
            return self.guidance
        return 1.0 if isinstance(prior, IdealSolidsPrior) else GUIDANCE


@dataclass(frozen=True, kw_only=True)
class DenoiserCell:
    """The learned denoiser against the ideal one of encoded renders, at one noise level.

    Args:
        captions: each with its view; the figures are root mean squares over all of them.
        sigma: noise level, a standard deviation per latent coordinate.
        prior: which model.
        renders: encoded true renders per caption.
        points: x per caption.
        seed: of their noise.
    """

    captions: tuple[str, ...]
    sigma: float
    prior: PriorChoice = field(default_factory=PriorChoice)
    renders: int = 256
    points: int = 8
    seed: int = 0

    @property
    def title(self) -> str:
        return f"denoiser {self.prior.name[-24:]} at {self.sigma:g}, {len(self.captions)} captions"

    @torch.no_grad()
    def run(self) -> Result:
        prior = opened(self.prior)
        squares: dict[str, list[Tensor]] = {"gap": [], "learned": [], "ideal": []}
        rng = torch.Generator().manual_seed(self.seed)
        for caption in self.captions:
            scene, view = parse(caption)
            inside = _encoded(prior, true_renders(scene, view, self.renders))
            z = _encoded(prior, true_renders(scene, view, self.points, seed=1))
            x = z + self.sigma * torch.randn(z.shape, generator=rng)
            sigma = torch.tensor(self.sigma)
            learned = prior.denoiser([caption], guidance=1.0)(x, sigma)
            ideal = EmpiricalDensity(inside.flatten(1))(x.flatten(1), sigma).reshape(x.shape)
            for name, difference in (("gap", learned - ideal), ("learned", learned - z), ("ideal", ideal - z)):
                squares[name].append(difference.square().mean())
        metrics = {"sigma": self.sigma} | {name: float(torch.stack(values).mean().sqrt()) for name, values in squares.items()}
        row: dict[str, Any] = {"density": self.prior.name, "denoiser": "learned", "guidance": "none", "method": "D against D*"}
        return Result(row | {"row": f"sigma {self.sigma:g}", "sampler": "", "metrics": metrics, "calls": 1.0})


def edges(images: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, along rows and columns."""
    return float(images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())


def nearest_other(renders: Tensor, count: int) -> Tensor:
    """dB from each of the first `count` renders to its nearest other one: (count,)."""
    x = 2 * renders.flatten(1) - 1
    distances = torch.cdist(x[:count], x)
    distances[torch.arange(count), torch.arange(count)] = torch.inf
    return -10 * (distances.amin(1) ** 2 / 4 / x.shape[1]).log10()


def _encoded(prior: Any, images: Tensor) -> Tensor:
    return torch.cat([prior.encode(part) for part in images.split(64)])


def held_out_captions(count: int = CAPTIONS) -> list[str]:
    """Different captions held out of training, each with its background and view, in the shares of training."""
    every = list(dict.fromkeys(prompts(2 * count, seed=CAPTION_SEED)))
    return [every[k * len(every) // count] for k in range(count)]


def cells(settings: Settings) -> list[Cell]:
    captions = held_out_captions()
    if settings.quick:
        fidelity: list[Cell] = [
            FidelityCell(caption=c, prior=settings.prior, seeds=2, renders=64, steps=16) for c in (captions[0], captions[40])
        ]
        return [*fidelity, DenoiserCell(captions=(captions[0],), sigma=1.0, prior=settings.prior, renders=64, points=2)]
    some = tuple(captions[::8])
    levels = [DenoiserCell(captions=some, sigma=sigma, prior=settings.prior, seed=settings.seed) for sigma in LEVELS]
    return [*(FidelityCell(caption=caption, prior=settings.prior) for caption in captions), *levels]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the dB columns and means of the shares, over captions."""
    table = {name: torch.tensor([row["metrics"][name] for row in rows]) for name in FIDELITY_COLUMNS}
    metrics = {name: float(values.median() if name.endswith("_db") else values.mean()) for name, values in table.items()}
    seconds = sum(row["seconds"] for row in rows)
    return {**rows[0], "row": f"all {len(rows)} captions: medians, and mean shares", "metrics": metrics, "seconds": seconds}


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    fidelity = [r for c, r in zip(cells, results, strict=True) if isinstance(c, FidelityCell)]
    levels = [r.row for c, r in zip(cells, results, strict=True) if isinstance(c, DenoiserCell)]
    rows = [result.row for result in fidelity]
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    columns = [*FIDELITY_COLUMNS, *LEVEL_COLUMNS]
    notes = " ".join((__doc__ or "").split())
    write_results(folder, "prior", rows=[summary(rows), *rows, *levels], config=config, columns=columns, notes=notes)
    chosen = fidelity[:: max(1, len(fidelity) // SHEET)][:SHEET]
    pairs = [torch.cat([shown(r.arrays["samples"]), shown(r.arrays["nearest"])]) for r in chosen]
    names = [result.row["row"].replace(", ", "\n") for result in chosen]
    save_sheet(folder / "samples.png", pairs, rows_named=names, columns_named=["sample", "sample", "nearest render", "nearest render"])
    if len(levels) > 1:
        sigmas = [row["metrics"]["sigma"] for row in levels]
        curves = [Curve(name, sigmas, [row["metrics"][name] for row in levels]) for name in LEVEL_COLUMNS[1:]]
        save_curves(folder / "levels.png", [("D and D*", "sigma", "root mean square", curves)], log_x=True, log_y=True)


EXPERIMENT = Experiment(name="prior", summary="the embedded prior's samples and denoiser against true renders", cells=cells, finish=finish)
