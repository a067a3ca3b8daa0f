"""Representations: a batch equals its objects apart, networks fit smooth images and start with the statistics of their papers."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import InvalidInput, Points, distill
from modeseek.gradients import Estimate
from modeseek.representations import CoordinateMLP, Latents, Pixels

ENCODINGS = ["fourier", "siren"]


def small(seeds, encoding="fourier", **options):
    return CoordinateMLP(seeds, size=(12, 9), encoding=encoding, **({"hidden": 16, "layers": 2, "frequencies": 8} | options)).double()


def ticks(height, width):
    rows, columns = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in (height, width))
    return torch.meshgrid(rows, columns, indexing="ij")


def smooth_image(height, width):
    """Unlike in every channel and direction."""
    y, x = ticks(height, width)
    blob = 0.1 + 0.8 * (-8 * ((x - 0.5) ** 2 + (y - 0.4) ** 2)).exp()
    return torch.stack([0.5 + 0.4 * (6 * x + 2 * y).sin(), 0.5 + 0.3 * (5 * x * y + 1).cos(), blob])


def psnr(found, truth):
    return -10 * math.log10(float(((found - truth) ** 2).mean()))


# ---------------------------------------------------------------- the coordinate network
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_batch_is_its_networks_apart(encoding):
    """Same images and gradients: seed k of a batch is a batch of that seed alone."""
    seeds = [5, 0, 17]
    together = small(seeds, encoding)
    apart = [small([seed], encoding) for seed in seeds]
    pull = torch.randn(3, 3, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together().backward(pull)
    for index, network in enumerate(apart):
        assert_close(network()[0], together()[index], rtol=1e-12, atol=1e-12)
        network().backward(pull[index : index + 1])
        for own, shared in zip(network.parameters(), together.parameters(), strict=True):
            assert_close(own, shared[index : index + 1], rtol=0, atol=0)
            assert_close(own.grad, shared.grad[index : index + 1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_training_a_batch_is_training_apart(optimiser):
    class ToImage:
        def __call__(self, x, *, progress, rng):
            target = smooth_image(12, 9).expand_as(x)
            return Estimate(x - target, target, {"calls": 0.0})

    together, alone = small([3, 4]), small([4])
    for network in (together, alone):
        list(distill(network, ToImage(), steps=20, optimiser=optimiser, lr=1e-2))
    assert_close(together()[1:], alone(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equals_a_network_written_pixel_by_pixel(encoding):
    """f(p) at one pixel, with loops and no batch, and the image's orientation: rows from the top, y first."""
    network = small([2], encoding)
    row, column = 3, 7
    p = torch.tensor([(row + 0.5) / 12, (column + 0.5) / 9], dtype=torch.float64)
    angle = 2 * math.pi * p @ network.frequencies
    h = torch.cat([angle.sin(), angle.cos()]) if encoding == "fourier" else 2 * p - 1
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        h = h @ weight[0] + bias[0, 0]
        if index < 2:
            h = h * h.sigmoid() if encoding == "fourier" else (30 * h).sin()
    assert_close(network()[0, :, row, column], h.sigmoid())


@pytest.mark.parametrize(("encoding", "lr"), [("fourier", 1e-2), ("siren", 3e-3)])
def test_fits_a_smooth_image_quickly_and_between_its_pixels(encoding, lr):
    """100 Adam steps; rendered finer than it was fitted, it still shows the image: the function is fitted, not the grid."""
    network = CoordinateMLP([0], size=(32, 32), encoding=encoding, hidden=48, layers=2)
    target = smooth_image(32, 32).float()
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(100):
        optimiser.zero_grad()
        ((network() - target) ** 2).sum().backward()
        optimiser.step()
    assert psnr(network().detach(), target) > 37
    assert psnr(network((64, 96)).detach(), smooth_image(64, 96).float()) > 33


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_sizes_sample_one_function(encoding):
    """An odd refinement keeps the old pixel centres, which keep their values."""
    network = small([0, 1], encoding)
    assert_close(network((36, 27))[:, :, 1::3, 1::3], network((12, 9)), rtol=1e-9, atol=1e-9)


def test_siren_starts_with_the_statistics_of_its_paper():
    """Sitzmann et al.: uniform phases first (activations of variance 1/2), then pre-activations of N(0, v) with v = 1 in the first
    hidden layer. sin of N(0, v) has variance (1 - exp(-2v))/2, so v <- 1 - exp(-2v) from layer to layer, towards 0.80."""
    network = CoordinateMLP([0, 1], size=(96, 96), encoding="siren", hidden=256, layers=4)
    h = network.features((96, 96)).expand(2, -1, -1)
    variance = 1.0
    for index, (weight, bias) in enumerate(zip(network.weights[:-1], network.biases[:-1], strict=True)):
        pre = 30 * torch.baddbmm(bias.detach(), h, weight.detach())
        h = pre.sin()
        if index == 0:
            assert float(h.var()) == pytest.approx(0.5, abs=0.01)
            continue
        assert float(pre.var()) == pytest.approx(variance, rel=0.03)
        assert float((pre**4).mean() / pre.var() ** 2) == pytest.approx(3.0, abs=0.2)
        variance = 1 - math.exp(-2 * variance)


def test_fourier_starts_with_variance_kept():
    """Weights N(0, 2/fan_in): features of mean square 1/2 give unit pre-activations, and frequencies have the stated spread."""
    network = CoordinateMLP([0, 1, 2], size=(48, 48), hidden=256, layers=2, frequencies=512, scale=3.0)
    pre = torch.matmul(network.features((48, 48)), network.weights[0].detach())
    assert float(pre.std()) == pytest.approx(1.0, abs=0.05)
    assert float(network.frequencies.std()) == pytest.approx(3.0, rel=0.05)


def test_rendering_without_gradients_first_does_no_harm():
    """Features kept from an evaluation under inference mode serve training."""
    network = small([0])
    with torch.inference_mode():
        network()
    network().sum().backward()
    assert float(network.weights[0].grad.abs().max()) > 0


def test_weights_travel_through_a_state_dict():
    other = small([7, 8], scale=2.0)
    network = small([0, 1])
    network.load_state_dict(other.state_dict())
    assert_close(network(), other(), rtol=0, atol=0)


# ---------------------------------------------------------------- free images and latents
def test_pixels_start_as_stated():
    images = Pixels([0, 1], size=(64, 48), grey=0.3, noise=0.2)
    assert images().shape == (2, 3, 64, 48)
    theta = images().detach().logit()
    assert float(theta.mean()) == pytest.approx(math.log(0.3 / 0.7), abs=0.01)
    assert float(theta.std()) == pytest.approx(0.2, rel=0.02)
    assert_close(Pixels([0], size=(4, 4), grey=0.3, noise=0.0)(), torch.full((1, 3, 4, 4), 0.3))
    assert_close(Pixels([9, 1], size=(64, 48), grey=0.3, noise=0.2)()[1], images()[1], rtol=0, atol=0)


def test_pixels_stay_inside_and_reach_their_target():
    target = smooth_image(8, 8).float()
    images = Pixels([0], size=(8, 8))
    optimiser = torch.optim.Adam(images.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        (0.5 * (images() - target) ** 2).sum().backward()
        optimiser.step()
    assert psnr(images().detach(), target) > 50
    with torch.no_grad():
        images.theta.mul_(1e3)
    assert bool(((images() >= 0) & (images() <= 1)).all())


def test_latents_are_x_itself():
    latents = Latents([4, 5], event=(4, 16, 16), std=1.7)
    assert latents() is latents.values
    assert float(latents().detach().std()) == pytest.approx(1.7, rel=0.05)
    assert_close(Latents([5], event=(4, 16, 16), std=1.7)()[0], latents()[1], rtol=0, atol=0)
    assert Latents([0], event=[3])().shape == Points(torch.zeros(1, 3))().shape


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (-0.42, 2.82)])
def test_channels_and_value_ranges(channels, value_range):
    """Any number of channels; the image of another range is the image of [0, 1] mapped linearly, and its limits are reached."""
    low, high = value_range
    for make in (lambda **more: small([3, 4], **more), lambda **more: Pixels([3, 4], size=(12, 9), noise=2.0, **more)):
        unit, images = make(channels=channels)(), make(channels=channels, value_range=value_range)()
        assert images.shape == (2, channels, 12, 9)
        assert_close(images, low + (high - low) * unit)
    pixels = Pixels([0], size=(2, 2), channels=channels, value_range=value_range)
    with torch.no_grad():
        pixels.theta.copy_(torch.full_like(pixels.theta, 1e4))
    assert_close(pixels(), torch.full_like(pixels(), high))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CoordinateMLP([0], size=(4, 4), channels=0), "at least 1 channel"),
        (lambda: CoordinateMLP([0], size=(4, 4), value_range=(1.0, 1.0)), "low < high"),
        (lambda: Pixels([0], size=(4, 4), channels=0), "at least 1 channel"),
        (lambda: Pixels([0], size=(4, 4), value_range=(1.0, 0.0)), "low < high"),
        (lambda: CoordinateMLP([], size=(4, 4)), "at least one seed"),
        (lambda: CoordinateMLP([0], size=(4, 4), encoding="hash"), "'hash' is unknown: choose fourier or siren"),
        (lambda: CoordinateMLP([0], size=(4, 0)), "positive size"),
        (lambda: CoordinateMLP([0], size=(4, 4), layers=0), "positive size, hidden, layers"),
        (lambda: CoordinateMLP([0], size=(4, 4), scale=0.0), "scale"),
        (lambda: Pixels([], size=(4, 4)), "at least one seed"),
        (lambda: Pixels([0], size=(4, 4), grey=1.0), "0 < grey < 1"),
        (lambda: Pixels([0], size=(4, 4), noise=-1.0), "noise >= 0"),
        (lambda: Latents([0], event=()), "shape of positive sizes"),
        (lambda: Latents([0], event=(4, 4), std=-1.0), "std >= 0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
