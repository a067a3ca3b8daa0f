"""The kernel product and the draws from it, against closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import (
    Counted,
    DiscreteLevels,
    EulerSampler,
    ExactProduct,
    ExactSampler,
    GaussianMixture,
    InvalidInput,
    ProximalProduct,
    ProximalSampler,
    SplitSampler,
)
from modeseek.product.denoisers import ExactProduct as Exact


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
@pytest.mark.parametrize("draw", [ExactSampler(), ExactSampler(solver="ddim", steps=200)])
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
    y = ProximalSampler(steps=200)(gaussian, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    mean, covariance = gaussian.product(centre, bandwidth).moments()
    error = (covariance.diagonal() / count).sqrt()
    offset = 0.3 * (centre - mean).norm() * bandwidth / 5.0  # the start is centred on x, not on the mean of q: sigma_max = 5
    assert bool(((y.mean(0) - mean).abs() < 4 * error + offset).all())
    assert_close(y.T.cov().diagonal(), covariance.diagonal(), rtol=0.06, atol=0)


def test_a_start_near_the_bandwidth_is_exact_for_gaussian_data_too(gaussian, rng):
    """`spread` keeps mean and variance where its start is a few bandwidths up: with few steps, better than from far above."""
    count, bandwidth = 40_000, 0.05
    centre = torch.tensor([1.0, 0.5], dtype=torch.float64)
    noise = torch.randn(count, 2, dtype=torch.float64, generator=rng)
    mean, covariance = gaussian.product(centre, bandwidth).moments()
    errors = {}
    for spread in (None, 10.0):
        draw = ProximalSampler(steps=12, spread=spread)
        y = draw(gaussian, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
        errors[spread] = float((y.T.cov().diagonal() / covariance.diagonal()).sqrt().sub(1).abs().max())
        assert float((y.mean(0) - mean).norm()) < 0.1 * bandwidth
    assert errors[10.0] < 0.12 < errors[None]


def test_spread_is_capped_by_the_highest_level(mixture, rng):
    """A wide bandwidth starts at sigma_max, as without; each item of a batch has levels of its own."""
    levels = ProximalSampler(steps=5, sigma_max=3.0, spread=4.0).levels(torch.tensor([0.01, 0.5, 2.0]))
    assert_close(levels[0], torch.tensor([0.04, 2.0, 3.0]))
    assert_close(levels[-2], torch.tensor([0.001, 0.002, 0.002]))
    assert_close(levels[:, 2], ProximalSampler(steps=5, sigma_max=3.0).levels(torch.ones(1)))


def test_split_and_euler_agree_as_the_step_vanishes(mixture, rng):
    """Truth 5, at a bandwidth that Euler survives: the gap falls with the number of steps, at first order."""
    centre = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    noise = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    bandwidth = torch.full((5,), 1.5, dtype=torch.float64)
    gaps = []
    for steps in (200, 400, 800):
        drawn = [draw(steps=steps, sigma_min=0.01)(mixture, centre, bandwidth, noise) for draw in (SplitSampler, EulerSampler)]
        gaps.append(float((drawn[0] - drawn[1]).abs().max()))
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.25)


def test_split_forgets_its_noise(mixture, rng):
    """What the paper's sampler computes: at its own bandwidths y does not depend on the start noise, so it draws no sample of q."""
    centre = torch.randn(4, 2, dtype=torch.float64, generator=rng)
    bandwidth = torch.full((4,), 0.1**0.5, dtype=torch.float64)
    drawn = [SplitSampler()(mixture, centre, bandwidth, torch.randn(4, 2, dtype=torch.float64, generator=rng)) for _ in range(2)]
    exact = [ExactSampler()(mixture, centre, bandwidth, torch.randn(4, 2, dtype=torch.float64, generator=rng)) for _ in range(2)]
    assert float((drawn[0] - drawn[1]).abs().max()) < 1e-6
    assert float((exact[0] - exact[1]).abs().max()) > 1e-2


def test_euler_diverges_where_its_step_exceeds_the_squared_bandwidth(mixture):
    x = torch.zeros(1, 2)
    y = EulerSampler()(mixture, x, torch.tensor([0.03]), torch.ones(1, 2))
    assert not bool(y.isfinite().all()) or float(y.abs().max()) > 1e6


@pytest.mark.parametrize("draw", [SplitSampler(centre="noised"), SplitSampler(centre="inverted"), SplitSampler(interval=(0.1, 1.0))])
def test_split_variants_end_at_the_centre_for_small_bandwidths(mixture, draw, rng):
    """The kernel dominates as the bandwidth falls; limited to sigma >= 0.1 it cannot hold the last levels, so the gap is theirs."""
    centre = torch.randn(4, 2, dtype=torch.float64, generator=rng)
    y = draw(mixture, centre, torch.full((4,), 0.01, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64, generator=rng))
    cached = draw.interval == (0.0, float("inf"))
    gap = (y - centre).norm(dim=1) / (mixture(centre, 0.1) - centre).norm(dim=1).clamp_min(0.05)
    assert float(gap.max()) < (0.2 if cached else 3.0)
    assert bool(y.isfinite().all())


def sd_levels(count=1000):
    """Stable Diffusion's: beta scaled-linear from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64) ** 2
    return DiscreteLevels(alphas_cumprod=(1 - betas).cumprod(0))


def algorithm_2(distribution, levels, x, bandwidth, noise, *, steps, inverted, verbatim):
    """The supplement's ODESolver(x, lambda, stable) in Stable Diffusion's own terms: z = a x + b eps, an eps network, timesteps.

    `verbatim`: z_{t-1} is pulled towards z*_t, from eps ~ N(0, I). Otherwise towards z*_{t-1}, from b_T eps.
    """
    abar = torch.cat([levels.alphas_cumprod, torch.ones(1, dtype=torch.float64)])  # the last is index -1: clean
    stride = 1000 // steps
    times = list(range(999, -1, -stride))

    def network(z, t):
        clean = distribution(z / abar[t].sqrt(), ((1 - abar[t]) / abar[t]).sqrt())
        return (z - abar[t].sqrt() * clean) / (1 - abar[t]).sqrt()

    def ddim_step(z, t, s):
        eps = network(z, t)
        clean = (z - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        return abar[s].sqrt() * clean + (1 - abar[s]).sqrt() * eps

    star = {-1: x, times[-1]: abar[times[-1]].sqrt() * x}
    for lower, higher in zip(times[::-1], times[-2::-1], strict=False):
        star[higher] = ddim_step(star[lower], lower, higher)
    if not inverted:
        star = {t: abar[t].sqrt() * x + (1 - abar[t]).sqrt() * noise for t in [*times, -1]}
    decay = torch.exp(-stride / bandwidth**2)[:, None]
    z = noise if verbatim else (1 - abar[999]).sqrt() * noise
    z = star[999] + (z - star[999]) * decay
    for t in times:
        centre = star[t] if verbatim else star[t - stride if t > stride else -1]
        z = centre + (ddim_step(z, t, t - stride if t > stride else -1) - centre) * decay
    return z


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("verbatim", [True, False])
def test_split_in_timesteps_is_algorithm_2(mixture, rng, inverted, verbatim):
    """The paper's practical recipe, with lambda from 1e3 to 1e-2 in one batch, against a transcription in its own state and time."""
    levels = sd_levels()
    x, noise = (torch.randn(4, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    bandwidth = torch.tensor([1e3, 30.0, 10.0, 1e-2], dtype=torch.float64)
    centre = "inverted" if inverted else "noised"
    draw = SplitSampler(steps=20, centre=centre, timesteps=levels, sigma_max=math.inf, verbatim=verbatim)
    expected = algorithm_2(mixture, levels, x, bandwidth, noise, steps=20, inverted=inverted, verbatim=verbatim)
    assert_close(draw(mixture, x, bandwidth, noise), expected, rtol=1e-9, atol=1e-9)


def test_bandwidths_in_timesteps_go_from_plain_sampling_to_the_centre(mixture, rng):
    """Figure 5: at lambda = 1e3 the kernel is nothing, at 1e-2 everything; what is left is the lowest level's noise."""
    x, noise = (torch.randn(3, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    draw = SplitSampler(steps=50, timesteps=sd_levels(), sigma_max=14.0)
    free = draw(mixture, x, torch.full((3,), 1e7, dtype=torch.float64), noise)
    assert_close(draw(mixture, x, torch.full((3,), 1e3, dtype=torch.float64), noise), free, rtol=0, atol=5e-2)
    for centre in ("point", "noised", "inverted"):
        cached = SplitSampler(steps=50, timesteps=sd_levels(), sigma_max=14.0, centre=centre)
        assert_close(cached(mixture, x, torch.full((3,), 1e-2, dtype=torch.float64), noise), x)


def test_timesteps_start_at_or_below_the_highest_level():
    levels = sd_levels()
    found, time = SplitSampler(steps=8, timesteps=levels, sigma_max=1.0)._levels()
    assert float(found[0]) <= 1.0 < float(levels.sigmas[time[0] + 1])
    assert time[-1] == -1
    assert int(time.diff().max() - time.diff().min()) <= 1
    with pytest.raises(InvalidInput, match="900 steps do not fit the"):
        SplitSampler(steps=900, timesteps=levels, sigma_max=1.0)
    with pytest.raises(InvalidInput, match="at least one bandwidth up"):
        ProximalSampler(spread=0.5)


@pytest.mark.parametrize(
    ("draw", "calls"),
    [
        (EulerSampler(steps=9), 9),
        (SplitSampler(steps=9), 9),
        (SplitSampler(steps=9, centre="noised"), 9),
        (SplitSampler(steps=9, centre="inverted"), 17),
        (ExactSampler(steps=9), 16),
        (ExactSampler(steps=9, solver="ddim"), 9),
        (ProximalSampler(steps=9), 9),
        (ProximalSampler(steps=9, solver="heun"), 17),
        (ProximalSampler(steps=9, spread=3.0), 9),
        (SplitSampler(steps=9, centre="inverted", timesteps=sd_levels(), sigma_max=14.0), 17),
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
    near = {"timesteps": sd_levels(), "sigma_max": 14.0}
    splits = [
        SplitSampler(),
        SplitSampler(centre="inverted"),
        SplitSampler(centre="noised", **near),
        SplitSampler(centre="inverted", **near),
    ]
    for draw in (ExactSampler(), ProximalSampler(), ProximalSampler(steps=6, spread=4.0), *splits, SplitSampler(verbatim=True, **near)):
        together = draw(mixture, centre, bandwidth, noise)
        alone = [draw(mixture, centre[i : i + 1], bandwidth[i : i + 1], noise[i : i + 1]) for i in range(3)]
        assert_close(together, torch.cat(alone))


def test_other_event_shapes(rng):
    """Images as well as points: batch x channels x height x width."""

    def shrink(x, sigma):
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    x = torch.randn(2, 3, 4, 4, generator=rng)
    for draw in (ExactSampler(), ProximalSampler(), ProximalSampler(spread=3.0), SplitSampler(), EulerSampler()):
        assert draw(shrink, x, torch.tensor([0.5, 1.0]), torch.zeros_like(x)).shape == x.shape


def test_no_kernel_product_is_an_ordinary_mixture():
    distribution = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    with pytest.raises(InvalidInput, match="centre of a product"):
        distribution.product(torch.zeros(3), 1.0)
