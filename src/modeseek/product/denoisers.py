r"""The kernel product: from a denoiser of p to a denoiser of $q(y|c) \propto p(y)\, N(y; c, \ell^2 I)$ (paper, Eqs. 8-9).

The mean-shift vector is $m(c) = E_q[y] - c$. Both wrappers give an ordinary denoiser, from which any sampler draws; both cost the
calls of the denoiser they wrap and are stable for every bandwidth. They must be the outermost wrapper, because guidance depends on the
level at which the network is evaluated. Bandwidths are standard deviations per coordinate.

    exact      1/s^2 = 1/sigma^2 + 1/l^2,  c' = s^2 (z/sigma^2 + c/l^2)       D_q(z; sigma) = D_p(c'; s)
    proximal   r^2 = sigma^2 d^2 / (sigma^2 + d^2)                             D_q(z; sigma) ~ D + (c - D) r^2 / (r^2 + l^2)

`exact` is an identity: two Gaussian observations of y are equivalent to one. Its weak point is a learned network, which it evaluates at c';
where c is clean, c' has less noise than the level s implies. `proximal` evaluates the network at (z, sigma) only, where it was trained. It
approximates the posterior p(y|z) by a Gaussian of variance r^2 and is exact when p is a Gaussian of variance d^2; it is the "joint
forward-posterior" guidance of the library azula with the identity as operator, and the step of DiffPIR (Zhu et al. 2023, arXiv:2305.08995)
in the limit r -> sigma. The paper adds the kernel's score to the network's instead (Eq. 12): see `modeseek.product.samplers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modeseek.core.denoiser import Denoiser, as_sigma, per_item


@dataclass(frozen=True, kw_only=True)
class ExactProduct:
    """The denoiser of q, exactly; itself a `Denoiser`. One call of `denoiser` each.

    Args:
        denoiser: D_p.
        centre: c, (batch, *event).
        bandwidth: l, () or (batch,): a standard deviation.

    Example:
        >>> import torch
        >>> normal = lambda x, sigma: x / (1 + sigma**2)  # p = N(0, 1)
        >>> q = ExactProduct(denoiser=normal, centre=torch.tensor([[2.0]]), bandwidth=torch.tensor(1.0))
        >>> q(torch.tensor([[0.0]]), torch.tensor(1000.0))  # E_q[y] = c / (1 + l^2)
        tensor([[1.0000]])
    """

    denoiser: Denoiser
    centre: Tensor
    bandwidth: Tensor

    def __call__(self, z: Tensor, sigma: Tensor) -> Tensor:
        sigma, bandwidth = as_sigma(sigma, z), as_sigma(self.bandwidth, z)
        variance = 1 / (sigma**-2 + bandwidth**-2)
        kernel_share = per_item(variance / bandwidth**2, z)
        return self.denoiser(z + kernel_share * (self.centre - z), variance.sqrt())


@dataclass(frozen=True, kw_only=True)
class ProximalProduct:
    """The denoiser of q under a Gaussian posterior; itself a `Denoiser`. One call of `denoiser` each.

    Args:
        denoiser: D_p.
        centre: c, (batch, *event).
        bandwidth: l, () or (batch,): a standard deviation.
        data_std: d, the data's standard deviation.

    Example:
        >>> import torch
        >>> normal = lambda x, sigma: x / (1 + sigma**2)  # p = N(0, 1)
        >>> args = dict(denoiser=normal, centre=torch.tensor([[2.0]]), bandwidth=torch.tensor(0.5))
        >>> z, sigma = torch.tensor([[0.7]]), torch.tensor(0.3)
        >>> bool(torch.isclose(ProximalProduct(**args, data_std=1.0)(z, sigma), ExactProduct(**args)(z, sigma)))
        True
    """

    denoiser: Denoiser
    centre: Tensor
    bandwidth: Tensor
    data_std: float

    def __call__(self, z: Tensor, sigma: Tensor) -> Tensor:
        sigma, bandwidth = as_sigma(sigma, z), as_sigma(self.bandwidth, z)
        denoised = self.denoiser(z, sigma)
        posterior = 1 / (sigma**-2 + self.data_std**-2)
        return denoised + per_item(posterior / (posterior + bandwidth**2), z) * (self.centre - denoised)
