"""The loop: it follows the gradient, resumes to the same end, and stops with its state saved."""

import pytest
import torch
from torch.testing import assert_close

from modeseek import (
    MSD,
    SDI,
    SDS,
    VSD,
    Estimate,
    ExactDraw,
    ExponentialBandwidth,
    InvalidInput,
    NonFiniteError,
    OutputError,
    Points,
    Stop,
    distill,
)
from modeseek.priors import EnergyNet


def start():
    return torch.tensor([[0.5, 0.5], [-1.0, 0.2], [1.0, -1.0]], dtype=torch.float64)


def gradients(law):
    return {
        "SDS": lambda: SDS(denoiser=law, samples=2),
        "SDI": lambda: SDI(denoiser=law),
        "VSD": lambda: VSD(denoiser=law, auxiliary=EnergyNet(8).double()),
        "MSD": lambda: MSD(denoiser=law, draw=ExactDraw(steps=6)),
    }


@pytest.mark.parametrize("name", ["SDS", "SDI", "VSD", "MSD"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_killed_and_resumed_equals_uninterrupted(mixture, tmp_path, name, optimiser):
    rate = 0.05
    whole = Points(start())
    for _ in distill(whole, gradients(mixture)[name](), steps=9, optimiser=optimiser, rate=rate, seed=3):
        pass
    path = tmp_path / "run.safetensors"
    first = Points(start())
    for step in distill(first, gradients(mixture)[name](), steps=9, optimiser=optimiser, rate=rate, seed=3, checkpoint=path, every=2):
        if step.index == 4:  # a kill between checkpoints: step 4 is lost and done again
            break
    second = Points(torch.zeros(3, 2, dtype=torch.float64))
    rest = list(distill(second, gradients(mixture)[name](), steps=9, optimiser=optimiser, rate=rate, seed=3, checkpoint=path, every=2))
    assert [step.index for step in rest] == [4, 5, 6, 7, 8]
    assert_close(second(), whole(), rtol=0, atol=0)


def test_mean_shift_iteration_reaches_the_modes(mixture):
    """MSD with exact draws and rate 1 at a constant bandwidth ends near modes of the smoothed density."""
    bandwidth = ExponentialBandwidth(start=0.25, end=0.25)
    points = Points(start())
    msd = MSD(denoiser=mixture, bandwidth=bandwidth, draw=ExactDraw(), samples=500)
    for _ in distill(points, msd, steps=60, optimiser="sgd", rate=1.0):
        pass
    modes = mixture.modes(0.25)
    assert float(torch.cdist(points().detach(), modes).min(1).values.max()) < 0.06


def test_stops_once_all_have_converged(mixture):
    points = Points(start())
    msd = MSD(denoiser=mixture, bandwidth=ExponentialBandwidth(start=0.3, end=0.003), draw=ExactDraw(steps=4))
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
        list(distill(points, Broken(), steps=5, optimiser="sgd", rate=1.0, checkpoint=path))
    resumed = Points(torch.zeros(3, 2, dtype=torch.float64))
    working = Broken()
    working.calls = 10
    steps = list(distill(resumed, working, steps=5, optimiser="sgd", rate=1.0, checkpoint=path))
    assert [step.index for step in steps] == [2, 3, 4]
    assert_close(resumed(), start() - 0.5)


def test_gradient_flows_through_an_encoder(gaussian):
    """x = encode(image): the vector-Jacobian product reaches the parameters."""
    turn = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    points = Points(start())
    before = points().detach().clone()
    step = next(iter(distill(points, SDI(denoiser=gaussian), steps=2, optimiser="sgd", rate=1.0, encode=lambda image: image @ turn)))
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
    path = tmp_path / "run.safetensors"
    list(distill(Points(start()), sdi, steps=2, checkpoint=path))
    with pytest.raises(OutputError, match="belongs to another run"):
        list(distill(Points(start()), sdi, steps=3, checkpoint=path))


def test_optimiser_factory(gaussian):
    points = Points(start())
    step = next(iter(distill(points, SDI(denoiser=gaussian), steps=2, optimiser=torch.optim.Adamax, rate=0.1)))
    assert_close((points().detach() - step.x).abs(), torch.full((3, 2), 0.1, dtype=torch.float64))
