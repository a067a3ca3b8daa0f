r"""What a scheduler states about its network: how the network becomes a denoiser, and the noise levels at which it was trained.

    kind        scheduler says                         state                        adapter (`modeseek.core.denoiser`)
    discrete    alphas_cumprod                         z = a y + b n, t of T        `VariancePreserving`: eps, v or x0
    flow        FlowMatch..., or use_flow_sigmas       z = (1-t) y + t n            `Flow`
    edm         EDM..., or continuous v-prediction     x = y + sigma n              `EDM`, time ln(sigma)/4

Only what a scheduler states about training is read: how its sampler spaces, shifts (`shift`, `use_dynamic_shifting`), clips or
thresholds the levels does not change D. The network of a flow is called at the t that z has, so a shift changes the grid alone.

- Discrete levels are sigma_t = sqrt((1 - alphabar_t)/alphabar_t) of the scheduler's own float32 table. With zero terminal SNR (Lin et al.
  2024) the last alphabar is 0 (some schedulers write 2^-24), a state of pure noise at sigma = infinity. That level is dropped: with
  Stable Diffusion's betas the highest is then about 2250. A sigma above the highest is evaluated at the last t.
- Flow levels are t = 1/T ... 1 - 1/T of the T training steps.
- EDM levels run from `sigma_min` to `sigma_max`; predictions `epsilon` and `v_prediction` differ in the sign of the network's output.

A scheduler that is not understood is refused, since a wrong reading gives wrong gradients without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from modeseek.core.denoiser import EDM, Denoiser, DiscreteLevels, Flow, Network, VariancePreserving
from modeseek.core.errors import InvalidInput

View = Callable[[Network], Denoiser]
Prediction = Literal["eps", "v", "x0", "flow"]
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
PURE_NOISE = 2.0**-24  # what diffusers writes for an alphabar of 0
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
EDMS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
DISCRETE = (
    *("DDIM", "DDIMParallel", "DDIMInverse", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "HeunDiscrete", "EulerDiscrete"),
    *("EulerAncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "DPMSolverMultistepInverse", "UniPCMultistep"),
    *("DEISMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete", "SASolver", "LCM", "TCD", "UnCLIP", "CogVideoXDDIM", "CogVideoXDPM"),
)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """How a network becomes a denoiser, and where it was trained.

    Attributes:
        view: network -> denoiser.
        sigmas: (lowest, highest) noise level of its training.
        kind: what t the network is called with: timesteps of T ("discrete"), t in (0, 1) ("flow") or ln(sigma)/4 ("edm").
        data_std: standard deviation of x over the data, where the scheduler states it.
        source: what they were read from, so that they can be read again for another parametrisation; None: they were made directly.
    """

    view: View
    sigmas: tuple[float, float]
    kind: Literal["discrete", "flow", "edm"]
    data_std: float | None = None
    source: Any = field(default=None, repr=False, compare=False)

    def __call__(self) -> Levels:
        """Itself: fixed levels serve wherever a source of levels is expected."""
        return self


@dataclass(eq=False)
class SchedulerLevels:
    """The levels of a pipeline's current scheduler: a scheduler that is replaced or reconfigured is read anew at the next call.

    Args:
        pipeline: with a `scheduler`.
        prediction: what the network predicts, where the scheduler's configuration is wrong; None: as configured.
        table: noise levels, where the scheduler's are wrong; None: as configured.
    """

    pipeline: Any
    prediction: Prediction | None = None
    table: DiscreteLevels | None = None
    _seen: tuple[Any, ...] = field(default=(), init=False, repr=False)
    _found: Levels | None = field(default=None, init=False, repr=False)

    def __call__(self) -> Levels:
        """The current levels.

        Raises:
            InvalidInput: a scheduler that is not understood.
        """
        scheduler = self.pipeline.scheduler
        alphas = getattr(scheduler, "alphas_cumprod", None)
        now = (scheduler, scheduler.config, alphas)
        if self._found is None or any(old is not new for old, new in zip(self._seen, now, strict=True)):
            self._found, self._seen = read_scheduler(scheduler, prediction=self.prediction, table=self.table), now
        return self._found


def read_scheduler(scheduler: Any, *, prediction: Prediction | None = None, table: DiscreteLevels | None = None) -> Levels:
    """Return the noise levels and the parametrisation of a diffusers scheduler.

    Args:
        scheduler: the scheduler.
        prediction: overrides the scheduler's prediction type.
        table: overrides its table of alphas.

    Raises:
        InvalidInput: an unsupported scheduler class, prediction type or table, or an override that does not fit it.
    """
    if prediction is not None and prediction not in PREDICTIONS.values():
        raise InvalidInput(f"prediction {prediction!r} is unknown: choose {', '.join(PREDICTIONS.values())}")
    config = scheduler.config
    name = next((kind.__name__ for kind in type(scheduler).__mro__ if _known(kind.__name__)), None)
    if table is not None:
        return discrete_levels(table, prediction or _stated(scheduler))
    if name is None and prediction is None:
        raise InvalidInput(f"{_title(scheduler)} is not understood; say what the network predicts and its levels (prediction=, levels=)")
    if prediction == "flow" or (prediction is None and _is_flow(name, config)):
        return flow_levels(int(config.num_train_timesteps))
    if name in EDMS:
        return edm_levels(config.sigma_data, (config.sigma_min, config.sigma_max), prediction or _stated(scheduler))
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise InvalidInput(f"{_title(scheduler)} has no alphas_cumprod, from which noise levels are read: give levels=")
    levels = discrete_levels(_table(alphas, scheduler), prediction or _stated(scheduler))
    if config.get("timestep_type") == "continuous" and (prediction or _stated(scheduler)) == "v":
        low, high = config.get("sigma_min"), config.get("sigma_max")
        sigmas = (levels.sigmas[0] if low is None else low, levels.sigmas[1] if high is None else high)
        return replace(edm_levels(1.0, sigmas, "v"), data_std=1.0)
    return levels


def discrete_levels(table: DiscreteLevels, prediction: Prediction) -> Levels:
    """Levels of a network trained on z = a y + b n.

    Raises:
        InvalidInput: a flow, which has no table of alphas.
    """
    if prediction == "flow":
        raise InvalidInput("a flow has no table of alphas: give prediction='flow' without levels")
    sigmas = table.sigmas
    view = partial(_variance_preserving, levels=table, prediction=prediction)
    return Levels(view=view, sigmas=(float(sigmas[0]), float(sigmas[-1])), kind="discrete")


def flow_levels(steps: int = 1000) -> Levels:
    """Levels of a rectified flow that was trained on `steps` values of t."""
    return Levels(view=Flow, sigmas=(1 / (steps - 1), float(steps - 1)), kind="flow")


def edm_levels(data_std: float, sigmas: tuple[float, float], prediction: Prediction) -> Levels:
    """Levels of an EDM-preconditioned network; with "v" its output has the opposite sign, as in diffusers.

    Raises:
        InvalidInput: a prediction other than "eps" and "v".
    """
    if prediction not in ("eps", "v"):
        raise InvalidInput(f"an EDM scheduler's network predicts eps or v, not {prediction!r}")
    view = partial(_edm, data_std=float(data_std), sign=-1.0 if prediction == "v" else 1.0)
    return Levels(view=view, sigmas=(float(sigmas[0]), float(sigmas[1])), kind="edm", data_std=float(data_std))


def _variance_preserving(network: Network, *, levels: DiscreteLevels, prediction: str) -> Denoiser:
    return VariancePreserving(network=network, levels=levels, prediction=prediction)


def _edm(network: Network, *, data_std: float, sign: float) -> Denoiser:
    return EDM(network=lambda z, t: sign * network(z, t), data_std=data_std)


def _known(name: str) -> bool:
    return name in FLOWS or name in EDMS or (name.endswith("Scheduler") and name.removesuffix("Scheduler") in DISCRETE)


def _is_flow(name: str | None, config: Any) -> bool:
    if config.get("invert_sigmas", False):
        raise InvalidInput("a flow scheduler with invert_sigmas runs time backwards, which is not supported")
    return name in FLOWS or bool(config.get("use_flow_sigmas", False)) or config.get("prediction_type") == "flow_prediction"


def _stated(scheduler: Any) -> Prediction:
    """What the scheduler's configuration says the network predicts."""
    stated = scheduler.config.get("prediction_type", "epsilon")
    if stated not in PREDICTIONS:
        raise InvalidInput(f"{_title(scheduler)} is not understood; known are {', '.join(PREDICTIONS)}: give prediction=")
    return PREDICTIONS[stated]


def _table(alphas: Tensor, scheduler: Any) -> DiscreteLevels:
    try:
        alphas = alphas.detach().cpu().double()
        noise = alphas.ndim == 1 and len(alphas) > 2 and 0 <= float(alphas[-1]) <= PURE_NOISE
        return DiscreteLevels(alphas_cumprod=alphas[:-1] if noise else alphas)
    except InvalidInput as error:
        raise InvalidInput(f"the noise levels of {_title(scheduler)} are not understood: {error}; give levels=") from error


def _title(scheduler: Any) -> str:
    return f"{type(scheduler).__name__} with prediction_type {scheduler.config.get('prediction_type', 'epsilon')!r}"
