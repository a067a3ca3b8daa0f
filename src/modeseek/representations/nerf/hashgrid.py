r"""Multiresolution hash grid (Mueller et al. 2022, "Instant neural graphics primitives"), in plain PyTorch.

    level l: cells per side N_l = round(base growth^l)
    vertex v of level l     entry v_x + (N_l + 1) v_y + (N_l + 1)^2 v_z         where (N_l + 1)^3 <= entries, no two share one
                            entry (v_x ^ 2654435761 v_y ^ 805459861 v_z) mod entries                          elsewhere
    features(p)             sum over the 8 corners of p's cell of weight_corner table[entry_corner], concatenated over levels

An entry has two features, stored as one complex number, so that one gather or scatter moves both. All levels share one table, and there is
one gather per corner, level by level in memory. Measured on two CPU cores, forward and backward: 0.98 times the time of a bare gather of
the same entries and its backward pass for the small grid, 0.97 times for the published one (`benchmarks/nerf.py`). The backward pass needs
8 bytes per corner and point, and no tensor of shape (points, corners, features).

If points require a gradient (normals by autograd), operations that can be differentiated twice are used. Do not confuse: tiny-cuda-nn's
grid shifts vertices by half a cell and rounds N_l differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True, kw_only=True)
class HashGridSettings:
    """Sizes of a hash grid and the schedule of its levels; `HashGridSettings.cpu()` is the small one.

    Args:
        levels: number of levels.
        log2_entries: largest number of entries per level, as a power of two.
        base: cells along each side of the coarsest level.
        growth: ratio of cells between neighbouring levels.
        start: levels in use from the first step; None: all.
        begin: step from which levels are added.
        every: steps between two added levels.
    """

    levels: int = 16
    log2_entries: int = 19
    base: int = 16
    growth: float = 1.447269
    start: int | None = None
    begin: int = 2000
    every: int = 500

    def __post_init__(self) -> None:
        starts = self.start is None or 1 <= self.start <= self.levels
        if min(self.levels, self.base, self.every) < 1 or not 1 <= self.log2_entries <= 24 or self.growth < 1 or not starts:
            raise InvalidInput(f"a hash grid needs sizes and a growth >= 1, log2_entries <= 24 and start <= levels, got {self}")

    @classmethod
    def cpu(cls) -> HashGridSettings:
        """Eight levels of 2^14 entries, up to 213 cells per side; one level (128 kB) fits the cache of a processor."""
        return cls(levels=8, log2_entries=14)

    @property
    def cells(self) -> list[int]:
        """Cells along each side, for each level."""
        return [round(self.base * self.growth**level) for level in range(self.levels)]

    def active(self, step: int) -> int:
        """Levels in use at a step.

        Example:
            >>> [HashGridSettings(start=8).active(step) for step in (0, 2000, 2500, 9000)]
            [8, 8, 9, 16]
        """
        if self.start is None:
            return self.levels
        return min(self.levels, self.start + max(0, step - self.begin) // self.every)


class HashGrid(nn.Module):
    """Features of points in the unit cube: (n, 3) -> (n, 2 levels); points outside are clamped to its faces.

    Args:
        settings: sizes.
        rng: for the initial features, uniform in [-1e-4, 1e-4].

    Attributes:
        table: (entries of all levels, 2).
        active: levels in use; the features of the others are 0 and cost no time.

    Example:
        >>> grid = HashGrid(HashGridSettings.cpu(), rng=torch.Generator().manual_seed(0))
        >>> grid(torch.rand(5, 3)).shape, len(grid.table)
        (torch.Size([5, 16]), 117041)
    """

    cells: Tensor
    starts: Tensor

    def __init__(self, settings: HashGridSettings, *, rng: torch.Generator) -> None:
        super().__init__()
        self.settings, self.active = settings, settings.levels
        entries = 2**settings.log2_entries
        sizes = [min((count + 1) ** 3, entries) for count in settings.cells]
        self.dense = sum((count + 1) ** 3 <= entries for count in settings.cells)  # the first levels, as cells grow
        self.mask = entries - 1
        self.register_buffer("cells", torch.tensor(settings.cells), persistent=False)
        hashed = [entries * k for k in range(len(sizes) - self.dense)]
        dense = [sum(sizes[self.dense :]) + sum(sizes[:level]) for level in range(self.dense)]
        self.register_buffer("starts", torch.tensor([*dense, *hashed]), persistent=False)
        self.table = nn.Parameter((torch.rand(sum(sizes), 2, generator=rng, dtype=torch.float32) * 2 - 1) * 1e-4)

    @property
    def features(self) -> int:
        """Width of the output."""
        return 2 * self.settings.levels

    def forward(self, points: Tensor) -> Tensor:
        inside = points.to(self.table.dtype).clamp(0, 1 - torch.finfo(self.table.dtype).eps)  # the far face is in the last cell
        position = inside.T.contiguous()[:, None] * self.cells[None, : self.active, None].to(inside)  # (3, levels, n)
        low = position.detach().floor()
        weights, entries = list(_weights(position - low)), list(self._entries(low.long()))
        if points.requires_grad:
            pairs = torch.view_as_complex(self.table)
            found = sum(
                (pairs.index_select(0, at) * weight.to(pairs.dtype) for at, weight in zip(entries, weights, strict=True)),
                torch.tensor(0.0).to(pairs),
            )
            values = torch.view_as_real(found)
        else:
            values = _Gather.apply(self.table, *entries, *weights)
        values = values.reshape(self.active, -1, 2).transpose(0, 1).flatten(1)
        return nn.functional.pad(values, (0, self.features - values.shape[1]))

    def _entries(self, low: Tensor) -> Iterator[Tensor]:
        """Rows of the table for the 8 corners of each cell, (levels n,) each: x fastest, then y, then z.

        Hashed levels come first in the table, each at a multiple of its length, so their start can be combined by the exclusive or.
        """
        dense = min(self.dense, self.active)
        side = (self.cells[:dense, None] + 1)[None] ** torch.arange(3, device=low.device)[:, None, None]  # (3, dense, 1)
        prime = torch.tensor(PRIMES, device=low.device)[:, None, None]
        plain, hashed = low[:, :dense] * side, low[:, dense:] * prime
        sums = [part.int() for part in (plain, plain + side)]
        hashes = [part.int() & self.mask for part in (hashed, hashed + prime)]  # only the lower bits are used
        at = self.starts[: self.active, None].int()
        for z in (0, 1):
            for y in (0, 1):
                sum_zy, hash_zy = sums[z][2] + sums[y][1] + at[:dense], hashes[z][2] ^ hashes[y][1] ^ at[dense:]
                for x in (0, 1):
                    yield torch.cat([sum_zy + sums[x][0], hash_zy ^ hashes[x][0]]).flatten()


def _weights(inside: Tensor) -> Iterator[Tensor]:
    """Trilinear weights of the 8 corners from positions inside the cell, (3, levels, n) in [0, 1], in the order of `_entries`."""
    pair = (1 - inside, inside)
    for z in (0, 1):
        for y in (0, 1):
            zy = pair[z][2] * pair[y][1]
            for x in (0, 1):
                yield (zy * pair[x][0]).flatten()


class _Gather(torch.autograd.Function):
    """Weighted sum of 8 gathers of pairs of features; differentiable once, in the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, *corners: Tensor) -> Tensor:
        pairs, entries, weights = torch.view_as_complex(table), corners[:8], corners[8:]
        ctx.rows = len(table)
        ctx.save_for_backward(*entries, *weights)
        values = torch.zeros(len(entries[0]), dtype=pairs.dtype, device=table.device)
        for at, weight in zip(entries, weights, strict=True):
            values += pairs.index_select(0, at) * weight.to(pairs.dtype)  # several times faster than mixed types
        return torch.view_as_real(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved, pairs = ctx.saved_tensors, torch.view_as_complex(gradient.contiguous())
        total = torch.zeros(ctx.rows, dtype=pairs.dtype, device=gradient.device)
        for at, weight in zip(saved[:8], saved[8:], strict=True):
            total.index_add_(0, at.long(), pairs * weight.to(pairs.dtype))
        return torch.view_as_real(total), *[None] * 16
