"""The loop: it follows the gradient, resumes to the same end, and stops with its state saved."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import (
    MSD,
    SDI,
    SDS,
    VSD,
    Counted,
    Estimate,
    ExactSampler,
    ExponentialBandwidth,
    InvalidInput,
    NoiseLevels,
    NonFiniteError,
    OutputError,
    PersistentMSD,
    Points,
    ProximalSampler,
    Stop,
    distill,
)
from modeseek.priors import EnergyNet


def start():
    return torch.tensor([[0.5, 0.5], [-1.0, 0.2], [1.0, -1.0]], dtype=torch.float64)


def gradients(distribution):
    return {
        "SDS": lambda: SDS(denoiser=distribution, samples=2),
        "SDI": lambda: SDI(denoiser=distribution),
        "VSD": lambda: VSD(denoiser=distribution, auxiliary=EnergyNet(8).double()),
        "MSD": lambda: MSD(denoiser=distribution, sampler=ExactSampler(steps=6)),
        "PersistentMSD": lambda: PersistentMSD(denoiser=distribution, sampler=ProximalSampler(steps=3, spread=5.0), target="drawn"),
    }


NAMES = ["SDS", "SDI", "VSD", "MSD", "PersistentMSD"]
TURN = torch.tensor([[0.0, 2.0], [-1.0, 0.3]], dtype=torch.float64)


def to_latent(image):
    return image @ TURN


def to_image(x):
    return x @ torch.linalg.inv(TURN)


OPTIONS = {
    "defaults": {},
    "sgd": {"optimiser": "sgd"},
    "cached": {"refresh": 3, "schedule": "cosine"},
    "image": {"space": "image", "encode": to_latent, "decode": to_image, "optimiser": "adamw"},
    "image, held": {"space": "image", "encode": to_latent, "decode": to_image, "refresh": 4},
    "accumulated": {"accumulate": 2},
    "all": {"space": "image", "encode": to_latent, "decode": to_image, "refresh": 3, "accumulate": 2, "schedule": "cosine"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_killed_and_resumed_equals_uninterrupted(mixture, tmp_path, name, options):
    settings = {"steps": 9, "lr": 0.05, "seed": 3} | options
    whole = Points(start())
    expected = list(distill(whole, gradients(mixture)[name](), **settings))
    path = tmp_path / "run.safetensors"
    first = Points(start())
    for step in distill(first, gradients(mixture)[name](), **settings, checkpoint=path, every=2):
        if step.index == 4:  # a kill between checkpoints: step 4 is lost and done again
            break
    second = Points(torch.zeros(3, 2, dtype=torch.float64))
    rest = list(distill(second, gradients(mixture)[name](), **settings, checkpoint=path, every=2))
    assert [step.index for step in rest] == [4, 5, 6, 7, 8]
    assert_close(second(), whole(), rtol=0, atol=0)
    assert [step.calls for step in rest] == [step.calls for step in expected[4:]]
    assert_close(rest[0].estimate.target, expected[4].estimate.target, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_calls_are_those_truly_made(mixture, name, options):
    """Counted at the networks themselves; held steps make none."""
    counted = Counted(mixture)
    gradient = gradients(counted)[name]()
    if name == "VSD":
        gradient.auxiliary.register_forward_pre_hook(lambda module, inputs: setattr(counted, "items", counted.items + len(inputs[0])))
    before = 0
    for step in distill(Points(start()), gradient, steps=7, **options):
        cached = step.index % options.get("refresh", 1) > 0
        assert counted.items / 3 == step.calls
        assert (counted.items == before) == cached == (step.estimate.info["calls"] == 0)
        before = counted.items


def test_a_held_target_stays_while_x_moves(gaussian):
    """gradient = weight (x - target) with the weight of the estimate, for w = sigma and for w = 1."""
    for weight in ("x0", "dreamfusion"):
        sds = SDS(denoiser=gaussian, levels=NoiseLevels(low=0.5, high=2.0, weight=weight))
        steps = list(distill(Points(start()), sds, steps=6, refresh=3, lr=0.3, optimiser="sgd"))
        for first in (0, 3):
            ratio = steps[first].estimate.gradient / (steps[first].x - steps[first].estimate.target)
            for step in steps[first : first + 3]:
                assert_close(step.estimate.target, steps[first].estimate.target, rtol=0, atol=0)
                assert_close(step.estimate.gradient, ratio * (step.x - step.estimate.target))
                assert_close(step.estimate.info["residual"], (step.x - step.estimate.target).norm(dim=1))
        assert not torch.equal(steps[3].estimate.target, steps[2].estimate.target)
        assert not torch.equal(steps[2].x, steps[1].x)


@pytest.mark.parametrize("name", NAMES)
def test_image_space_regresses_the_decoded_target(mixture, name):
    """No way back through the encoder, which is called once per estimate, like the decoder; the gradient is image - decode(target)."""
    queried = {"encode": 0, "decode": 0}

    def encode(image):
        assert not torch.is_grad_enabled()
        queried["encode"] += 1
        return to_latent(image)

    def decode(x):
        assert not torch.is_grad_enabled()
        queried["decode"] += 1
        return to_image(x)

    points = Points(start())
    made = gradients(mixture)[name]()
    options = {"space": "image", "encode": encode, "decode": decode, "refresh": 2, "optimiser": "sgd", "lr": 0.5}
    x = start()
    latent_target = gradients(mixture)[name]()(to_latent(x), progress=0.0, rng=torch.Generator().manual_seed(0)).target
    for step in distill(points, made, steps=2, **options):
        assert_close(step.x, x)
        assert_close(step.estimate.target, to_image(latent_target))
        assert_close(step.estimate.gradient, x - to_image(latent_target))
        x = x - 0.5 * (x - to_image(latent_target))
    assert_close(points().detach(), x)
    assert queried == {"encode": 2 if name == "VSD" else 1, "decode": 1}  # VSD learns from what is rendered after the update


def test_latent_space_never_decodes(gaussian):
    def decode(x):
        raise AssertionError("decoded")

    list(distill(Points(start()), SDI(denoiser=gaussian), steps=4, encode=to_latent, decode=decode, refresh=2))


def test_latent_held_steps_go_through_the_encoder(gaussian):
    points = Points(start())
    steps = list(distill(points, SDI(denoiser=gaussian), steps=2, refresh=2, encode=to_latent, optimiser="sgd", lr=0.1))
    expected = start() - 0.1 * (steps[0].estimate.gradient + steps[1].x - steps[0].estimate.target) @ TURN.T
    assert_close(points().detach(), expected)


def test_accumulated_passes_are_averaged(mixture):
    """Two passes are the mean of two estimates of one x; a deterministic gradient does not notice."""
    points = Points(start())
    sds = SDS(denoiser=mixture)
    list(distill(points, sds, steps=1, accumulate=2, optimiser="sgd", lr=1.0, seed=5))
    rng = torch.Generator().manual_seed(5)
    found = [sds(start(), progress=0.0, rng=rng).gradient for _ in range(2)]
    assert_close(points().detach(), start() - (found[0] + found[1]) / 2)
    once, thrice = Points(start()), Points(start())
    list(distill(once, SDI(denoiser=mixture), steps=4))
    list(distill(thrice, SDI(denoiser=mixture), steps=4, accumulate=3))
    assert_close(once(), thrice())


def test_each_pass_has_a_target_of_its_own(gaussian):
    """A renderer whose view changes from pass to pass: held targets belong to their pass."""

    class Turning(Points):
        passes = 0

        def forward(self):
            self.passes += 1
            return self.values * (1 if self.passes % 2 else -1)

    turning, still = Turning(start()), Points(start())
    options = {"steps": 4, "refresh": 2, "optimiser": "sgd", "lr": 0.1}
    sdi = SDI(denoiser=lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2))  # odd in x: both views pull alike
    list(distill(turning, sdi, **options, accumulate=2))
    list(distill(still, sdi, **options))
    assert_close(turning.values, still.values)


class Constant:
    """A gradient of ones: steps of SGD along it are the learning rates."""

    def __call__(self, x, *, progress, rng):
        return Estimate(torch.ones_like(x), x - 1, {"calls": 0.0})


def rates(points, **options):
    xs = [step.x for step in distill(points, Constant(), optimiser="sgd", **options)] + [points().detach()]
    return [float((first - second).mean()) for first, second in itertools.pairwise(xs)]


def test_cosine_schedule_falls_to_nothing():
    found = rates(Points(start()), steps=8, lr=0.2, schedule="cosine")
    assert found == pytest.approx([0.1 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


def test_warmup_rises_to_the_schedule_and_resumes(tmp_path):
    options = {"steps": 8, "lr": 0.2, "schedule": "cosine", "warmup": 0.5}
    expected = [0.1 * (1 + math.cos(math.pi * i / 8)) * min(1, (i + 1) / 4) for i in range(8)]
    assert rates(Points(start()), **options) == pytest.approx(expected)
    assert rates(Points(start()), steps=3, lr=0.2, warmup=0.0) == pytest.approx([0.2] * 3)
    whole, stopped = Points(start()), Points(start())
    list(distill(whole, Constant(), **options))
    for step in distill(stopped, Constant(), checkpoint=tmp_path / "c", every=1, **options):
        if step.index == 2:
            break
    list(distill(stopped, Constant(), checkpoint=tmp_path / "c", every=1, **options))
    assert_close(stopped.values, whole.values)
    with pytest.raises(InvalidInput, match="warmup must be a number from 0 to 1, got 20"):
        list(distill(whole, Constant(), steps=3, warmup=20))


def test_vsd_learns_from_the_moved_renders_where_the_network_was_evaluated(mixture):
    """After each estimate with what is rendered then: within a step the same x, after its last pass the updated one."""
    learned = []

    class Watched(VSD):
        def adapt(self, x, rng):
            learned.append(x.clone())
            return super().adapt(x, rng)

    watched = Watched(denoiser=mixture, auxiliary=EnergyNet(8).double())
    steps = list(distill(Points(start()), watched, steps=6, refresh=2, encode=to_latent))
    assert_close(torch.stack(learned), torch.stack([steps[i].x for i in (1, 3, 5)]))
    learned.clear()
    steps = list(distill(Points(start()), watched, steps=2, accumulate=2, encode=to_latent))
    assert_close(torch.stack(learned[:3]), torch.stack([steps[0].x, steps[1].x, steps[1].x]))


def test_a_chain_is_not_rendered_for(mixture):
    class Watched(Points):
        rendered = 0

        def forward(self):
            self.rendered += 1
            return self.values

    points = Watched(start())
    list(distill(points, gradients(mixture)["PersistentMSD"](), steps=5, accumulate=2))
    assert points.rendered == 10


def test_mean_shift_iteration_reaches_the_modes(mixture):
    """MSD with exact draws and rate 1 at a constant bandwidth ends near modes of the smoothed density."""
    bandwidth = ExponentialBandwidth(start=0.25, end=0.25)
    points = Points(start())
    msd = MSD(denoiser=mixture, bandwidth=bandwidth, sampler=ExactSampler(), samples=500)
    for _ in distill(points, msd, steps=60, optimiser="sgd", lr=1.0):
        pass
    modes = mixture.modes(0.25)
    assert float(torch.cdist(points().detach(), modes).min(1).values.max()) < 0.06


def test_stops_once_all_have_converged(mixture):
    points = Points(start())
    msd = MSD(denoiser=mixture, bandwidth=ExponentialBandwidth(start=0.3, end=0.003), sampler=ExactSampler(steps=4))
    steps = list(distill(points, msd, steps=100, stop=Stop(bandwidth=0.05)))
    assert len(steps) < 100
    assert bool(steps[-1].converged.all())
    assert float(steps[-1].estimate.info["bandwidth"].max()) <= 0.05
    assert not bool(steps[-2].converged.any())


def test_residual_stop_is_per_object(gaussian):
    """The object that starts on the mode has converged at once, the other has not."""
    points = Points(torch.stack([gaussian.means[0], gaussian.means[0] + 1]))
    step = next(iter(distill(points, SDI(denoiser=gaussian), steps=5, stop=Stop(residual=1e-6))))
    assert step.converged.tolist() == [True, False]


class Broken:
    """A gradient that fails at its third step."""

    calls = 0

    def __call__(self, x, *, progress, rng):
        self.calls += 1
        gradient = torch.full_like(x, float("nan")) if self.calls == 3 else 0.1 * torch.ones_like(x)
        return Estimate(gradient, x - gradient, {"calls": 1.0})


def test_non_finite_gradients_stop_the_run_with_its_state_saved(tmp_path):
    path = tmp_path / "run.safetensors"
    points = Points(start())
    with pytest.raises(NonFiniteError, match=r"step 2: the gradient of 3 of 3 objects .* is in"):
        list(distill(points, Broken(), steps=5, optimiser="sgd", lr=1.0, checkpoint=path))
    resumed = Points(torch.zeros(3, 2, dtype=torch.float64))
    working = Broken()
    working.calls = 10
    steps = list(distill(resumed, working, steps=5, optimiser="sgd", lr=1.0, checkpoint=path))
    assert [step.index for step in steps] == [2, 3, 4]
    assert_close(resumed(), start() - 0.5)


def test_a_failing_step_takes_back_what_its_render_counted(tmp_path):
    """A representation that draws its cameras by the number of its renders resumes with those of the failed step."""

    class Counting(Points):
        renders = 0

        def __init__(self, x):
            super().__init__(x)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self):
            self.renders += 1
            self.seen += 1
            return super().forward()

        def get_extra_state(self):
            return {"renders": self.renders}

        def set_extra_state(self, state):
            self.renders = state["renders"]

    path = tmp_path / "run.safetensors"
    with pytest.raises(NonFiniteError):
        list(distill(Counting(start()), Broken(), steps=5, checkpoint=path))
    resumed, working = Counting(start()), Broken()
    working.calls = 10
    next(distill(resumed, working, steps=5, checkpoint=path))
    assert (resumed.renders, float(resumed.seen)) == (3, 3.0)  # two before, and this one


def test_a_failing_pass_takes_back_the_earlier_ones(mixture, tmp_path):
    """The second pass of step 1 fails: held targets, calls, rng and what VSD learned in its first pass are those of before the step."""

    class Failing(VSD):
        queried = 0

        def __call__(self, x, *, progress, rng):
            estimate = super().__call__(x, progress=progress, rng=rng)
            type(self).queried += 1
            if type(self).queried == 4:
                return Estimate(estimate.gradient * float("nan"), estimate.target, estimate.info)
            return estimate

    def made():
        return Failing(denoiser=mixture, auxiliary=EnergyNet(8).double())

    options = {"steps": 4, "accumulate": 2, "seed": 1}
    path = tmp_path / "run.safetensors"
    with pytest.raises(NonFiniteError, match="step 1: the gradient of 3 of 3"):
        list(distill(Points(start()), made(), **options, checkpoint=path))
    whole, resumed = Points(start()), Points(start())
    list(distill(whole, made(), **options))
    steps = list(distill(resumed, made(), **options, checkpoint=path))
    assert [step.index for step in steps] == [1, 2, 3]
    assert_close(resumed(), whole(), rtol=0, atol=0)


@pytest.mark.parametrize("refresh", [1, 10])
def test_lost_parameters_do_not_reach_the_checkpoint(gaussian, tmp_path, refresh):
    path = tmp_path / "run.safetensors"
    points = Points(start())
    run = distill(points, SDI(denoiser=gaussian), steps=9, refresh=refresh, checkpoint=path, every=2)
    for _ in range(3):
        next(run)
    with torch.no_grad():
        points.values[1, 0] = math.nan
    with pytest.raises(NonFiniteError, match="step 3: 1 of 3 objects have NaN"):
        next(run)
    resumed = Points(start())
    steps = list(distill(resumed, SDI(denoiser=gaussian), steps=9, refresh=refresh, checkpoint=path))
    assert steps[0].index == 2
    assert bool(resumed().isfinite().all())


def test_gradient_flows_through_an_encoder(gaussian):
    """x = encode(image): the vector-Jacobian product reaches the parameters."""
    turn = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    points = Points(start())
    before = points().detach().clone()
    step = next(iter(distill(points, SDI(denoiser=gaussian), steps=2, optimiser="sgd", lr=1.0, encode=lambda image: image @ turn)))
    assert_close(step.x, before @ turn)
    assert_close(points().detach(), before - step.estimate.gradient @ turn.T)


def test_bad_input_is_named(gaussian, tmp_path):
    sdi = SDI(denoiser=gaussian)
    with pytest.raises(InvalidInput, match="'adamax' is unknown: choose adam, adamw, sgd"):
        next(iter(distill(Points(start()), sdi, steps=3, optimiser="adamax")))
    with pytest.raises(InvalidInput, match="at least 1 step"):
        next(iter(distill(Points(start()), sdi, steps=0)))
    with pytest.raises(InvalidInput, match="no parameters"):
        next(iter(distill(torch.nn.Identity(), sdi, steps=3)))
    with pytest.raises(InvalidInput, match="at least 1 step and 1 pass"):
        next(iter(distill(Points(start()), sdi, steps=3, accumulate=0)))
    with pytest.raises(InvalidInput, match="'linear' is unknown: choose constant or cosine"):
        next(iter(distill(Points(start()), sdi, steps=3, schedule="linear")))
    with pytest.raises(InvalidInput, match="'pixel' is unknown: choose latent, image or difference"):
        next(iter(distill(Points(start()), sdi, steps=3, space="pixel")))
    with pytest.raises(InvalidInput, match="give decode"):
        next(iter(distill(Points(start()), sdi, steps=3, space="image")))
    with pytest.raises(InvalidInput, match="at least 1 step, got refresh=0"):
        next(iter(distill(Points(start()), sdi, steps=3, refresh=0)))
    with pytest.raises(InvalidInput, match=r"decode gives \(1, 2\), the representation \(3, 2\)"):
        next(iter(distill(Points(start()), sdi, steps=3, space="image", decode=lambda x: x[:1])))
    path = tmp_path / "run.safetensors"
    list(distill(Points(start()), sdi, steps=2, checkpoint=path))
    others = [{"refresh": 2}, {"accumulate": 2}, {"schedule": "cosine"}, {"space": "image", "decode": to_image}, {"steps": 3}]
    for other in others:
        with pytest.raises(OutputError, match="belongs to another run"):
            list(distill(Points(start()), sdi, **({"steps": 2} | other), checkpoint=path))


def test_optimiser_factory(gaussian):
    points = Points(start())
    step = next(iter(distill(points, SDI(denoiser=gaussian), steps=2, optimiser=torch.optim.Adamax, lr=0.1)))
    assert_close((points().detach() - step.x).abs(), torch.full((3, 2), 0.1, dtype=torch.float64))
