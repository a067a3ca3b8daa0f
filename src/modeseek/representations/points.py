"""Free points: the parameters are the batch itself, the identity map of the paper's two-dimensional experiments."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Points(nn.Module):
    """A batch of free points. Forward gives (batch, *event).

    Args:
        start: (batch, *event) initial values; copied.

    Example:
        >>> Points(torch.zeros(3, 2))().shape
        torch.Size([3, 2])
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(start.detach().clone())

    def forward(self) -> Tensor:
        """The points."""
        return self.values


def grid(count: int, *, half_width: float = 1.5) -> Tensor:
    """Return count x count points evenly over [-half_width, half_width]^2, the start of the paper's experiments: (count^2, 2).

    Example:
        >>> grid(2)
        tensor([[-1.5000, -1.5000],
                [-1.5000,  1.5000],
                [ 1.5000, -1.5000],
                [ 1.5000,  1.5000]])
    """
    ticks = torch.linspace(-half_width, half_width, count)
    return torch.cartesian_prod(ticks, ticks)
