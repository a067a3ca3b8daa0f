"""Free points: the parameters are the batch itself (the paper's g = identity of its two-dimensional experiments)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Points(nn.Module):
    """A batch of free points.

    Args:
        start: (batch, *event) where they begin; copied.

    Example:
        >>> Points(torch.zeros(3, 2))().shape
        torch.Size([3, 2])
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(start.detach().clone())

    def forward(self) -> Tensor:
        return self.values


def grid(count: int, *, half_width: float = 1.5) -> Tensor:
    """count x count points evenly over [-half_width, half_width]^2, the paper's starting points: (count^2, 2).

    Example:
        >>> grid(2)
        tensor([[-1.5000, -1.5000],
                [-1.5000,  1.5000],
                [ 1.5000, -1.5000],
                [ 1.5000,  1.5000]])
    """
    ticks = torch.linspace(-half_width, half_width, count)
    return torch.cartesian_prod(ticks, ticks)
