"""Every gradient keeps the contract, and each is checked against what is known of it."""

import copy
import math
from typing import get_args

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
    SDI,
    SDS,
    SJC,
    VSD,
    AdaptiveBandwidth,
    Consistent3D,
    Counted,
    ExactSampler,
    ExponentialBandwidth,
    InvalidInput,
    InverseRFDS,
    MeanShift,
    NoiseLevels,
    PersistentMSD,
    Points,
    ProximalSampler,
    SDSBridge,
    SplitSampler,
    distill,
)
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients import AnyGradient
from modeseek.priors import EnergyNet


def every_gradient(denoiser):
    """One of each, the family that the contract tests walk."""
    aux = EnergyNet(8).double()
    wide = _wide(denoiser)
    source = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    edit = {"denoiser": denoiser, "source_denoiser": wide, "source": source}
    return {
        "SDS": SDS(denoiser=denoiser, samples=3),
        "SDS fixed": SDS(denoiser=denoiser, samples=3, noise="fixed"),
        "SJC": SJC(denoiser=denoiser, variance_reduced=False),
        "VSD": VSD(denoiser=denoiser, auxiliary=aux, samples=2),
        "SDI": SDI(denoiser=denoiser),
        "SDI as published": SDI(denoiser=denoiser, spacing="timestep", grid="timestep", eta=0.3, as_published=True),
        "MSD": MSD(denoiser=denoiser),
        "MSD exact": MSD(denoiser=denoiser, sampler=ExactSampler(steps=8), samples=2, bandwidth=AdaptiveBandwidth()),
        "MSD proximal": MSD(denoiser=denoiser, sampler=ProximalSampler(steps=8), noise="fixed"),
        "SDS annealed": SDS(denoiser=denoiser, levels=NoiseLevels(anneal="sqrt"), noise="shared"),
        "CFD": CFD(denoiser=denoiser),
        "CSD": CSD(conditional=denoiser, null=wide),
        "CSD negative": CSD(conditional=denoiser, null=wide, negative=denoiser, samples=2),
        "NFSD": NFSD(conditional=denoiser, null=wide, negative=denoiser),
        "SDSBridge": SDSBridge(conditional=denoiser, null=wide, target=denoiser, source=wide, switch=0.2),
        "ISM": ISM(denoiser=denoiser, null=wide),
        "DDS": DDS(**edit, samples=2),
        "PDS": PDS(**edit),
        "Consistent3D": Consistent3D(denoiser=denoiser),
        "DSD": DSD(denoiser=denoiser),
        "RFDS": RFDS(denoiser=denoiser, samples=2),
        "RFDS reversed": RFDS(denoiser=denoiser, inversion=wide),
        "InverseRFDS": InverseRFDS(denoiser=denoiser, image=source),
        "MeanShift": MeanShift(denoiser=denoiser, bandwidth=AdaptiveBandwidth()),
        "HDODE": HDODE(denoiser=denoiser),
        "PersistentMSD": PersistentMSD(denoiser=denoiser),
        "PersistentMSD exact": PersistentMSD(denoiser=denoiser, exact=True, target="drawn", bandwidth=AdaptiveBandwidth(), noise="fixed"),
    }


def _wide(denoiser):
    """The same denoiser drawn to the origin: another prompt's, evaluated through the one that counts."""
    return lambda x, sigma: 0.8 * denoiser(x, sigma)


NAMES = list(every_gradient(lambda x, sigma: x))


def test_the_family_is_whole():
    assert {type(g) for g in every_gradient(lambda x, sigma: x).values()} == set(get_args(AnyGradient))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_same_rng_same_answer(self, mixture, name, x):
        first, second = (every_gradient(mixture)[name](x, progress=0.3, rng=seeded()) for _ in range(2))
        assert_close(first.gradient, second.gradient, rtol=0, atol=0)

    def test_gradient_points_away_from_the_target(self, mixture, name, x):
        """gradient = weight (x - target) with one positive weight an item."""
        estimate = every_gradient(mixture)[name](x, progress=0.3, rng=seeded())
        assert estimate.gradient.shape == estimate.target.shape == x.shape
        ratio = estimate.gradient / (x - estimate.target)
        assert_close(ratio[:, 0], ratio[:, 1], rtol=1e-6, atol=1e-9)
        assert bool((ratio > 0).all())

    def test_calls_are_counted(self, mixture, name, x):
        counted = Counted(mixture)
        estimate = every_gradient(counted)[name](x, progress=0.3, rng=seeded())
        own = {"VSD": counted.items / len(x) * 2 + 1}.get(name, counted.items / len(x))
        assert estimate.info["calls"] == own

    def test_input_is_not_touched(self, mixture, name, x):
        before = x.clone()
        every_gradient(mixture)[name](x, progress=0.3, rng=seeded())
        assert_close(x, before, rtol=0, atol=0)

    def test_non_finite_points_are_refused(self, mixture, name, x):
        x[2, 1] = math.nan
        with pytest.raises(InvalidInput, match="1 of 7 items"):
            every_gradient(mixture)[name](x, progress=0.3, rng=seeded())

    def test_wrong_shapes_and_progress_are_refused(self, mixture, name, x):
        gradient = every_gradient(mixture)[name]
        with pytest.raises(InvalidInput, match="float batch"):
            gradient(x[0], progress=0.3, rng=seeded())
        with pytest.raises(InvalidInput, match="progress"):
            gradient(x, progress=1.3, rng=seeded())

    def test_a_trainable_network_keeps_no_graph(self, name, x):
        """Neither the estimate nor any evaluation of the denoiser requires gradients."""
        weight = torch.ones((), dtype=torch.float64, requires_grad=True)
        evaluated = []

        def trainable(z, sigma):
            evaluated.append(weight * z / (1 + sigma.reshape(-1, 1) ** 2))
            return evaluated[-1]

        estimate = every_gradient(trainable)[name](x.requires_grad_(), progress=0.3, rng=seeded())
        assert len(evaluated) >= 1
        assert not any(value.requires_grad for value in (*evaluated, estimate.gradient, estimate.target))

    def test_unknown_settings_raise(self, mixture, name):
        gradient = every_gradient(mixture)[name]
        with pytest.raises(TypeError):
            type(gradient)(denoiser=mixture, guidance_scale=7.5)


def test_sjc_with_variance_reduction_is_sds(mixture, x):
    """Truth 8."""
    sds = SDS(denoiser=mixture, samples=4)(x, progress=0.0, rng=seeded())
    sjc = SJC(denoiser=mixture, samples=4)(x, progress=0.0, rng=seeded())
    assert_close(sds.gradient, sjc.gradient)


@pytest.mark.parametrize(("sigma", "reduced_is_better"), [(3.0, True), (0.03, False)])
def test_sjc_forms_share_their_mean_and_differ_in_variance(mixture, x, sigma, reduced_is_better):
    levels = NoiseLevels(low=sigma, high=sigma)
    point = x[:1].expand(20_000, 2)
    reduced = SJC(denoiser=mixture, levels=levels)(point, progress=0.0, rng=seeded()).gradient
    plain = SJC(denoiser=mixture, levels=levels, variance_reduced=False)(point, progress=0.0, rng=seeded(1)).gradient
    error = ((reduced.var(0) + plain.var(0)) / len(point)).sqrt()
    assert bool(((reduced.mean(0) - plain.mean(0)).abs() < 4 * error).all())
    assert (float(reduced.var(0).sum()) < float(plain.var(0).sum())) == reduced_is_better


def test_sds_mean_is_known_for_one_gaussian(gaussian, x):
    """E[(x - D)/sigma] = (x - mean) sigma / (std^2 + sigma^2)."""
    sigma = 0.7
    sds = SDS(denoiser=gaussian, levels=NoiseLevels(low=sigma, high=sigma), samples=40_000)
    found = sds(x, progress=0.0, rng=seeded()).gradient
    expected = (x - gaussian.means[0]) * sigma / (0.25 + sigma**2)
    error = 0.25 / (0.25 + sigma**2) / 40_000**0.5
    assert float((found - expected).abs().max()) < 5 * error


def test_shared_noise_of_vsd_is_shared():
    """Items at one place and one level have one noise, so one gradient."""
    levels = NoiseLevels(low=0.5, high=0.5)
    vsd = VSD(denoiser=lambda x, sigma: 0.2 * x, auxiliary=EnergyNet(8), samples=2, noise="shared", levels=levels)
    first, second = vsd(torch.tensor([[0.3, -0.1]] * 2), progress=0.0, rng=seeded()).gradient
    assert_close(first, second)
    assert float(first.norm()) > 0


def test_annealed_levels_train_the_auxiliary_at_every_level():
    """D_aux is evaluated at falling levels, so it is trained on all of them, at every progress."""
    seen = []

    class Recorded(EnergyNet):
        def forward(self, x, sigma):
            seen.append(sigma)
            return super().forward(x, sigma)

    levels = NoiseLevels(low=0.1, high=5.0, anneal="linear")
    VSD(denoiser=lambda x, sigma: 0.2 * x, auxiliary=Recorded(8), levels=levels).adapt(torch.zeros(200, 2), seeded())
    assert float(seen[0].min()) < 0.4
    assert float(seen[0].max()) > 4.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: SDI(denoiser=None, spacing="liner"),
        lambda: SDI(denoiser=None, grid="timesteps"),
        lambda: SplitSampler(centre="inversion"),
        lambda: ProximalSampler(solver="euler"),
        lambda: ExactSampler(solver="euler"),
        lambda: ProximalSampler(data_std=0.0),
        lambda: ExactSampler(steps=1),
    ],
)
def test_misspelt_settings_are_refused(make):
    with pytest.raises(InvalidInput):
        make()


def test_vsd_with_the_prior_as_auxiliary_is_zero(x):
    """Truth 8."""
    net = EnergyNet(8).double().eval()
    estimate = VSD(denoiser=net, auxiliary=net, samples=3)(x, progress=0.0, rng=seeded())
    assert_close(estimate.gradient, torch.zeros_like(x), rtol=0, atol=0)


def test_vsd_auxiliary_learns_the_renders():
    """Trained in place on points of N(m, s^2), the auxiliary denoiser approaches theirs; the net it was copied from is left alone."""
    net = EnergyNet(16).double()
    before = net.gain.clone()
    auxiliary = copy.deepcopy(net)
    vsd = VSD(denoiser=net, auxiliary=auxiliary, learning_rate=1e-2, adapt_steps=300, levels=NoiseLevels(low=0.1, high=1.0))
    points = torch.randn(512, 2, dtype=torch.float64, generator=seeded()) * 0.1 + torch.tensor([0.5, -0.3], dtype=torch.float64)
    probe = torch.tensor([[0.0, 0.0], [1.0, 0.4]], dtype=torch.float64)
    sigma = torch.tensor(0.4, dtype=torch.float64)
    truth = (probe * 0.01 + torch.tensor([0.5, -0.3]) * 0.16) / 0.17
    vsd.auxiliary.eval()
    untrained = float((vsd.auxiliary(probe, sigma) - truth).norm())
    vsd.adapt(points, seeded())
    vsd.auxiliary.eval()
    assert float((vsd.auxiliary(probe, sigma) - truth).norm()) < 0.4 * untrained
    assert_close(net.gain, before)
    assert vsd.auxiliary is auxiliary


def test_sdi_inverts_to_the_level_of_its_evaluation(gaussian, x):
    """For one Gaussian the inversion is known: the target is D at the flow's state."""
    sdi = SDI(denoiser=gaussian, start=1.0, end=0.9, steps=3000, lowest=0.01)
    target = sdi(x, progress=0.0, rng=seeded()).target
    offset = x - gaussian.means[0]
    state = gaussian.means[0] + offset * math.sqrt((0.25 + 1.0) / (0.25 + 0.01**2))
    assert_close(target, gaussian(state, 1.0), rtol=2e-3, atol=2e-3)


def test_sdi_inverts_on_the_published_grid(gaussian, x):
    """A Gaussian's inversion from t = 1 in fine steps is known."""
    table = stable_diffusion_levels()
    top = float(table.sigmas[437])
    sdi = SDI(denoiser=gaussian, start=top, end=top / 2, spacing="timestep", grid="timestep", steps=4000)
    estimate = sdi(x, progress=0.0, rng=seeded())
    assert estimate.info["calls"] == 436 * 4 + 1
    gain = ((0.25 + top**2) / (0.25 + float(table.sigmas[1]) ** 2)) ** 0.5
    assert_close(estimate.target, gaussian(gaussian.means[0] + gain * (x - gaussian.means[0]), top), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("bandwidth", [0.03, 0.3])
def test_msd_estimates_the_mean_shift(mixture, x, bandwidth):
    constant = ExponentialBandwidth(start=bandwidth, end=bandwidth)
    msd = MSD(denoiser=mixture, bandwidth=constant, sampler=ExactSampler(), samples=1)
    copies = 4000
    estimates = msd(x.repeat(copies, 1), progress=0.0, rng=seeded()).gradient.reshape(copies, *x.shape)
    truth = x - mixture(x, bandwidth)
    error = estimates.std(0) / copies**0.5
    assert float(((estimates.mean(0) - truth) / error).abs().max()) < 4.5


def test_msd_vanishes_at_the_modes_and_ascends_elsewhere(mixture, x):
    """Truth 8: at a stationary point of p_l the mean of the draws stays; elsewhere the step climbs log p_l."""
    bandwidth = 0.2
    modes = mixture.modes(bandwidth)
    constant = ExponentialBandwidth(start=bandwidth, end=bandwidth)
    msd = MSD(denoiser=mixture, bandwidth=constant, sampler=ExactSampler(), samples=4000)
    at_modes = msd(modes, progress=0.0, rng=seeded())
    spread = torch.stack([mixture.product(mode, bandwidth).moments()[1].diagonal().sqrt() for mode in modes]) / 4000**0.5
    assert float((at_modes.gradient / spread).abs().max()) < 4.5
    elsewhere = msd(x, progress=0.0, rng=seeded())
    climbed = mixture.log_prob(x - 0.5 * elsewhere.gradient, bandwidth) - mixture.log_prob(x, bandwidth)
    assert bool((climbed > 0).all())


def test_one_draw_iteration_has_the_stationary_density_p_times_smoothed_p():
    """x <- y, y ~ q(.|x), leaves p(x) p_l(x) invariant: for N(0, s^2) a Gaussian of precision 1/s^2 + 1/(s^2 + l^2)."""
    std, bandwidth, count = 1.0, 0.5, 40_000

    def normal(x, sigma):
        return x * std**2 / (std**2 + sigma.reshape(-1, 1) ** 2)

    rng = seeded()
    x = torch.randn(count, 1, dtype=torch.float64, generator=rng)
    msd = MSD(
        denoiser=normal,
        bandwidth=ExponentialBandwidth(start=bandwidth, end=bandwidth),
        sampler=ExactSampler(steps=40, spread=40.0),
    )
    for _ in range(25):
        x = x - msd(x, progress=0.0, rng=rng).gradient
    expected = 1 / (1 / std**2 + 1 / (std**2 + bandwidth**2))
    assert float(x.var()) == pytest.approx(expected, rel=0.03)


def constant(bandwidth):
    return ExponentialBandwidth(start=bandwidth, end=bandwidth)


def walked(chain, x, calls, rng):
    """Targets of a chain at a centre that stands still."""
    targets = []
    for _ in range(calls):
        targets.append(chain(x, progress=0.0, rng=rng).target)
        chain.adapt(x, rng)
    return targets


@pytest.mark.parametrize("distribution", ["gaussian", "mixture"])
def test_a_finished_chain_is_the_full_draw(distribution, x, request):
    """Same levels, noise, centre and bandwidth: first from sigma_max, then from `spread` bandwidths; calls in between are no draws."""
    distribution = request.getfixturevalue(distribution)
    near = ProximalSampler(steps=6, spread=4.0)
    rng, same = seeded(), seeded()
    chain = PersistentMSD(denoiser=distribution, bandwidth=constant(0.3), sampler=near)
    targets = walked(chain, x, 12, rng)
    for draw, found in ((ProximalSampler(steps=6), targets[5]), (near, targets[11])):
        noise = torch.randn(x.shape, dtype=x.dtype, generator=same)
        expected = draw(distribution, x, x.new_full((len(x),), 0.3), noise)
        assert_close(found, expected, rtol=0, atol=1e-12)
    assert float((targets[2] - targets[5]).abs().max()) > 1e-3


def test_finished_exact_chains_have_the_products_moments(mixture):
    """Within sampling error and the offset of a start around x, not around the mean of q: |mean - x| std / sigma_max."""
    bandwidth, count = 0.3, 20_000
    x = torch.tensor([0.25, 0.45], dtype=torch.float64).expand(count, 2)
    chain = PersistentMSD(denoiser=mixture, bandwidth=constant(bandwidth), sampler=ProximalSampler(steps=60, spread=20.0), exact=True)
    y = walked(chain, x, 120, seeded())[-1]
    mean, covariance = mixture.product(x[0], bandwidth).moments()
    assert float((y.mean(0) - mean).abs().max()) < 0.04 * bandwidth
    assert_close(y.T.cov().diagonal().sqrt(), covariance.diagonal().sqrt(), rtol=0.08, atol=0)


def test_a_held_chain_target_is_the_last_finished_draw(mixture, x):
    current = PersistentMSD(denoiser=mixture, bandwidth=constant(0.3), sampler=ProximalSampler(steps=3, spread=4.0))
    drawn = PersistentMSD(denoiser=mixture, bandwidth=constant(0.3), sampler=current.sampler, target="drawn")
    followed, cached = walked(current, x, 8, seeded()), walked(drawn, x, 8, seeded())
    assert_close(torch.stack(cached), torch.stack([*followed[:3], *[followed[2]] * 3, *[followed[5]] * 2]))


def test_estimating_does_not_move_the_chain(mixture, x):
    chain = PersistentMSD(denoiser=mixture)
    walked(chain, x, 3, seeded())
    before = chain.state_dict()
    first, second = (chain(x, progress=0.2, rng=seeded()).target for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)
    assert_close(chain.state_dict()["z"], before["z"], rtol=0, atol=0)
    assert chain.state_dict()["index"] == 3
    with pytest.raises(InvalidInput, match=r"started for x of shape \(7, 2\)"):
        chain(x[:3], progress=0.2, rng=seeded())
    with pytest.raises(InvalidInput, match="DDIM steps"):
        PersistentMSD(denoiser=mixture, sampler=ProximalSampler(solver="heun"))


def test_chains_of_a_batch_are_independent(mixture, x):
    """With a bandwidth for each item: an object walks as it does without its neighbours."""

    def rule(progress, x, denoiser):
        return 0.1 + x[:, 0].abs()

    together = walked(PersistentMSD(denoiser=mixture, bandwidth=rule, noise="fixed"), x, 20, seeded())
    alone = walked(PersistentMSD(denoiser=mixture, bandwidth=rule, noise="fixed"), x[:1], 20, seeded())
    assert_close(torch.stack(together)[:, :1], torch.stack(alone))


def test_a_chain_ends_at_the_mean_shifts_fixed_point(gaussian, x):
    """For one Gaussian that is its mean, approached on average by small steps."""
    points = Points(x[:1].repeat(400, 1))
    chain = PersistentMSD(denoiser=gaussian, bandwidth=constant(0.3))
    steps = list(distill(points, chain, steps=400, optimiser="sgd", lr=0.2))
    mean = torch.stack([step.x for step in steps[200:]]).mean((0, 1))
    assert_close(mean, gaussian.means[0], rtol=0, atol=0.01)


@pytest.mark.parametrize("target", ["current", "drawn"])
def test_a_chain_is_worth_its_calls(mixture, target):
    """At 240 calls an object: as likely points as from full draws held for as many steps, likelier than from a full draw a step."""
    near = ProximalSampler(steps=8, spread=5.0, data_std=0.73)
    bandwidth = ExponentialBandwidth(end=0.02)
    start = 3 * torch.rand(200, 2, dtype=torch.float64, generator=seeded()) - 1.5
    found = {}
    for name, gradient, options in (
        ("chain", PersistentMSD(denoiser=mixture, bandwidth=bandwidth, sampler=near, target=target), {"steps": 240}),
        ("cached", MSD(denoiser=mixture, bandwidth=bandwidth, sampler=near), {"steps": 240, "refresh": 8}),
        ("a draw a step", MSD(denoiser=mixture, bandwidth=bandwidth, sampler=near), {"steps": 30}),
    ):
        points = Points(start)
        assert list(distill(points, gradient, **options))[-1].calls == 240
        found[name] = -float(mixture.log_prob(points().detach()).mean())
    assert found["chain"] < found["cached"] + 0.1
    assert found["chain"] < found["a draw a step"] - 0.3


def test_fixed_noise_belongs_to_the_object(mixture, x):
    gradient = SDS(denoiser=mixture, levels=NoiseLevels(low=0.3, high=0.3), noise="fixed")
    first, second = (gradient(x, progress=0.0, rng=seeded(s)).gradient for s in (0, 1))
    assert_close(first, second)
    fresh = SDS(denoiser=mixture, levels=NoiseLevels(low=0.3, high=0.3))
    assert float((fresh(x, progress=0.0, rng=seeded(0)).gradient - fresh(x, progress=0.0, rng=seeded(1)).gradient).abs().max()) > 1e-3


def test_backward_is_the_implied_loss(gaussian):
    """Truth 10: x.backward(g) equals finite differences of the loss |x(theta) - target|^2 / 2 with the target held."""
    theta = torch.tensor([[0.2, 0.5, -0.3]], dtype=torch.float64, requires_grad=True)

    def render(t):
        return torch.stack([t[:, 0] * t[:, 1] + t[:, 2].sin(), (t[:, 0] - t[:, 2]) ** 2], 1)

    estimate = SDI(denoiser=gaussian)(render(theta).detach(), progress=0.5, rng=seeded())
    render(theta).backward(estimate.gradient)
    for index in range(3):
        shift = torch.zeros(1, 3, dtype=torch.float64)
        shift[0, index] = 1e-6
        losses = [0.5 * ((render(theta.detach() + s) - estimate.target) ** 2).sum() for s in (shift, -shift)]
        assert float(theta.grad[0, index]) == pytest.approx(float(losses[0] - losses[1]) / 2e-6, rel=1e-6)


def test_gradient_is_not_divided_by_batch_or_size(gaussian, x):
    """The gradient of an item does not depend on how many others there are."""
    sdi = SDI(denoiser=gaussian)
    assert_close(sdi(x, progress=0.5, rng=seeded()).gradient[:1], sdi(x[:1], progress=0.5, rng=seeded()).gradient)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, x: SDS(denoiser=d, noise="frozen")(x, progress=0.0, rng=seeded()), "fresh, fixed or shared"),
        (lambda d, x: SDS(denoiser=d, samples=0)(x, progress=0.0, rng=seeded()), "at least 1 sample"),
        (lambda d, x: NoiseLevels(low=0.0), "0 < low"),
        (lambda d, x: NoiseLevels(distribution="cosine"), "uniform, loguniform, karras, timestep"),
        (lambda d, x: NoiseLevels(weight="snr"), "eps, x0, dreamfusion"),
        (lambda d, x: SDI(denoiser=d, end=9.0), "0 < end <= start"),
        (lambda d, x: SDI(denoiser=d, eta=-0.1), "eta >= 0"),
        (lambda d, x: SDI(denoiser=d, as_published=True), "as_published=False for another grid"),
        (lambda d, x: VSD(denoiser=d, auxiliary=EnergyNet(4), late_from=2.0), "late_from is a progress"),
        (lambda d, x: AdaptiveBandwidth(reach=-1.0), "reach"),
        (lambda d, x: ExponentialBandwidth(end=0.0), "bandwidths must be positive"),
    ],
)
def test_bad_settings_are_named(gaussian, x, call, message):
    with pytest.raises(InvalidInput, match=message):
        call(gaussian, x)


def test_points_are_copied():
    start = torch.zeros(2, 2)
    with torch.no_grad():
        Points(start).values += 1
    assert_close(start, torch.zeros(2, 2))


def test_timestep_distribution_is_uniform_over_stable_diffusions_levels(rng):
    """t ~ U{20..980}: the mean and the ends of the drawn timesteps are the discrete uniform distribution's."""
    table = stable_diffusion_levels()
    ends = table.sigmas[[20, 980]]
    drawn = NoiseLevels(low=float(ends[0]), high=float(ends[1]), distribution="timestep").sample(20_000, rng)
    t = table.timestep(drawn)
    assert float((t - t.round()).abs().max()) < 1e-6
    assert (round(float(t.min())), round(float(t.max()))) == (20, 980)
    assert abs(float(t.mean()) - 500) < 4 * (961**2 / 12) ** 0.5 / 20_000**0.5


def test_timestep_and_sigma_are_inverse(rng):
    table = stable_diffusion_levels()
    t = 999 * torch.rand(50, dtype=torch.float64, generator=rng)
    assert torch.allclose(table.timestep(table.sigma(t)), t, atol=1e-6)


def test_sdi_falls_linearly_in_timesteps(mixture, x, rng):
    table = stable_diffusion_levels()
    start, end = table.sigmas[[980, 250]].tolist()
    sdi = SDI(denoiser=mixture, start=start, end=end, spacing="timestep")
    sigma = sdi(x, progress=0.5, rng=rng).info["sigma"]
    assert float(table.timestep(sigma)[0]) == pytest.approx(615.0, abs=1e-3)


def test_vsd_lowers_its_levels_after_a_fifth(mixture, x, rng):
    """`late_from` is 5000 of 25 000 steps by default; D_aux is trained at its own levels all the while."""
    high, low = NoiseLevels(low=4.0, high=4.0), NoiseLevels(low=0.5, high=0.5)
    everywhere = NoiseLevels(low=1.0, high=1.0)
    vsd = VSD(denoiser=mixture, auxiliary=EnergyNet(8), levels=high, late_levels=low, auxiliary_levels=everywhere)
    called = []
    object.__setattr__(vsd, "denoiser", lambda x, sigma: called.append(float(sigma[0])) or mixture(x, sigma))
    for progress in (0.0, 0.19, 0.2, 1.0):
        vsd(x.float(), progress=progress, rng=rng)
    assert called == [4.0, 4.0, 0.5, 0.5]
    trained = []
    vsd.auxiliary.register_forward_pre_hook(lambda module, inputs: trained.append(float(inputs[1][0])))
    vsd.adapt(x.float(), rng)
    assert trained == [1.0]


def test_vsd_averages_gradients_over_processes(x, rng):
    """`average` is called on the gradients of D_aux before its update: with all gradients zeroed the weights only decay."""
    vsd = VSD(denoiser=lambda x, s: x, auxiliary=EnergyNet(8), average=lambda gradients: [g.zero_() for g in gradients], weight_decay=0.0)
    before = [value.clone() for value in vsd.auxiliary.parameters()]
    vsd.adapt(x.float(), rng)
    for value, old in zip(vsd.auxiliary.parameters(), before, strict=True):
        assert_close(value.detach(), old.detach(), rtol=0, atol=0)


def test_vsd_keeps_dropout_off(x, rng):
    """Training and estimates use one network: a dropout layer of the auxiliary is inactive in both."""
    auxiliary = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9))
    layers = torch.nn.ModuleDict({"layers": auxiliary})
    layers.forward = lambda x, sigma: auxiliary(x)
    vsd = VSD(denoiser=lambda x, s: x, auxiliary=layers)
    vsd.adapt(x.float(), rng)
    assert auxiliary[0].training
    assert not auxiliary[1].training
