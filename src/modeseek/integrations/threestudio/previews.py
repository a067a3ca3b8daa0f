"""What threestudio's systems show in validation: samples of the prior and of VSD's LoRA, decoded latents, and the target of a gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.sampling import ddim
from modeseek.core.schedules import sampling_levels
from modeseek.integrations.prompt_embeddings import resized
from modeseek.priors.pipelines.base import PipelinePrior

STEPS = 25  # of a sample in validation, as in threestudio


def sampled(prior: PipelinePrior, denoiser: Denoiser, count: int, seed: int) -> Tensor:
    """DDIM samples as images (count, height, width, 3) in [0, 1]; 25 denoiser calls."""
    rng = torch.Generator().manual_seed(seed)
    levels = sampling_levels(STEPS, prior.sigmas)
    noise = torch.randn(count, *prior.event, generator=rng).to(prior.device)
    with torch.no_grad():
        return prior.decode(ddim(denoiser, float(levels[0]) * noise, levels)).clamp(0, 1).permute(0, 2, 3, 1)


def decoded(prior: PipelinePrior, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (batch, 3, height, width) in [0, 1] of latents (batch, 4, h, w), resized to `size` first."""
    latents = resized(latents.float(), size, antialias=False)
    factor = prior.image_size[0] // prior.event[1]
    larger = replace(prior, event=(latents.shape[1], *size), image_size=(factor * size[0], factor * size[1]))
    with torch.no_grad():
        return larger.decode(latents).clamp(0, 1)


class Recorder:
    """A denoiser that keeps its last state and noise level."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.state, self.sigma = torch.empty(0), torch.empty(0)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.state, self.sigma = x, torch.as_tensor(sigma).expand(len(x)).to(x)
        return self.denoiser(x, sigma)


def test_images(gradient: Any, x: Tensor, *, progress: float, rng: torch.Generator) -> dict[str, Tensor]:
    """Latents of the target, of the noisy state z = a x_s of the last call, of its noise (x_s - x)/sigma and of the predicted noise."""
    recorder = Recorder(gradient.denoiser)
    estimate = replace(gradient, denoiser=recorder)(x, progress=progress, rng=rng)
    first = slice(0, len(x))  # of several Monte-Carlo samples, the first
    sigma = per_item(recorder.sigma[first], x)
    state = recorder.state[first]
    return {
        "target": estimate.target,
        "noisy_img": state * (1 + sigma**2).rsqrt(),
        "noise_img": (state - x) / sigma,
        "noise_pred": (state - estimate.target) / sigma,
    }
