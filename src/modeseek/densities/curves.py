r"""Spiral and pinwheel: the paper's two unconditional densities, as analytic mixtures.

The paper draws its spiral and pinwheel from sample generators without a density. Here each is a row of narrow Gaussians along
its curves, so NLL, score and denoiser are exact; both are shifted and scaled to mean 0 and standard deviation 0.5 on each axis, like
the fractal's union. Widths are chosen so that the entropies (-1.36 and -1.19) are the NLL that the paper reports for DDIM with the
ideal denoiser (-1.39 and -1.19), which makes the NLL columns comparable.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from modeseek.densities.mixture import GaussianMixture


def _standardised(weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
    """The mixture shifted to mean 0 and scaled to standard deviation 0.5 on each axis."""
    mean, covariance = GaussianMixture(weights, means, covariances).moments()
    stretch = 0.5 / covariance.diagonal().sqrt()
    return GaussianMixture(weights, (means - mean) * stretch, covariances * stretch[:, None] * stretch)


def _frames(tangents: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """Covariances (K, 2, 2) with standard deviation `along` the unit tangent and `across` it; all (K,)."""
    t = tangents / tangents.norm(dim=1, keepdim=True)
    outer = t[:, :, None] * t[:, None, :]
    return outer * along[:, None, None] ** 2 + (torch.eye(2, dtype=t.dtype) - outer) * across[:, None, None] ** 2


@cache
def spiral(*, turns: float = 2.5, components: int = 400, width: float = 0.0076) -> GaussianMixture:
    r"""An Archimedean spiral $r = \theta$, mass uniform in arc length, `width` of the outer radius across the curve.

    Args:
        turns: revolutions, from radius 0.1 of the outer one to 1.
        components: Gaussians along the curve; their spacing is below one standard deviation along it.
        width: standard deviation across the curve, in units of the outer radius.

    Example:
        >>> spiral().moments()[1].diagonal().sqrt()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    fine = torch.linspace(0.1, 1, 20001, dtype=torch.float64) * (2 * math.pi * turns)
    curve = fine[:, None] * torch.stack([fine.cos(), fine.sin()], 1) / fine[-1]
    arc = torch.cat([fine.new_zeros(1), (curve[1:] - curve[:-1]).norm(dim=1).cumsum(0)])
    places = (torch.arange(components, dtype=torch.float64) + 0.5) / components * arc[-1]
    index = torch.searchsorted(arc, places)
    tangents = curve[index] - curve[index - 1]
    spacing = arc[-1] / components
    ones = torch.ones(components, dtype=torch.float64)
    return _standardised(ones, curve[index], _frames(tangents, ones * spacing * 1.2, ones * width))


@cache
def pinwheel(*, arms: int = 5, components: int = 40, rate: float = 0.25, width: float = 0.0211) -> GaussianMixture:
    r"""`arms` Gaussian arms bent by an angle `rate * exp(radius)`, as in Johnson et al. (2016).

    There $(r, s) \sim N((1, 0), diag(0.3^2, 0.05^2))$ is rotated by the arm's angle plus rate * exp(r); here the radial Gaussian is
    cut into `components` narrow ones laid along each bent arm, `width` across it.

    Example:
        >>> len(pinwheel().weights)
        200
    """
    radial = torch.linspace(-2.5, 2.5, components, dtype=torch.float64)
    mass = torch.exp(-0.5 * radial**2)
    radius = 1 + 0.3 * radial
    weights, means, covariances = [], [], []
    step = float(radius[1] - radius[0])
    for arm in range(arms):
        angle = 2 * math.pi * arm / arms + rate * radius.exp()
        unit = torch.stack([angle.cos(), angle.sin()], 1)
        normal = torch.stack([-angle.sin(), angle.cos()], 1)
        bend = (radius * rate * radius.exp())[:, None]  # r dangle/dr
        tangent = unit + bend * normal
        speed = tangent.norm(dim=1)
        weights.append(mass)
        means.append(radius[:, None] * unit)
        covariances.append(_frames(tangent, step * speed, torch.full_like(speed, width)))
    return _standardised(torch.cat(weights), torch.cat(means), torch.cat(covariances))
