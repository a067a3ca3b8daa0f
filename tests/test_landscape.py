"""The potential of a field: exact for gradients, honest about rotations."""

import pytest
import torch
from torch.testing import assert_close

from modeseek import InvalidInput
from modeseek.metrics.landscape import integrate

TICKS = torch.linspace(-1.5, 1.5, 81, dtype=torch.float64)
X, Y = torch.meshgrid(TICKS, TICKS, indexing="ij")
SPACING = 3.0 / 80


def test_potential_of_a_gradient_field(mixture):
    """The field -grad log p integrates to -log p up to a constant, at second order in the spacing."""
    points = torch.stack([X.flatten(), Y.flatten()], 1)
    field = -mixture.score(points, 0.4).reshape(81, 81, 2)
    landscape = integrate(field, spacing=SPACING)
    truth = -mixture.log_prob(points, 0.4).reshape(81, 81)
    assert_close(landscape.potential, truth - truth.mean(), rtol=0, atol=0.02)
    assert landscape.curl < 1e-4


def test_a_rotation_has_no_potential():
    landscape = integrate(torch.stack([-Y, X], 2), spacing=SPACING)
    assert landscape.curl > 0.5


def test_asymmetric_axes_are_not_swapped():
    landscape = integrate(torch.stack([torch.ones_like(X), torch.zeros_like(X)], 2), spacing=SPACING)
    assert_close(landscape.potential, X, rtol=0, atol=1e-9)


def test_bad_fields_are_named():
    with pytest.raises(InvalidInput, match=r"\(n, n, 2\)"):
        integrate(torch.zeros(3, 4, 2), spacing=1.0)
    with pytest.raises(InvalidInput, match="NaN"):
        integrate(torch.full((3, 3, 2), torch.nan), spacing=1.0)
