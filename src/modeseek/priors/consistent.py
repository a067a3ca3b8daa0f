r"""Consistent encoding: latents x of an image I with E(D(x)) = E(I), found by fixed-point corrections.

An autoencoder's encoder E is not the inverse of its decoder D. Every step of a distillation encodes a render and decodes a target, so the
error of one round trip is added once per step, and a local kernel, whose steps are small, drifts. The iteration

    x <- x + E(I) - E(D(x)),    x = E(I) at first,

converges where E o D is close to the identity, on the data. Its fixed point decodes to an image with the same latent as I: for images that
D can produce, to I itself. Far from the data, such as a flat background that no training image had, it can oscillate, and no correction is
better. Each correction costs one decoder and one encoder pass without gradients, and no denoiser call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput

Map = Callable[[Tensor], Tensor]


def consistent_encode(image: Tensor, encode: Map, decode: Map, *, corrections: int) -> Tensor:
    """Encode with `corrections` fixed-point steps.

    Args:
        image: (batch, 3, height, width) in [0, 1].
        encode: E, differentiable.
        decode: D.
        corrections: number of steps; 0 is `encode` itself. Each costs one decode and one encode.

    Returns:
        x, (batch, *event). Its gradient is the encoder's at `image`: the correction is added as a constant.

    Raises:
        InvalidInput: a negative number of corrections.

    Example:
        >>> halved = consistent_encode(torch.tensor([[1.0]]), lambda i: 0.8 * i, lambda x: x, corrections=20)  # E(D(x)) = 0.8 x
        >>> halved.round(decimals=3)
        tensor([[1.]])
    """
    if corrections < 0:
        raise InvalidInput(f"corrections of the encoding cannot be negative, got {corrections}")
    x = encode(image)
    if not corrections:
        return x
    with torch.no_grad():
        wanted = x.detach()
        corrected = wanted
        for _ in range(corrections):
            corrected = corrected + wanted - encode(decode(corrected))
        offset = corrected - wanted
    return x + offset
