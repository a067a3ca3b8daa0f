"""The space "difference": the image moves by what the gradient changes, and a gradient of zero moves nothing."""

import pytest
import torch
from torch import nn

from modeseek.core.errors import InvalidInput
from modeseek.distillation.loop import optimise
from modeseek.gradients import MeanShift
from modeseek.gradients.base import Estimate
from modeseek.gradients.cached import CachedTarget
from modeseek.priors.consistent import consistent_encode
from modeseek.representations import Points
from modeseek.solids.captions import parse
from modeseek.solids.renders import true_renders


def encode(image):
    return 0.5 * image + 0.1


def decode(x):
    return 1.9 * x  # no inverse of `encode`


def shifted(by):
    def gradient(x, *, progress, rng):
        return Estimate(torch.full_like(x, -by), x + by, {"calls": 1.0})

    return gradient


@pytest.mark.parametrize("by", [0.0, 0.25])
def test_the_target_is_the_image_plus_the_decoded_change(by):
    image = torch.rand(2, 3)
    cached = CachedTarget(shifted(by), space="difference", refresh=1, encode=encode, decode=decode)
    found = cached(image, slot=0, progress=0.0, rng=torch.Generator())
    assert torch.allclose(found.estimate.target, image + 1.9 * by)
    assert torch.allclose(found.estimate.gradient, torch.full_like(image, -1.9 * by), atol=1e-6)
    whole = CachedTarget(shifted(by), space="image", refresh=1, encode=encode, decode=decode)
    target = whole(image, slot=0, progress=0.0, rng=torch.Generator()).estimate.target
    assert torch.allclose(target, decode(encode(image) + by))  # "image" replaces the image by a reconstruction


def test_the_target_stays_for_as_many_steps():
    cached = CachedTarget(shifted(0.1), space="difference", refresh=2, encode=encode, decode=decode)
    first = cached(torch.zeros(1, 3), slot=0, progress=0.0, rng=torch.Generator()).estimate.target
    second = cached(torch.ones(1, 3), slot=0, progress=0.1, rng=torch.Generator()).estimate
    assert torch.equal(second.target, first)
    assert second.info["calls"] == 0


def test_it_needs_a_decoder():
    with pytest.raises(InvalidInput, match="give decode"):
        CachedTarget(shifted(0.1), space="difference", refresh=1, encode=encode, decode=None)


def test_a_gradient_of_zero_leaves_a_parameter_where_it_is():
    made = Points(torch.rand(2, 3))
    before = made().detach().clone()
    for _ in optimise(made, shifted(0.0), steps=5, optimiser="sgd", lr=1.0, space="difference", encode=encode, decode=decode):
        pass
    assert torch.equal(made(), before)


@pytest.mark.slow
def test_local_steps_on_the_embedded_prior_stay_with_the_image(tmp_path, monkeypatch):
    """Twelve steps of local mean shift (l 0.3 to 0.1 in latents) from a true render: corrected and by differences, the image stays
    nearer to it than without either."""
    from modeseek.core.schedules import ExponentialBandwidth
    from modeseek.metrics.shapes import psnr
    from modeseek.priors.solids import solids_prior

    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path))
    prior, caption = solids_prior(), "a red house, grey background, front view"
    truth = true_renders(*parse(caption), 2)

    def after(space, corrections):
        made: nn.Module = Points(truth)
        gradient = MeanShift(denoiser=prior.denoiser([caption] * 2), bandwidth=ExponentialBandwidth(start=0.3, end=0.1))

        def consistent(image):
            return consistent_encode(image, prior.encode, prior.decode, corrections=corrections)

        options = {"optimiser": "sgd", "lr": 1.0, "space": space, "encode": consistent, "decode": prior.decode}
        for _ in optimise(made, gradient, steps=12, **options):
            pass
        return float(psnr(made().detach().clamp(0, 1), truth).mean())

    careful, plain = after("difference", 2), after("image", 0)
    assert careful > plain + 3
