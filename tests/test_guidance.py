"""Truth 7: guidance at scale 1, autoguidance by oneself and the full interval are identities; the convention is s, not s + 1."""

import math

import pytest
import torch
from torch.testing import assert_close

from modeseek import Counted, Guided, GuidedPair, InvalidInput
from modeseek.core.guidance import PerpNeg, perpendicular


def test_scale_one_is_no_guidance(mixture, gaussian, x, sigma):
    assert_close(Guided(denoiser=mixture, weaker=gaussian, scale=1.0)(x, sigma), mixture(x, sigma))


def test_autoguidance_by_oneself_is_an_identity(mixture, x, sigma):
    assert_close(Guided(denoiser=mixture, weaker=mixture, scale=3.0)(x, sigma), mixture(x, sigma))


def test_full_interval_is_no_interval(mixture, gaussian, x, sigma):
    full = Guided(denoiser=mixture, weaker=gaussian, scale=4.0, interval=(0.0, math.inf))
    assert_close(full(x, sigma), gaussian(x, sigma) + 4 * (mixture(x, sigma) - gaussian(x, sigma)))


def test_interval_acts_on_each_item(mixture, gaussian, x):
    sigma = torch.tensor([0.1, 0.5, 2.0, 0.1, 0.5, 2.0, 0.5], dtype=torch.float64)
    limited = Guided(denoiser=mixture, weaker=gaussian, scale=4.0, interval=(0.3, 1.0))(x, sigma)
    everywhere = Guided(denoiser=mixture, weaker=gaussian, scale=4.0)(x, sigma)
    inside = sigma == 0.5
    assert_close(limited[inside], everywhere[inside])
    assert_close(limited[~inside], mixture(x, sigma)[~inside])


def test_outside_the_interval_the_weaker_denoiser_is_not_called(mixture, gaussian, x):
    weaker = Counted(gaussian)
    Guided(denoiser=mixture, weaker=weaker, scale=4.0, interval=(0.3, 1.0))(x, torch.tensor(2.0, dtype=torch.float64))
    assert weaker.calls == 0


def test_bad_interval():
    with pytest.raises(InvalidInput, match="lo < hi"):
        Guided(denoiser=lambda x, s: x, weaker=lambda x, s: x, scale=2.0, interval=(1.0, 0.5))


def test_a_pair_evaluated_at_once_is_two_denoisers(mixture, gaussian, x):
    sigma = torch.tensor([0.1, 0.5, 2.0, 0.1, 0.5, 2.0, 0.5], dtype=torch.float64)
    queried = []

    def both(x, sigma):
        queried.append(len(x))
        return mixture(x, sigma), gaussian(x, sigma)

    pair = GuidedPair(denoiser=mixture, pair=both, scale=4.0, interval=(0.3, 1.0))
    two = Guided(denoiser=mixture, weaker=gaussian, scale=4.0, interval=(0.3, 1.0))
    assert_close(pair(x, sigma), two(x, sigma), rtol=0, atol=0)
    assert_close(pair(x, torch.tensor(2.0)), mixture(x, torch.tensor(2.0)), rtol=0, atol=0)
    assert queried == [7]


def test_perp_neg_without_weights_is_guidance(mixture, gaussian, x, sigma):
    off = PerpNeg(denoiser=mixture, weaker=gaussian, others=[lambda x, s: 2 * x], weights=torch.zeros(len(x), 1).double(), scale=3.0)
    assert_close(off(x, sigma), Guided(denoiser=mixture, weaker=gaussian, scale=3.0)(x, sigma))


def test_perp_neg_leaves_the_followed_direction_alone(mixture, gaussian, x, sigma):
    """What is pushed off is perpendicular to D_c - D_u, and half of the other's perpendicular part at weight -0.5."""
    other = lambda x, s: x + torch.tensor([1.0, -2.0]).to(x)  # noqa: E731
    pushed = PerpNeg(denoiser=mixture, weaker=gaussian, others=[other], weights=torch.full((len(x), 1), -0.5).double(), scale=3.0)
    moved = pushed(x, sigma) - Guided(denoiser=mixture, weaker=gaussian, scale=3.0)(x, sigma)
    towards, away = mixture(x, sigma) - gaussian(x, sigma), other(x, sigma) - gaussian(x, sigma)
    assert_close((moved * towards).sum(1), torch.zeros(len(x)).to(x), atol=1e-9, rtol=0)
    assert_close(moved, 3.0 * -0.5 * perpendicular(away, towards))


def test_perp_neg_acts_in_its_interval_and_on_copies_of_the_batch(mixture, gaussian, x, sigma):
    weights = -torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0)).double()
    made = PerpNeg(denoiser=mixture, weaker=gaussian, others=[lambda x, s: -x], weights=weights, scale=3.0, interval=(1e-9, 1e3))
    twice = made(torch.cat([x, x]), torch.cat([sigma, sigma]) if sigma.ndim else sigma)
    assert_close(twice, torch.cat([made(x, sigma)] * 2))
    outside = PerpNeg(denoiser=mixture, weaker=gaussian, others=[lambda x, s: -x], weights=weights, scale=3.0, interval=(1e6, 1e7))
    assert_close(outside(x, sigma), mixture(x, sigma))
    with pytest.raises(InvalidInput, match="of 0 or below"):
        PerpNeg(denoiser=mixture, weaker=gaussian, others=[gaussian], weights=torch.ones(1, 1), scale=3.0)
