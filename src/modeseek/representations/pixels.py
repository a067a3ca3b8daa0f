"""Free images and free latents: as many parameters as values, the ceiling of what a representation can show.

    Pixels     image = sigmoid(theta), so that it stays in [0, 1]
    Latents    x = theta, handed to the gradient without an encoder

Neither constrains where the gradient leads: with a rate that goes to the target each becomes the target itself (the paper takes a
coordinate network for that reason, `modeseek.representations.coordinates`). Each object starts from its own seed: object k of a
batch begins where a batch of that seed alone begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput


def per_seed(seeds: Sequence[int], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """`draw` once a seed with that seed's own generator, stacked: (seeds, ...).

    Raises:
        InvalidInput: no seeds.
    """
    if len(seeds) == 0:
        raise InvalidInput("a batch of objects needs at least one seed")
    return torch.stack([draw(torch.Generator().manual_seed(int(seed))) for seed in seeds])


class Pixels(nn.Module):
    """Free images, sigmoid(theta) with theta ~ N(logit(grey), noise^2): forward gives (seeds, 3, height, width) in [0, 1].

    Args:
        seeds: one an object.
        size: (height, width).
        grey: the level that the noise is around, in (0, 1).
        noise: standard deviation of theta, about four times that of the image; 0 starts all objects from the same grey.

    Example:
        >>> Pixels([0, 1], size=(8, 8), noise=0.0)().mean((1, 2, 3))
        tensor([0.5000, 0.5000], grad_fn=<MeanBackward1>)
    """

    def __init__(self, seeds: Sequence[int], *, size: tuple[int, int], grey: float = 0.5, noise: float = 0.4) -> None:
        super().__init__()
        if min(size) < 1 or not 0 < grey < 1 or noise < 0:
            raise InvalidInput(f"images need a positive size, 0 < grey < 1 and noise >= 0, got {size}, {grey} and {noise}")
        start = per_seed(seeds, lambda rng: torch.randn(3, *size, generator=rng))
        self.theta = nn.Parameter(torch.tensor(grey).logit() + noise * start)

    def forward(self) -> Tensor:
        return self.theta.sigmoid()


class Latents(nn.Module):
    """Free latents: the parameters are x itself, (seeds, *event); distil them with no encoder.

    Args:
        seeds: one an object.
        event: shape of one x, an image prior's `event`.
        std: standard deviation of the start; a prior's `data_std` starts at the scale of its data, 0 at the origin.

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
        return self.values
