"""The study of signals with known posteriors: exact draws score as they must, wrong samplers do not."""

import pytest
import torch

from modeseek.reproduction.studies.levy import DRAWS, SIGNALS, VALIDATION_SEED, LevyCell, dps, noise_level, noisy


def test_exact_draws_have_the_gap_and_the_coverage_of_the_posterior():
    found = LevyCell(increments="Gaussian", method="exact draws", items=24).run().row["metrics"]
    assert found["gap"] == pytest.approx(0.22, abs=0.15)  # 10 log10(1 + 1/19)
    assert found["interval"] == pytest.approx(0.9, abs=0.04)
    assert found["spread"] == pytest.approx(1, abs=0.05)
    assert found["region"] >= 0.66  # 16 of 24 at a rate of 0.9: probability 0.001


def test_the_split_sampler_is_overconfident():
    found = LevyCell(increments="Student-t", method="split", items=4).run().row["metrics"]
    assert found["interval"] < 0.2
    assert found["spread"] < 0.05


def test_noise_is_25_decibels_below_the_median_power_and_tests_are_not_the_validation():
    signals = SIGNALS["Laplace"]
    power = (signals.sample(4000, rng=torch.Generator().manual_seed(5)) ** 2).mean(1).median()
    assert noise_level(signals) ** 2 == pytest.approx(float(power) / 10**2.5, rel=0.1)
    assert not torch.equal(noisy(signals, 2, 0.1, 0)[0], noisy(signals, 2, 0.1, VALIDATION_SEED)[0])


def test_the_gradient_of_dps_is_that_of_the_residuals_norm():
    """One level: without noise, DPS moves D(z) along -step grad_z |x - D(z)|, by automatic differentiation of a Gaussian denoiser."""
    matrix = torch.tensor([[0.5, 0.2], [0.2, 0.8]], dtype=torch.float64)
    x = torch.tensor([[1.0, -0.4]], dtype=torch.float64)
    seen = []

    def denoiser(z, sigma):
        seen.append(z.clone())
        return z @ matrix

    dps(0.3)(denoiser, x, 1.0, 1.0, torch.Generator().manual_seed(0))
    z = seen[-2].clone().requires_grad_()  # of the last step, whose next level is 0
    (x - z @ matrix).norm().backward()
    final = z.detach() @ matrix - 0.3 * z.grad
    again = dps(0.3)(denoiser, x, 1.0, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, final, rtol=0, atol=1e-9)
    assert DRAWS == 19
