"""Truth 11 and the other metrics against closed forms and brute force."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import GaussianMixture, InvalidInput
from modeseek.metrics import (
    against_oracle,
    frechet_distance,
    frechet_of_gaussians,
    log_efficiency,
    mmd,
    modes_reached,
    negative_log_likelihood,
    outlier_rate,
    precision_recall,
)
from modeseek.reproduction.image_scores import frechet_scores


def test_unbiased_mmd_of_one_distribution_has_mean_zero(mixture, rng):
    values = torch.tensor([mmd(mixture.sample(200, rng=rng), mixture.sample(200, rng=rng)) for _ in range(200)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 200**0.5
    assert float(values.min()) < 0 < float(values.max())


def test_mmd_of_two_gaussians_has_its_closed_form(rng):
    """For N(0, I) and N(m, I) in d dimensions: 2 (h^2/(h^2 + 2))^{d/2} (1 - exp(-|m|^2 / (2 (h^2 + 2))))."""
    shift, h = torch.tensor([0.6, -0.3], dtype=torch.float64), 0.7
    expected = 2 * (h**2 / (h**2 + 2)) * (1 - math.exp(-float((shift**2).sum()) / (2 * (h**2 + 2))))
    values = []
    for _ in range(20):
        x, y = (torch.randn(1000, 2, dtype=torch.float64, generator=rng) for _ in range(2))
        values.append(mmd(x, y + shift, bandwidths=[h]))
    found = torch.tensor(values)
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / 20**0.5


def test_frechet_of_two_gaussians_has_its_closed_form(rng):
    """Commuting covariances: |m|^2 + sum (s_1 - s_2)^2 over shared axes."""
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=rng)).Q
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 1.0, 0.5]).double()
    mean = torch.tensor([1.0, -2.0, 0.0]).double()
    covariances = [turn @ torch.diag(s**2) @ turn.T for s in (a, b)]
    found = frechet_of_gaussians(mean, covariances[0], torch.zeros(3).double(), covariances[1])
    assert found == pytest.approx(5.0 + float(((a - b) ** 2).sum()))


def test_frechet_distance_of_a_shift(rng):
    x = torch.randn(500, 4, generator=rng)
    assert frechet_distance(x, x + 2) == pytest.approx(16.0, rel=1e-5)


def test_error_of_a_frechet_distance_is_the_spread_of_other_sets_of_the_same_prompts(rng):
    """Two prompts far apart: resampling over both at once would say 40 times as much."""
    prompts = ["a"] * 25 + ["b"] * 25

    def features():
        return torch.randn(50, 2, generator=rng) + 20.0 * torch.tensor([[p == "b"] for p in prompts])

    reference = torch.cat([features() for _ in range(20)])
    found = [frechet_scores("d", features(), prompts, reference) for _ in range(40)]
    spread = torch.tensor([scores["d"] for scores in found]).std()
    errors = torch.tensor([scores["d error"] for scores in found])
    assert 0.6 < float(errors.mean() / spread) < 1.6  # the spread itself is known to a ninth
    assert "d error" not in frechet_scores("d", features()[[0, 25]], ["a", "b"], reference)


def test_precision_recall_against_brute_force(rng):
    true, generated = torch.randn(60, 2, generator=rng), 0.7 * torch.randn(80, 2, generator=rng) + 0.5
    k = 3

    def radius(points, i):
        return sorted(float((points[i] - q).norm()) for j, q in enumerate(points) if j != i)[k - 1]

    true_radii = [radius(true, i) for i in range(60)]
    made_radii = [radius(generated, i) for i in range(80)]
    distance = [[float((g - t).norm()) for t in true] for g in generated]
    expected = {
        "precision": sum(any(distance[i][j] <= true_radii[j] for j in range(60)) for i in range(80)) / 80,
        "recall": sum(any(distance[i][j] <= made_radii[i] for i in range(80)) for j in range(60)) / 60,
        "density": sum(distance[i][j] <= true_radii[j] for i in range(80) for j in range(60)) / (k * 80),
        "coverage": sum(any(distance[i][j] <= true_radii[j] for i in range(80)) for j in range(60)) / 60,
    }
    assert precision_recall(generated, true, k=k) == pytest.approx(expected)


@pytest.mark.slow
def test_coverage_of_a_perfect_sampler(mixture, rng):
    """1 - 2^-k in the limit of equal counts (Naeem et al. 2020)."""
    found = precision_recall(mixture.sample(4000, rng=rng), mixture.sample(4000, rng=rng), k=3)
    assert found["coverage"] == pytest.approx(1 - 2**-3, abs=4 * (0.875 * 0.125 / 4000) ** 0.5)
    assert found["density"] == pytest.approx(1, abs=0.06)


def test_one_outlier_inflates_recall_but_not_coverage(mixture, rng):
    """Why coverage stands beside recall: four points far apart have balls that swallow all true points."""
    true = mixture.sample(500, rng=rng)
    far = torch.tensor([[50.0, 0.0], [-50.0, 0.0], [0.0, 50.0], [0.0, -50.0]], dtype=torch.float64)
    found = precision_recall(far, true, k=3)
    assert (found["recall"], found["coverage"], found["precision"]) == (1.0, 0.0, 0.0)


def test_likelihood_and_outliers(gaussian, rng):
    drawn = gaussian.sample(50_000, rng=rng)
    entropy = math.log(2 * math.pi * math.e * 0.25)
    assert negative_log_likelihood(drawn, gaussian) == pytest.approx(entropy, abs=4 / 50_000**0.5)
    beyond = math.exp(-4.494)  # for a plane Gaussian |x|^2/2 is exponential
    assert outlier_rate(drawn, gaussian) == pytest.approx(beyond, abs=4 * (beyond / 50_000) ** 0.5)


def test_modes_reached():
    modes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert modes_reached(torch.tensor([[0.01, 0.0], [0.0, 0.02], [1.2, 0.0]]), modes, radius=0.05) == 1


def test_efficiency_readings(rng):
    """A biased estimator is efficient in the first reading and not in the second; scaling changes neither."""
    truth = torch.randn(10, 2, dtype=torch.float64, generator=rng)
    noise = torch.randn(2000, 10, 2, dtype=torch.float64, generator=rng)
    unbiased = truth + 0.1 * noise
    expected = math.log(float((truth**2).sum(1).mean()) / 0.02 / 5)
    assert log_efficiency(unbiased, 5.0) == pytest.approx(expected, abs=0.05)
    assert log_efficiency(unbiased, 5.0, oracle=truth) == pytest.approx(expected, abs=0.05)
    biased = truth.flip(1) + 0.1 * noise
    assert log_efficiency(biased, 5.0, oracle=truth) < expected - 2
    assert log_efficiency(7 * unbiased, 5.0, oracle=truth) == pytest.approx(log_efficiency(unbiased, 5.0, oracle=truth), abs=1e-9)
    assert log_efficiency(truth.expand(3, 10, 2), 5.0) == math.inf


def test_against_oracle(rng):
    truth = torch.randn(200, 2, dtype=torch.float64, generator=rng)
    noise = torch.randn(400, 200, 2, dtype=torch.float64, generator=rng)
    fair = against_oracle(truth + noise, truth)
    assert abs(fair["slope_z"]) < 4
    assert fair["bias_z"] == pytest.approx(1, abs=0.2)
    assert fair["beyond_3"] < 0.03
    wrong = against_oracle(0.5 * truth + noise, truth)
    assert wrong["slope"] == pytest.approx(0.5, abs=0.05)
    assert wrong["slope_z"] < -10


@pytest.mark.parametrize(
    "call",
    [
        lambda: precision_recall(torch.zeros(3, 2), torch.zeros(10, 2)),
        lambda: precision_recall(torch.full((10, 2), torch.nan), torch.zeros(10, 2)),
        lambda: mmd(torch.zeros(10, 2), torch.zeros(10, 3)),
        lambda: frechet_distance(torch.zeros(1, 2), torch.zeros(10, 2)),
        lambda: log_efficiency(torch.zeros(10, 2), 1.0),
        lambda: negative_log_likelihood(
            torch.full((1, 2), torch.nan), GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        ),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InvalidInput):
        call()


def test_coverage_needs_no_order(mixture, rng):
    a, b = mixture.sample(300, rng=rng), mixture.sample(300, rng=rng)
    assert_close(torch.tensor(list(precision_recall(a, b).values())), torch.tensor(list(precision_recall(a.flip(0), b.flip(0)).values())))
