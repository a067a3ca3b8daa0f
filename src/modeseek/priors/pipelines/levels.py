r"""What a pipeline's scheduler says about its network: which view of `modeseek.core.denoiser` fits, and the noise levels it was trained at.

    discrete    z = a y + b n, sigma_t = sqrt((1 - alphabar_t)/alphabar_t), eps, v or x0       Stable Diffusion, SDXL, DiT, pixels
    flow        z = (1-t) y + t n, sigma = t/(1-t)                                             Stable Diffusion 3, Flux

With zero terminal SNR (Lin et al. 2024) the last alphabar is 0 (some schedulers write 2^-24 for it), a state of pure noise at
sigma = infinity. That level is dropped: on Stable Diffusion's levels the highest is then about 2250. A sigma above the highest is asked at
the last t. The flow's levels are t = 1/T ... 1 - 1/T of its T training steps, before any shift of the sampler's. No `clip_sample` is
applied: D is what the network says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from modeseek.core.denoiser import Denoiser, DiscreteLevels, Flow, Network, VariancePreserving
from modeseek.core.errors import InvalidInput

View = Callable[[Network], Denoiser]
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
PURE_NOISE = 2.0**-24  # what diffusers writes for an alphabar of 0


def discrete_view(scheduler: Any) -> tuple[View, tuple[float, float]]:
    """The view of a network trained on z = a y + b n, and its (lowest, highest) sigma.

    Raises:
        InvalidInput: the scheduler states no alphas, or an unknown prediction.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    prediction = PREDICTIONS.get(scheduler.config.get("prediction_type", "epsilon"))
    if alphas is None or prediction is None:
        kind = f"{type(scheduler).__name__} with prediction_type {scheduler.config.get('prediction_type')!r}"
        raise InvalidInput(f"{kind} is not supported: a scheduler with alphas_cumprod and {', '.join(PREDICTIONS)} is needed")
    levels = DiscreteLevels(alphas_cumprod=alphas[alphas > PURE_NOISE].double())
    sigmas = levels.sigmas
    view = partial(_variance_preserving, levels=levels, prediction=prediction)
    return view, (float(sigmas[0]), float(sigmas[-1]))


def _variance_preserving(network: Network, *, levels: DiscreteLevels, prediction: str) -> Denoiser:
    return VariancePreserving(network=network, levels=levels, prediction=prediction)


def flow_view(scheduler: Any) -> tuple[View, tuple[float, float]]:
    """The view of a rectified-flow network, and its (lowest, highest) sigma."""
    steps = int(scheduler.config.num_train_timesteps)
    return Flow, (1 / (steps - 1), float(steps - 1))
