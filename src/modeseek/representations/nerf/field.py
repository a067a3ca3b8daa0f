r"""The field of a NeRF: density and albedo of points, the colour of the background, and normals.

    raw(p)      = density head(features(p)) + blob(p)
    density(p)  = softplus(raw)  or  exp(raw), with its gradient limited to that at raw = 15
    albedo(p)   = sigmoid(albedo head(features(p)))
    blob(p)     = scale (1 - |p| / width)                     "magic3d" (Lin et al. 2023, as threestudio's default)
                  scale exp(-|p|^2 / (2 width^2))             "dreamfusion" (Poole et al. 2022, appendix A.2)
    normal(p)   = -unit(grad density(p))                      by autograd, or by finite differences at the corners of a tetrahedron

A head is a perceptron of width 64 with one hidden layer and no bias (the paper's 64 nodes and 2 layers). The blob gives an untrained field
an object in the middle. The background depends on directions only: a perceptron of width 16 on the nine real spherical harmonics up to
second order, or one learned colour.

The renderer and the mesh use a field through the protocol `Volume`, so tests replace it by closed forms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.backends import Backend, encoding
from modeseek.representations.nerf.hashgrid import HashGridSettings

TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
RAW_LIMIT = 15.0  # the gradient of exp is limited from there on
COLOUR_GAIN = 10.0  # a single logit moves by the learning rate in a step of Adam; the output of a network moves by far more
Normals = Literal["autograd", "differences"]


class Volume(Protocol):
    """Density (n,) and albedo (n, 3) of points (n, 3) in the box [-radius, radius]^3, and colours of directions (n, 3)."""

    @property
    def radius(self) -> float: ...
    def density(self, points: Tensor, /) -> Tensor: ...
    def albedo(self, points: Tensor, /) -> Tensor: ...
    def __call__(self, points: Tensor, /) -> tuple[Tensor, Tensor]: ...
    def background(self, directions: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class FieldSettings:
    """Settings of a field; the defaults are those of threestudio for text to 3-D.

    Args:
        radius: half the side of the box that holds the field.
        grid: sizes of the hash grid.
        hidden: width of the heads.
        layers: hidden layers of the heads.
        activation: of the density.
        blob: term added to the raw density, or None.
        blob_scale: value of the blob in the middle, before the activation.
        blob_width: radius at which "magic3d" crosses 0; standard deviation of "dreamfusion".
        background: "mlp" (a function of the direction), "constant" (one learned colour) or "fixed" (one colour that is not optimised).
        colour: of a fixed background, or the initial one of a constant background; inside (0, 1).
        backend: of the hash grid, see `backends`.
    """

    radius: float = 1.0
    grid: HashGridSettings = field(default_factory=HashGridSettings)
    hidden: int = 64
    layers: int = 1
    activation: Literal["softplus", "exp"] = "softplus"
    blob: Literal["magic3d", "dreamfusion"] | None = "magic3d"
    blob_scale: float = 10.0
    blob_width: float = 0.5
    background: Literal["mlp", "constant", "fixed"] = "mlp"
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    backend: Backend = "torch"

    def __post_init__(self) -> None:
        if min(self.radius, self.blob_width) <= 0 or min(self.hidden, self.layers) < 1 or not 0 < min(self.colour) <= max(self.colour) < 1:
            raise InvalidInput(f"a field needs positive sizes and a colour inside (0, 1), got {self}")
        if self.activation not in ("softplus", "exp") or self.blob not in ("magic3d", "dreamfusion", None):
            raise InvalidInput(f"activation {self.activation!r} or blob {self.blob!r} is unknown: see FieldSettings")
        if self.background not in ("mlp", "constant", "fixed"):
            raise InvalidInput(f"background {self.background!r} is unknown: choose mlp, constant or fixed")


class Field(nn.Module):
    """Hash grid, heads and background; a `Volume`.

    Args:
        settings: sizes and parts.
        rng: for the initial weights.

    Example:
        >>> made = Field(FieldSettings(grid=HashGridSettings.cpu()), rng=torch.Generator().manual_seed(0))
        >>> density, albedo = made(torch.zeros(2, 3))
        >>> density.shape, albedo.shape, made.background(torch.tensor([[1.0, 0.0, 0.0]])).shape
        (torch.Size([2]), torch.Size([2, 3]), torch.Size([1, 3]))
    """

    def __init__(self, settings: FieldSettings, *, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.grid = encoding(settings.grid, settings.backend, rng=rng)
        widths = [2 * settings.grid.levels, *[settings.hidden] * settings.layers]
        self.density_head = perceptron([*widths, 1], rng)
        self.albedo_head = perceptron([*widths, 3], rng)
        if settings.background == "mlp":
            self.background_head = perceptron([9, 16, 16, 3], rng)
        else:
            colour = torch.tensor(settings.colour, dtype=torch.float32).logit() / COLOUR_GAIN
            self.colour = nn.Parameter(colour, requires_grad=settings.background == "constant")

    @property
    def radius(self) -> float:
        """Half the side of the box."""
        return self.settings.radius

    def use(self, step: int) -> None:
        """Enable the levels of the hash grid that are in use at a step."""
        self.grid.active = self.settings.grid.active(step)

    def features(self, points: Tensor) -> Tensor:
        """Encoded points."""
        return self.grid(points / (2 * self.radius) + 0.5)

    def density(self, points: Tensor) -> Tensor:
        """Density of points (n, 3): (n,)."""
        return self._density(points, self.features(points))

    def albedo(self, points: Tensor) -> Tensor:
        """Albedo of points (n, 3): (n, 3)."""
        return self.albedo_head(self.features(points)).sigmoid()

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and albedo of points, with one evaluation of the hash grid."""
        features = self.features(points)
        return self._density(points, features), self.albedo_head(features).sigmoid()

    def background(self, directions: Tensor) -> Tensor:
        """Colour of the background along unit directions (n, 3): (n, 3)."""
        if self.settings.background != "mlp":
            return (COLOUR_GAIN * self.colour).sigmoid().expand(len(directions), 3)
        return self.background_head(harmonics(directions)).sigmoid()

    @torch.no_grad()
    def set_background(self, colour: Tensor) -> None:
        """Set the colour of a fixed or constant background: (3,) in [0, 1], kept 0.01 away from the ends."""
        self.colour.copy_(colour.to(self.colour).clamp(0.01, 0.99).logit() / COLOUR_GAIN)

    def _density(self, points: Tensor, features: Tensor) -> Tensor:
        raw = self.density_head(features)[:, 0] + self._blob(points)
        if self.settings.activation == "softplus":
            return softplus(raw)
        return (raw + (raw.clamp(max=RAW_LIMIT) - raw).detach()).exp()  # above the limit, the gradient is that at the limit

    def _blob(self, points: Tensor) -> Tensor | float:
        scale, width, squared = self.settings.blob_scale, self.settings.blob_width, (points**2).sum(1)
        if self.settings.blob == "magic3d":
            return scale * (1 - (squared + 1e-12).sqrt() / width)
        return scale * (-squared / (2 * width**2)).exp() if self.settings.blob else 0.0


def perceptron(widths: list[int], rng: torch.Generator) -> nn.Sequential:
    """ReLU layers without biases; weights from `rng`, uniform within sqrt(1 / inputs), PyTorch's default distribution."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
        with torch.no_grad():
            layer.weight.copy_((torch.rand(outputs, inputs, generator=rng) * 2 - 1) * inputs**-0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def harmonics(directions: Tensor) -> Tensor:
    """The nine real spherical harmonics up to second order of unit vectors, without their constants: (n, 3) -> (n, 9)."""
    x, y, z = directions.unbind(1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, z * x, x**2 - y**2, 3 * z**2 - 1], 1)


def difference_normals(density: Callable[[Tensor], Tensor], points: Tensor, *, step: float) -> Tensor:
    """Normals from four evaluations of the density, exact to first order in `step`: (n, 3) -> (n, 3)."""
    corners = points.new_tensor(TETRAHEDRON)
    values = density((points[None] + step * corners[:, None]).flatten(0, 1)).reshape(4, -1)
    return -normalize(values.T @ corners / (4 * step), dim=1, eps=1e-8)


def evaluated(volume: Volume, points: Tensor, normals: Normals | None, *, step: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Density, albedo and optionally normals of points; `step` is the step of the finite differences.

    Normals by autograd are differentiable while gradients are recorded.
    """
    if normals != "autograd":
        density, albedo = volume(points)
        return density, albedo, None if normals is None else difference_normals(volume.density, points, step=step)
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        density, albedo = volume(points)
        slope = torch.autograd.grad(density.sum(), points, create_graph=record)[0]
    found = -normalize(slope, dim=1, eps=1e-8)
    return (density, albedo, found) if record else (density.detach(), albedo.detach(), found.detach())
