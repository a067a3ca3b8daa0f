r"""Regularisers of a distilled volume, against diffuse density, floaters and inverted surfaces, with schedules of their weights.

    orientation   mean over covered rays of sum_i w_i max(0, normal_i . direction)^2   Verbin et al. 2022 (Ref-NeRF) eq. 11; w_i detached
    sparsity      mean sqrt(o^2 + 0.01)                                                as in threestudio (after Hedman et al. 2021)
    opaque        mean -o log o - (1 - o) log(1 - o), o clamped to [0.001, 0.999]      entropy: opacities near 0 or 1
    variance      mean over rays with o > 0.5 of the variance of the distance          Zhu et al. 2024 (HiFA), z-variance

A weight is a number, a linear schedule (start_step, start, end, end_step) that is constant before and after, or a piecewise linear one
(start_step, start, v1, step1, v2, step2, ...). Weights are relative to a loss that is a mean over views. The gradients of `modeseek` are
those of a loss summed over views, so the penalty is multiplied by the number of views. If several processes divide the views, each divides
its local sum by the total count (`Total`), so that the terms of all processes add up. `attach` adds the penalty to the backward pass of the
images, so a loop that only handles images needs no change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.rendering import Rendering

Weight = float | tuple[float, ...]
Total = Callable[[Tensor], Tensor]
"""From a count in this rendering to the count in all renderings of a batch; the identity for one rendering."""


def weight_at(weight: Weight, step: int) -> float:
    """Return the value of a weight at a step.

    Raises:
        InvalidInput: a schedule of the wrong length, or whose steps do not increase.

    Example:
        >>> [weight_at((1000, 0.0, 10.0, 5000), step) for step in (0, 3000, 9000)], weight_at(0.5, 7)
        ([0.0, 5.0, 10.0], 0.5)
    """
    if not isinstance(weight, tuple):
        return float(weight)
    if len(weight) < 4 or len(weight) % 2:
        raise InvalidInput(f"a schedule of a weight is (start_step, start, end, end_step[, next, next_step, ...]), got {weight}")
    steps, values = (weight[0], *weight[3::2]), (weight[1], *weight[2::2])
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise InvalidInput(f"the steps of the schedule of a weight must increase, got {steps}")
    for (begin, first), (end, last) in itertools.pairwise(zip(steps, values, strict=True)):
        if step < end:
            return first + (last - first) * max(0.0, (step - begin) / (end - begin))
    return float(values[-1])


def _here(count: Tensor) -> Tensor:
    return count


def _mean(values: Tensor, total: Total) -> Tensor:
    return values.sum() / total(torch.tensor(values.numel(), device=values.device))


def orientation(rendering: Rendering, total: Total = _here) -> Tensor:
    """Penalty on samples whose normals face away from the camera.

    Raises:
        InvalidInput: a rendering without normals.
    """
    if rendering.sample_normals is None:
        raise InvalidInput("orientation needs normals: render with normals=True")
    away = (rendering.sample_normals * rendering.directions[rendering.samples.ray]).sum(1).clamp_min(0)
    return (rendering.weights.detach() * away**2).sum() / total((rendering.opacity.detach() > 0).sum()).clamp_min(1)


def sparsity(rendering: Rendering, total: Total = _here) -> Tensor:
    """Mean opacity, smooth at 0."""
    return _mean((rendering.opacity**2 + 0.01).sqrt(), total)


def opaque(rendering: Rendering, total: Total = _here) -> Tensor:
    """Mean entropy of the opacity."""
    o = rendering.opacity.clamp(1e-3, 1 - 1e-3)
    return -_mean(o * o.log() + (1 - o) * (1 - o).log(), total)


def variance(rendering: Rendering, total: Total = _here) -> Tensor:
    """Mean variance of the distance on rays with an opacity above one half."""
    solid = rendering.opacity.detach() > 0.5
    return (rendering.variance * solid).sum() / total(solid.sum()).clamp_min(1)


TERMS = {"orientation": orientation, "sparsity": sparsity, "opaque": opaque, "variance": variance}


@dataclass(frozen=True, kw_only=True)
class Regularisers:
    """Weights of the terms; `Regularisers.threestudio()` has those of its DreamFusion.

    Example:
        >>> [round(Regularisers.threestudio().weights(step)["orientation"]) for step in (0, 1000, 5000)]
        [10, 208, 1000]
    """

    orientation: Weight = 0.0
    sparsity: Weight = 0.0
    opaque: Weight = 0.0
    variance: Weight = 0.0

    def __post_init__(self) -> None:
        for term in fields(self):
            weight_at(getattr(self, term.name), 0)

    @classmethod
    def threestudio(cls) -> Regularisers:
        """Those of threestudio's `dreamfusion-sd.yaml`: orientation [0, 10, 1000, 5000] (10 at step 0, 1000 at step 5000), sparsity 1."""
        return cls(orientation=(0, 10.0, 1000.0, 5000), sparsity=1.0)

    def weights(self, step: int) -> dict[str, float]:
        """Weights that are not 0 at a step, by name."""
        found = {term.name: weight_at(getattr(self, term.name), step) for term in fields(self)}
        return {name: value for name, value in found.items() if value}

    def needs_normals(self, step: int) -> bool:
        """Whether the rendering of a step must have normals."""
        return "orientation" in self.weights(step)

    def penalty(self, rendering: Rendering, step: int, total: Total = _here) -> Tensor:
        """Weighted sum of the terms at a step, a scalar."""
        terms = [value * TERMS[name](rendering, total) for name, value in self.weights(step).items()]
        return torch.stack(terms).sum() if terms else rendering.image.new_zeros(())


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, penalty: Tensor) -> Tensor:
        ctx.penalty = penalty.new_ones(())
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, ctx.penalty


def attach(image: Tensor, penalty: Tensor) -> Tensor:
    """Return the image with the gradient of `penalty` added to its backward pass, whatever the gradient of the image is.

    Example:
        >>> x = torch.tensor([2.0], requires_grad=True)
        >>> attach(3 * x, (x**2).sum()).backward(torch.tensor([10.0]))
        >>> x.grad  # 3 * 10 + 2 * 2
        tensor([34.])
    """
    return _Attach.apply(image, penalty)
