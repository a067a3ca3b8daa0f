r"""Which cells of the box hold anything: an average that decays, compared with a threshold (Mueller et al. 2022, appendix C; nerfacc).

    level(cell) <- max(decay level(cell), density(a random point of the cell) step length)
    occupied     = level > min(threshold, mean level)

Every `every` steps all cells are asked (32^3 of them cost a sixteenth of 32768 densities a step; peers ask a random quarter). The random
points come from the generator that the caller seeds with the step, so the grid is a function of the field's history alone. A grid that was
never updated is full. The levels are part of a module's state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.field import Volume


class Occupancy(nn.Module):
    """Occupied cells of the box [-radius, radius]^3.

    Args:
        radius: half its side.
        cells: a side.
        every: steps between two updates.
        decay: of the level a cell had.
        threshold: optical depth of one rendering step from which a cell is occupied.

    Example:
        >>> grid = Occupancy(radius=1.0, cells=8)
        >>> grid(torch.zeros(1, 3)), float(grid.share())
        (tensor([True]), 1.0)
    """

    level: Tensor
    occupied: Tensor

    def __init__(self, *, radius: float, cells: int = 32, every: int = 16, decay: float = 0.95, threshold: float = 0.01) -> None:
        super().__init__()
        if cells < 1 or every < 1 or not 0 <= decay < 1 or threshold < 0:
            given = f"{cells}, {every}, {decay} and {threshold}"
            raise InvalidInput(f"an occupancy grid needs positive cells and every, a decay in [0, 1) and a threshold, got {given}")
        self.radius, self.cells, self.every, self.decay, self.threshold = radius, cells, every, decay, threshold
        self.register_buffer("level", torch.zeros(cells**3))
        self.register_buffer("occupied", torch.ones(cells**3, dtype=torch.bool))

    def forward(self, points: Tensor) -> Tensor:
        """Whether points (..., 3) are in occupied cells; those outside the box count for the nearest cell."""
        return self.at(points.unbind(-1))

    def at(self, coordinates: tuple[Tensor, ...]) -> Tensor:
        """The same of x, y and z apart: no stacked copy of a large lattice."""
        index: Tensor | int = 0
        for coordinate in coordinates:
            cell = ((coordinate + self.radius) * (self.cells / (2 * self.radius))).int().clamp(0, self.cells - 1)
            index = index * self.cells + cell
        return self.occupied.index_select(0, index.flatten()).reshape(coordinates[0].shape)  # type: ignore[union-attr]

    def share(self) -> Tensor:
        """Share of the box that is occupied."""
        return self.occupied.float().mean()

    @torch.no_grad()
    def update(self, volume: Volume, *, step_length: float, rng: torch.Generator) -> None:
        """Ask the field at a random point of each cell, and decide anew what is occupied."""
        ticks = torch.arange(self.cells, device=self.level.device)
        corners = torch.cartesian_prod(ticks, ticks, ticks)
        inside = torch.rand(len(corners), 3, generator=rng, dtype=torch.float32).to(self.level)
        points = ((corners + inside) / self.cells * 2 - 1) * self.radius
        found = torch.cat([volume.density(part) for part in points.split(2**18)]).to(self.level) * step_length
        self.level.copy_(torch.maximum(self.level * self.decay, found))
        self.occupied.copy_(self.level > self.level.mean().clamp(max=self.threshold))
