r"""`NetworkPrior`: an image prior made from any network.

Five things define a diffusion model: the network, how prompts become its inputs, the noise levels and the parametrisation it was
trained with, and the map between images and x. Guidance, batching, noise levels for each item and VSD's LoRA follow from them.

    prediction   the network's output     called as                             levels
    eps, v, x0   as named                 network(z, t, **inputs), t in steps   `DiscreteLevels`, or a scheduler of diffusers
    flow         n - y                    network(z, t, **inputs), t in (0, 1)  (lowest, highest) sigma, or a scheduler
    edm          F                        network(z, ln(sigma) / 4, **inputs)   (lowest, highest) sigma
    denoiser     D                        network(x, sigma, **inputs)           (lowest, highest) sigma

z is the network's own state (see `modeseek.core.denoiser`). Images have the channels of x where x is an image, and 3 where a codec says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, DiscreteLevels, Flow, Network, as_sigma
from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Family, GuidanceKind, PipelinePrior
from modeseek.priors.pipelines.codecs import Codec
from modeseek.priors.pipelines.conditioned import Conditions
from modeseek.priors.pipelines.levels import Levels, discrete_levels, edm_levels, read_scheduler
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts

Prediction = Literal["eps", "v", "x0", "flow", "edm", "denoiser"]
COUNT = "items"  # the condition of an unconditional network: one zero per item, not passed on


@dataclass(frozen=True)
class PixelRange:
    """Codec of a network on pixels: x is the image in [0, 1] mapped linearly to [low, high].

    Data normalised by a mean m and a standard deviation s have low = -m / s and high = (1 - m) / s.

    Example:
        >>> PixelRange(-1.0, 1.0).encode(torch.tensor([[[[0.25]]]]), None)
        tensor([[[[-0.5000]]]])
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(f"a value range needs low < high, got {self.low} and {self.high}")

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        """x of an image; `rng` is not used."""
        return self.low + (self.high - self.low) * image

    def decode(self, x: Tensor) -> Tensor:
        """The image of an x, not clamped."""
        return (x - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkFamily:
    """The part of a prior that calls a user's network; made by `NetworkPrior`."""

    function: Callable[..., Tensor]
    module: nn.Module | None
    condition: Callable[[Any], Conditions] | None
    guidance: GuidanceKind
    lora_targets: tuple[str, ...]
    device: torch.device
    kinds: ClassVar[tuple[str, ...]] = ("discrete", "flow", "edm")
    encoders: ClassVar[tuple[str, ...]] = ()
    default_guidance: ClassVar[float] = 1.0
    distillation: ClassVar[None] = None

    @property
    def network(self) -> nn.Module:
        """The module whose layers a LoRA adapts; an empty one for a function without a module."""
        return nn.Module() if self.module is None else self.module

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        """The inputs for each prompt.

        Raises:
            InvalidInput: further settings, an output of the condition function that does not have one row per prompt, or a prompt for an
                unconditional network.
        """
        if settings:
            raise InvalidInput(f"a NetworkPrior takes no {', '.join(settings)}: its condition function makes all inputs of the network")
        if self.condition is None:
            if isinstance(prompts, PromptEmbeds) or any(prompts):
                raise InvalidInput("this network is unconditional: give an empty prompt for each item")
            return {COUNT: torch.zeros(len(prompts), device=self.device)}
        made = self.condition(prompts)
        wrong = [name for name, value in made.items() if not isinstance(value, Tensor) or len(value) != len(prompts)]
        if wrong or not made:
            shapes = {name: tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for name, value in made.items()}
            raise InvalidInput(f"condition must return tensors by name with one row per prompt ({len(prompts)}), got {shapes}")
        return {name: value.to(self.device) for name, value in made.items()}

    def opposite(self, negatives: Any, **settings: Any) -> Conditions:
        """The inputs of D_u for each negative prompt; None is the empty prompt."""
        return self.conditions([negative or "" for negative in negatives] if isinstance(negatives, list) else negatives, **settings)

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's output, its inputs cast to the dtype of its weights; times stay float32 next to half-precision weights.

        Raises:
            InvalidInput: the network returns something other than a tensor shaped like its state.
        """
        inputs = {name: value for name, value in conditions.items() if name != COUNT}
        weight = next(self.module.parameters(), None) if self.module is not None else None
        if weight is not None and weight.is_floating_point():
            z, t = z.to(weight.dtype), t.to(torch.promote_types(weight.dtype, torch.float32))
            inputs = {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        output = self.function(z, t, **inputs)
        if not isinstance(output, Tensor) or output.shape != z.shape:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidInput(f"the network must return a tensor like its state {tuple(z.shape)}, got {found}")
        return output


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkPrior(PipelinePrior):
    """An image prior from a network; an `ImagePrior` like those of `load_prior`.

    Args:
        network: `network(z, t, **inputs) -> prediction`, a module or a function around one; z (batch, *event), t (batch,).
        event: shape of one x, (channels, height, width).
        prediction: what the network returns, see the table of the module; None: what a scheduler given as `levels` says.
        levels: the noise levels it was trained at: `DiscreteLevels`, a scheduler of diffusers, or (lowest, highest) sigma.
        condition: `condition(prompts) -> {name: tensor with one row per prompt}`, the further inputs of the network. It is also called
            with the negative prompt of D_u, "" by default. None: the network is unconditional and takes empty prompts.
        codec: images to x and back, an object with `encode(image, rng)` and `decode(x)`; the default takes x as the image in [-1, 1].
        image_size: (height, width) of the images; None: that of x.
        image_channels: of the images; None: those of x.
        guidance_kind: None: classifier-free with a `condition`, else "none". "embedded": the network takes `guidance` (batch,) as an input.
        module: where `network` is a function, the module inside it: its dtype is used, and VSD adapts its layers.
        lora_targets: for VSD, ends of the names of the layers to adapt.
        data_std: standard deviation of x over the data, for samplers that need one, and for the preconditioning of "edm".
        default_scale: guidance scale used where a denoiser is made without one; None: 1, no guidance.
        device: of x; None: that of the module's weights.

    Raises:
        InvalidInput: levels and prediction that do not fit, or shapes that cannot be.

    Example:
        >>> prior = NetworkPrior(network=lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2), event=(1, 28, 28),
        ...                      prediction="denoiser", levels=(0.01, 80.0))
        >>> prior.denoiser(["", ""])(torch.ones(2, 1, 28, 28), torch.tensor(1.0)).unique()
        tensor([0.5000])
    """

    network: Callable[..., Tensor] = field(repr=False)
    levels: Any = field(repr=False)  # resolved to `Levels`
    prediction: Prediction | None = None
    condition: Callable[[Any], Conditions] | None = field(default=None, repr=False)
    codec: Codec = field(default_factory=PixelRange)
    image_size: tuple[int, int] | None = None  # type: ignore[assignment]
    image_channels: int | None = None
    guidance_kind: GuidanceKind | None = None
    module: nn.Module | None = field(default=None, repr=False)
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    data_std: float = 0.5
    device: torch.device | None = None  # type: ignore[assignment]
    pipeline: Any = field(default=None, init=False, repr=False)
    family: Family = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.event) != 3 or min(self.event) < 1:
            raise InvalidInput(f"event is (channels, height, width) of one x, got {tuple(self.event)}")
        module = self.module if self.module is not None else self.network if isinstance(self.network, nn.Module) else None
        levels = levels_of(self.levels, self.prediction, data_std=self.data_std)
        weight = None if module is None else next(module.parameters(), None)
        device = torch.device(self.device) if self.device is not None else weight.device if weight is not None else torch.device("cpu")
        family = NetworkFamily(
            function=self.network,
            module=module,
            condition=self.condition,
            guidance=self.guidance_kind or ("none" if self.condition is None else "classifier-free"),
            lora_targets=self.lora_targets,
            device=device,
        )
        resolved: dict[str, Any] = {"family": family, "levels": levels, "device": device}
        resolved |= {"image_size": self.image_size or tuple(self.event[1:]), "image_channels": self.image_channels or self.event[0]}
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """(batch, image_channels, height, width) in [0, 1] -> x, differentiable. RGB images are averaged for a prior of one channel.

        Raises:
            InvalidInput: an image of another shape.
        """
        if image.ndim == 4 and image.shape[1] == 3 and self.image_channels == 1:
            image = image.mean(1, keepdim=True)
        shape = (self.image_channels, self.image_size[0], self.image_size[1])  # type: ignore[index]
        if image.shape[1:] != shape:
            raise InvalidInput(f"this prior encodes images of shape {shape}, got {tuple(image.shape)}")
        return self.codec.encode(image.to(self.device), rng)

    def auxiliary(self, prompts: Prompts, *, rank: int = 4, seed: int = 0, **settings: Any) -> nn.Module:
        """D_aux for VSD: the network with a fresh LoRA on the layers of its module.

        Raises:
            InvalidInput: the network is a function and `module` was not given, or no layer's name matches `lora_targets`.
        """
        if not list(self.family.network.children()):
            raise InvalidInput("VSD adapts the layers of a torch.nn.Module: give NetworkPrior(module=...) for a network that is a function")
        return super().auxiliary(prompts, rank=rank, seed=seed, **settings)


def levels_of(levels: Any, prediction: Prediction | None, *, data_std: float = 0.5) -> Levels:
    """Return the adapter that turns a network of this parametrisation into a denoiser, and the noise levels of its training.

    Raises:
        InvalidInput: an unknown prediction, or levels of another kind than it needs.
    """
    if isinstance(levels, Levels):
        return levels if levels.source is None else levels_of(levels.source, prediction, data_std=data_std)
    return replace(_read(levels, prediction, data_std), source=levels)


def _read(levels: Any, prediction: Prediction | None, data_std: float) -> Levels:
    if prediction not in (None, *get_args(Prediction)):
        raise InvalidInput(f"prediction {prediction!r} is unknown: choose {', '.join(get_args(Prediction))}")
    if hasattr(levels, "config"):  # a scheduler
        if prediction in ("edm", "denoiser"):
            raise InvalidInput(f"prediction={prediction!r} needs levels=(lowest, highest) sigma, not a scheduler")
        return read_scheduler(levels, prediction=prediction)  # type: ignore[arg-type]
    if isinstance(levels, DiscreteLevels):
        if prediction not in ("eps", "v", "x0"):
            raise InvalidInput(f"discrete levels go with prediction 'eps', 'v' or 'x0', got {prediction!r}")
        return discrete_levels(levels, prediction)  # type: ignore[arg-type]
    ranged = ("flow", "edm", "denoiser")
    if prediction not in ranged or not _is_range(levels):
        need = "(lowest, highest) sigma" if prediction in ranged else "DiscreteLevels or a scheduler"
        raise InvalidInput(f"prediction={prediction!r} needs levels = {need}, got {levels!r}")
    sigmas = (float(levels[0]), float(levels[1]))
    if prediction == "edm":
        return edm_levels(data_std, sigmas, "eps")
    return Levels(view=Flow, sigmas=sigmas, kind="flow") if prediction == "flow" else Levels(view=as_denoiser, sigmas=sigmas, kind="edm")


def as_denoiser(network: Network) -> Denoiser:
    """Wrap a network that is called as `(x, sigma (batch,))` and returns D."""
    return lambda x, sigma: network(x, as_sigma(sigma, x).expand(len(x)))


def _is_range(levels: Any) -> bool:
    return isinstance(levels, tuple | list) and len(levels) == 2 and 0 < levels[0] < levels[1]
