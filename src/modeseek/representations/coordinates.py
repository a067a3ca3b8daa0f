r"""Images as coordinate networks: f(p; theta) -> RGB for p in the unit square (paper, section 4.4, "text-to-2D").

    image = sigmoid( W_n h_n + b_n ),   h_0 = features(p),   h_{i+1} = activation(W_i h_i + b_i)

    encoding   features of p                                 activation     weights
    fourier    sin, cos of 2 pi B p, B ~ N(0, scale^2)       SiLU           N(0, 2/fan_in)                           Tancik et al. 2020
    siren      2 p - 1                                       sin(30 .)      U(+-1/fan_in), U(+-sqrt(6/fan_in)/30)    Sitzmann et al. 2020

The paper says that f takes p in [0, 1]^2 to RGB in [0, 1]^3, is trained by AdamW at 1e-2 for 400 steps, and why it is no grid of pixels:
the exact gradient step, setting x to a denoised latent, must not be open to it. Encoding, width, depth and the sigmoid are ours.

Measured on a smooth 64 x 64 image, Adam at 1e-2: 43 dB after 100 steps, 53 dB after 400 (8 ms a step and seed on one CPU core). SIREN
is as good at 3e-3 and does not survive 1e-2 with three layers.

Many seeds are one batch: weights are (seeds, in, out), a layer is one batched product, and since neither the loss nor an elementwise
optimiser (SGD, Adam, AdamW) mixes seeds, training n together is training n apart. Pixels are sampled at their centres, so the network
renders at any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.representations.pixels import per_seed

SIREN_FREQUENCY = 30.0  # omega_0 of Sitzmann et al., section 3.2


class CoordinateMLP(nn.Module):
    """A batch of coordinate networks: forward gives (seeds, 3, height, width) in [0, 1].

    Seed k of a batch has the weights of a batch of that seed alone; the Fourier frequencies B are the same for all.

    Args:
        seeds: one an object.
        size: (height, width) that forward renders unless it is told another.
        encoding: "fourier" or "siren".
        hidden: width of the hidden layers.
        layers: their number.
        frequencies: Fourier frequencies; the features are twice as many.
        scale: standard deviation of B, in periods across the image.

    Raises:
        InvalidInput: no seeds, an unknown encoding, or a size, width or number below 1.

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
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", scale * torch.randn(2, frequencies, generator=rng))
        widths = [2 * frequencies if encoding == "fourier" else 2, *[hidden] * layers, 3]
        shapes = list(itertools.pairwise(widths))
        drawn = per_seed(seeds, lambda rng: torch.cat([self._initial(index, shape, rng).flatten() for index, shape in enumerate(shapes)]))
        parts = drawn.split([(fan_in + 1) * fan_out for fan_in, fan_out in shapes], 1)
        stacked = [part.reshape(len(seeds), fan_in + 1, fan_out) for part, (fan_in, fan_out) in zip(parts, shapes, strict=True)]
        self.weights = nn.ParameterList([layer[:, :-1].contiguous() for layer in stacked])  # (seeds, in, out)
        self.biases = nn.ParameterList([layer[:, -1:].contiguous() for layer in stacked])  # (seeds, 1, out)
        self._features: tuple[object, Tensor] | None = None

    def _initial(self, index: int, shape: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Weights of a layer with its biases as the last row: (in + 1, out). Biases are 0 but for SIREN's first, its phases."""
        fan_in, fan_out = shape
        if self.encoding == "fourier":
            weights = (2 / fan_in) ** 0.5 * torch.randn(fan_in, fan_out, generator=rng)
            return torch.cat([weights, torch.zeros(1, fan_out)])
        bound = 1 / fan_in if index == 0 else (6 / fan_in) ** 0.5 / SIREN_FREQUENCY
        phases = torch.zeros(1, fan_out) if index else (2 * torch.rand(1, fan_out, generator=rng) - 1) * fan_in**-0.5
        return torch.cat([(2 * torch.rand(fan_in, fan_out, generator=rng) - 1) * bound, phases])

    def features(self, size: tuple[int, int]) -> Tensor:
        """Encoded pixel centres, rows from the top: (height width, features); those of the last size are kept."""
        key = (size, self.frequencies.device, self.frequencies.dtype)
        if self._features is None or self._features[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # kept ones must serve training too
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
        """Render at `size`, or at the size it was made for."""
        height, width = size or self.size
        h = self.features((height, width)).expand(len(self.weights[0]), -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if index + 1 < len(self.weights):
                h = nn.functional.silu(h) if self.encoding == "fourier" else (SIREN_FREQUENCY * h).sin()
        return h.sigmoid().transpose(1, 2).reshape(-1, 3, height, width)
