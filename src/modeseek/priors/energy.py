r"""The learned 2-D denoiser: a small energy network whose gradient is the score (Karras et al. 2024, toy example).

    x_hat = x / sqrt(d^2 + sigma^2),  d = 0.5
    h     = W_5 a(W_4 a(... a(W_1 [x_hat, ln(sigma)/4, 1]))),   a(u) = silu(u)/0.596,  rows of W of unit norm, no bias
    log p = mean(h^2) gain / sigma - |x_hat|^2 / 2      (up to a constant in x)
    D     = x + sigma^2 grad_x log p

Magnitude-preserving layers keep activations at unit size; the gain starts at 0, so an untrained net is the denoiser of
N(0, d^2 I). One denoiser call is one forward and one backward pass with respect to x.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, silu

from modeseek.core.denoiser import as_sigma
from modeseek.core.errors import InvalidInput, WeightsError
from modeseek.core.files import read_tensors, write_tensors

KIND = "energy-net"
_AT_ONCE = 512  # points whose activations stay in the cache together


class EnergyNet(nn.Module):
    """Unnormalised log density over noise levels of points in R^dim; itself a `Denoiser`.

    Args:
        hidden: width of each layer.
        layers: hidden layers after the first.
        dim: dimension of the points.
        data_std: standard deviation d of the data an untrained net assumes.
        seed: seed of the initial weights.

    Example:
        >>> EnergyNet(hidden=8).frozen()(torch.tensor([[1.0, 0.0]]), torch.tensor(0.5))  # untrained: shrink by d^2/(d^2 + sigma^2)
        tensor([[0.5000, 0.0000]])
    """

    def __init__(self, hidden: int = 64, *, layers: int = 4, dim: int = 2, data_std: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.hidden, self.dim, self.data_std = hidden, dim, data_std
        rng = torch.Generator().manual_seed(seed)
        widths = [dim + 2] + [hidden] * (layers + 1)
        self.weights = nn.ParameterList(normalize(torch.randn(o, i, generator=rng), dim=1) for i, o in itertools.pairwise(widths))
        self.gain = nn.Parameter(torch.zeros(()))

    def normalise_(self) -> None:
        """Set every weight row to unit norm, as `log_prob` uses them; training calls it after each step."""
        with torch.no_grad():
            for weight in self.weights:
                weight.copy_(normalize(weight, dim=1))

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log density: x (batch, dim), sigma () or (batch,) -> (batch,)."""
        s = sigma.expand(len(x))[:, None]
        scaled = x * (self.data_std**2 + s**2).rsqrt()
        h = torch.cat([scaled, s.log() / 4, torch.ones_like(s)], 1)
        for index, weight in enumerate(self.weights):
            h = linear(h if index == 0 else silu(h) / 0.596, normalize(weight, dim=1))
        return (h**2).mean(1) * self.gain / s[:, 0] - 0.5 * (scaled**2).sum(1)

    def score(self, x: Tensor, sigma: Tensor, *, create_graph: bool = False) -> Tensor:
        """Gradient of `log_prob` with respect to x: (batch, dim) -> (batch, dim).

        Without a graph the backward pass is written out, a part of the batch at a time: about 1.6 times as fast as automatic
        differentiation on one core.
        """
        if create_graph:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.log_prob(x, sigma).sum(), x, create_graph=True)[0]
        with torch.no_grad():
            weights = [normalize(weight, dim=1) for weight in self.weights]
            parts = zip(x.split(_AT_ONCE), sigma.expand(len(x)).split(_AT_ONCE), strict=True)
            return torch.cat([self._score(part, level, weights) for part, level in parts]) if len(x) else torch.zeros_like(x)

    def _score(self, x: Tensor, sigma: Tensor, weights: list[Tensor]) -> Tensor:
        """`score` by the chain rule, from the last layer to the first."""
        s = sigma[:, None]
        scale = (self.data_std**2 + s**2).rsqrt()
        scaled = x * scale
        before = [torch.cat([scaled, s.log() / 4, torch.ones_like(s)], 1) @ weights[0].T]  # of each activation
        for weight in weights[1:]:
            before.append(silu(before[-1]).div_(0.596) @ weight.T)
        slope = before[-1] * (2 * self.gain / self.hidden / s)
        for weight, h in zip(weights[:0:-1], before[-2::-1], strict=True):
            slope = torch.ops.aten.silu_backward(slope @ weight, h).div_(0.596)
        return (slope @ weights[0][:, : self.dim] - scaled) * scale

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        r"""The denoiser $x + \sigma^2 \nabla \log p$; while it is trained, it is differentiable with respect to the weights.

        Raises:
            InvalidInput: x is not (batch, dim).
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InvalidInput(f"this network is defined on R^{self.dim}: x must be (batch, {self.dim}), got {tuple(x.shape)}")
        sigma = as_sigma(sigma, x)
        return x.detach() + sigma.reshape(-1, 1) ** 2 * self.score(x, sigma, create_graph=self.training and torch.is_grad_enabled())

    def frozen(self) -> EnergyNet:
        """Prepare the network for evaluation: normalised rows, evaluation mode, frozen weights."""
        self.normalise_()
        return self.eval().requires_grad_(False)


def save_energy_net(net: EnergyNet, path: Path, **facts: str) -> None:
    """Write the weights and a description of their training to a safetensors file."""
    shape = {"hidden": str(net.hidden), "layers": str(len(net.weights) - 1), "dim": str(net.dim), "data_std": str(net.data_std)}
    tensors = {name: value.detach().clone() for name, value in net.state_dict().items()}
    write_tensors(path, tensors, {"modeseek": KIND, **shape, **facts})


def load_energy_net(path: str | Path) -> EnergyNet:
    """Load the frozen network of a weight file.

    Raises:
        WeightsError: the file is missing, truncated, of another kind, or does not fit the network it describes.
    """
    path = Path(path)
    tensors, facts = read_tensors(path, kind=KIND)
    try:
        net = EnergyNet(int(facts["hidden"]), layers=int(facts["layers"]), dim=int(facts["dim"]), data_std=float(facts["data_std"]))
        net.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not describe an energy network: {str(error).splitlines()[0]}") from error
    if not all(bool(value.isfinite().all()) for value in tensors.values()) or not math.isfinite(net.data_std):
        raise WeightsError(f"{path} holds non-finite weights")
    return net.frozen()
