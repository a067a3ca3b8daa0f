r"""Variational score distillation (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213).

    g = E_{sigma, n}[ w(sigma) (D_aux(x_s; sigma) - D(x_s; sigma)) / sigma ],   x_s = x + sigma n

D_aux is a second denoiser, trained on the renders while they move, so that g descends KL(distribution of renders | p) over noise levels. On
Stable Diffusion it is a LoRA of the prior (`prior.auxiliary`); for points it is a small network, started as a copy of the prior
where that is a network. Calling the estimator trains nothing: `adapt(x, rng)` trains D_aux, and the loop calls it after each step.

Published settings (threestudio at 28d9d80, `configs/prolificdreamer.yaml`): w = 1 - alphabar; t ~ U{20..980} for the first fifth of the run
(5000 of 25 000 steps), then t ~ U{20..500}; D_aux is trained at t ~ U{0..999} by AdamW with betas (0.9, 0.99) at 1e-4. Its camera
embedding, zeroed for a tenth of the training steps, belongs to the auxiliary network (`modeseek.integrations`), not to this file.
threestudio evaluates D_aux twice under a guidance scale of 1, which equals one evaluation.

Cost in denoiser calls: 2 per sample (one of them D_aux), and `adapt_steps` training steps of D_aux.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.gradients.base import (
    Estimate,
    NoisePolicy,
    check_point,
    generator_for,
    in_full_precision,
    mean_over_samples,
    noise_like,
    normal_like,
    residual,
)
from modeseek.gradients.noise_levels import NoiseLevels

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
EPS = 1e-15  # of AdamW, as published


@dataclass(frozen=True, kw_only=True)
class VSD:
    """Variational score distillation; a `Gradient` whose auxiliary network `adapt` trains.

    Args:
        denoiser: D of the (guided) prior.
        auxiliary: D_aux, a module called `(x, sigma)` with parameters to train. It is trained in place: give a copy where the network is
            used elsewhere.
        levels: distribution and weight of sigma.
        late_levels: those from progress `late_from` on; None: the same throughout.
        late_from: progress at which `late_levels` begin; published: a fifth of the run.
        auxiliary_levels: distribution of sigma in the training of D_aux; None: `levels`. Published: every level of the prior.
        samples: Monte-Carlo samples per estimate.
        noise: "fresh" or "fixed" n.
        seed: of the fixed noise.
        learning_rate: AdamW's learning rate for D_aux.
        betas: AdamW's, as published.
        weight_decay: AdamW's; 0.01 is PyTorch's default, which the published code keeps.
        prediction: error that the training loss of D_aux measures: "eps" or "v", what its network predicts.
        adapt_steps: training steps of D_aux per call of `adapt`.
        average: called on the gradients of D_aux's parameters before each of its updates, in place; several processes that train one D_aux
            on different renders average them here. None: one process.

    Raises:
        InvalidInput: `late_from` outside [0, 1], or an unknown prediction.
    """

    denoiser: Denoiser
    auxiliary: nn.Module
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    late_levels: NoiseLevels | None = None
    late_from: float = 0.2
    auxiliary_levels: NoiseLevels | None = None
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    prediction: Literal["eps", "v"] = "eps"
    adapt_steps: int = 1
    average: Callable[[Sequence[Tensor]], None] | None = field(default=None, repr=False)
    optimiser: torch.optim.Optimizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.late_from <= 1:
            raise InvalidInput(f"late_from is a progress in [0, 1], got {self.late_from}")
        if self.prediction not in ("eps", "v"):
            raise InvalidInput(f"prediction {self.prediction!r} is unknown: choose eps or v")
        self.auxiliary.requires_grad_(True)
        settings: dict[str, Any] = {"lr": self.learning_rate, "betas": self.betas, "eps": EPS, "weight_decay": self.weight_decay}
        object.__setattr__(self, "optimiser", torch.optim.AdamW(self.auxiliary.parameters(), **settings))

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        noise_rng = generator_for(self.noise, self.seed, rng)
        total_weight = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        levels = self.levels if self.late_levels is None or progress < self.late_from else self.late_levels
        self.auxiliary.eval()

        def evaluate(copies_of_x: Tensor, copies: int) -> Tensor:
            sigma = levels.sample(len(copies_of_x), rng, progress).to(x)
            noisy = copies_of_x + per_item(sigma, copies_of_x) * noise_like(x, copies, self.noise, noise_rng)
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
        r"""Train D_aux on the current renders with the loss $|D_{aux}(x_\sigma) - x|^2/\sigma^2$, the squared error of the predicted noise,
        or that times $1 + \sigma^2$, the squared error of the predicted velocity v.

        Dropout stays off, so that training and estimates use one network. Returns the last loss.
        """
        self.auxiliary.train()
        for module in self.auxiliary.modules():
            if isinstance(module, DROPOUT):
                module.eval()
        levels = self.levels if self.auxiliary_levels is None else self.auxiliary_levels
        if levels.anneal != "none":  # D_aux is trained at every level of the run
            levels = replace(levels, anneal="none")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        loss = torch.zeros(())
        for _ in range(self.adapt_steps):
            sigma = levels.sample(len(x), rng).to(x)
            noisy = x + per_item(sigma, x) * normal_like(x, rng)
            scale = sigma if self.prediction == "eps" else sigma * (1 + sigma**2).rsqrt()
            loss = (((self.auxiliary(noisy, sigma) - x) / per_item(scale, x)) ** 2).mean()
            self.optimiser.zero_grad()
            loss.backward()
            if self.average is not None:
                self.average([parameter.grad for parameter in self.auxiliary.parameters() if parameter.grad is not None])
            self.optimiser.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, object]:
        """The trained state: D_aux and its optimiser."""
        return {"auxiliary": self.auxiliary.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimiser.load_state_dict(state["optimiser"])
