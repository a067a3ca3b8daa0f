"""Truth 6: DDIM and its inversion return, and orders of convergence are measured: Euler 1, Heun 2."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import InvalidInput
from modeseek.core.sampling import ancestral, ddim, heun, invert
from modeseek.core.schedules import karras, loglinear


def exact_flow(x, start, end, *, mean, std):
    """The probability flow of one Gaussian: offsets scale with the standard deviation of the noised distribution."""
    return mean + (x - mean) * math.sqrt((std**2 + end**2) / (std**2 + start**2))


@pytest.mark.parametrize(("solver", "order"), [(ddim, 1), (heun, 2)])
def test_measured_order(gaussian, solver, order):
    x = torch.tensor([[3.0, -2.0], [-4.0, 1.0]], dtype=torch.float64)
    truth = exact_flow(x, 3.0, 0.1, mean=gaussian.means[0], std=0.5)
    errors, counts = [], (20, 40, 80, 160)
    for steps in counts:
        levels = loglinear(steps + 1, sigma_min=0.1, sigma_max=3.0, dtype=torch.float64)[:-1]
        errors.append(float((solver(gaussian, x, levels) - truth).abs().max()))
    slope = (math.log(errors[0]) - math.log(errors[-1])) / (math.log(counts[-1]) - math.log(counts[0]))
    assert slope == pytest.approx(order, abs=0.12)


def test_ddim_then_inversion_returns(mixture, x):
    levels = loglinear(4001, sigma_min=0.05, sigma_max=3.0, dtype=torch.float64)[:-1]
    down = ddim(mixture, x * 3, levels)
    back = invert(mixture, down, levels.flip(0))[-1]
    assert_close(back, x * 3, rtol=0, atol=0.02)


@pytest.mark.parametrize("sample", [ddim, heun, lambda d, x, levels: ancestral(d, x, levels, rng=torch.Generator().manual_seed(1))])
def test_samplers_draw_from_the_density(mixture, sample, rng):
    start = mixture.sample(20_000, sigma=20.0, rng=rng)
    y = sample(mixture, start, karras(128, sigma_min=0.002, sigma_max=20.0, dtype=torch.float64))
    mean, covariance = mixture.moments()
    assert bool(((y.mean(0) - mean).abs() < 4 * (covariance.diagonal() / len(y)).sqrt() + 0.01).all())
    assert_close(y.T.cov(), covariance, rtol=0.05, atol=0.02)


def test_levels_for_each_item(mixture, x):
    columns = torch.stack([karras(8, sigma_max=m, dtype=torch.float64) for m in (1.0, 2.0, 5.0, 1.0, 2.0, 5.0, 3.0)], 1)
    alone = [ddim(mixture, x[i : i + 1], columns[:, i]) for i in range(7)]
    assert_close(ddim(mixture, x, columns), torch.cat(alone))


def test_levels_must_descend(mixture, x):
    with pytest.raises(InvalidInput, match="descend"):
        ddim(mixture, x, torch.tensor([0.1, 1.0]))
    with pytest.raises(InvalidInput, match="ascend"):
        invert(mixture, x, torch.tensor([0.0, 1.0]))
    with pytest.raises(InvalidInput, match="at least 1 step"):
        karras(0)
    with pytest.raises(InvalidInput, match="sigma_min < sigma_max"):
        loglinear(3, sigma_min=2.0, sigma_max=1.0)
