r"""Variational score distillation (Wang et al. 2023, ProlificDreamer).

    g = E_{sigma, n}[ w(sigma) (D_aux(x_s; sigma) - D(x_s; sigma)) / sigma ],   x_s = x + sigma n

D_aux is a second denoiser, trained on the renders as they move, so that g descends KL(distribution of renders | p) over noise levels. On
Stable Diffusion it is a LoRA of the prior (`prior.auxiliary`); for points it is a small network, started as a copy of the prior
where that is a network. Estimating never learns: `adapt(x, rng)` trains D_aux, and the loop calls it after each step. Cost: two
denoiser calls a sample (one of D_aux) and, in `adapt`, one of D_aux a training step. threestudio runs D_aux twice under a guidance
scale of 1, which changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, mean_over_samples, normal_like, residual
from modeseek.gradients.noise_levels import NoiseLevels


@dataclass(frozen=True, kw_only=True)
class VSD:
    """Variational score distillation; a `Gradient` that also learns through `adapt`.

    Args:
        denoiser: D of the (guided) prior.
        auxiliary: D_aux, a module called `(x, sigma)` with parameters to train. It is used as it is and trained in place: give a copy
            where it is needed elsewhere.
        levels: distribution and weight of sigma.
        late_levels: those of the second half of a run (the published code lowers the highest timestep to 500); None: the same.
        samples: Monte-Carlo samples an estimate.
        noise: "fresh" or "fixed" n.
        seed: of the fixed noise.
        learning_rate: Adam's rate for D_aux.
        adapt_steps: training steps of D_aux a call of `adapt`.
    """

    denoiser: Denoiser
    auxiliary: nn.Module
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    late_levels: NoiseLevels | None = None
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0
    learning_rate: float = 1e-3
    adapt_steps: int = 1
    optimiser: torch.optim.Optimizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.auxiliary.requires_grad_(True)
        object.__setattr__(self, "optimiser", torch.optim.Adam(self.auxiliary.parameters(), lr=self.learning_rate))

    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        noise_rng = generator_for(self.noise, self.seed, rng)
        total_weight = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        levels = self.levels if self.late_levels is None or progress < 0.5 else self.late_levels
        self.auxiliary.eval()

        def evaluate(copies_of_x: Tensor, copies: int) -> Tensor:
            sigma = levels.sample(len(copies_of_x), rng, progress).to(x)
            noisy = copies_of_x + per_item(sigma, copies_of_x) * normal_like(copies_of_x, noise_rng)
            weight = levels.weigh(sigma) / sigma
            total_weight.add_(weight.reshape(copies, -1).sum(0))
            with torch.no_grad():
                difference = self.auxiliary(noisy, sigma) - self.denoiser(noisy, sigma)
            return per_item(weight, x) * difference

        gradient = mean_over_samples(x, self.samples, evaluate)
        target = x - gradient * per_item(self.samples / total_weight, x)
        info: dict[str, Tensor | float] = {"calls": 2.0 * self.samples + self.adapt_steps, "residual": residual(x, target)}
        return Estimate(gradient, target, info)

    def adapt(self, x: Tensor, rng: torch.Generator) -> float:
        r"""Train D_aux on the current renders with the denoising loss $|D_{aux}(x_\sigma) - x|^2/\sigma^2$; returns the loss."""
        self.auxiliary.train()
        loss = torch.zeros(())
        for _ in range(self.adapt_steps):
            sigma = self.levels.sample(len(x), rng).to(x)
            noisy = x + per_item(sigma, x) * normal_like(x, rng)
            loss = (((self.auxiliary(noisy, sigma) - x) / per_item(sigma, x)) ** 2).mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, object]:
        """The learned state: D_aux and its optimiser."""
        return {"auxiliary": self.auxiliary.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimiser.load_state_dict(state["optimiser"])
