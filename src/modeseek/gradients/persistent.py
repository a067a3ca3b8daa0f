r"""Mean-shift distillation with a persistent chain: one denoiser call per estimate, as many as SDS.

    g = x - D_q(z; sigma_i),   then   z <- z + (sigma_{i+1} - sigma_i) (z - D_q)/sigma_i,   i <- i + 1

z is the state of a DDIM sampler of the product density q(y|x) ~ p(y) N(y; x, l^2 I), and D_q its denoiser (`modeseek.product.denoisers`)
with the current centre x and bandwidth l. A draw that MSD makes in one step is spread over as many steps as it has levels, and x follows
the chain's prediction. At its end, where D_q is a finished draw y, the chain restarts at x + sigma_0 n: from sigma_max the first time,
later from min(spread l, sigma_max). Persistent chains are used in the training of energy models (Tieleman 2008). While x and l are
constant, the chain makes the same draw as `ProximalSampler`.

Calling the estimator does not move the chain: a call proposes the next state, and `adapt`, which the loop calls after each estimate,
commits it. At equal calls its result is at least as good as that of full draws cached for as many steps, and better than
a full draw per step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import Bandwidth, LinearBandwidth
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, in_full_precision, noise_like, residual
from modeseek.product.denoisers import ExactProduct, ProximalProduct
from modeseek.product.samplers import ProximalSampler


@dataclass(frozen=True, kw_only=True)
class PersistentMSD:
    """Mean-shift distillation along a chain; a `Gradient` of one denoiser call with a state that `adapt` advances. One instance per run.

    Args:
        denoiser: D of the (guided) prior.
        bandwidth: schedule l(progress, x, denoiser) -> (batch,).
        sampler: levels and data_std of the chain's draws; DDIM only. The first chain starts at its sigma_max.
        exact: take the product's exact denoiser in place of the proximal one.
        target: "current", D_q at the chain's level, or "drawn", the last finished draw (until there is one, "current").
        noise: "fresh" or "fixed", at each start of a chain. Fixed noise pulls in the same direction in every draw, and free points diverge.
        seed: of the fixed noise.

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)  # p = N(0, 1)
        >>> chain = PersistentMSD(denoiser=normal, sampler=ProximalSampler(steps=4, data_std=1.0, spread=5.0))
        >>> x, rng = torch.tensor([[2.0]]), torch.Generator().manual_seed(0)
        >>> for _ in range(5):
        ...     estimate = chain(x, progress=0.0, rng=rng)
        ...     _ = chain.adapt(x, rng)
        >>> chain.state_dict()["index"], estimate.info["calls"]  # the second chain's first level
        (1, 1.0)
    """

    adapts_to_renders: ClassVar[bool] = False
    denoiser: Denoiser
    bandwidth: Bandwidth = field(default_factory=LinearBandwidth)
    sampler: ProximalSampler = field(default_factory=lambda: ProximalSampler(steps=8, spread=5.0))
    exact: bool = False
    target: Literal["current", "drawn"] = "current"
    noise: NoisePolicy = "fresh"
    seed: int = 0
    chain: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    proposal: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.target not in ("current", "drawn") or self.sampler.solver != "ddim":
            raise InvalidInput(f"a chain takes DDIM steps to a current or drawn target, got {self.sampler.solver!r} and {self.target!r}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        counted = Counted(self.denoiser)
        bandwidth = self.bandwidth(progress, x, counted)
        chain = self.chain or self._started(x, replace(self.sampler, spread=None), bandwidth, rng)
        if chain["z"].shape != x.shape:
            raise InvalidInput(f"the chain was started for x of shape {tuple(chain['z'].shape)}, got {tuple(x.shape)}: make a new gradient")
        if chain["index"] == self.sampler.steps:
            chain = self._started(x, self.sampler, bandwidth, rng) | {"drawn": chain["z"]}
        z, index = chain["z"].to(x), chain["index"]
        sigma, following = chain["levels"].to(x)[index : index + 2]
        denoised = self._product(counted, x, bandwidth)(z, sigma)
        moved = z + per_item(following - sigma, x) * ((z - denoised) / per_item(sigma, x))
        self.proposal.update(chain | {"z": moved, "index": index + 1})
        target = chain["drawn"].to(x) if self.target == "drawn" and "drawn" in chain else denoised
        info: dict[str, Tensor | float] = {"calls": float(counted.calls), "bandwidth": bandwidth, "residual": residual(x, target)}
        return Estimate(x - target, target, info | {"sigma": sigma.expand(len(x))})

    def adapt(self, x: Tensor, rng: torch.Generator) -> float:
        """Set the chain to the last estimate's proposal, without denoiser calls or random numbers. Returns 0, since there is no loss."""
        del x, rng
        self.chain.update(self.proposal)
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """The chain: state, levels, place among them, and the last finished draw. Empty before the first step."""
        return dict(self.chain)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.proposal.clear()
        self.chain.clear()
        self.chain.update(state)

    def _started(self, x: Tensor, draw: ProximalSampler, bandwidth: Tensor, rng: torch.Generator) -> dict[str, Any]:
        levels = draw.levels(bandwidth.to(x))
        noise = noise_like(x, 1, self.noise, generator_for(self.noise, self.seed, rng))
        return {"z": x + per_item(levels[0], x) * noise, "levels": levels, "index": 0}

    def _product(self, denoiser: Denoiser, x: Tensor, bandwidth: Tensor) -> Denoiser:
        if self.exact:
            return ExactProduct(denoiser=denoiser, centre=x, bandwidth=bandwidth)
        return ProximalProduct(denoiser=denoiser, centre=x, bandwidth=bandwidth, data_std=self.sampler.data_std)
