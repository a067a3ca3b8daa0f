"""Consistent encoding against a linear codec with a known inverse, and against drift on the embedded prior's codec."""

import pytest
import torch

from modeseek.core.errors import InvalidInput
from modeseek.metrics.shapes import psnr
from modeseek.priors.consistent import consistent_encode
from modeseek.priors.solids import solids_prior
from modeseek.reproduction.training.quality import prompts, true_images


def test_fixed_point_has_the_latent_of_the_image():
    torch.manual_seed(0)
    decoder = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64))[0]
    mixing = torch.eye(5, dtype=torch.float64) + 0.2 * torch.randn(5, 5, dtype=torch.float64) / 5**0.5
    encode, decode = lambda i: i @ decoder @ mixing, lambda x: x @ decoder.T  # E(D(x)) = x mixing, not the identity
    truth = torch.randn(3, 5, dtype=torch.float64)
    image = decode(truth)  # an image in the decoder's range: its consistent latent is `truth`
    errors = [float((consistent_encode(image, encode, decode, corrections=k) - truth).abs().max()) for k in (0, 2, 40)]
    assert errors[0] > 0.05
    assert errors[1] < errors[0] / 3
    assert errors[2] < 1e-12


def test_gradient_is_the_encoders():
    image = torch.ones(1, 2, requires_grad=True)
    x = consistent_encode(image, lambda i: 0.7 * i, lambda x: x, corrections=3)
    x.sum().backward()
    assert torch.allclose(image.grad, torch.full_like(image, 0.7))


def test_negative_corrections_are_refused():
    with pytest.raises(InvalidInput, match="negative"):
        consistent_encode(torch.ones(1, 2), lambda i: i, lambda x: x, corrections=-1)


@pytest.mark.parametrize(("corrections", "trips", "most"), [(0, 8, None), (2, 8, 1.0), (3, 16, 1.0)])
def test_round_trips_do_not_drift(corrections, trips, most):
    """Encode-decode round trips: uncorrected they lose more than 2 dB against the first one, corrected less than one."""
    prior = solids_prior()
    image = true_images(prompts(2, seed=3))
    with torch.no_grad():
        first = prior.decode(prior.encode(image)).clamp(0, 1)  # an image in the decoder's range
        now = first
        for _ in range(trips):
            now = prior.decode(consistent_encode(now, prior.encode, prior.decode, corrections=corrections)).clamp(0, 1)
    lost = float((psnr(first, image) - psnr(now, image)).mean())
    if most is None:
        assert lost > 2.0
    else:
        assert lost < most
