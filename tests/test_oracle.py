"""The benchmark of gradient estimators: estimators whose quality is known are scored as such."""

import math

import pytest

from modeseek.reproduction.studies.oracle import OracleCell, estimators


def scored(method, settings="", **changes):
    return OracleCell(density="mixture, 16 d", method=method, settings=settings, width=0.2, points=8, estimates=64, **changes).run().row


def test_one_call_mean_shift_is_the_oracle():
    row = scored("mean shift", "one call")
    assert row["calls"] == 1
    assert row["metrics"]["slope"] == pytest.approx(1, abs=1e-5)
    assert row["metrics"]["bias"] < 1e-5
    assert math.isinf(row["metrics"]["efficiency"])


def test_the_high_density_ode_has_the_direction_alone():
    """x - x' is a fraction of the mean shift: the cosine is 1 and the slope small; the best scaling makes it nearly as efficient."""
    found = scored("HD-ODE")["metrics"]
    assert found["cosine"] > 0.999
    assert 0 < found["slope"] < 0.1
    assert found["efficiency"] > 10


def test_exact_draws_are_unbiased_and_the_published_ones_are_not():
    exact, split = scored("MSD", "exact"), scored("MSD", "split")
    assert abs(exact["metrics"]["slope z"]) < 4
    assert exact["metrics"]["deviation"] > 1
    assert split["metrics"]["slope"] < 0.2
    assert split["metrics"]["deviation"] < 1e-3
    assert exact["calls"] == split["calls"] == 32


def test_an_estimator_that_diverges_has_no_metrics():
    assert scored("MSD", "euler")["metrics"] is None


@pytest.mark.parametrize("name", [key for key in estimators(1.0, 1.0) if key[0] not in ("MSD", "VSD")])
def test_every_estimator_runs_in_the_plane(name):
    row = OracleCell(density="mixture, 2 d", method=name[0], settings=name[1], width=1.0, points=4, estimates=8).run().row
    assert row["metrics"] is not None
    assert row["calls"] >= 1
