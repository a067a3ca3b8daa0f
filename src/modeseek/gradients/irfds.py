r"""iRFDS (Yang et al. 2024, arXiv:2406.03293): the noise that a rectified flow turns into a given image, by optimisation.

The variable is the noise n, the image y is fixed. With z = (1 - t) y + t n and the velocity u, the loss |n - (u + y)|^2/2 has the gradient

    g = n - (u(z) + y) = -(y - D(y + sigma n; sigma)) (1 + sigma)/sigma,        sigma = t/(1 - t)

averaged over t on a grid of the sampler's levels. At its zero D(y + sigma n; sigma) = y on average over the levels: the straight path from
n ends at y. The released code adds a loss (mean n)^2 + (var n - 1)^2 per image that keeps n normal; here its gradient, times the number of
coordinates so that it has the units of g, with the factor `regularise`. One denoiser call per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.gradients.base import Estimate, check_point, in_full_precision, repeated, residual
from modeseek.gradients.editing import check_source


@dataclass(frozen=True, kw_only=True)
class InverseRFDS:
    """The gradient of the noise of an image; a `Gradient` with respect to n, called with n in the place of x.

    Args:
        denoiser: D of the prompt of the image, unguided as published.
        image: y, (batch, *event).
        steps: size of the sampler's grid of levels, t = (k + 1/2)/steps; one is sampled per item.
        samples: Monte-Carlo samples of t per estimate.
        regularise: weight of the penalty on the mean and variance of n.

    Raises:
        InvalidInput: steps below 1 or a negative weight; called, n of another shape than the image.
    """

    denoiser: Denoiser
    image: Tensor
    steps: int = 15
    samples: int = 1
    regularise: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.regularise < 0:
            raise InvalidInput(f"iRFDS needs steps >= 1 and regularise >= 0, got {self.steps} and {self.regularise}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        check_source(self.image, x)
        total = torch.zeros_like(x)
        for noise, copies in repeated(x, self.samples):
            y = self.image.to(x).repeat(copies, *[1] * (x.ndim - 1))
            t = ((torch.randint(self.steps, (len(noise),), generator=rng) + 0.5) / self.steps).to(x)
            sigma = t / (1 - t)
            velocity_residual = (y - self.denoiser(y + per_item(sigma, x) * noise, sigma)) / per_item(t, x)
            total -= velocity_residual.reshape(copies, *x.shape).sum(0)
        gradient = total / self.samples + self.regularise * _normality(x)
        return Estimate(gradient, x - gradient, {"calls": float(self.samples), "residual": residual(x, x - gradient)})


def _normality(n: Tensor) -> Tensor:
    """Half the gradient of (mean)^2 + (variance - 1)^2 of each item, times its number of coordinates: like n."""
    flat = n.flatten(1)
    mean = flat.mean(1, keepdim=True)
    variance = flat.var(1, keepdim=True)
    return (mean + 2 * (variance - 1) * (flat - mean) * flat.shape[1] / (flat.shape[1] - 1)).reshape(n.shape)
