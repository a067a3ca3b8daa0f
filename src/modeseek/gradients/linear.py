r"""One linear family of score distillation: a weighted sum of noise predictions at one noisy state.

    g = E_{sigma, n}[ w(sigma) ( sum_i a_i eps_i(x_s; sigma) + a_n n ) ],    x_s = x + sigma n,   eps_i = (x_s - D_i)/sigma
      = E[ w/sigma ( (a + a_n) x_s - sum_i a_i D_i - a_n x ) ],              a = sum_i a_i

The predictions are those of several prompts: conditional, null (unconditional), negative, or a target and a source text. A rule gives
the coefficients at each level and progress. Where a + a_n = 0 the injected noise cancels. Members:

    name         rule                       coefficients                                                     predictions
    SDS          `Guidance`                 s eps_c + (1 - s) eps_0 - n                                      2
    CSD          `ClassifierScore`          eps_c - (1 + b) eps_0 + b eps_neg, b from 0 to -1               2, with b 3
    NFSD         `NoiseFree`                s (eps_c - eps_0) + [t < 200: eps_0; else eps_0 - eps_neg]       3
    SDS-Bridge   `Bridge`                   first half SDS at s; then s (eps_target - eps_source)            2

Calls: one per prediction that the rule needs and per sample. An image prior's guided denoiser evaluates two prompts and
counts as one call, so SDS through this class costs twice what `SDS` on a guided denoiser reports; the network does the same work.
Sources: Classifier Score Distillation (Yu et al. 2023, arXiv:2310.19415), Noise-Free Score Distillation (Katzir et al. 2023,
arXiv:2310.17590; no code of the authors is public), Rethinking Score Distillation as a Bridge (McAllister et al. 2024, arXiv:2406.09417).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, in_full_precision, residual
from modeseek.gradients.monte_carlo import monte_carlo
from modeseek.gradients.noise_levels import NoiseLevels

Rule = Callable[[Tensor, float], tuple[Tensor | float, ...]]
"""(sigma (batch,), progress) -> one coefficient per prediction and, last, that of the injected noise; each a number or (batch,).

A prediction whose coefficient is the number 0 is not evaluated; one whose coefficient is a tensor always is, so that the cost does not
depend on sigma."""

BRIDGE_TARGET = ", detailed high resolution, high quality, sharp"
BRIDGE_SOURCE = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
"""What SDS-Bridge's released code appends to the prompt for its target and its source."""


@dataclass(frozen=True)
class Guidance:
    """SDS with guidance scale s on (conditional, null)."""

    scale: float = 7.5

    def __call__(self, sigma: Tensor, progress: float) -> tuple[Tensor | float, ...]:
        return self.scale, 1 - self.scale, -1.0


@dataclass(frozen=True)
class ClassifierScore:
    """CSD on (conditional, null, negative): the negative prompt's weight runs linearly from `negative[0]` to `negative[1]`."""

    negative: tuple[float, float] = (0.0, 0.0)

    def __call__(self, sigma: Tensor, progress: float) -> tuple[Tensor | float, ...]:
        weight = self.negative[0] + (self.negative[1] - self.negative[0]) * progress
        return 1.0, -1 - weight, weight, 0.0


@dataclass(frozen=True)
class NoiseFree:
    """NFSD on (conditional, null, negative): the domain correction below `threshold` is eps_0, above it eps_0 - eps_neg.

    Args:
        scale: s of the condition.
        threshold: sigma below which the null prediction is taken as noise-free; None: that of timestep 200.
    """

    scale: float = 7.5
    threshold: float | None = None

    def __call__(self, sigma: Tensor, progress: float) -> tuple[Tensor | float, ...]:
        threshold = float(stable_diffusion_levels().sigmas[200]) if self.threshold is None else self.threshold
        above = (sigma >= threshold).to(sigma)
        return self.scale, 1 - self.scale, -above, 0.0


@dataclass(frozen=True)
class Bridge:
    """SDS-Bridge on (conditional, null, target, source): SDS at `scale` until `switch`, then scale (eps_target - eps_source)."""

    scale: float = 40.0
    switch: float = 0.5

    def __call__(self, sigma: Tensor, progress: float) -> tuple[Tensor | float, ...]:
        if progress < self.switch:
            return self.scale, 1 - self.scale, 0.0, 0.0, -1.0
        return 0.0, 0.0, self.scale, -self.scale, 0.0


@dataclass(frozen=True, kw_only=True)
class LinearScore:
    """A linear combination of noise predictions; a `Gradient`.

    Args:
        denoisers: D_i, one per coefficient of the rule but the last.
        rule: coefficients by sigma and progress.
        levels: distribution, weight and schedule of sigma.
        normalise: divide the gradient of each object by its norm over all coordinates (CSD's option; its code takes the norm of the batch).
        samples: Monte-Carlo samples of (sigma, n) per estimate.
        noise: "fresh", "fixed" or "shared" n.
        seed: of noise that is not fresh.

    Raises:
        InvalidInput: called, a rule with another number of coefficients than denoisers + 1.

    Example:
        >>> wide, narrow = (lambda x, s, v=v: x * v / (v + s.reshape(-1, 1) ** 2) for v in (4.0, 1.0))
        >>> csd = LinearScore(denoisers=(narrow, wide), rule=Guidance(1.0), levels=NoiseLevels(low=1.0, high=1.0), samples=4096)
        >>> csd(torch.tensor([[2.0]]), progress=0.0, rng=torch.Generator().manual_seed(0)).gradient.round()  # SDS of the narrow one
        tensor([[1.]])
    """

    denoisers: tuple[Denoiser, ...]
    rule: Rule
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(weight="dreamfusion"))
    normalise: bool = False
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        counted = [Counted(denoiser) for denoiser in self.denoisers]

        def residual_at(copies_of_x: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
            *coefficients, of_noise = self.rule(sigma, progress)
            if len(coefficients) != len(counted):
                raise InvalidInput(f"{self.rule} gives {len(coefficients)} coefficients for {len(counted)} denoisers, and one of the noise")
            noisy = copies_of_x + per_item(sigma, x) * n
            total = torch.zeros_like(x).repeat(len(noisy) // len(x), *[1] * (x.ndim - 1))
            for denoiser, coefficient in zip(counted, coefficients, strict=True):
                if isinstance(coefficient, Tensor) or coefficient != 0:
                    total = total + per_item(torch.as_tensor(coefficient).to(x), x) * (noisy - denoiser(noisy, sigma))
            return total + of_noise * per_item(sigma, x) * n

        gradient, target = monte_carlo(self, x, residual_at, progress=progress, rng=rng)
        if self.normalise:
            size = gradient.flatten(1).norm(dim=1)
            gradient = gradient / per_item(torch.where(size > 0, size, 1.0), x)
        calls = float(sum(denoiser.items for denoiser in counted)) / len(x)
        return Estimate(gradient, target, {"calls": calls, "residual": residual(x, target)})
