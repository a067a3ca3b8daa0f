"""Common parts of the editing gradients: a source point for each object, and the difference of two residuals with shared noise."""

from __future__ import annotations

from torch import Tensor

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.errors import InvalidInput


def check_source(source: Tensor, x: Tensor) -> None:
    """Raise `InvalidInput` unless the source has the shape of x."""
    if source.shape != x.shape:
        raise InvalidInput(f"an edit needs one source for each object: source is {tuple(source.shape)}, x {tuple(x.shape)}")


def residual_difference(denoiser: Denoiser, source_denoiser: Denoiser, x: Tensor, source: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
    r"""$(x - D_{tgt}(x + \sigma n)) - (x_{src} - D_{src}(x_{src} + \sigma n))$ for copies of a batch: like x. Two calls."""
    source = source.to(x).repeat(len(x) // len(source), *[1] * (x.ndim - 1))
    moved = per_item(sigma, x) * n
    return (x - denoiser(x + moved, sigma)) - (source - source_denoiser(source + moved, sigma))
