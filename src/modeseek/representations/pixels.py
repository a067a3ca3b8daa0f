"""Free images and free latents: one parameter per value, so they can represent any image.

    Pixels     image = low + (high - low) sigmoid(theta), inside the value range for every theta
    Latents    x = theta, passed to the gradient without an encoder

Nothing in them resists a gradient: with a step of full length they become the target itself. The paper uses a coordinate network for that
reason (`modeseek.representations.coordinates`). Each object starts from its own seed: object k of a batch has the start of a batch with
that seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput


def per_seed(seeds: Sequence[int], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Call `draw` once per seed with a generator of that seed and stack the results: (seeds, ...).

    Raises:
        InvalidInput: no seeds.
    """
    if len(seeds) == 0:
        raise InvalidInput("a batch of objects needs at least one seed")
    return torch.stack([draw(torch.Generator().manual_seed(int(seed))) for seed in seeds])


def checked_range(channels: int, value_range: tuple[float, float]) -> tuple[float, float]:
    """(low, high) as floats.

    Raises:
        InvalidInput: no channel, or low >= high.
    """
    low, high = value_range
    if channels < 1 or not low < high:
        raise InvalidInput(
            f"images need at least 1 channel and a value range (low, high) with low < high, got {channels} and {value_range}"
        )
    return float(low), float(high)


class Pixels(nn.Module):
    """Free images. Forward gives (seeds, channels, height, width) inside the value range.

    theta ~ N(logit(grey), noise^2) at the start.

    Args:
        seeds: one per object.
        size: (height, width).
        channels: 3 for RGB, 1 for grey images, any other number.
        value_range: (low, high) of the values. (0, 1) is what the codecs of the priors take; with no codec, the range of the prior's x.
        grey: the start level as a fraction of the value range, in (0, 1).
        noise: standard deviation of theta at the start, about four times that of the image; 0 starts all objects at the same level.

    Raises:
        InvalidInput: no seeds, or a size, level, number of channels or value range that cannot be.

    Example:
        >>> Pixels([0, 1], size=(8, 8), noise=0.0)().mean((1, 2, 3))
        tensor([0.5000, 0.5000], grad_fn=<MeanBackward1>)
        >>> Pixels([0], size=(28, 28), channels=1, value_range=(-1.0, 1.0))().shape
        torch.Size([1, 1, 28, 28])
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        size: tuple[int, int],
        channels: int = 3,
        value_range: tuple[float, float] = (0.0, 1.0),
        grey: float = 0.5,
        noise: float = 0.4,
    ) -> None:
        super().__init__()
        if min(size) < 1 or not 0 < grey < 1 or noise < 0:
            raise InvalidInput(f"images need a positive size, 0 < grey < 1 and noise >= 0, got {size}, {grey} and {noise}")
        self.value_range = checked_range(channels, value_range)
        start = per_seed(seeds, lambda rng: torch.randn(channels, *size, generator=rng))
        self.theta = nn.Parameter(torch.tensor(grey).logit() + noise * start)

    def forward(self) -> Tensor:
        """The images."""
        return scaled(self.theta.sigmoid(), self.value_range)


def scaled(values: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Values in [0, 1] mapped linearly to a value range; unchanged where it is (0, 1)."""
    low, high = value_range
    return values if (low, high) == (0.0, 1.0) else low + (high - low) * values


class Latents(nn.Module):
    """Free latents: the parameters are x itself, (seeds, *event). Optimise them without an encoder.

    Args:
        seeds: one per object.
        event: shape of one x, the `event` of an image prior.
        std: standard deviation of the start: 0 for the origin, the `data_std` of a prior for the scale of its data.

    Raises:
        InvalidInput: no seeds, an empty shape, or a negative standard deviation.

    Example:
        >>> Latents([3], event=(4, 16, 16), std=0.0)().abs().max().item()
        0.0
    """

    def __init__(self, seeds: Sequence[int], *, event: Sequence[int], std: float = 1.0) -> None:
        super().__init__()
        if len(event) == 0 or min(event) < 1 or std < 0:
            raise InvalidInput(f"latents need a shape of positive sizes and std >= 0, got {tuple(event)} and {std}")
        self.values = nn.Parameter(std * per_seed(seeds, lambda rng: torch.randn(*event, generator=rng)))

    def forward(self) -> Tensor:
        """The latents."""
        return self.values
