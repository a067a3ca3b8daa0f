"""The kernel product and the draws from it, against closed forms."""

import pytest
import torch
from torch.testing import assert_close

from modeseek import Counted, EulerDraw, ExactDraw, ExactProduct, GaussianMixture, InvalidInput, ProximalDraw, ProximalProduct, SplitDraw
from modeseek.product import ExactProduct as Exact


def test_exact_product_is_the_product_mixtures_denoiser(mixture, x, sigma):
    """Truth 3: D_q(z; sigma) = D_p(c'; s), against the product mixture built component by component."""
    centre, bandwidth = torch.tensor([0.4, -0.6], dtype=torch.float64), 0.35
    expected = mixture.product(centre, bandwidth)(x, sigma)
    found = ExactProduct(denoiser=mixture, centre=centre.expand_as(x), bandwidth=x.new_tensor(bandwidth))(x, sigma)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_proximal_product_is_exact_for_one_gaussian(gaussian, x, sigma, rng):
    """Truth 4, with a bandwidth for each item."""
    centre = torch.randn(x.shape, dtype=x.dtype, generator=rng)
    bandwidth = torch.rand(len(x), dtype=x.dtype, generator=rng) + 0.05
    exact = ExactProduct(denoiser=gaussian, centre=centre, bandwidth=bandwidth)
    proximal = ProximalProduct(denoiser=gaussian, centre=centre, bandwidth=bandwidth, data_std=0.5)
    assert_close(proximal(x, sigma), exact(x, sigma))


def test_products_reach_their_limits(mixture, x, sigma):
    """No kernel at an infinite bandwidth, only the kernel at a vanishing one."""
    centre = x.flip(0)
    for build in (Exact, lambda **kw: ProximalProduct(**kw, data_std=0.5)):
        wide = build(denoiser=mixture, centre=centre, bandwidth=torch.tensor(1e6, dtype=x.dtype))
        narrow = build(denoiser=mixture, centre=centre, bandwidth=torch.tensor(1e-6, dtype=x.dtype))
        assert_close(wide(x, sigma), mixture(x, sigma))
        assert_close(narrow(x, sigma), centre, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bandwidth", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("draw", [ExactDraw(), ExactDraw(solver="ddim", steps=200)])
def test_exact_draws_have_the_products_moments(mixture, bandwidth, draw, rng):
    """Mean and covariance of q within sampling error (and 5 % for the discretisation of the spread)."""
    centre = torch.tensor([0.25, 0.45], dtype=torch.float64)
    product = mixture.product(centre, bandwidth)
    count = 20_000
    noise = torch.randn(count, 2, dtype=torch.float64, generator=rng)
    y = draw(mixture, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    mean, covariance = product.moments()
    error = (covariance.diagonal() / count).sqrt()
    assert float(((y.mean(0) - mean) / error).abs().max()) < 4
    spread = y.T.cov().diagonal().sqrt() / covariance.diagonal().sqrt()
    assert float((spread - 1).abs().max()) < 0.05


def test_proximal_draws_are_exact_for_gaussian_data(gaussian, rng):
    count, bandwidth = 20_000, 0.3
    centre = torch.tensor([1.0, 0.5], dtype=torch.float64)
    noise = torch.randn(count, 2, dtype=torch.float64, generator=rng)
    y = ProximalDraw(steps=200)(gaussian, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    mean, covariance = gaussian.product(centre, bandwidth).moments()
    error = (covariance.diagonal() / count).sqrt()
    offset = 0.3 * (centre - mean).norm() * bandwidth / 5.0  # the start is centred on x, not on the mean of q: sigma_max = 5
    assert bool(((y.mean(0) - mean).abs() < 4 * error + offset).all())
    assert_close(y.T.cov().diagonal(), covariance.diagonal(), rtol=0.06, atol=0)


def test_split_and_euler_agree_as_the_step_vanishes(mixture, rng):
    """Truth 5, at a bandwidth that Euler survives: the gap falls with the number of steps, at first order."""
    centre = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    noise = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    bandwidth = torch.full((5,), 1.5, dtype=torch.float64)
    gaps = []
    for steps in (200, 400, 800):
        drawn = [draw(steps=steps, sigma_min=0.01)(mixture, centre, bandwidth, noise) for draw in (SplitDraw, EulerDraw)]
        gaps.append(float((drawn[0] - drawn[1]).abs().max()))
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.25)


def test_split_forgets_its_noise(mixture, rng):
    """What the paper's sampler computes: at its own bandwidths y does not depend on the start noise, so it draws no sample of q."""
    centre = torch.randn(4, 2, dtype=torch.float64, generator=rng)
    bandwidth = torch.full((4,), 0.1**0.5, dtype=torch.float64)
    drawn = [SplitDraw()(mixture, centre, bandwidth, torch.randn(4, 2, dtype=torch.float64, generator=rng)) for _ in range(2)]
    exact = [ExactDraw()(mixture, centre, bandwidth, torch.randn(4, 2, dtype=torch.float64, generator=rng)) for _ in range(2)]
    assert float((drawn[0] - drawn[1]).abs().max()) < 1e-6
    assert float((exact[0] - exact[1]).abs().max()) > 1e-2


def test_euler_diverges_where_its_step_exceeds_the_squared_bandwidth(mixture):
    x = torch.zeros(1, 2)
    y = EulerDraw()(mixture, x, torch.tensor([0.03]), torch.ones(1, 2))
    assert not bool(y.isfinite().all()) or float(y.abs().max()) > 1e6


@pytest.mark.parametrize("draw", [SplitDraw(centre="noised"), SplitDraw(centre="inverted"), SplitDraw(interval=(0.1, 1.0))])
def test_split_variants_end_at_the_centre_for_small_bandwidths(mixture, draw, rng):
    """The kernel dominates as the bandwidth falls; limited to sigma >= 0.1 it cannot hold the last levels, so the gap is theirs."""
    centre = torch.randn(4, 2, dtype=torch.float64, generator=rng)
    y = draw(mixture, centre, torch.full((4,), 0.01, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64, generator=rng))
    held = draw.interval == (0.0, float("inf"))
    gap = (y - centre).norm(dim=1) / (mixture(centre, 0.1) - centre).norm(dim=1).clamp_min(0.05)
    assert float(gap.max()) < (0.2 if held else 3.0)
    assert bool(y.isfinite().all())


@pytest.mark.parametrize(
    ("draw", "calls"),
    [
        (EulerDraw(steps=9), 9),
        (SplitDraw(steps=9), 9),
        (SplitDraw(steps=9, centre="noised"), 9),
        (SplitDraw(steps=9, centre="inverted"), 17),
        (ExactDraw(steps=9), 16),
        (ExactDraw(steps=9, solver="ddim"), 9),
        (ProximalDraw(steps=9), 9),
        (ProximalDraw(steps=9, solver="heun"), 17),
    ],
)
def test_cost_in_denoiser_calls(mixture, draw, calls):
    counted = Counted(mixture)
    draw(counted, torch.zeros(2, 2), torch.ones(2), torch.ones(2, 2))
    assert counted.calls == calls


def test_batches_are_independent(mixture, rng):
    """A batch with a bandwidth for each item equals its items alone."""
    centre, noise = (torch.randn(3, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    bandwidth = torch.tensor([0.02, 0.2, 1.0], dtype=torch.float64)
    for draw in (ExactDraw(), ProximalDraw(), SplitDraw(), SplitDraw(centre="inverted")):
        together = draw(mixture, centre, bandwidth, noise)
        alone = [draw(mixture, centre[i : i + 1], bandwidth[i : i + 1], noise[i : i + 1]) for i in range(3)]
        assert_close(together, torch.cat(alone))


def test_other_event_shapes(rng):
    """Images as well as points: batch x channels x height x width."""

    def shrink(x, sigma):
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    x = torch.randn(2, 3, 4, 4, generator=rng)
    for draw in (ExactDraw(), ProximalDraw(), SplitDraw(), EulerDraw()):
        assert draw(shrink, x, torch.tensor([0.5, 1.0]), torch.zeros_like(x)).shape == x.shape


def test_no_kernel_product_is_an_ordinary_mixture():
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    with pytest.raises(InvalidInput, match="centre of a product"):
        law.product(torch.zeros(3), 1.0)
