"""Signals of independent increments: the denoiser against the closed form (Gaussian) and against Gibbs sampling (heavy tails)."""

import pytest
import torch
from torch.testing import assert_close

from modeseek.core.errors import InvalidInput
from modeseek.densities.levy import GaussianIncrements, LaplaceIncrements, LevySignals, StudentIncrements

LENGTH = 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def posterior(x, sigma, precisions):
    """Mean and covariance of signals with independent N(0, 1/precision) increments given x = s + sigma n: (b, L), (b, L, L)."""
    length = x.shape[1]
    differences = torch.eye(length, dtype=x.dtype) - torch.diag(torch.ones(length - 1, dtype=x.dtype), -1)
    precision = differences.T @ torch.diag_embed(precisions) @ differences + torch.eye(length, dtype=x.dtype) / sigma**2
    covariance = torch.linalg.inv(precision)
    return (covariance @ x[:, :, None])[:, :, 0] / sigma**2, covariance


def test_gaussian_increments_have_the_closed_form():
    signals = LevySignals(increments=GaussianIncrements(variance=0.25), length=LENGTH)
    y = signals.sample(5, rng=seeded())
    for sigma in (0.05, 0.4):
        x = y + sigma * torch.randn(y.shape, dtype=y.dtype, generator=seeded(1))
        mean, covariance = posterior(x, sigma, torch.full_like(x, 4.0))
        assert_close(signals(x, sigma), mean, rtol=0, atol=1e-5 * sigma)
        assert_close(signals.variance(x, sigma), covariance.diagonal(dim1=1, dim2=2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("increments", [LaplaceIncrements(), StudentIncrements()])
def test_heavy_tails_agree_with_gibbs_sampling(increments):
    """Scale mixtures of Gaussians: alternate the increments' variances given the signal and the signal given the variances."""
    signals = LevySignals(increments=increments, length=LENGTH)
    sigma, chains = 0.5, 400
    x = signals.sample(1, rng=seeded(2)) + sigma * torch.randn(1, LENGTH, dtype=torch.float64, generator=seeded(3))
    many, rng = x.expand(chains, -1), seeded(4)
    state, total, square = many.clone(), torch.zeros(chains, LENGTH, dtype=torch.float64), torch.zeros(chains, LENGTH, dtype=torch.float64)
    for sweep in range(150):
        u = torch.diff(state, dim=1, prepend=torch.zeros_like(state[:, :1])).abs().clamp_min(1e-9)
        if isinstance(increments, StudentIncrements):
            squares = torch.randn((increments.freedom + 1, *u.shape), dtype=u.dtype, generator=rng) ** 2
            precisions = squares.sum(0) / (increments.freedom + u**2)  # a chi-square variable of freedom + 1 degrees
        else:  # 1/variance is inverse Gaussian of mean 1/(b |u|) and shape 1/b^2 (Park & Casella 2008)
            mean, shape = 1 / (increments.b * u), 1 / increments.b**2
            square_normal = torch.randn(u.shape, dtype=u.dtype, generator=rng) ** 2
            root = mean + mean**2 * square_normal / (2 * shape) * (1 - (1 + 4 * shape / (mean * square_normal)).sqrt())
            swap = torch.rand(u.shape, dtype=u.dtype, generator=rng) > mean / (mean + root)
            precisions = torch.where(swap, mean**2 / root.clamp_min(1e-12), root)
        centre, covariance = posterior(many, sigma, precisions)
        factor = torch.linalg.cholesky(covariance)
        state = centre + (factor @ torch.randn(chains, LENGTH, 1, dtype=u.dtype, generator=rng))[:, :, 0]
        if sweep >= 30:
            total, square = total + centre, square + centre**2 + covariance.diagonal(dim1=1, dim2=2)
    mean, second = total / 120, square / 120
    error = mean.std(0) / chains**0.5
    found, variance = signals(x, sigma)[0], signals.variance(x, sigma)[0]
    assert bool(((mean.mean(0) - found).abs() < 4.5 * error + 0.01 * sigma).all())
    assert float(error.max()) < 0.01
    assert_close(second.mean(0) - mean.mean(0) ** 2, variance, rtol=0.04, atol=0)


def test_draws_have_the_moments_of_the_posterior():
    signals = LevySignals(increments=StudentIncrements(), length=LENGTH)
    x = signals.sample(1, rng=seeded(5))
    draws = signals.sample_product(x.expand(1500, -1), 0.4, rng=seeded(6))
    variance = signals.variance(x, 0.4)[0]
    z = (draws.mean(0) - signals(x, 0.4)[0]) / (variance / 1500).sqrt()
    assert float(z.abs().max()) < 4
    assert_close(draws.var(0), variance, rtol=0.18, atol=0)
    z = (torch.diff(draws, dim=1).mean(0) - torch.diff(signals(x, 0.4)[0])) / (torch.diff(draws, dim=1).std(0) / 1500**0.5)
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize("increments", [GaussianIncrements(), LaplaceIncrements(), StudentIncrements(freedom=5)])
def test_increments_are_draws_of_their_density(increments):
    u = increments.sample((20_000,), seeded(7))
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    density = increments.log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-3)
    for level in (-1.0, 0.3, 1.0):
        below = float(torch.trapezoid(density * (grid <= level), grid))
        assert float((u <= level).double().mean()) == pytest.approx(below, abs=4 * (below * (1 - below) / len(u)) ** 0.5 + 1e-3)


def test_bad_input_is_refused():
    signals = LevySignals(increments=GaussianIncrements(), length=LENGTH)
    with pytest.raises(InvalidInput, match="scale of an increment"):
        signals(torch.zeros(2, LENGTH), 0.8)
    with pytest.raises(InvalidInput, match="signals must be"):
        signals(torch.zeros(2, 3), 0.1)
    with pytest.raises(InvalidInput, match="length=0"):
        LevySignals(increments=GaussianIncrements(), length=0)
