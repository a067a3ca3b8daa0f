"""The score distillation methods beside the paper's baselines, each against a formula or a limit derived by hand."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import (
    CFD,
    CSD,
    DDS,
    DSD,
    HDODE,
    ISM,
    MSD,
    NFSD,
    PDS,
    RFDS,
    SDS,
    AdaptiveBandwidth,
    Consistent3D,
    Counted,
    ExactSampler,
    ExponentialBandwidth,
    GaussianMixture,
    Guided,
    InvalidInput,
    InverseRFDS,
    LinearScore,
    MeanShift,
    NoiseLevels,
    Points,
    ReverseSampler,
    SDSBridge,
    distill,
)
from modeseek.core.denoiser import DiscreteLevels
from modeseek.core.sampling import ddim
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.distillation.recipes import METHOD_RECIPES, Recipe, build_gradient
from modeseek.gradients.ism import all_timesteps
from modeseek.gradients.linear import Guidance
from modeseek.gradients.pds import pds_coefficients
from modeseek.product.reverse import derived_noise, levels_below
from modeseek.tasks.prior_choice import PriorChoice


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(mean, std):
    """D of N(mean, std^2 I)."""
    return lambda x, sigma: mean + (x - mean) * std**2 / (std**2 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2)


def at(sigma, **settings):
    return NoiseLevels(low=sigma, high=sigma, **settings)


def constant(bandwidth):
    return ExponentialBandwidth(start=bandwidth, end=bandwidth)


TABLE = stable_diffusion_levels().sigmas


# ---------------------------------------------------------------- the linear family
def test_sds_is_the_member_with_guidance(mixture, x):
    wide = normal(0.2, 1.5)
    guided = SDS(denoiser=Guided(denoiser=mixture, weaker=wide, scale=3.0), samples=4, levels=NoiseLevels(weight="dreamfusion"))
    member = LinearScore(denoisers=(mixture, wide), rule=Guidance(3.0), samples=4)
    expected = guided(x, progress=0.2, rng=seeded())
    found = member(x, progress=0.2, rng=seeded())
    assert_close(found.gradient, expected.gradient, rtol=1e-10, atol=1e-10)
    assert (expected.info["calls"], found.info["calls"]) == (4, 8)


def test_csd_is_the_difference_of_two_predictions(x):
    """E[eps_c - eps_0] of two Gaussians, no weight; a negative prompt takes over the null prompt's place at the end."""
    sigma = 0.7
    settings = {"levels": at(sigma), "normalise": False, "samples": 4000}
    conditional, null, negative = normal(0.5, 0.3), normal(-0.2, 1.0), normal(1.0, 0.6)
    csd = CSD(conditional=conditional, null=null, negative=negative, **settings)

    def mean_eps(mean, std):
        return sigma * (x - mean) / (std**2 + sigma**2)

    for progress, other in ((0.0, mean_eps(-0.2, 1.0)), (1.0, mean_eps(1.0, 0.6))):
        found = csd(x, progress=progress, rng=seeded())
        assert_close(found.gradient, mean_eps(0.5, 0.3) - other, rtol=0, atol=0.06)
        assert found.info["calls"] == 8000  # the coefficient of the third prediction is 0 at both ends
    assert csd(x, progress=0.5, rng=seeded()).info["calls"] == 12_000
    unit = CSD(conditional=conditional, null=null)(x, progress=0.0, rng=seeded()).gradient
    assert_close(unit.norm(dim=1), torch.ones(len(x), dtype=x.dtype))


@pytest.mark.parametrize(("t", "denoised"), [(150, False), (250, True)])
def test_nfsd_changes_its_domain_term_at_timestep_200(x, t, denoised):
    sigma = float(TABLE[t])
    conditional, null, negative = normal(0.5, 0.3), normal(-0.2, 1.0), normal(1.0, 0.6)
    nfsd = NFSD(conditional=conditional, null=null, negative=negative, scale=2.0, levels=at(sigma, weight="dreamfusion"))
    n = torch.randn(1, *x.shape, dtype=x.dtype, generator=_after_one_level())[0]
    noisy = x + sigma * n
    eps = [(noisy - d(noisy, sigma)) / sigma for d in (conditional, null, negative)]
    domain = eps[1] - eps[2] if denoised else eps[1]
    expected = sigma**2 / (1 + sigma**2) * (2.0 * (eps[0] - eps[1]) + domain)
    assert_close(nfsd(x, progress=0.5, rng=_rng_for_levels()).gradient, expected, rtol=1e-9, atol=1e-9)


def _rng_for_levels():
    return seeded(5)


def _after_one_level():
    """The generator as it is once seven levels have been sampled."""
    rng = seeded(5)
    torch.rand(7, dtype=torch.float64, generator=rng)
    return rng


def test_the_bridge_switches_from_sds_to_source_and_target(x):
    conditional, null, target, source = normal(0.5, 0.3), normal(-0.2, 1.0), normal(0.6, 0.3), normal(0.4, 0.9)
    bridge = SDSBridge(conditional=conditional, null=null, target=target, source=source, scale=4.0, levels=at(0.8))
    sds = LinearScore(denoisers=(conditional, null), rule=Guidance(4.0), levels=at(0.8))
    assert_close(bridge(x, progress=0.49, rng=seeded()).gradient, sds(x, progress=0.0, rng=seeded()).gradient)
    late = bridge(x, progress=0.5, rng=seeded()).gradient
    csd = CSD(conditional=target, null=source, levels=at(0.8), normalise=False)
    assert_close(late, 4.0 * csd(x, progress=0.0, rng=seeded()).gradient)


def test_a_rule_that_does_not_fit_is_refused(mixture, x):
    with pytest.raises(InvalidInput, match="2 coefficients for 1 denoisers"):
        LinearScore(denoisers=(mixture,), rule=Guidance())(x, progress=0.0, rng=seeded())


# ---------------------------------------------------------------- inversion and intervals
def test_ism_is_the_difference_along_the_inverted_trajectory(x):
    """One Gaussian: DDIM inversion multiplies x - m by known factors, so both predictions are known."""
    mean, std = 0.4, 0.6
    ism = ISM(denoiser=normal(mean, 0.3), null=normal(mean, std), span=(0.499, 0.5), warmup=0.0, interval=(0.1, 0.08), noise="fixed")
    found = ism(x, progress=1.0, rng=seeded())
    u_t = 0.499 + 0.001 * torch.rand(len(x), dtype=torch.float64, generator=seeded())
    levels = [ism.levels.quantile(torch.full_like(u_t, u)) for u in (0.0, 0.2, 0.4)]
    levels += [ism.levels.quantile(u_t - 0.08), ism.levels.quantile(u_t)]
    state = x + levels[0][:, None] * torch.randn(1, *x.shape, dtype=x.dtype, generator=seeded())[0] - mean
    for lower, higher in itertools.pairwise(levels):
        eps = state * (lower / (std**2 + lower**2))[:, None]
        state = state + (higher - lower)[:, None] * eps
    sigma_t = levels[-1][:, None]
    expected = state * sigma_t**2 / (0.3**2 + sigma_t**2) - sigma_t * eps
    assert_close(found.gradient, expected, rtol=1e-9, atol=1e-9)
    assert found.info["calls"] == 5  # three inversion steps, one at x_s, one guided


def test_ism_vanishes_for_one_prompt_as_the_interval_vanishes(x):
    """Without guidance both predictions lie on one trajectory, whose slope is continuous."""
    sizes = []
    for interval in (0.1, 0.01, 0.001):
        ism = ISM(denoiser=normal(0.4, 0.6), null=normal(0.4, 0.6), span=(0.4, 0.5), warmup=0.0, interval=(interval,) * 2)
        sizes.append(float(ism(x, progress=1.0, rng=seeded()).gradient.norm()))
    assert sizes[2] < 0.02 * sizes[0]
    with pytest.raises(InvalidInput, match="span"):
        ISM(denoiser=normal(0, 1), null=normal(0, 1), span=(0.6, 0.5))


def test_consistent3d_is_a_step_of_one_trajectory(x):
    mean, std = 0.4, 0.6
    gradient = Consistent3D(denoiser=normal(mean, std), gap=(0.2, 0.2))
    found = gradient(x, progress=0.25, rng=seeded())
    levels = all_timesteps()
    sigma_s, sigma_t = (float(levels.quantile(torch.tensor(u, dtype=torch.float64))) for u in (0.4, 0.6))
    n = torch.randn(1, 1, 2, dtype=x.dtype, generator=seeded())[0]
    z = x + sigma_t * n - mean
    eps_t = z * sigma_t / (std**2 + sigma_t**2)
    eps_s = (z + (sigma_s - sigma_t) * eps_t) * sigma_s / (std**2 + sigma_s**2)
    assert_close(found.gradient, eps_t - eps_s, rtol=1e-9, atol=1e-9)


def test_clean_flow_descent_is_ddim(mixture):
    """With w = 1 and steps of sigma - sigma', consistent flow distillation makes the samples of DDIM from the same noise."""
    levels = torch.linspace(4.0, 0.1, 40, dtype=torch.float64)
    noise = torch.randn(1, 50, 2, dtype=torch.float64, generator=seeded())[0]
    x = torch.zeros(50, 2, dtype=torch.float64)
    for index in range(39):
        cfd = CFD(denoiser=mixture, levels=at(float(levels[index])))
        x = x - (levels[index] - levels[index + 1]) * cfd(x, progress=0.0, rng=seeded(9)).gradient
    sampled = ddim(mixture, 4.0 * noise, levels)
    assert_close(x, sampled - 0.1 * noise, rtol=1e-9, atol=1e-9)


def test_dsd_on_its_trajectory_is_sds_with_the_trajectorys_noise(mixture):
    """At x = D(z_d) the second prediction is the noise of the trajectory."""
    dsd = DSD(denoiser=mixture, excess=0.0, steps=5, anneal=(0.55, 0.55))
    noise = torch.randn(1, 7, 2, dtype=torch.float64, generator=seeded())[0]
    u = torch.tensor([1.0, 0.8, 0.6, 0.55], dtype=torch.float64)
    levels = dsd.levels.quantile(u)
    z = ddim(mixture, levels[0] * noise, levels)
    clean = mixture(z, levels[-1])
    found = dsd(clean, progress=0.5, rng=seeded(3))
    assert_close(found.gradient, torch.zeros_like(clean), rtol=0, atol=1e-9)  # and with no excess it is the same prediction
    assert found.info["calls"] == 3 + 3
    e = (z - clean) / levels[-1]
    elsewhere = clean + 0.1
    first, second = ((elsewhere + s * e, s) for s in (levels[-1], levels[-1]))
    away = DSD(denoiser=mixture, unguided=normal(0.0, 1.0), excess=0.0, steps=5, anneal=(0.55, 0.55))
    expected = (first[0] - mixture(*first)) / levels[-1] - (second[0] - normal(0.0, 1.0)(*second)) / levels[-1]
    weight = levels[-1] ** 2 / (1 + levels[-1] ** 2)
    assert_close(away(elsewhere, progress=0.5, rng=seeded(3)).gradient, weight * expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- flows
def test_rfds_is_the_velocity_residual(mixture, x):
    """u - (n - x) with u from z = (1 - t) x + t n, and RFDS-Rev at the noise that the network predicts."""
    t = 0.4
    sigma = t / (1 - t)
    rng = seeded()
    torch.rand(len(x), dtype=torch.float64, generator=rng)
    n = torch.randn(1, *x.shape, dtype=x.dtype, generator=rng)[0]

    def velocity(denoiser, noise):
        z = (1 - t) * x + t * noise
        return (z - denoiser(z / (1 - t), sigma)) / t

    levels = at(sigma, distribution="flow", weight="flow")
    rfds = RFDS(denoiser=mixture, levels=levels)
    assert_close(rfds(x, progress=0.0, rng=seeded()).gradient, velocity(mixture, n) - (n - x), rtol=1e-9, atol=1e-9)
    wide = normal(0.3, 1.0)
    reversed_noise = n + (1 - t) * (velocity(wide, n) + x - n)
    found = RFDS(denoiser=mixture, inversion=wide, levels=levels)(x, progress=0.0, rng=seeded())
    assert_close(found.gradient, velocity(mixture, reversed_noise) - (reversed_noise - x), rtol=1e-9, atol=1e-9)
    assert found.info["calls"] == 2


def test_irfds_finds_the_noise_of_a_gaussian_flow():
    """D = m at all levels gives (m - y)(1 + sigma)/sigma whatever n is; for a Gaussian descent finds D(y + n; 1) = y."""
    y = torch.tensor([[0.5, -0.2], [1.0, 0.3]], dtype=torch.float64)
    point = InverseRFDS(denoiser=lambda x, sigma: 0 * x + 2.0, image=y, steps=1, regularise=0.0)
    found = point(torch.zeros_like(y), progress=0.0, rng=seeded()).gradient
    assert_close(found, (2.0 - y) * 2)  # t = 1/2, sigma = 1
    inverse = InverseRFDS(denoiser=normal(0.0, 1.0), image=y, steps=1, regularise=0.0)
    n = torch.zeros_like(y)
    for _ in range(200):
        n = n - 0.5 * inverse(n, progress=0.0, rng=seeded()).gradient
    assert_close(n, y, rtol=1e-6, atol=1e-6)  # (y + n)/2 = y


def test_irfds_keeps_the_noise_normal():
    y = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    inverse = InverseRFDS(denoiser=lambda x, sigma: 0 * x, image=y, regularise=0.5)
    n = 2 * torch.randn(y.shape, dtype=torch.float64, generator=seeded()) + 0.3
    for _ in range(400):
        n = n - 0.2 * inverse(n, progress=0.0, rng=seeded()).gradient
    assert abs(float(n.mean())) < 1e-6
    assert float(n.var()) == pytest.approx(1.0, abs=1e-6)


# ---------------------------------------------------------------- editing
@pytest.fixture
def edit(x):
    source = x + torch.tensor([0.3, -0.1], dtype=torch.float64)
    return {"denoiser": normal(0.8, 0.4), "source_denoiser": normal(-0.5, 0.4), "source": source}


def test_dds_is_known_for_two_gaussians_of_one_width(edit, x):
    """The noise cancels: w/sigma^... ((x - m_tgt) - (x_src - m_src)) sigma^2 / (s^2 + sigma^2), and descent moves x by m_tgt - m_src."""
    sigma = 0.6
    dds = DDS(**edit, levels=at(sigma))
    shrink = sigma**2 / (0.4**2 + sigma**2)
    expected = ((x - 0.8) - (edit["source"] + 0.5)) * shrink / sigma
    assert_close(dds(x, progress=0.0, rng=seeded()).gradient, expected, rtol=1e-9, atol=1e-9)
    points = Points(edit["source"])
    last = list(distill(points, dds, steps=60, optimiser="sgd", lr=0.5))[-1]
    assert_close(last.x, edit["source"] + 1.3, rtol=0, atol=1e-3)


def test_an_edit_to_the_same_prompt_changes_nothing(edit):
    for kind in (DDS, PDS):
        same = kind(**{**edit, "denoiser": edit["source_denoiser"]})
        found = same(edit["source"], progress=0.3, rng=seeded()).gradient
        assert_close(found, torch.zeros_like(found), rtol=0, atol=0)


def test_the_identity_term_of_pds_is_zero_for_ddpms_posterior():
    """c0 + c1 a_t = a_s with the posterior of one step; the released code's mixture of strides leaves a pull to the source."""
    t = torch.arange(21, 980)
    abar = stable_diffusion_levels().alphas_cumprod.double()
    bar_t, bar_s = abar[t], abar[t - 2]
    alpha = bar_t / bar_s
    c0 = bar_s.sqrt() * (1 - alpha) / (1 - bar_t)
    c1 = alpha.sqrt() * (1 - bar_s) / (1 - bar_t)
    assert_close(c0 + c1 * bar_t.sqrt(), bar_s.sqrt(), rtol=1e-12, atol=1e-12)
    psi, chi = pds_coefficients(t, 2, "released")
    sigma = TABLE[t]
    assert bool((psi > 0).all())
    assert 0.49 < float((psi / (chi / sigma)).min()) < float((psi / (chi / sigma)).max()) < 1.0
    assert float(pds_coefficients(t, 1, "released")[0].abs().max()) < 0.05 * float(psi.max())


@pytest.mark.parametrize("kind", ["released", "posterior"])
def test_pds_is_the_difference_of_stochastic_latents(edit, x, kind):
    """Both latents computed in Stable Diffusion's own state, with noise of their own at s; it cancels."""
    t, stride = 400, 2
    pds = PDS(**edit, timesteps=(t, t), coefficients=kind)
    rng = seeded()
    torch.randint(t, t + 1, (len(x),), generator=rng)
    n = torch.randn(1, *x.shape, dtype=x.dtype, generator=rng)[0]
    other = torch.randn(x.shape, dtype=x.dtype, generator=seeded(8))
    abar = stable_diffusion_levels().alphas_cumprod.double()
    bar_t, bar_s = abar[t], abar[t - stride]
    beta = 1 - abar[t] / (abar[t - 1] if kind == "released" else abar[t - stride])

    def latent(point, denoiser):
        noisy = bar_t.sqrt() * point + (1 - bar_t).sqrt() * n
        clean = denoiser(noisy / bar_t.sqrt(), ((1 - bar_t) / bar_t).sqrt())
        mean = bar_s.sqrt() * beta / (1 - bar_t) * clean + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * noisy
        return (bar_s.sqrt() * point + (1 - bar_s).sqrt() * other - mean) / ((1 - bar_s) / (1 - bar_t) * beta).sqrt()

    expected = latent(x, edit["denoiser"]) - latent(edit["source"], edit["source_denoiser"])
    assert_close(pds(x, progress=0.0, rng=seeded()).gradient, expected, rtol=1e-8, atol=1e-8)


def test_editing_needs_a_source_for_each_object(edit, x):
    with pytest.raises(InvalidInput, match="one source for each object"):
        DDS(**edit)(x[:3], progress=0.0, rng=seeded())


# ---------------------------------------------------------------- one call
def test_mean_shift_is_the_mean_of_msd(mixture, x):
    shift = MeanShift(denoiser=mixture, bandwidth=constant(0.3))(x, progress=0.0, rng=seeded())
    drawn = MSD(denoiser=mixture, bandwidth=constant(0.3), sampler=ExactSampler(), samples=4000)(x, progress=0.0, rng=seeded())
    assert_close(shift.target, drawn.target, rtol=0, atol=0.05)
    assert shift.info["calls"] == 1


def test_mean_shift_climbs_at_every_whole_step(mixture, x):
    points = Points(x)
    heights = [
        mixture.log_prob(step.x, 0.3)
        for step in distill(points, MeanShift(denoiser=mixture, bandwidth=constant(0.3)), steps=30, optimiser="sgd", lr=1.0)
    ]
    assert bool((torch.stack(heights).diff(dim=0) > -1e-9).all())


def test_hd_ode_ends_at_the_mode_of_q_for_gaussian_data(x):
    """Each step multiplies x - m by (s^2 + l'^2)/(s^2 + l^2), so the product is that of D(x; l), exactly, for any number of steps."""
    p = normal(0.4, 0.6)
    for steps in (2, 7):
        rule = ExponentialBandwidth(start=0.8, end=0.1)
        points = Points(x)
        last = list(distill(points, HDODE(denoiser=p, bandwidth=rule, steps=steps), steps=steps, optimiser="sgd", lr=1.0))[-1]
        assert last.calls == steps
        assert_close(points().detach(), p(x, torch.tensor(0.8)), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- levels over progress
def test_hifa_levels_fall_with_the_square_root():
    """t = 980 - 680 sqrt(progress)."""
    table = stable_diffusion_levels()
    levels = NoiseLevels(low=float(TABLE[300]), high=float(TABLE[980]), distribution="timestep", anneal="sqrt")
    for progress, t in ((0.0, 980), (0.25, 640), (1.0, 300)):
        sigma = levels.sample(3, seeded(), progress)
        assert_close(table.timestep(sigma), torch.full((3,), float(t), dtype=torch.float64), rtol=0, atol=1e-6)
    linear = NoiseLevels(low=0.5, high=2.5, anneal="linear")
    assert_close(linear.sample(1, seeded(), 0.25), torch.tensor([2.0], dtype=torch.float64))


@pytest.mark.parametrize("sigmas", [TABLE, TABLE**1.5], ids=["stable diffusion", "another table"])
def test_dreamtime_spends_its_steps_where_its_weights_are(sigmas):
    """The share of steps that a run spends above t is the share of W above t."""
    table = DiscreteLevels(alphas_cumprod=1 / (1 + sigmas**2))
    levels = NoiseLevels(low=float(sigmas[0]), high=float(sigmas[999]), distribution="timestep", anneal="dreamtime", table=table)
    t = torch.arange(1000, dtype=torch.float64)
    weights = sigmas * torch.exp(-((t - 800) ** 2) / (2 * 300**2))
    steps = torch.stack([levels.sample(1, seeded(), i / 2000) for i in range(2000)])
    visited = table.timestep(steps[:, 0])
    assert bool((visited.diff() <= 1e-9).all())
    for threshold in (300, 600, 900):
        expected = float(weights[threshold:].sum() / weights.sum())
        assert float((visited >= threshold).float().mean()) == pytest.approx(expected, abs=0.01)
    with pytest.raises(InvalidInput, match="stated in timesteps"):
        NoiseLevels(anneal="dreamtime")


def test_unknown_names_of_levels_are_refused():
    for name in ("distribution", "weight", "anneal"):
        with pytest.raises(InvalidInput, match=f"{name} 'other' is unknown"):
            NoiseLevels(**{name: "other"})
    with pytest.raises(InvalidInput, match="no timestep"):
        NoiseLevels(low=1e-4, high=2e-4, distribution="timestep").sample(1, seeded())


def test_flow_levels_are_uniform_in_the_time_of_the_flow():
    levels = NoiseLevels(low=0.25, high=4.0, distribution="flow").sample(20_000, seeded())
    t = levels / (1 + levels)
    assert float(t.min()) >= 0.2
    assert float(t.max()) <= 0.8
    assert abs(float(t.mean()) - 0.5) < 4 * 0.6 / 12**0.5 / 20_000**0.5


def test_fixed_and_shared_noise(mixture, x):
    """ "fixed" repeats over steps, "shared" also over the objects of a batch."""
    level = at(0.5)
    fixed = SDS(denoiser=mixture, levels=level, noise="fixed")
    assert_close(fixed(x, progress=0.0, rng=seeded(1)).gradient, fixed(x, progress=0.0, rng=seeded(2)).gradient)
    same = x[:1].expand(4, 2)
    shared = SDS(denoiser=mixture, levels=level, noise="shared")(same, progress=0.0, rng=seeded()).gradient
    assert_close(shared, shared[:1].expand(4, 2))
    apart = fixed(same, progress=0.0, rng=seeded()).gradient
    assert float((apart[0] - apart[1]).abs().max()) > 1e-3


# ---------------------------------------------------------------- reverse process and the start of exact draws
@pytest.mark.parametrize("solver", ["ancestral", "heun"])
@pytest.mark.parametrize("bandwidth", [0.2, 1.5])
def test_reverse_draws_have_the_moments_of_q(mixture, solver, bandwidth):
    centre = torch.tensor([0.25, 0.45], dtype=torch.float64)
    count = 20_000
    noise = torch.randn(count, 2, dtype=torch.float64, generator=seeded())
    draw = ReverseSampler(steps=160, solver=solver)
    y = draw(mixture, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    mean, covariance = mixture.product(centre, bandwidth).moments()
    error = (covariance.diagonal() / count).sqrt()
    assert float(((y.mean(0) - mean) / error).abs().max()) < 5
    assert_close(y.T.cov().diagonal().sqrt(), covariance.diagonal().sqrt(), rtol=0.04, atol=0)


def test_reverse_draws_evaluate_at_and_below_the_bandwidth(mixture, x):
    evaluated = []

    def recording(z, sigma):
        evaluated.append(torch.as_tensor(sigma).max())
        return mixture(z, sigma)

    bandwidth = torch.linspace(0.05, 0.7, 7, dtype=torch.float64)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=seeded())
    for solver, calls in (("ancestral", 9), ("heun", 17)):
        counted = Counted(recording)
        draw = ReverseSampler(steps=9, solver=solver)
        together = draw(counted, x, bandwidth, noise)
        assert counted.calls == calls
        alone = [draw(mixture, x[i : i + 1], bandwidth[i : i + 1], noise[i : i + 1]) for i in range(7)]
        assert_close(together, torch.cat(alone))
    assert float(max(evaluated)) <= 0.7
    with pytest.raises(InvalidInput, match=r"bandwidth 0\.7 lies above 0\.5"):
        ReverseSampler(sigma_max=0.5)(mixture, x, bandwidth, noise)


@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_reverse_draws_converge_at_first_order(gaussian, solver):
    """The variance that is missing from q's halves when the steps double."""
    centre, count, bandwidth = torch.tensor([0.25, 0.45], dtype=torch.float64), 100_000, 0.5
    noise = torch.randn(count, 2, dtype=torch.float64, generator=seeded())
    variance = float(gaussian.product(centre, bandwidth).moments()[1][0, 0])
    missing = []
    for steps in (8, 16, 32):
        draw = ReverseSampler(steps=steps, solver=solver)
        y = draw(gaussian, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
        missing.append(1 - float(y.var(0).mean()) / variance)
    assert 0 < missing[2] < missing[1] < missing[0]
    assert missing[1] / missing[2] == pytest.approx(2, rel=0.3)


def test_reverse_draws_with_the_datas_std_are_exact_for_gaussian_data(gaussian):
    """Few steps, and the variance of q up to that of the last step, in which no noise is added."""
    centre, count, bandwidth = torch.tensor([0.25, 0.45], dtype=torch.float64), 100_000, 0.5
    noise = torch.randn(count, 2, dtype=torch.float64, generator=seeded())
    mean, covariance = gaussian.product(centre, bandwidth).moments()
    draw = ReverseSampler(steps=6, data_std=0.5)
    y = draw(gaussian, centre.expand(count, 2), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    assert_close(y.T.cov().diagonal(), covariance.diagonal(), rtol=0.02, atol=0)
    assert float(((y.mean(0) - mean) / (covariance.diagonal() / count).sqrt()).abs().max()) < 4


def test_derived_noise_is_normal_and_independent():
    noise = torch.randn(200_000, generator=seeded())
    drawn = [noise.double(), *(derived_noise(noise, index).double() for index in (1, 2, 3))]
    table = torch.stack(drawn)
    error = 200_000**-0.5
    assert float(table.mean(1).abs().max()) < 4 * error
    assert float((table.var(1) - 1).abs().max()) < 4 * math.sqrt(2) * error
    assert float((table.corrcoef() - torch.eye(4)).abs().max()) < 4.5 * error
    assert float((table[1:] ** 4).mean(1).sub(3).abs().max()) < 4 * math.sqrt(96) * error


def mixture_64():
    """Five anisotropic components in 64 dimensions, far apart for their widths."""
    rng = seeded(3)
    means = 0.8 * torch.randn(5, 64, dtype=torch.float64, generator=rng)
    covariances = []
    for _ in range(5):
        axes = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=rng))[0]
        covariances.append((axes * 0.05 * torch.exp(0.7 * torch.randn(64, dtype=torch.float64, generator=rng))) @ axes.T)
    return GaussianMixture(torch.tensor([0.38, 0.30, 0.15, 0.10, 0.07]), means, torch.stack(covariances))


@pytest.mark.parametrize("bandwidth", [1.0, 3.0])
def test_exact_draws_give_modes_their_shares_at_wide_bandwidths(bandwidth):
    """64 dimensions, a centre between two components: shares within 4 standard errors. A start at a fixed level of 5 has not."""
    p = mixture_64()
    a, b = p.means[0], p.means[3]
    line = torch.linspace(0.3, 0.7, 81, dtype=torch.float64)
    balance = torch.stack([p.product(a + s * (b - a), bandwidth).weights[0] for s in line])
    centre = a + line[int((balance - 0.7).abs().argmin())] * (b - a)
    q = p.product(centre, bandwidth)
    count = 1500
    noise = torch.randn(count, 64, dtype=torch.float64, generator=seeded())
    y = ExactSampler()(p, centre.expand(count, 64), torch.full((count,), bandwidth, dtype=torch.float64), noise)
    log = torch.stack([torch.distributions.MultivariateNormal(m, c).log_prob(y) for m, c in zip(q.means, q.covariances, strict=True)], 1)
    shares = (log + q.weights.log()).softmax(1).mean(0)
    error = (q.weights * (1 - q.weights) / count).sqrt().clamp_min(1e-3)
    assert float(((shares - q.weights) / error).abs().max()) < 4


def test_settings_of_exact_draws_that_cannot_be_right_are_refused(mixture, x):
    with pytest.raises(InvalidInput, match="at least 10 bandwidths"):
        ExactSampler(spread=5.0)
    with pytest.raises(InvalidInput, match="lies above 5"):
        ExactSampler(sigma_max=5.0)(mixture, x, torch.full((7,), 6.0, dtype=torch.float64), x)


def test_adaptive_bandwidths_are_per_coordinate():
    """The same point and residual repeated in more coordinates has the same bandwidth."""
    rule = AdaptiveBandwidth(first=5.0, start=0.1, end=0.1, reach=2.0)
    for dim in (2, 50):
        x = torch.ones(1, dim, dtype=torch.float64)
        assert_close(rule(0.5, x, lambda x, sigma: 0.8 * x), torch.tensor([0.4], dtype=torch.float64))


# ---------------------------------------------------------------- recipes on image priors
@pytest.fixture(scope="module")
def tiny_prior(pipeline_folder):
    return PriorChoice(name=str(pipeline_folder("sd1"))).open()


@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
@pytest.mark.parametrize("name", list(METHOD_RECIPES))
def test_every_recipe_is_a_gradient_on_an_image_prior(tiny_prior, name):
    """Two images: finite, as many calls as the recipe says (on average for ISM and DSD), at the range of the prior."""
    gradient = build_gradient(METHOD_RECIPES[name], tiny_prior, ["a red cat", "a blue dog"])
    x = torch.randn(2, *tiny_prior.event, generator=seeded())
    calls = []
    for progress in (0.0, 0.5, 1.0):
        estimate = gradient(x, progress=progress, rng=seeded())
        assert bool(estimate.gradient.isfinite().all())
        calls.append(float(estimate.info["calls"]))
    if name not in ("ism", "dsd"):
        assert calls == [METHOD_RECIPES[name].calls / METHOD_RECIPES[name].steps] * 3


def test_the_reverse_recipe_draws_by_the_models_own_reverse_process(tiny_prior):
    """From l to a tenth of it, within the levels of the prior, as many calls as the recipe says."""
    recipe = Recipe(method="msd-reverse", sampler_steps=3, samples=2, bandwidth=(1e6, 0.5))
    built, unit, top = build_gradient(recipe, tiny_prior, ["a cat"], guidance=2.0), tiny_prior.data_std, tiny_prior.sigmas[1]
    x = torch.randn(1, *tiny_prior.event, generator=seeded())
    bandwidth = ExponentialBandwidth(start=top, end=0.5 * unit)
    sampler = ReverseSampler(steps=3, sigma_min=top)
    same = MSD(denoiser=tiny_prior.denoiser(["a cat"], guidance=2.0), bandwidth=bandwidth, sampler=sampler, samples=2)
    for progress in (0.0, 0.5, 1.0):
        found, expected = (gradient(x, progress=progress, rng=seeded()) for gradient in (built, same))
        assert torch.equal(found.gradient, expected.gradient)
        assert found.info["calls"] == recipe.calls / recipe.steps == 6
    assert float(levels_below(torch.tensor([top]), 3, sigma_min=top)[2]) == pytest.approx(0.1 * top)


@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
def test_a_recipe_with_a_negative_prompt_uses_it(tiny_prior):
    x = torch.randn(1, *tiny_prior.event, generator=seeded())
    for name in ("csd", "nfsd", "sds-bridge"):
        plain, pushed = (
            build_gradient(METHOD_RECIPES[name], tiny_prior, ["a red cat"], negative=negative)(x, progress=0.9, rng=seeded()).gradient
            for negative in ("", "a bad dog")
        )
        assert not torch.equal(plain, pushed), name
