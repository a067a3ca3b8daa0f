r"""The empirical density of samples, whose denoiser is the "ideal denoiser" of the paper's Eq. 16:

    D*(x; sigma) = sum_i u_i softmax_i( -|x - u_i|^2 / (2 sigma^2) )

It is mean shift with the data as the samples (Cheng 1995), and it is softmax attention: with q = [x/sigma^2, 1/sigma^2], k = [u, -|u|^2/2]
and v = u it is one `scaled_dot_product_attention` call, which never stores the (queries x data) matrix. `reference` computes the same in
float64 from differences, for tests. Data are centred first, because the expanded square loses digits far from the origin: about
1e-7 |x||u|/sigma^2 in the exponent in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from modeseek.core.denoiser import as_sigma
from modeseek.core.errors import InvalidInput

_PAIRS_AT_ONCE = 1 << 22


class EmpiricalDensity:
    """Equal point masses at given samples; noised, a Gaussian kernel density estimate. Itself a `Denoiser`.

    Args:
        points: (n, d) finite samples u_i.

    Raises:
        InvalidInput: points are not a finite (n, d) array.

    Example:
        >>> ideal = EmpiricalDensity(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        >>> ideal(torch.tensor([[0.0, 3.0]]), torch.tensor(1.0))  # equally far from both
        tensor([[0., 0.]])
    """

    def __init__(self, points: Tensor) -> None:
        if points.ndim != 2 or len(points) == 0 or not bool(points.isfinite().all()):
            raise InvalidInput(f"samples must be a finite (n, d) array, got shape {tuple(points.shape)}")
        self.points = points.double()
        self.centre = self.points.mean(0)
        self._cache: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.points.shape[1]

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre (d,), keys (1, 1, n, width) and values in x's dtype; width is padded to a multiple of 8."""
        place = (x.dtype, x.device)
        if place not in self._cache:
            u = self.points - self.centre
            width = -(-(self.dim + 1) // 8) * 8
            keys = torch.cat([u, -0.5 * (u**2).sum(1, keepdim=True)], 1)
            wide, values = (pad(t, (0, width - t.shape[1])).to(x)[None, None] for t in (keys, u))
            self._cache[place] = (self.centre.to(x), wide, values)
        return self._cache[place]

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The ideal denoiser, exact for this density: (batch, d) -> (batch, d). sigma may differ by item."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InvalidInput(f"this density is defined on R^{self.dim}: x must be (batch, {self.dim}), got {tuple(x.shape)}")
        precision = as_sigma(sigma, x).expand(len(x))[:, None] ** -2
        centre, keys, values = self._keys(x)
        queries = torch.cat([(x - centre) * precision, precision], 1)
        queries = pad(queries, (0, keys.shape[-1] - queries.shape[1]))[None, None]
        return scaled_dot_product_attention(queries, keys, values, scale=1.0)[0, 0, :, : self.dim] + centre

    def reference(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The same denoiser by chunked softmax of squared differences in float64: slow, the truth of the tests."""
        sigma = as_sigma(sigma, x).double().expand(len(x))
        parts = []
        size = max(1, _PAIRS_AT_ONCE // len(self.points))
        for part, s in zip(x.double().split(size), sigma.split(size), strict=True):
            squares = torch.cdist(part, self.points, compute_mode="donot_use_mm_for_euclid_dist") ** 2
            parts.append((-squares / (2 * s[:, None] ** 2)).softmax(1) @ self.points)
        return torch.cat(parts).to(x)

    def log_prob(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log of the kernel density estimate with bandwidth sigma > 0, in float64 chunks: (batch, d) -> (batch,)."""
        sigma = as_sigma(sigma, x).double().expand(len(x))
        parts = []
        size = max(1, _PAIRS_AT_ONCE // len(self.points))
        for part, s in zip(x.double().split(size), sigma.split(size), strict=True):
            squares = torch.cdist(part, self.points, compute_mode="donot_use_mm_for_euclid_dist") ** 2
            normal = self.dim * (s.log() + 0.5 * math.log(2 * math.pi)) + math.log(len(self.points))
            parts.append((-squares / (2 * s[:, None] ** 2)).logsumexp(1) - normal)
        return torch.cat(parts).to(x)

    def sample(self, count: int, *, sigma: float = 0.0, rng: torch.Generator | None = None) -> Tensor:
        """`count` draws with replacement, plus noise of level sigma: (count, d) in float64."""
        which = torch.randint(len(self.points), (count,), generator=rng)
        noise = torch.randn(count, self.dim, dtype=torch.float64, generator=rng)
        return self.points[which] + sigma * noise
