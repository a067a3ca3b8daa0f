"""Shared fixtures: float64, asymmetric targets (symmetric ones hide sign errors), seeded generators."""

import signal
from functools import cache
from pathlib import Path

import pytest
import torch

from modeseek import GaussianMixture

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; commands that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup():
    """What a test draws without a generator (initial weights of a network) depends neither on the tests before it nor on the worker."""
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mixture():
    """Three anisotropic, rotated, unequal Gaussians in the plane."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    shapes = [torch.diag(torch.tensor(v, dtype=torch.float64)) for v in ([0.04, 0.3], [0.2, 0.01], [0.1, 0.1])]
    covariances = torch.stack([shapes[0], turn @ shapes[1] @ turn.T, shapes[2]])
    means = torch.tensor([[0.7, -0.2], [-0.9, 0.4], [0.1, 1.3]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, covariances)


@pytest.fixture(scope="session")
def gaussian():
    """One isotropic Gaussian away from the origin, standard deviation 0.5."""
    return GaussianMixture(torch.ones(1), torch.tensor([[0.3, -0.7]]), 0.25 * torch.eye(2)[None])


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """`pipeline_folder("sd1")` is the folder of a tiny random pipeline of that family (see `tiny`), built once a session."""
    import tiny

    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda family: tiny.write(family, root / family))


@pytest.fixture
def tiny_hub(pipeline_folder, monkeypatch):
    """Ids of the hub given to `from_pretrained` of a pipeline class of diffusers stand for the tiny pipeline of that class."""
    import diffusers

    families = {"PixArtSigmaPipeline": "pixart-sigma", "AuraFlowPipeline": "auraflow", "StableDiffusionPipeline": "sd1"}
    real = diffusers.DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls, source, **settings):
        is_id = cls.__name__ in families and not Path(source).exists()
        return real(cls, pipeline_folder(families[cls.__name__]) if is_id else source, **settings)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))


@pytest.fixture
def x(rng):
    return torch.randn(7, 2, dtype=torch.float64, generator=rng)


@pytest.fixture
def sigma(rng):
    """A level for each item of x."""
    return torch.rand(7, dtype=torch.float64, generator=rng) + 0.1
