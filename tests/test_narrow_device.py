"""Nothing that runs on the device of x needs float64 there: adapters, gradients, samplers and bandwidths on a device without it."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from narrow_device import DEVICE, Narrow, NarrowDevice
from torch.testing import assert_close

from modeseek.core import denoiser as denoiser_module
from modeseek.core.denoiser import EDM, DiscreteLevels, Flow, VariancePreserving
from modeseek.core.guidance import Guided
from modeseek.core.sampling import ddim
from modeseek.core.schedules import sampling_levels, stable_diffusion_levels
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.codecs import PixelCodec
from modeseek.priors.pipelines.levels import SchedulerLevels

EVENT = (3, 4, 4)


@pytest.fixture(autouse=True)
def without_float64(monkeypatch):
    monkeypatch.setattr(denoiser_module, "WITHOUT_FLOAT64", ("mps", DEVICE))


def x_of(seed=0):
    return torch.randn(2, *EVENT, generator=torch.Generator().manual_seed(seed))


class Toy:
    """A family whose network is 0.3 tanh(z) + 0.1 of the condition."""

    guidance, kinds, encoders, distillation, default_guidance, lora_targets = (
        "classifier-free",
        ("discrete", "flow", "edm"),
        (),
        None,
        3.0,
        (),
    )
    network = torch.nn.Identity().eval()

    def __init__(self, device):
        self.device = device

    def conditions(self, prompts, **settings):
        return {"c": torch.ones(len(prompts), device=self.device)}

    def opposite(self, negatives, **settings):
        return {"c": torch.zeros(len(negatives), device=self.device)}

    def predict(self, z, t, conditions):
        return 0.3 * torch.tanh(z) + 0.1 * conditions["c"].reshape(-1, 1, 1, 1) + 1e-4 * t.reshape(-1, 1, 1, 1)


def prior_on(device, scheduler):
    pipeline = SimpleNamespace(scheduler=scheduler)
    return PipelinePrior(
        pipeline=pipeline,
        family=Toy(device),
        levels=SchedulerLevels(pipeline),
        codec=PixelCodec(3),
        event=EVENT,
        image_size=EVENT[1:],
        data_std=0.5,
        device=torch.device(device),
    )


SCHEDULERS = {
    "discrete": lambda: diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler,
    "edm": diffusers.EDMEulerScheduler,
}


def test_the_stand_in_refuses_float64():
    with NarrowDevice():
        x = torch.ones(3).to(DEVICE)
        assert isinstance(x, Narrow)
        assert x.device.type == DEVICE
        assert float((x + 1).sum()) == 6
        for wrong in (
            lambda: x.double(),
            lambda: torch.ones(3, dtype=torch.float64).to(DEVICE),
            lambda: x * torch.ones(3, dtype=torch.float64),
        ):
            with pytest.raises((TypeError, RuntimeError)):
                wrong()


@pytest.mark.parametrize("adapter", ["eps", "v", "flow", "edm", "guided"])
def test_adapters(adapter):
    def network(z, t):
        return 0.3 * z + t.reshape(-1, 1, 1, 1) * 1e-3

    made = {
        "eps": lambda: VariancePreserving(network=network, levels=stable_diffusion_levels(), prediction="eps"),
        "v": lambda: VariancePreserving(
            network=network, levels=DiscreteLevels(alphas_cumprod=torch.tensor([0.9, 0.5, 0.1])), prediction="v"
        ),
        "flow": lambda: Flow(network),
        "edm": lambda: EDM(network=network),
        "guided": lambda: Guided(denoiser=EDM(network=network), weaker=Flow(network), scale=3.0, interval=(0.1, 5.0)),
    }[adapter]()
    sigma = torch.tensor([0.5, 2.0])
    expected = made(x_of(), sigma)
    with NarrowDevice():
        found = made(x_of().to(DEVICE), sigma.to(DEVICE))
        assert isinstance(found, Narrow)
        found = found.cpu()
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(SCHEDULERS))
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_gradients_on_priors(kind, recipe):
    if recipe == "vsd":
        pytest.skip("the toy has no layers for a LoRA")
    settings = {"progress": 0.4}
    expected = build_gradient(RECIPES[recipe], prior_on("cpu", SCHEDULERS[kind]()), ["a", "b"])(
        x_of(), rng=torch.Generator().manual_seed(0), **settings
    )
    with NarrowDevice():
        gradient = build_gradient(RECIPES[recipe], prior_on(DEVICE, SCHEDULERS[kind]()), ["a", "b"])
        found = gradient(x_of().to(DEVICE), rng=torch.Generator().manual_seed(0), **settings)
        assert isinstance(found.gradient, Narrow)
        gradient = found.gradient.cpu()
    assert_close(gradient, expected.gradient, rtol=1e-3, atol=1e-3 * float(expected.gradient.abs().max()))


def test_sampling():
    prior = prior_on("cpu", SCHEDULERS["discrete"]())
    levels = sampling_levels(6, prior.sigmas)
    expected = ddim(prior.denoiser(["a", "b"]), levels[0] * x_of(), levels)
    with NarrowDevice():
        narrow = prior_on(DEVICE, SCHEDULERS["discrete"]())
        found = ddim(narrow.denoiser(["a", "b"]), levels[0] * x_of().to(DEVICE), levels).cpu()
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
