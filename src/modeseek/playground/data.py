"""The mixtures and the networks of the playground, as numbers that a script can read."""

from __future__ import annotations

import base64
from typing import Any

import torch

from modeseek.densities import GaussianMixture, fractal, pinwheel, spiral
from modeseek.priors import EnergyNet, embedded

NETWORKS = ("pinwheel", "spiral", "fractal-a", "fractal-ab-weak", "fractal-a-weak")


def page_data() -> dict[str, Any]:
    """All data of the page: `mixtures` by name and `networks` by name.

    A mixture is {"rows": base64 of float64 (K, 7), "highest": largest log p, "first": components of it}; a row holds weight, mean (2), the
    unit axis of the first variance (2), and the two variances. The fractal's rows hold both classes; the first are class A, the density. A
    network is its shape, its gain and "values", base64 of its float32 weights in order.

    Example:
        >>> page_data()["mixtures"]["fractal"]["first"]
        1016
    """
    mixtures = {"pinwheel": (pinwheel(), pinwheel()), "spiral": (spiral(), spiral()), "fractal": (fractal("A"), fractal("AB"))}
    return {
        "mixtures": {name: _mixture(*pair) for name, pair in mixtures.items()},
        "networks": {name: _network(embedded(name)) for name in NETWORKS},
    }


def _mixture(density: GaussianMixture, rows_of: GaussianMixture) -> dict[str, Any]:
    first_axis = rows_of.axes[:, :, 0]
    rows = torch.cat([rows_of.weights[:, None], rows_of.means, first_axis, rows_of.variances], 1)
    return {"rows": _base64(rows.double()), "highest": density.highest_log_prob(), "first": len(density.weights)}


def _network(net: EnergyNet) -> dict[str, Any]:
    values = torch.cat([weight.detach().flatten() for weight in net.weights]).float()
    shape = {"hidden": net.hidden, "layers": len(net.weights) - 1, "dataStd": net.data_std, "gain": float(net.gain)}
    return {**shape, "values": _base64(values)}


def _base64(values: torch.Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode("ascii")
