r"""Drift of local kernels through a codec: what many small steps add up to when encode is not the inverse of decode.

Round trips, no gradient at all: a render is decoded once, then encoded with k corrections and decoded again, n times.

    lost 1, 8, 16    PSNR to the render after the first decoding minus that after n more round trips, in dB

Local steps: ten DDIM samples of held-out captions take sixteen whole steps with a kernel as wide as the data's detail, l 0.5 to 0.1.
Local steps should keep a sample a sample, so the Frechet distance to other DDIM samples should stay that of as many fresh DDIM samples
(mean and standard deviation over sets).

    frechet-solids   distance of the features of the images to those of the reference set
    moved            PSNR to the sample the steps began at, in dB
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.schedules import ExponentialBandwidth
from modeseek.distillation.loop import optimise
from modeseek.gradients import MSD, Estimate, Gradient, MeanShift
from modeseek.metrics.shapes import psnr
from modeseek.plots.images import save_sheet
from modeseek.priors.consistent import consistent_encode
from modeseek.product.reverse import ReverseSampler
from modeseek.representations import Points
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import HELD_OUT_PROMPTS, REFERENCE_SEED, SampledImages, opened, shown, to_stored
from modeseek.reproduction.image_scores import frechet_scores
from modeseek.reproduction.tables import write_results
from modeseek.reproduction.training.quality import prompts, true_images
from modeseek.solids.scoring import scorer
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.sampling import sampled

Mover = Literal["none", "mean shift, one call", "MSD, reverse process, 8 calls"]
SpaceName = Literal["latent", "image", "difference"]
MOVERS: tuple[Mover, ...] = ("none", "mean shift, one call", "MSD, reverse process, 8 calls")
ENCODINGS: tuple[tuple[SpaceName, int], ...] = (("image", 0), ("image", 3), ("difference", 3), ("latent", 0))
CORRECTIONS = (0, 1, 2, 3, 4)
TRIPS = (1, 8, 16)
STEPS = 16
BANDWIDTH = (0.5, 0.1)
SETS = 8  # of fresh samples
RENDER_SEED = 3  # of the captions of the round trips


@dataclass(frozen=True, kw_only=True)
class RoundTripCell:
    """Round trips of true renders.

    Args:
        corrections: of each encoding.
        images: renders of held-out captions.
        prior: which model.
    """

    corrections: int
    images: int = 24
    prior: PriorChoice = PriorChoice()  # noqa: RUF009 - frozen

    @property
    def title(self) -> str:
        return f"round trips {self.prior.name[-24:]} {self.corrections} corrections"

    @torch.no_grad()
    def run(self) -> Result:
        prior = opened(self.prior)
        image = true_images(prompts(self.images, seed=RENDER_SEED))
        now = first = prior.decode(prior.encode(image)).clamp(0, 1)
        metrics: dict[str, float] = {}
        for trip in range(1, max(TRIPS) + 1):
            x = consistent_encode(now, prior.encode, prior.decode, corrections=self.corrections)
            now = prior.decode(x).clamp(0, 1)
            if trip in TRIPS:
                metrics[f"lost {trip}"] = float((psnr(first, image) - psnr(now, image)).mean())
        row: dict[str, Any] = {"density": self.prior.name, "denoiser": "learned", "guidance": "none", "method": "round trips"}
        return Result(row | {"row": f"{self.corrections} corrections", "sampler": "", "metrics": metrics, "calls": 0.0})


class Still:
    """The target is x itself, so that a step is a round trip; a `Gradient`."""

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        del progress, rng
        return Estimate(torch.zeros_like(x), x, {"calls": 0.0})


@dataclass(frozen=True, kw_only=True)
class LocalStepsCell:
    """Whole local steps from DDIM samples, one of each caption.

    Args:
        mover: the gradient.
        space: where the residual is taken; "latent" iterates on latents, without the codec.
        corrections: of each encoding.
        captions: of the samples.
        seed: of the first sample and of the steps.
        prior: which model.
    """

    mover: Mover
    space: SpaceName
    corrections: int
    captions: tuple[str, ...] = HELD_OUT_PROMPTS
    seed: int = 0
    prior: PriorChoice = PriorChoice()  # noqa: RUF009 - frozen

    @property
    def title(self) -> str:
        return f"local steps {self.prior.name[-24:]} {self.mover} {self.space} {self.corrections}"

    def run(self) -> Result:
        prior = opened(self.prior)
        scale = prior.default_guidance
        begun = sampled(prior, list(self.captions), guidance=scale, steps=32, seeds=range(self.seed, self.seed + len(self.captions)))
        gradient = self._gradient(prior.denoiser(list(self.captions), guidance=scale))
        options: dict[str, Any] = {"steps": STEPS, "optimiser": "sgd", "lr": 1.0, "schedule": "constant", "seed": self.seed}
        if self.space == "latent":
            with torch.no_grad():
                made = Points(prior.encode(begun))
        else:
            made = Points(begun)
            encode: Callable[[Tensor], Tensor] = partial(
                consistent_encode, encode=prior.encode, decode=prior.decode, corrections=self.corrections
            )
            options |= {"encode": encode, "decode": prior.decode, "space": self.space}
        calls = 0.0
        for step in optimise(made, gradient, **options):
            calls = step.calls
        with torch.no_grad():
            ended = (prior.decode(made()) if self.space == "latent" else made()).clamp(0, 1)
        row: dict[str, Any] = {"density": self.prior.name, "denoiser": "learned", "guidance": f"CFG {scale:g}", "method": self.mover}
        row |= {"row": self._encoding, "sampler": f"l {BANDWIDTH[0]:g} to {BANDWIDTH[1]:g}", "calls": calls}
        return Result(row | {"metrics": {"moved": float(psnr(ended, begun).mean())}}, {"images": to_stored(ended)})

    def _gradient(self, denoiser: Any) -> Gradient:
        bandwidth = ExponentialBandwidth(start=BANDWIDTH[0], end=BANDWIDTH[1])
        if self.mover == "none":
            return Still()
        if self.mover == "mean shift, one call":
            return MeanShift(denoiser=denoiser, bandwidth=bandwidth)
        return MSD(denoiser=denoiser, bandwidth=bandwidth, sampler=ReverseSampler(steps=8))

    @property
    def _encoding(self) -> str:
        return "in latents" if self.space == "latent" else f"{self.space} space, {self.corrections} corrections"


def cells(settings: Settings) -> list[Cell]:
    quick = settings.quick
    captions = HELD_OUT_PROMPTS[:2] if quick else HELD_OUT_PROMPTS
    trips = [
        RoundTripCell(corrections=k, images=2 if quick else 24, prior=settings.prior) for k in (CORRECTIONS[:2] if quick else CORRECTIONS)
    ]
    local = [
        LocalStepsCell(mover=mover, space=space, corrections=k, captions=captions, seed=settings.seed, prior=settings.prior)
        for mover in MOVERS
        for space, k in (ENCODINGS[:1] if quick else ENCODINGS)
        if not (mover == "none" and space in ("latent", "difference"))  # nothing moves there
    ]
    seeds = (2, 1) if quick else (SETS, SETS)
    sets = [
        SampledImages(prior=settings.prior, prompts=captions, seeds=count, first=first)
        for count, first in zip(seeds, (REFERENCE_SEED, 2 * REFERENCE_SEED), strict=True)
    ]
    return [*trips, *local, *sets]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = [result.row for cell, result in zip(cells, results, strict=True) if isinstance(cell, RoundTripCell)]
    local = [(cell, result) for cell, result in zip(cells, results, strict=True) if isinstance(cell, LocalStepsCell)]
    reference, fresh = (result.arrays["images"] for result in results[-2:])
    captions = list(local[0][0].captions)
    features = scorer().features
    truth = features(shown(reference))
    moved = []
    for _, result in local:
        found = frechet_scores("frechet-solids", features(shown(result.arrays["images"])), captions, truth)
        moved.append({**result.row, "metrics": {**found, **result.row["metrics"]}})
    moved.append(_fresh(features(shown(fresh)), truth, len(captions), moved[0]))
    config = {"seed": settings.seed, "quick": settings.quick, "captions": captions}
    notes = " ".join((__doc__ or "").split())
    write_results(folder, "drift", rows=rows, config=config, columns=[f"lost {n}" for n in TRIPS], notes=notes)
    write_results(folder / "steps", "drift, local steps", rows=moved, config=config, columns=["frechet-solids", "moved"], notes=notes)
    sheets = [shown(result.arrays["images"]) for _, result in local]
    names = [f"{result.row['method']}\n{result.row['row']}" for _, result in local]
    save_sheet(
        folder / "drift.png",
        sheets,
        rows_named=names,
        columns_named=[text.split(",")[0].replace(" on ", "\non ") for text in captions],
        width=1.2,
    )


def _fresh(features: Tensor, truth: Tensor, size: int, like: dict[str, Any]) -> dict[str, Any]:
    """The row of fresh samples: mean distance of sets of one image per caption, and its standard deviation as the error."""
    sets = features.reshape(size, -1, *features.shape[1:]).transpose(0, 1)
    values = [frechet_scores("d", group, [str(k) for k in range(size)], truth)["d"] for group in sets]
    metrics = {"frechet-solids": fmean(values)}
    if len(values) > 1:
        metrics["frechet-solids error"] = stdev(values)
    return {
        **like,
        "method": "fresh DDIM samples",
        "row": f"{len(values)} sets",
        "sampler": "",
        "calls": 32.0,
        "metrics": metrics,
        "seconds": 0.0,
    }


EXPERIMENT = Experiment(
    name="drift", summary="round trips and local steps through the codec, with and without corrections", cells=cells, finish=finish
)
