r"""Occupancy grid: cells of the box above a threshold of optical depth (Mueller et al. 2022, appendix C; nerfacc).

    level(cell) <- max(decay level(cell), density(a random point of the cell) * step length)
    occupied     = level > min(threshold, mean level)

All cells are evaluated every `every` steps (with 32^3 cells and every = 16 that is 2048 densities per step; other packages evaluate a
random quarter of the cells). The caller seeds the generator of the random points with the step, so the grid depends only on the history of
the field. Before the first update all cells are occupied. The levels are part of the module's state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.field import Volume


class Occupancy(nn.Module):
    """Occupied cells of the box [-radius, radius]^3.

    Args:
        radius: half the side of the box.
        cells: number of cells along each side.
        every: steps between two updates.
        decay: factor on the level of a cell at each update.
        threshold: optical depth of one rendering step above which a cell is occupied.

    Example:
        >>> grid = Occupancy(radius=1.0, cells=8)
        >>> grid(torch.zeros(1, 3)), float(grid.fraction())
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
        """Whether points (..., 3) are in occupied cells; points outside the box belong to the nearest cell."""
        return self.at(points.unbind(-1))

    def at(self, coordinates: tuple[Tensor, ...]) -> Tensor:
        """The same for x, y and z as separate tensors, which avoids a stacked copy of a large lattice."""
        index: Tensor | int = 0
        for coordinate in coordinates:
            cell = ((coordinate + self.radius) * (self.cells / (2 * self.radius))).int().clamp(0, self.cells - 1)
            index = index * self.cells + cell
        return self.occupied.index_select(0, index.flatten()).reshape(coordinates[0].shape)  # type: ignore[union-attr]

    def fraction(self) -> Tensor:
        """Fraction of the box that is occupied."""
        return self.occupied.float().mean()

    @torch.no_grad()
    def update(self, volume: Volume, *, step_length: float, rng: torch.Generator) -> None:
        """Evaluate the density at a random point of each cell and update what is occupied."""
        ticks = torch.arange(self.cells, device=self.level.device)
        corners = torch.cartesian_prod(ticks, ticks, ticks)
        inside = torch.rand(len(corners), 3, generator=rng, dtype=torch.float32).to(self.level)
        points = ((corners + inside) / self.cells * 2 - 1) * self.radius
        found = torch.cat([volume.density(part) for part in points.split(2**18)]).to(self.level) * step_length
        self.level.copy_(torch.maximum(self.level * self.decay, found))
        self.occupied.copy_(self.level > self.level.mean().clamp(max=self.threshold))
