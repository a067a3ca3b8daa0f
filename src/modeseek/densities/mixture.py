r"""Gaussian mixtures: a density whose every noised version, score, denoiser and product with a kernel is closed form.

With $p(y) = \sum_k w_k N(y; \mu_k, \Sigma_k)$ and $\Sigma_k = Q_k \Lambda_k Q_k^T$, adding noise of level sigma gives the mixture of
$N(\mu_k, \Sigma_k + \sigma^2 I)$, so

    log p_sigma(x) = logsumexp_k( log w_k + log N(x; mu_k, Sigma_k + sigma^2 I) )
    score(x)       = sum_k r_k (Sigma_k + sigma^2 I)^-1 (mu_k - x),   r = softmax of the terms above
    D(x; sigma)    = x + sigma^2 score(x)                             (Tweedie)
    product with N(y; c, l^2 I): weights w_k N(c; mu_k, Sigma_k + l^2 I), covariance (Sigma_k^-1 + I/l^2)^-1,
                                 mean mu_k + Sigma_k (Sigma_k + l^2 I)^-1 (c - mu_k)

Everything stays in log space: in linear probability a float32 mixture underflows to 0/0 over most of the plane.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeseek.core.denoiser import as_sigma
from modeseek.core.errors import InvalidInput

_PAIRS_AT_ONCE = 1 << 17  # queries x components evaluated together: they stay in the processor's cache
_PAIRS_IN_MEMORY = 1 << 20  # the same for `climb`, which holds Hessians


class GaussianMixture:
    """A mixture of K Gaussians in R^d, exact at any noise level. Itself a `Denoiser` (through `__call__`).

    Args:
        weights: (K,) non-negative, not necessarily summing to 1.
        means: (K, d).
        covariances: (K, d, d) symmetric positive semi-definite.

    Raises:
        InvalidInput: shapes disagree, a weight is negative, or a covariance is not positive semi-definite.

    Example:
        >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> one(torch.tensor([[2.0, 0.0]]), torch.tensor(1.0))  # halfway back to the mean: 1 / (1 + sigma^2)
        tensor([[1., 0.]])
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        count, dim = means.shape if means.ndim == 2 else (0, 0)
        if means.ndim != 2 or weights.shape != (count,) or covariances.shape != (count, dim, dim):
            raise InvalidInput(
                f"a mixture needs weights (K,), means (K, d), covariances (K, d, d); got {tuple(weights.shape)}, "
                f"{tuple(means.shape)}, {tuple(covariances.shape)}"
            )
        if not bool((weights >= 0).all()) or float(weights.sum()) <= 0:
            raise InvalidInput("mixture weights must be non-negative with a positive sum")
        self.weights = weights.double() / weights.double().sum()
        self.means = means.double()
        self.covariances = covariances.double()
        variances, axes = torch.linalg.eigh(self.covariances)
        if float(variances.min()) < -1e-10 * max(1.0, float(variances.max())):
            raise InvalidInput(f"a covariance has the negative eigenvalue {float(variances.min()):g}")
        self.variances = variances.clamp_min(0)  # (K, d)
        self.axes = axes  # (K, d, d): columns are eigenvectors
        self._log_weights = self.weights.log()
        self._rotation = axes.permute(1, 2, 0).reshape(dim, -1)  # (d, d K): x @ this is Q_k^T x, one coordinate after the other
        self._offset = torch.einsum("kij,ki->jk", axes, self.means)  # Q_k^T mu_k: (d, K)

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.means.shape[1]

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log p_sigma(x) in nats: x (batch, d), sigma >= 0 of shape () or (batch,) -> (batch,)."""
        return self._chunked(x, sigma, lambda terms, z, total: terms.logsumexp(1))

    def score(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Gradient of log p_sigma at x: (batch, d) -> (batch, d)."""

        def mean_pull(terms: Tensor, z: Tensor, total: Tensor) -> Tensor:
            pull = (z / total).mul_(-terms.softmax(1)[:, None])  # (b, d, K) in each component's axes
            return pull.flatten(1) @ self._rotation.to(pull).T

        return self._chunked(x, sigma, mean_pull)

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        r"""The denoiser $D(x;\sigma) = x + \sigma^2 \nabla \log p_\sigma(x)$: (batch, d) -> (batch, d)."""
        sigma = as_sigma(sigma, x)
        return x + sigma.reshape(-1, 1) ** 2 * self.score(x, sigma)

    def sample(self, count: int, *, sigma: float = 0.0, rng: torch.Generator | None = None) -> Tensor:
        """`count` exact draws of p_sigma: (count, d) in float64."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        noise = torch.randn(count, self.dim, dtype=torch.float64, generator=rng)
        scaled = noise * (self.variances[which] + sigma**2).sqrt()
        return self.means[which] + self._rotated(which, scaled)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of the mixture."""
        mean = self.weights @ self.means
        offset = self.means - mean
        between = torch.einsum("k,ki,kj->ij", self.weights, offset, offset)
        return mean, between + torch.einsum("k,kij->ij", self.weights, self.covariances)

    def product(self, centre: Tensor, bandwidth: float) -> GaussianMixture:
        r"""The product density $q(y) \propto p(y) N(y; c, \ell^2 I)$ as a mixture again; centre (d,).

        Raises:
            InvalidInput: a centre of another shape.
        """
        if centre.shape != (self.dim,):
            raise InvalidInput(f"the centre of a product has shape ({self.dim},), got {tuple(centre.shape)}")
        centre = centre.double()
        total = self.variances + bandwidth**2
        local = torch.einsum("kij,ki->kj", self.axes, centre - self.means)  # Q^T (c - mu)
        log_weights = self._log_weights - 0.5 * (local**2 / total + total.log()).sum(1)
        gain = self.variances / total
        means = self.means + torch.einsum("kij,kj->ki", self.axes, gain * local)
        covariances = (self.axes * (gain * bandwidth**2)[:, None, :]) @ self.axes.transpose(1, 2)
        return GaussianMixture((log_weights - log_weights.max()).exp(), means, covariances)

    def sample_product(self, centres: Tensor, bandwidth: float, *, rng: torch.Generator | None = None) -> Tensor:
        r"""One exact draw of q(y | c) for each centre: (batch, d) -> (batch, d) in float64; the posterior of y given y + l n = c.

        Raises:
            InvalidInput: centres of another shape, or a bandwidth that is not positive.
        """
        if centres.ndim != 2 or centres.shape[1] != self.dim or not bandwidth > 0:
            raise InvalidInput(f"centres must be (batch, {self.dim}) and the bandwidth positive, got {tuple(centres.shape)}, {bandwidth}")
        centres = centres.double()
        terms, offset, total = self._terms(centres, centres.new_tensor(bandwidth))
        which = torch.multinomial(terms.softmax(1), 1, generator=rng)[:, 0]
        rows = torch.arange(len(centres))
        gain = (self.variances / total[0].T)[which]  # (batch, d)
        noise = torch.randn(centres.shape, dtype=torch.float64, generator=rng)
        local = gain * offset[rows, :, which] + (gain * bandwidth**2).sqrt() * noise
        return self.means[which] + self._rotated(which, local)

    def product_variance(self, centres: Tensor, bandwidth: float) -> Tensor:
        r"""Variance of q(y | c) in each coordinate, for each centre: (batch, d) -> (batch, d) in float64. Its mean is D(c; l)."""
        centres = centres.double()
        terms, offset, total = self._terms(centres, centres.new_tensor(bandwidth))
        share, gain = terms.softmax(1), self.variances / total[0].T  # (batch, K), (K, d)
        means = self.means + torch.einsum("kij,kj,bjk->bki", self.axes, gain, offset)
        mean = torch.einsum("bk,bki->bi", share, means)
        within = torch.einsum("kij,kj->ki", self.axes**2, gain * bandwidth**2)
        return share @ within + torch.einsum("bk,bki->bi", share, (means - mean[:, None]) ** 2)

    def responsibilities(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Probability of each component given x under p_sigma: (batch, d) -> (batch, K).

        At a centre with sigma = l they are the shares of the components in the product density.
        """
        return self._chunked(x, sigma, lambda terms, z, total: terms.softmax(1))

    def climb(self, starts: Tensor, sigma: float = 0.0, *, iterations: int = 200, tolerance: float = 1e-8) -> Tensor:
        r"""Where mean shift takes each start (n, d) uphill on log p_sigma: (n, d), at a mode each.

        The fixed point of a mixture's stationary equation, $x \leftarrow (\sum_k r_k C_k^{-1})^{-1} \sum_k r_k C_k^{-1} \mu_k$ with
        $C_k = \Sigma_k + \sigma^2 I$ (Carreira-Perpinan 2007), climbs in every step but slowly on ridges; where the Hessian is
        negative definite and a Newton step climbs, that is taken instead.
        """
        total = self.variances + sigma**2
        precision = (self.axes / total[:, None, :]) @ self.axes.transpose(1, 2)  # (K, d, d)
        pulled = torch.einsum("kij,kj->ki", precision, self.means)
        longest = 4 * total.min().sqrt()
        reached = starts.double().clone()
        moving = torch.arange(len(reached))
        for _ in range(iterations):
            still = []
            for part in moving.split(max(1, _PAIRS_IN_MEMORY // len(self.means))):
                x = reached[part]
                terms = self._terms(x, x.new_tensor(sigma))[0]
                share = terms.softmax(1)
                matrix = (share @ precision.flatten(1)).reshape(-1, self.dim, self.dim)
                shifted = torch.linalg.solve(matrix, share @ pulled)
                pulls = pulled - torch.einsum("kij,bj->bki", precision, x)  # (b, K, d)
                slope = torch.einsum("bk,bki->bi", share, pulls)
                hessian = torch.einsum("bk,bki,bkj->bij", share, pulls, pulls) - matrix - slope[:, :, None] * slope[:, None, :]
                values, vectors = torch.linalg.eigh(hessian)
                step = -torch.einsum("bij,bj,bkj,bk->bi", vectors, 1 / values, vectors, slope)
                newton = x + step
                concave = (values[:, -1] < 0) & (step.norm(dim=1) < longest)
                climbs = self._terms(newton, x.new_tensor(sigma))[0].logsumexp(1) >= terms.logsumexp(1)
                moved = torch.where((concave & climbs)[:, None], newton, shifted)
                reached[part] = moved
                still.append(part[(moved - x).abs().amax(1) > tolerance])
            moving = torch.cat(still)
            if len(moving) == 0:
                break
        return reached

    def modes(self, sigma: float = 0.0, *, merge: float | None = None) -> Tensor:
        """Modes of p_sigma, found by mean shift from every component mean: (M, d), the most probable first.

        Ends closer than `merge` (default: a fifth of the smallest standard deviation of a component) are one mode.
        """
        x = self.climb(self.means, sigma)
        x = x[self.log_prob(x, sigma).argsort(descending=True)]
        radius = merge if merge is not None else 0.2 * float((self.variances + sigma**2).min().sqrt())
        kept: list[Tensor] = []
        for point in x:
            if not kept or float((torch.stack(kept) - point).norm(dim=1).min()) > radius:
                kept.append(point)
        return torch.stack(kept)

    def highest_log_prob(self) -> float:
        """Largest log p, in nats: the best end of mean shift from the 32 most probable component means."""
        best = self.log_prob(self.means).topk(min(32, len(self.means))).indices
        return float(self.log_prob(self.climb(self.means[best])).max())

    def _rotated(self, which: Tensor, local: Tensor) -> Tensor:
        """Q_k z for each row z (batch, d) and its component k (batch,); in many dimensions without a matrix per row."""
        if self.dim <= 8:
            return torch.einsum("bij,bj->bi", self.axes[which], local)
        rotated = torch.empty_like(local)
        for component in which.unique():
            rows = which == component
            rotated[rows] = local[rows] @ self.axes[component].T
        return rotated

    def _terms(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; mu_k, C_k): (b, K); Q_k^T (x - mu_k): (b, d, K); eigenvalues of C_k: (b or 1, d, K)."""
        levels = sigma.reshape(-1, 1, 1)
        if len(levels) > 1 and bool((levels == levels[0]).all()):
            levels = levels[:1]  # one level for all queries saves a logarithm per pair
        total = self.variances.T.to(x) + levels**2
        z = (x @ self._rotation.to(x)).reshape(len(x), self.dim, len(self.means)) - self._offset.to(x)
        quadratic = z.square().div_(total).sum(1) + total.log().sum(1)
        return self._log_weights.to(x) - 0.5 * (quadratic + self.dim * math.log(2 * math.pi)), z, total

    def _chunked(self, x: Tensor, sigma: Tensor | float, finish) -> Tensor:  # noqa: ANN001
        """Apply `finish` to the terms of a few queries at a time."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InvalidInput(f"this density is defined on R^{self.dim}: x must be (batch, {self.dim}), got {tuple(x.shape)}")
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        if not bool((sigma >= 0).all()):
            raise InvalidInput(f"sigma must not be negative, got {float(sigma.min()):g}")
        size = max(1, _PAIRS_AT_ONCE // len(self.means))
        levels = [sigma] * len(x.split(size)) if sigma.ndim == 0 else sigma.split(size)
        parts = [finish(*self._terms(part, s)) for part, s in zip(x.split(size), levels, strict=True)]
        return torch.cat(parts) if parts else x.new_zeros(0)
