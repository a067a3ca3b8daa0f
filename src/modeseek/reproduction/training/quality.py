"""Acceptance rates of the attribute classifier: on true renders, their reconstructions by the autoencoder, and on samples of the prior.

The captions are held out of training. The first two rows bound the third: the classifier is wrong on some true renders (a base seen from
overhead is hidden), and no sample is sharper than the autoencoder. "all" is everything the caption names but the view.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from modeseek.core.sampling import ddim
from modeseek.core.schedules import sampling_levels
from modeseek.metrics.shapes import psnr
from modeseek.priors.solids import GUIDANCE, solids_prior
from modeseek.reproduction.training.data import SHARES
from modeseek.solids.captions import BACKGROUNDS, COMPOSITES, VIEWS, Scene, parse, scenes
from modeseek.solids.rendering import render, view_cameras
from modeseek.solids.scoring import ASSETS, Scorer

PROMPTS = 256
STEPS = 25
AT_ONCE = 64


def prompts(count: int = PROMPTS, *, seed: int = 0) -> list[str]:
    """Held-out captions with both clauses, single solids, pairs and composites in the shares of training."""
    rng = torch.Generator().manual_seed(seed)
    groups: dict[str, list[Scene]] = {kind: [] for kind in SHARES}
    for scene in scenes(held_out=True):
        groups["pair" if scene.base else "composite" if scene.shape in COMPOSITES else "single"].append(scene)
    found = []
    for kind, share in SHARES.items():
        group = groups[kind]
        for index in torch.randint(len(group), (round(share * count),), generator=rng).tolist():
            ground = list(BACKGROUNDS)[int(torch.randint(len(BACKGROUNDS), (), generator=rng))]
            view = VIEWS[int(torch.randint(len(VIEWS), (), generator=rng))]
            found.append(Scene(**{**vars(group[index]), "background": ground}).caption(view))
    return found


def true_images(captions: list[str], *, seed: int = 0) -> Tensor:
    """One render of each caption from a random camera of its view: (n, 3, 64, 64)."""
    rng = torch.Generator().manual_seed(seed)
    images = []
    for caption in captions:
        scene, view = parse(caption)
        images.append(render(scene, view_cameras(view or "front", 1, rng=rng)))
    return torch.cat(images)


@torch.no_grad()
def measure(
    folder: Path = ASSETS, *, count: int = PROMPTS, scales: tuple[float, ...] = (GUIDANCE,)
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (what, its figures): true images, their reconstructions with their PSNR, and samples at each guidance scale.

    Args:
        folder: of the pipeline.
        count: held-out captions, one image each.
        scales: of guidance; each costs `STEPS` denoiser calls per image.
    """
    captions, prior, classifier = prompts(count), solids_prior(folder=folder), Scorer(folder)
    truth = true_images(captions)
    yield "true images", _shares(classifier, truth, captions)
    again = torch.cat([prior.decode(prior.encode(part)).clamp(0, 1) for part in truth.split(AT_ONCE)])
    yield "their reconstructions", {"PSNR": float(psnr(again, truth).mean()), **_shares(classifier, again, captions)}
    for scale in scales:
        made = []
        for start in range(0, count, AT_ONCE):
            group = captions[start : start + AT_ONCE]
            noise = [torch.randn(prior.event, generator=torch.Generator().manual_seed(start + k)) for k in range(len(group))]
            levels = sampling_levels(STEPS, prior.sigmas)
            made.append(prior.decode(ddim(prior.denoiser(group, guidance=scale), levels[0] * torch.stack(noise), levels)).clamp(0, 1))
        yield f"samples, DDIM {STEPS} steps, CFG {scale:g}", _shares(classifier, torch.cat(made), captions)


def _shares(classifier: Scorer, images: Tensor, captions: list[str]) -> dict[str, float]:
    found = classifier.agreement(images, captions)
    return {name: float(right[right.isfinite()].mean()) for name, right in found.items()}
