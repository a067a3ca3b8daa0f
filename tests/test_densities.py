"""Closed forms against autograd, against each other, and against facts known of the fractal."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import EmpiricalDensity, GaussianMixture, InvalidInput, fractal, pinwheel, spiral


def test_tweedie(mixture, x, sigma):
    """Truth 1: the denoiser is x + sigma^2 grad log p_sigma, the gradient taken by autograd."""
    point = x.clone().requires_grad_()
    slope = torch.autograd.grad(mixture.log_prob(point, sigma).sum(), point)[0]
    assert_close(mixture(x, sigma), x + sigma[:, None] ** 2 * slope)


def test_log_prob_matches_torch(mixture, x):
    parts = torch.distributions.MultivariateNormal(mixture.means, mixture.covariances)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), parts).log_prob(x)
    assert_close(mixture.log_prob(x), expected)


def test_density_integrates_to_one(mixture):
    ticks = torch.linspace(-5, 5, 500, dtype=torch.float64)
    total = mixture.log_prob(torch.cartesian_prod(ticks, ticks), 0.2).exp().sum() * (ticks[1] - ticks[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_far_away_in_float32_stays_finite():
    """50 sigma and more from the data, where linear probabilities underflow to 0/0."""
    far = torch.tensor([[40.0, -30.0], [-1.5, 1.5]])
    distribution = fractal("A")
    assert bool(distribution.score(far).isfinite().all())
    assert_close(distribution(far, 0.01), distribution(far.double(), 0.01).float(), rtol=1e-3, atol=1e-2)


def test_denoiser_is_the_posterior_mean(mixture, rng):
    """E[y | x_sigma = x] from draws: regress y on the states that fell near x."""
    clean = mixture.sample(400_000, rng=rng)
    noisy = clean + 0.5 * torch.randn(clean.shape, dtype=clean.dtype, generator=rng)
    centre = torch.tensor([[0.2, 0.3]], dtype=torch.float64)
    near = (noisy - centre).norm(dim=1) < 0.06
    found = clean[near]
    error = found.std(0) / len(found) ** 0.5
    assert len(found) > 500
    assert bool(((found.mean(0) - mixture(centre, 0.5)[0]).abs() < 4 * error + 0.01).all())


def test_product_is_the_renormalised_product(mixture, x):
    centre, bandwidth = torch.tensor([0.3, 0.1], dtype=torch.float64), 0.4
    product = mixture.product(centre, bandwidth)
    kernel = -((x - centre) ** 2).sum(1) / (2 * bandwidth**2)
    difference = mixture.log_prob(x) + kernel - product.log_prob(x)
    assert_close(difference, difference[0].expand(len(x)))


def test_mean_of_product_is_the_denoiser(mixture):
    """Truth 3: E_q[y] = D(x; l)."""
    centre = torch.tensor([0.3, 0.1], dtype=torch.float64)
    assert_close(mixture.product(centre, 0.4).moments()[0], mixture(centre[None], 0.4)[0])


def test_samples_have_the_mixture_moments(mixture, rng):
    drawn = mixture.sample(200_000, sigma=0.3, rng=rng)
    mean, covariance = mixture.moments()
    expected = covariance + 0.09 * torch.eye(2)
    error = (expected.diagonal() / len(drawn)).sqrt()
    assert bool(((drawn.mean(0) - mean).abs() < 4 * error).all())
    assert_close(drawn.T.cov(), expected, rtol=0.02, atol=0.02)


def test_modes_are_stationary_maxima(mixture):
    modes = mixture.modes(0.1)
    assert 2 <= len(modes) <= 3
    assert float(mixture.score(modes, 0.1).abs().max()) < 1e-6
    for direction in torch.eye(2, dtype=torch.float64):
        assert bool((mixture.log_prob(modes + 0.01 * direction, 0.1) < mixture.log_prob(modes, 0.1)).all())


def test_ideal_denoiser_is_a_mixture_of_points(rng, x, sigma):
    """Truth 2: attention, reference, and a mixture of zero variances."""
    points = torch.randn(50, 2, dtype=torch.float64, generator=rng) + 3
    ideal = EmpiricalDensity(points)
    mixture = GaussianMixture(torch.ones(50), points, torch.zeros(50, 2, 2))
    assert_close(ideal(x, sigma), mixture(x, sigma))
    assert_close(ideal.reference(x, sigma), mixture(x, sigma))
    assert_close(ideal.log_prob(x, sigma), mixture.log_prob(x, sigma))


def test_ideal_denoiser_in_float32(rng):
    ideal = EmpiricalDensity(fractal("A").sample(2000, rng=rng))
    x = torch.rand(500, 2, generator=rng) * 3 - 1.5
    for sigma, tolerance in ((1.0, 1e-6), (0.1, 1e-5), (0.01, 1e-3)):
        assert float((ideal(x, sigma) - ideal.reference(x, sigma)).abs().max()) < tolerance


def test_ideal_denoiser_in_three_dimensions_and_far_away(rng):
    points = torch.randn(40, 3, dtype=torch.float64, generator=rng)
    far = torch.full((1, 3), 60.0, dtype=torch.float64)
    ideal = EmpiricalDensity(points)
    assert_close(ideal(far, 0.5), ideal.reference(far, 0.5))


def test_fractal_facts():
    """Counts and moments published for the fractal (Karras et al. 2024)."""
    union = fractal("AB")
    mean, covariance = union.moments()
    assert len(union.weights) == 2032
    assert_close(covariance.diagonal().sqrt(), torch.tensor([0.49985, 0.49990], dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(mean.abs().max()) < 1e-3
    distribution = fractal("A")
    assert len(distribution.weights) == 1016
    assert_close(distribution.moments()[0], torch.tensor([0.372, 0.365], dtype=torch.float64), atol=1e-3, rtol=0)
    assert float(distribution.highest_log_prob()) == pytest.approx(2.90, abs=0.01)


def test_fractal_entropy_and_contour(rng):
    distribution = fractal("A")
    values = distribution.log_prob(distribution.sample(20_000, rng=rng))
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - 1.36) < 4 * error
    outside = float((values < distribution.highest_log_prob() - 4.494).double().mean())
    assert abs(outside - 0.0145) < 4 * math.sqrt(0.0145 / 20_000)


@pytest.mark.parametrize(("distribution", "entropy"), [(spiral(), -1.36), (pinwheel(), -1.19)])
def test_curves_have_the_fractals_scale(distribution, entropy, rng):
    mean, covariance = distribution.moments()
    assert_close(covariance.diagonal().sqrt(), torch.full((2,), 0.5, dtype=torch.float64))
    assert float(mean.abs().max()) < 1e-12
    values = distribution.log_prob(distribution.sample(20_000, rng=rng))
    assert abs(float(-values.mean()) - entropy) < 0.02 + 4 * float(values.std()) / math.sqrt(20_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fractal("C"), "classes A, B and AB"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(3, 2), torch.zeros(3, 2, 2)), "a mixture needs"),
        (lambda: GaussianMixture(-torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]), "non-negative"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), -torch.eye(2)[None]), "negative eigenvalue"),
        (lambda: fractal("A").log_prob(torch.zeros(3, 5)), r"R\^2"),
        (lambda: fractal("A")(torch.zeros(3, 2), 0.0), "sigma must be positive"),
        (lambda: EmpiricalDensity(torch.full((2, 2), torch.nan)), "finite"),
        (lambda: EmpiricalDensity(torch.zeros(2, 2))(torch.zeros(1, 3), 1.0), r"R\^2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
