r"""The denoiser, the callable on which everything is built: $D(x, \sigma) = E[y \mid y + \sigma n = x]$, $n \sim N(0, I)$.

A `Denoiser` returns the posterior mean of clean data y given a state x at noise level sigma ("variance exploding"
coordinate). The other quantities of diffusion are linear in it:

    eps   = (x - D) / sigma              predicted noise; the probability-flow ODE is dx/dsigma = eps
    score = (D - x) / sigma^2            grad log p_sigma(x)     (Tweedie 1956; Miyasawa 1961)

Networks of another parametrisation are converted by the adapter classes below; everything else works in this coordinate. With the
variance-preserving state z = a y + b n and sigma = b/a (Karras et al. 2022, section 2; Salimans & Ho 2022 for v; Lipman
et al. 2023 for the flow):

    adapter network predicts      its state z         D
    eps     n                     z = a y + b n       x - sigma eps
    v       a n - b y             z = a y + b n       a z - b v
    x0      y                     z = a y + b n       x0
    flow    n - y                 z = (1-t) y + t n   z - t u,  t = sigma / (1 + sigma)
    edm     F                     x                   c_skip x + c_out F(c_in x, c_noise)

Any callable `model(x, sigma)` in this coordinate (k-diffusion, EDM, deepinv) is a `Denoiser` without an adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


class Denoiser(Protocol):
    """`(x: (batch, *event), sigma: () or (batch,)) -> like x`, with sigma > 0."""

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor: ...


def as_sigma(sigma: Tensor | float, x: Tensor) -> Tensor:
    """`sigma` as a tensor of shape () or (batch,) on x's device, checked to be finite and positive.

    Its dtype is x's, but at least float32: bfloat16 has about three significant digits, too few for a noise level.

    Raises:
        InvalidInput: sigma is not positive and finite, or its shape is neither () nor (batch,).

    Example:
        >>> as_sigma(0.5, torch.zeros(3, 2))
        tensor(0.5000)
    """
    sigma = torch.as_tensor(sigma, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if sigma.ndim > 1 or (sigma.ndim == 1 and sigma.shape[0] != x.shape[0]):
        raise InvalidInput(f"sigma has shape {tuple(sigma.shape)} for a batch of {x.shape[0]}: give one number, or one for each item")
    if not bool(((sigma > 0) & sigma.isfinite()).all()):
        raise InvalidInput(f"sigma must be positive and finite, got a minimum of {float(sigma.min()):g}")
    return sigma


WITHOUT_FLOAT64 = ("mps",)
"""Kinds of device that have no float64."""


def table_dtype(device: torch.device) -> torch.dtype:
    """The dtype of tables of noise levels on a device: float64, or float32 where there is no float64 (mps)."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def per_item(value: Tensor, x: Tensor) -> Tensor:
    """A value of shape () or (batch,) reshaped to multiply x of shape (batch, *event).

    Example:
        >>> per_item(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (x.ndim - 1))


def eps(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    r"""Predicted noise $(x - D(x;\sigma))/\sigma$, the slope of the probability-flow ODE. One denoiser call."""
    return (x - denoiser(x, sigma)) / per_item(sigma, x)


def score(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    r"""$\nabla \log p_\sigma(x) = (D(x;\sigma) - x)/\sigma^2$ (Tweedie's formula). One denoiser call."""
    return (denoiser(x, sigma) - x) / per_item(sigma, x) ** 2


class Counted:
    """A denoiser that counts its own calls (`calls`) and the items in them (`items`).

    Example:
        >>> counted = Counted(lambda x, sigma: 0 * x)
        >>> _ = counted(torch.zeros(5, 2), torch.tensor(1.0))
        >>> counted.calls, counted.items
        (1, 5)
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.calls = 0
        self.items = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        self.items += x.shape[0]
        return self.denoiser(x, sigma)


# ---------------------------------------------------------------- views: networks of other parametrisations
@dataclass(frozen=True, kw_only=True)
class DiscreteLevels:
    r"""The noise levels of a discrete-time network: $\sigma_t = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$, t = 0..T-1.

    A continuous sigma becomes a fractional t by interpolating log sigma linearly, clamped at both ends (k-diffusion's
    rule). Stable Diffusion's levels span about [0.029, 14.6].

    Args:
        alphas_cumprod: (T,) decreasing products of (1 - beta).
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        a = self.alphas_cumprod
        if a.ndim != 1 or len(a) < 2 or not bool(((a > 0) & (a < 1)).all() and (a.diff() < 0).all()):
            raise InvalidInput("alphas_cumprod must be a decreasing vector inside (0, 1)")

    @property
    def sigmas(self) -> Tensor:
        """(T,) increasing noise levels."""
        a = self.alphas_cumprod.to(table_dtype(self.alphas_cumprod.device))
        return ((1 - a) / a).sqrt()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Fractional timestep of each sigma, in [0, T-1]; same shape as sigma.

        Within 1e-4 of an integer it is that integer, so that each level of the table maps to its own timestep despite rounding to float32.
        """
        log_sigmas = self.sigmas.log().to(sigma.device, table_dtype(sigma.device))
        value = sigma.to(log_sigmas.dtype).log().clamp(log_sigmas[0], log_sigmas[-1])
        high = torch.searchsorted(log_sigmas, value.contiguous()).clamp(1, len(log_sigmas) - 1)
        low_value, high_value = log_sigmas[high - 1], log_sigmas[high]
        t = high - 1 + (value - low_value) / (high_value - low_value)
        return torch.where((t - t.round()).abs() < 1e-4, t.round(), t).to(sigma.dtype)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level of each fractional timestep, the inverse of `timestep`; same shape, clamped to [0, T-1]."""
        log_sigmas = self.sigmas.log().to(timestep.device, table_dtype(timestep.device))
        value = timestep.to(log_sigmas.dtype).clamp(0, len(log_sigmas) - 1)
        low = value.floor().long().clamp(max=len(log_sigmas) - 2)
        return torch.lerp(log_sigmas[low], log_sigmas[low + 1], value - low).exp().to(timestep.dtype)


Network = Callable[[Tensor, Tensor], Tensor]
"""`(z: (batch, *event), t: (batch,)) -> like z`, in its own state and time."""


@dataclass(frozen=True, kw_only=True)
class VariancePreserving:
    """Denoiser of a network on z = a y + b n with discrete timesteps, predicting `eps`, `v` or `x0`.

    One network call. a = 1/sqrt(1 + sigma^2), b = sigma a, z = a x.
    """

    network: Network
    levels: DiscreteLevels
    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in ("eps", "v", "x0"):
            raise InvalidInput(f"prediction {self.prediction!r} is unknown: choose eps, v or x0")

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        s = per_item(sigma, x)
        a = (1 + s**2).rsqrt()
        z = a * x
        output = self.network(z, self.levels.timestep(sigma.expand(x.shape[0])))
        if self.prediction == "eps":
            return (x - s * output).to(x.dtype)
        if self.prediction == "v":
            return (a * z - s * a * output).to(x.dtype)
        return output.to(x.dtype)


@dataclass(frozen=True)
class Flow:
    """Denoiser of a rectified-flow network u(z, t) = E[n - y] on z = (1-t) y + t n, t in (0, 1) (SD 3, Flux)."""

    network: Network

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        t = sigma / (1 + sigma)
        z = x * (1 - per_item(t, x))
        return (z - per_item(t, x) * self.network(z, t.expand(x.shape[0]))).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class EDM:
    r"""Denoiser of an EDM-preconditioned network F (Karras et al. 2022, Table 1), data standard deviation `data_std`.

    $D = c_{skip} x + c_{out} F(c_{in} x, \tfrac14\ln\sigma)$.
    """

    network: Network
    data_std: float = 0.5

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        s, d = per_item(sigma, x), self.data_std
        total = s**2 + d**2
        output = self.network(x * total.rsqrt(), sigma.log().expand(x.shape[0]) / 4)
        return (x * d**2 / total + output * s * d * total.rsqrt()).to(x.dtype)
