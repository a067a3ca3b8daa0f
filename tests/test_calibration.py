"""Calibration tests against samplers that are right and wrong by construction."""

import pytest
import torch

from modeseek import InvalidInput
from modeseek.densities import anisotropic_mixture
from modeseek.metrics import classifier_test, rank_test
from modeseek.metrics.calibration import chi_square_tail, smallest
from modeseek.reproduction.studies.calibration import CalibrationCell, FalseAlarmCell


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_product_draws_are_the_products(mixture):
    """`sample_product` against `product` at one centre: moments within 5 standard errors, and shares of the components."""
    centre = torch.tensor([0.2, 0.1], dtype=torch.float64)
    draws = mixture.sample_product(centre.expand(100_000, 2), 0.6, rng=seeded())
    mean, covariance = mixture.product(centre, 0.6).moments()
    error = covariance.diag().sqrt() / len(draws) ** 0.5
    assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())
    torch.testing.assert_close(draws.T.cov(), covariance, rtol=0.03, atol=0.003)


def test_product_draws_are_calibrated_posteriors():
    """y ~ p, x = y + l n: y and a draw at x are exchangeable, so ranks are uniform, in 16 dimensions."""
    target = anisotropic_mixture(16, seed=3)
    y = target.sample(2000, rng=seeded(1))
    x = y + 0.4 * torch.randn(y.shape, dtype=y.dtype, generator=seeded(2))
    draws = torch.stack([target.sample_product(x, 0.4, rng=seeded(10 + k)) for k in range(9)])
    assert smallest(rank_test(y, draws)) > 0.01
    assert smallest(rank_test(y, draws + 0.1)) < 1e-6
    assert smallest(rank_test(y, draws.mean(0) + 0.7 * (draws - draws.mean(0)))) < 1e-6


def test_ranks_have_uniform_p_values():
    """Under the null the chi-square p-values are uniform: their mean and their share below 0.05 within 4 standard errors."""
    p = rank_test(torch.randn(500, 400, generator=seeded()), torch.randn(7, 500, 400, generator=seeded(1)))
    assert abs(float(p.mean()) - 0.5) < 4 * (1 / 12 / 400) ** 0.5
    assert abs(float((p < 0.05).double().mean()) - 0.05) < 4 * (0.05 * 0.95 / 400) ** 0.5


def test_classifier_has_uniform_p_values_and_sees_what_it_should():
    """False alarms at 0.05 over 200 pairs of equal samples; a shift, a scale and a second mode are seen."""
    pairs = torch.randn(200, 2, 300, 3, generator=seeded())
    alarms = sum(classifier_test(a, b)[1] < 0.05 for a, b in pairs) / 200
    assert abs(alarms - 0.05) < 4 * (0.05 * 0.95 / 200) ** 0.5
    a, b = torch.randn(2, 2000, 3, generator=seeded(1))
    split = b + 2 * torch.sign(torch.randn(2000, 1, generator=seeded(2)))
    for other in (b + 0.3, 1.4 * b, split * a.std() / split.std()):
        accuracy, p = classifier_test(a, other)
        assert accuracy > 0.53
        assert p < 1e-3


def test_chi_square_tail_is_the_known_one():
    """Quantiles of tables: 5 % at 3.841 (1), 24.996 (15)."""
    for freedom, value in ((1, 3.841), (15, 24.996)):
        assert float(chi_square_tail(torch.tensor(value), freedom)) == pytest.approx(0.05, abs=1e-4)


def test_cells_tell_right_samplers_from_wrong_ones():
    """In the plane: exact draws are not rejected more often than the level allows, the split sampler of the paper is."""
    alarm = FalseAlarmCell(dim=2, width=1.0, items=400, draws=7, seeds=20).run().row["metrics"]
    assert alarm["rejected"] <= 0.25  # 5 of 20 at a rate of 0.05: probability 0.003
    assert abs(alarm["spread"] - 1) < 0.03
    right = CalibrationCell(sampler="exact", dim=2, width=1.0, items=800, draws=7).run().row
    wrong = CalibrationCell(sampler="split", dim=2, width=1.0, items=800, draws=7).run().row
    assert (right["metrics"]["rejected"], wrong["metrics"]["rejected"]) == (0.0, 1.0)
    assert right["calls"] == wrong["calls"] == 32
    assert wrong["metrics"]["spread"] < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_test(torch.zeros(100, 2), torch.zeros(3, 90, 2)), "L, "),
        (lambda: rank_test(torch.zeros(10, 2), torch.zeros(3, 10, 2)), "at least 20 items"),
        (lambda: classifier_test(torch.zeros(50, 2), torch.zeros(50, 3)), "one shape"),
        (lambda: anisotropic_mixture(0), "at least 1"),
        (lambda: anisotropic_mixture(2).sample_product(torch.zeros(3, 2), 0.0), "bandwidth positive"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
