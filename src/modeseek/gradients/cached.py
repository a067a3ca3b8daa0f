r"""Cached targets: where the residual is taken, and how many steps one estimate serves.

    space        loss at image I, target y                  the network is evaluated at    the encoder runs
    latent       w |encode(I) - y|^2 / 2                    x = encode(I)                  forward and backward, every step
    image        |I - decode(y)|^2 / 2                      x = encode(I)                  forward only, once per estimate
    difference   |I - (I0 + decode(y) - decode(x))|^2 / 2   x = encode(I0)                 forward only, once per estimate

The paper takes the residual in latents. The encoder's Jacobian is badly conditioned, and gradients that pass through it drift in hue; a
target of MSD is a clean sample, so it can be decoded once and regressed in image space. The target of one estimate can serve `refresh`
steps: a draw of the product density costs many calls and can be reused for many steps; steps with a cached target make no denoiser call. In
latent space a cached target keeps the weight w of its estimate; elsewhere w is 1. "difference" moves I0, the image that was encoded, by the
change of the decoded images: the reconstruction error of the autoencoder cancels, so that small steps do not replace the image by its
reconstruction. It costs one more decode per estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import per_item
from modeseek.core.errors import InvalidInput, NonFiniteError
from modeseek.gradients.base import Estimate, Gradient, residual

Space = Literal["latent", "image", "difference"]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Residual:
    """A gradient estimate and the tensor to backpropagate it from.

    Attributes:
        place: x or the image, with its autograd graph: `place.backward(estimate.gradient)`.
        value: a detached copy of `place`.
        estimate: gradient, target and residual at `place`; `calls` is 0 for a cached target.
        evaluated_at: x at which the network was evaluated in this step; None for a cached target.
    """

    place: Tensor
    value: Tensor
    estimate: Estimate
    evaluated_at: Tensor | None


class CachedTarget:
    """A gradient whose targets are cached for several steps, in latent or image space; one target per slot.

    Args:
        gradient: evaluated once in `refresh` calls of a slot.
        space: "latent", "image" or "difference".
        refresh: number of steps that use one target.
        encode: differentiable map from images to x; None: x is the image.
        decode: map from x to images, needed in the spaces "image" and "difference".

    Raises:
        InvalidInput: unknown space, refresh below 1, or image space without `decode`; called, a decoded target of another size.
        NonFiniteError: called, x or the image is not finite.
    """

    def __init__(self, gradient: Gradient, *, space: Space, refresh: int, encode: Map | None, decode: Map | None) -> None:
        if space not in ("latent", "image", "difference"):
            raise InvalidInput(f"space {space!r} is unknown: choose latent, image or difference")
        if space != "latent" and decode is None:
            raise InvalidInput(f"space={space!r} compares images: give decode, the map from x to images (an image prior's `decode`)")
        if refresh < 1:
            raise InvalidInput(f"a target must serve at least 1 step, got refresh={refresh}")
        self.gradient, self.space, self.refresh, self.encode, self.decode = gradient, space, refresh, encode, decode
        self.slots: dict[int, dict[str, Any]] = {}

    def __call__(self, image: Tensor, *, slot: int, progress: float, rng: torch.Generator) -> Residual:
        place = self.encode(image) if self.space == "latent" and self.encode is not None else image
        here = place.detach().clone()  # the place may be the parameters themselves, which the update moves
        check_finite(here)
        cached = self.slots.get(slot)
        if cached is not None and cached["age"] < self.refresh:
            self.slots[slot] = cached | {"age": cached["age"] + 1}
            return Residual(place, here, self._again(here, cached), None)
        x = here if self.space == "latent" or self.encode is None else without_graph(self.encode, here)
        check_finite(x)
        estimate = self.gradient(x, progress=progress, rng=rng)
        cached = {"target": estimate.target, "weight": weight_of(estimate, x), "info": estimate.info, "age": 1}
        if self.space != "latent":
            assert self.decode is not None
            target = without_graph(self.decode, estimate.target)
            if self.space == "difference":
                target = here + (target - without_graph(self.decode, x))
            cached |= {"target": target, "weight": torch.ones_like(cached["weight"])}
            estimate = self._again(here, cached, calls=estimate.info["calls"])
        self.slots[slot] = cached
        return Residual(place, here, estimate, x)

    @torch.no_grad()
    def x_of(self, representation: nn.Module) -> Tensor:
        """x of the current renders, detached: (batch, *event)."""
        return (representation() if self.encode is None else self.encode(representation())).clone()

    def _again(self, here: Tensor, cached: dict[str, Any], calls: Tensor | float = 0.0) -> Estimate:
        target = cached["target"].to(here)
        if target.shape != here.shape:
            raise InvalidInput(f"decode gives {tuple(target.shape)}, the representation {tuple(here.shape)}: render at the prior's size")
        info = cached["info"] | {"calls": calls, "residual": residual(here, target)}
        return Estimate(per_item(cached["weight"].to(here), here) * (here - target), target, info)

    def state_dict(self) -> dict[str, Any]:
        """Targets, their weights and infos, and their ages."""
        return {str(slot): dict(cached) for slot, cached in self.slots.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.slots = {int(slot): dict(cached) for slot, cached in state.items()}


def without_graph(convert: Map, value: Tensor) -> Tensor:
    """`convert(value)` with no graph."""
    with torch.no_grad():
        return convert(value)


def check_finite(value: Tensor) -> None:
    """Raise `NonFiniteError` unless all is finite."""
    if not bool(value.isfinite().all()):
        bad = int((~value.isfinite()).flatten(1).any(1).sum())
        raise NonFiniteError(f"{bad} of {len(value)} objects have NaN or infinite entries; check the renderer or lower the learning rate")


def weight_of(estimate: Estimate, x: Tensor) -> Tensor:
    """The w of gradient = w (x - target), 1 where x is the target: (batch,).

    Example:
        >>> weight_of(Estimate(torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0]])), torch.tensor([[2.0], [0.0]]))
        tensor([3., 1.])
    """
    away = (x - estimate.target).flatten(1)
    square = away.square().sum(1)
    return torch.where(square > 0, (estimate.gradient.flatten(1) * away).sum(1) / square, 1.0)
