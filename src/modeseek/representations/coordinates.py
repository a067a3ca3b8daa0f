r"""Images as coordinate networks: f(p; theta) -> colour for p in the unit square (paper, section 4.4, "text-to-2D").

    image = low + (high - low) sigmoid( W_n h_n + b_n ),   h_0 = features(p),   h_{i+1} = activation(W_i h_i + b_i)

    encoding   features of p                                 activation     weights                                  source
    fourier    sin, cos of 2 pi B p, B ~ N(0, scale^2)       SiLU           N(0, 2/fan_in)                           Tancik et al. 2020
    siren      2 p - 1                                       sin(30 .)      U(+-1/fan_in), U(+-sqrt(6/fan_in)/30)    Sitzmann et al. 2020

The paper states the domain [0, 1]^2, the range [0, 1]^3, AdamW at 1e-2 and 400 steps. It uses a network instead of pixels because the exact
gradient step (x becomes a denoised latent) must not be possible. Encoding, width, depth and the sigmoid are choices of this package.

Measured on a smooth 64 x 64 image, Adam at 1e-2: 43 dB after 100 steps and 53 dB after 400, at 8 ms per step and seed on one CPU core.
SIREN is as good at 3e-3; at 1e-2 with three layers it diverges.

Several seeds are one batch: weights are (seeds, in, out) and a layer is one batched product. Neither the loss nor an elementwise optimiser
(SGD, Adam, AdamW) mixes seeds, so training n seeds together equals training them one by one. Pixels are sampled at their centres, so the
network renders at any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.representations.pixels import checked_range, per_seed, scaled

SIREN_FREQUENCY = 30.0  # omega_0 of Sitzmann et al., section 3.2


class CoordinateMLP(nn.Module):
    """A batch of coordinate networks. Forward gives (seeds, channels, height, width) inside the value range.

    Object k of a batch has the weights of a batch of that seed alone; the Fourier frequencies B are shared by all objects.

    Args:
        seeds: one per object.
        size: (height, width) that forward renders by default.
        channels: 3 for RGB, 1 for grey images, any other number.
        value_range: (low, high) of the values. (0, 1) is what the codecs of the priors take; with no codec, the range of the prior's x.
        encoding: "fourier" or "siren".
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        frequencies: number of Fourier frequencies; there are twice as many features.
        scale: standard deviation of B, in periods across the image.

    Raises:
        InvalidInput: no seeds, an unknown encoding, or a size, width, number or value range that cannot be.

    Example:
        >>> network = CoordinateMLP([0, 1, 2], size=(16, 16))
        >>> network().shape, network((64, 32)).shape
        (torch.Size([3, 3, 16, 16]), torch.Size([3, 3, 64, 32]))
    """

    frequencies: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        size: tuple[int, int],
        channels: int = 3,
        value_range: tuple[float, float] = (0.0, 1.0),
        encoding: Literal["fourier", "siren"] = "fourier",
        hidden: int = 64,
        layers: int = 3,
        frequencies: int = 64,
        scale: float = 4.0,
    ) -> None:
        super().__init__()
        if encoding not in ("fourier", "siren"):
            raise InvalidInput(f"encoding {encoding!r} is unknown: choose fourier or siren")
        if min(*size, hidden, layers, frequencies) < 1 or scale <= 0:
            given = f"{size}, {hidden}, {layers}, {frequencies} and {scale}"
            raise InvalidInput(f"a coordinate network needs a positive size, hidden, layers, frequencies and scale, got {given}")
        self.size, self.encoding = size, encoding
        self.channels, self.value_range = channels, checked_range(channels, value_range)
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", scale * torch.randn(2, frequencies, generator=rng))
        widths = [2 * frequencies if encoding == "fourier" else 2, *[hidden] * layers, channels]
        shapes = list(itertools.pairwise(widths))
        drawn = per_seed(seeds, lambda rng: torch.cat([self._initial(index, shape, rng).flatten() for index, shape in enumerate(shapes)]))
        parts = drawn.split([(fan_in + 1) * fan_out for fan_in, fan_out in shapes], 1)
        stacked = [part.reshape(len(seeds), fan_in + 1, fan_out) for part, (fan_in, fan_out) in zip(parts, shapes, strict=True)]
        self.weights = nn.ParameterList([layer[:, :-1].contiguous() for layer in stacked])  # (seeds, in, out)
        self.biases = nn.ParameterList([layer[:, -1:].contiguous() for layer in stacked])  # (seeds, 1, out)
        self._features: tuple[object, Tensor] | None = None

    def _initial(self, index: int, shape: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Initial weights of a layer, biases as the last row: (in + 1, out). Biases are 0 except the phases of SIREN's first layer."""
        fan_in, fan_out = shape
        if self.encoding == "fourier":
            weights = (2 / fan_in) ** 0.5 * torch.randn(fan_in, fan_out, generator=rng)
            return torch.cat([weights, torch.zeros(1, fan_out)])
        bound = 1 / fan_in if index == 0 else (6 / fan_in) ** 0.5 / SIREN_FREQUENCY
        phases = torch.zeros(1, fan_out) if index else (2 * torch.rand(1, fan_out, generator=rng) - 1) * fan_in**-0.5
        return torch.cat([(2 * torch.rand(fan_in, fan_out, generator=rng) - 1) * bound, phases])

    def features(self, size: tuple[int, int]) -> Tensor:
        """Encoded pixel centres, rows from the top: (height width, features). The result for the last size is cached."""
        key = (size, self.frequencies.device, self.frequencies.dtype)
        if self._features is None or self._features[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # the cache must be usable in training, too
                self._features = (key, self._encoded(size))
        return self._features[1]

    def _encoded(self, size: tuple[int, int]) -> Tensor:
        rows, columns = ((torch.arange(count).to(self.frequencies) + 0.5) / count for count in size)
        points = torch.cartesian_prod(rows, columns)
        if self.encoding == "siren":
            return 2 * points - 1
        angles = 2 * math.pi * points @ self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    def forward(self, size: tuple[int, int] | None = None) -> Tensor:
        """Render at `size`, by default at the size given at construction."""
        height, width = size or self.size
        h = self.features((height, width)).expand(len(self.weights[0]), -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if index + 1 < len(self.weights):
                h = nn.functional.silu(h) if self.encoding == "fourier" else (SIREN_FREQUENCY * h).sin()
        return scaled(h.sigmoid().transpose(1, 2).reshape(-1, self.channels, height, width), self.value_range)
