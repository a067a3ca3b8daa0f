r"""Signals that are sums of independent increments (Levy processes), with a denoiser that is exact up to quadrature.

s_k = u_1 + ... + u_k with independent increments u_k ~ p_u, k = 1..L. These are the signals of a benchmark of posterior samplers with known
posteriors (Zach et al. 2025, arXiv:2509.12821; github.com/zacmar/dps-benchmark). With the identity as operator its posterior,
p(s) N(x; s, l^2 I), is the product density q(s | x). A signal is a Markov chain, so denoising is smoothing in a state-space model with a
scalar state: with t the nodes of a grid around each x_k, in units of sigma,

    a_1(t)  = phi(t) p_u(x_1 + sigma t)             a_k(t) = phi(t) sum_t' p_u(x_k - x_(k-1) + sigma (t - t')) a_(k-1)(t')
    b_L(t)  = 1                                     b_k(t) = sum_t' phi(t') p_u(x_(k+1) - x_k + sigma (t' - t)) b_(k+1)(t')
    D_k     = x_k + sigma sum t a_k b_k / sum a_k b_k

The trapezoidal rule with two nodes per sigma is accurate while the density of an increment is smooth on that scale, so levels are limited
to the scale of an increment: the error of D is below 1e-5 sigma for Gaussian and Student-t increments, and below 0.005 sigma for Laplace
increments, whose density has a kink, at the level of the benchmark. The benchmark draws from these posteriors by Gibbs sampling; here
backward sampling through a_k gives independent draws. Increments with an atom (Bernoulli-Laplace) do not fit the grid and are not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.core.denoiser import as_sigma
from modeseek.core.errors import InvalidInput

REACH = 6.0  # of the grid, in sigma
NODES = 25
_AT_ONCE = 1 << 25  # entries of transition matrices held in memory together


@dataclass(frozen=True, kw_only=True)
class GaussianIncrements:
    """u ~ N(0, variance)."""

    variance: float = 0.25

    @property
    def scale(self) -> float:
        """Length below which the density is smooth."""
        return self.variance**0.5

    def log_prob(self, u: Tensor) -> Tensor:
        """log p_u, elementwise."""
        return -0.5 * (u**2 / self.variance + math.log(2 * math.pi * self.variance))

    def sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Independent increments in float64."""
        return self.variance**0.5 * torch.randn(shape, dtype=torch.float64, generator=rng)


@dataclass(frozen=True, kw_only=True)
class LaplaceIncrements:
    """p_u = exp(-|u|/b)/(2 b)."""

    b: float = 1.0

    @property
    def scale(self) -> float:
        """Length below which the density is smooth, but for its kink."""
        return self.b

    def log_prob(self, u: Tensor) -> Tensor:
        """log p_u, elementwise."""
        return -u.abs() / self.b - math.log(2 * self.b)

    def sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Independent increments in float64."""
        uniform = torch.rand(shape, dtype=torch.float64, generator=rng) - 0.5
        return -self.b * uniform.sign() * torch.log1p(-2 * uniform.abs())


@dataclass(frozen=True, kw_only=True)
class StudentIncrements:
    """Student's t of `freedom` degrees and unit scale; 1 is Cauchy's distribution."""

    freedom: int = 3

    @property
    def scale(self) -> float:
        """Length below which the density is smooth."""
        return 1.0

    def log_prob(self, u: Tensor) -> Tensor:
        """log p_u, elementwise."""
        nu = self.freedom
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return constant - (nu + 1) / 2 * torch.log1p(u**2 / nu)

    def sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Independent increments in float64."""
        normal = torch.randn((self.freedom + 1, *shape), dtype=torch.float64, generator=rng)
        return normal[0] / (normal[1:] ** 2).mean(0).sqrt()


Increments = GaussianIncrements | LaplaceIncrements | StudentIncrements


@dataclass(frozen=True, kw_only=True)
class LevySignals:
    """Sums of independent increments; itself a `Denoiser` of signals (batch, L) for levels up to the scale of an increment.

    Args:
        increments: distribution of one increment.
        length: L.

    Raises:
        InvalidInput: length below 1; called, signals of another length or a level above the scale of an increment.

    Example:
        >>> signals = LevySignals(increments=GaussianIncrements(variance=1.0), length=1)  # p = N(0, 1)
        >>> signals(torch.tensor([[1.0]], dtype=torch.float64), torch.tensor(1.0))
        tensor([[0.5000]], dtype=torch.float64)
    """

    increments: Increments
    length: int = 64

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InvalidInput(f"a signal has at least 1 sample, got length={self.length}")

    def sample(self, count: int, *, rng: torch.Generator) -> Tensor:
        """Exact signals: (count, L) in float64."""
        return self.increments.sample((count, self.length), rng).cumsum(1)

    def log_prob(self, s: Tensor) -> Tensor:
        """log p of signals (batch, L) -> (batch,)."""
        return self.increments.log_prob(torch.diff(s, dim=1, prepend=torch.zeros_like(s[:, :1]))).sum(1)

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """D(x; sigma), the posterior mean: (batch, L) -> (batch, L)."""
        return torch.cat([self._smoothed(part, level)[0] for part, level in self._parts(x, sigma)]).to(x)

    def variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Posterior variance of each sample of the signal: (batch, L) -> (batch, L)."""
        return torch.cat([self._smoothed(part, level)[1] for part, level in self._parts(x, sigma)]).to(x)

    def sample_product(self, centres: Tensor, bandwidth: float, *, rng: torch.Generator) -> Tensor:
        r"""One draw of q(y | c) for each centre by forward filtering and backward sampling: (batch, L) -> (batch, L) in float64.

        The draws lie on the grid, whose quadrature gives their moments exactly.
        """
        return torch.cat([self._drawn(part, level, rng) for part, level in self._parts(centres, bandwidth)])

    def _parts(self, x: Tensor, sigma: Tensor | float) -> Iterator[tuple[Tensor, Tensor]]:
        """x and its levels in float64, in groups of bounded size."""
        if x.ndim != 2 or x.shape[1] != self.length:
            raise InvalidInput(f"signals must be (batch, {self.length}), got {tuple(x.shape)}")
        level = as_sigma(sigma, x).double().expand(len(x))
        if float(level.max()) > self.increments.scale * (1 + 1e-6):
            raise InvalidInput(
                f"the denoiser of these signals is exact up to sigma = {self.increments.scale:g}, the scale of an increment; "
                f"got {float(level.max()):.4g}"
            )
        size = max(1, _AT_ONCE // (self.length * NODES**2))
        yield from zip(x.double().split(size), level.split(size), strict=True)

    def _transitions(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (J,), first filter (b, J), and p_u from node j at k - 1 to node i at k times phi(i): (b, L - 1, J, J), up to scales.

        Differences and probabilities relative to their largest are as accurate in float32 as the quadrature.
        """
        x, sigma = x.float(), sigma.float()
        t = torch.linspace(-REACH, REACH, NODES, device=x.device)
        weight = -0.5 * t**2
        steps = torch.diff(x, dim=1)[:, :, None, None] + sigma[:, None, None, None] * (t[:, None] - t)
        table = self.increments.log_prob(steps) + weight[:, None]
        table = (table - table.detach().amax((2, 3), keepdim=True)).exp()
        first = weight + self.increments.log_prob(x[:, :1] + sigma[:, None] * t)
        return t, (first - first.detach().amax(1, keepdim=True)).exp(), table

    def _filtered(self, first: Tensor, table: Tensor) -> list[Tensor]:
        """a_k for every k, normalised: each (b, J)."""
        found = [first / first.sum(1, keepdim=True)]
        for k in range(table.shape[1]):
            moved = (table[:, k] @ found[-1][:, :, None])[:, :, 0]
            found.append(moved / moved.sum(1, keepdim=True))
        return found

    def _smoothed(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of each sample: (b, L) each."""
        t, first, table = self._transitions(x, sigma)
        forward = self._filtered(first, table)
        backward = torch.ones_like(first)
        means, variances = [], []
        for k in range(self.length - 1, -1, -1):
            marginal = forward[k] * backward
            marginal = marginal / marginal.sum(1, keepdim=True)
            mean = marginal @ t
            means.append(mean)
            variances.append(marginal @ t**2 - mean**2)
            if k:
                backward = (backward[:, None] @ table[:, k - 1])[:, 0]
                backward = backward / backward.sum(1, keepdim=True)
        mean, variance = (torch.stack(values[::-1], 1) for values in (means, variances))
        return x + sigma[:, None] * mean, sigma[:, None] ** 2 * variance

    def _drawn(self, x: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
        t, first, table = self._transitions(x, sigma)
        forward = self._filtered(first, table)
        rows = torch.arange(len(x), device=x.device)
        nodes = torch.multinomial(forward[-1], 1, generator=rng)[:, 0]
        found = [t[nodes]]
        for k in range(self.length - 2, -1, -1):
            nodes = torch.multinomial(forward[k] * table[rows, k, nodes], 1, generator=rng)[:, 0]
            found.append(t[nodes])
        return x + sigma[:, None] * torch.stack(found[::-1], 1)
