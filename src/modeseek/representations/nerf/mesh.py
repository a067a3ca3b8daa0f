r"""The surface of a volume as a mesh: marching cubes (Lorensen & Cline 1987) on its density, coloured, textured, written to a file.

The suggested threshold is half way between the box's typical density and the object's, but no more than a density that is opaque over a
tenth of the radius, because what lies behind such a density is not visible:

    threshold = min(10 / radius, (median + dense) / 2),    dense = median of the densities above a hundredth of the highest

Two kinds of field have no surface and raise an error: an empty one, whose highest density is not opaque over the whole box, and one that is
diffuse, that is, above the threshold on most of the box's boundary.

The lattice is padded with a layer below the threshold, so the mesh is closed even where the box cuts the object. xatlas unwraps the
texture, and each texel gets the albedo at its place on the surface. scikit-image, trimesh and xatlas come with the extra `threed`. Nothing
here needs a display or a GPU.

Axes: the volume has z up and its front at +x (`cameras`). Files follow the conventions of their format:

    .glb    y up, front at +z     (x, y, z) -> (y, z, x)     the glTF 2.0 specification, section 3.4
    .obj    y up, front at +z     (x, y, z) -> (y, z, x)     the format states no axes; viewers and Blender's importer assume these
    .ply    z up, front at +x     unchanged                  the format states no axes; the coordinates are those of the volume
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from modeseek.core.errors import InvalidInput, MissingPackage
from modeseek.core.files import write_atomically
from modeseek.representations.nerf.field import Volume

UPRIGHT = {".glb": True, ".obj": True, ".ply": False}  # whether a format has y up
BATCH = 2**18  # points evaluated at a time
CHART = 256  # largest area of a chart of a texture, in faces of the mesh; without a limit xatlas takes more than twice as long


def optional(name: str) -> ModuleType:
    """A module of the extra `threed`.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"meshes need {name.split('.')[0]} ({error}): pip install 'modeseek[threed]'") from None


@dataclass(frozen=True)
class Mesh:
    """A coloured surface with z up; faces are counter-clockwise seen from outside.

    Attributes:
        vertices: (v, 3).
        faces: (f, 3) of int.
        colours: (v, 3) in [0, 1].
        threshold: density on the surface.
        uv: (v, 2) texture coordinates from the lower left corner, or None.
        texture: (size, size, 3) in [0, 1], rows from the top, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    threshold: float
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None

    def trimesh(self) -> Any:
        """Return a `trimesh.Trimesh` with a texture as its material, or with colours at the vertices."""
        library, visual = optional("trimesh"), optional("trimesh.visual")
        made = library.Trimesh(self.vertices, self.faces, process=False)
        if self.uv is not None and self.texture is not None:
            image = optional("PIL.Image").fromarray(_bytes(self.texture))
            material = visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
            made.visual = visual.TextureVisuals(uv=self.uv, material=material)
        else:
            made.visual = visual.ColorVisuals(made, vertex_colors=_bytes(self.colours))
        return made

    def y_up(self) -> Mesh:
        """The same mesh with y up and its front at +z, turned by (x, y, z) -> (y, z, x)."""
        return replace(self, vertices=self.vertices[:, [1, 2, 0]])

    def save(self, path: Path) -> None:
        """Write .glb, .obj (with .mtl and .png if there is a texture) or .ply (colours at the vertices only).

        .glb and .obj are written with y up and the front at +z, .ply with z up and the front at +x.

        Raises:
            InvalidInput: another ending.
            OutputError: the folder cannot be written.
        """
        if path.suffix not in UPRIGHT:
            raise InvalidInput(f"meshes are written as {', '.join(UPRIGHT)}, not as {path.name!r}")
        whole = self.y_up() if UPRIGHT[path.suffix] else replace(self, uv=None, texture=None)
        made = whole.trimesh()
        if path.suffix != ".obj" or whole.texture is None:
            data = made.export(file_type=path.suffix[1:])
            data = data if isinstance(data, bytes) else data.encode()
            return write_atomically(path, partial(_write, data=data))
        made.visual.material = made.visual.material.to_simple()
        made.visual.material.name = path.stem
        text, others = optional("trimesh.exchange.obj").export_obj(made, return_texture=True, mtl_name=f"{path.stem}.mtl")
        for name, data in [*others.items(), (path.name, text.encode())]:
            write_atomically(path.with_name(name), partial(_write, data=data))
        return None


def lattice(volume: Volume, resolution: int) -> np.ndarray:
    """Densities at resolution^3 points over the box including its corners, indexed by x, y, z."""
    device = next(volume.parameters()).device if isinstance(volume, torch.nn.Module) else torch.device("cpu")
    ticks = torch.linspace(-volume.radius, volume.radius, resolution, device=device, dtype=torch.float32)
    parts = [_evaluated(volume.density, torch.cartesian_prod(x[None], ticks, ticks)) for x in ticks]
    return np.stack(parts).reshape(resolution, resolution, resolution)


def suggested_threshold(densities: np.ndarray, radius: float) -> float:
    """Return the density of the surface, from quantiles over the box.

    Raises:
        InvalidInput: an empty field.
    """
    highest = float(densities.max())
    if not np.isfinite(highest) or highest * 2 * radius < 1:
        raise InvalidInput(
            f"the field is empty: its highest density is {highest:.3g}, not opaque over the whole box of {2 * radius:g}; train longer"
        )
    middle, dense = float(np.median(densities)), float(np.median(densities[densities > highest / 100]))
    return min(10 / radius, (middle + dense) / 2)


@torch.no_grad()
def degenerate(volume: Volume, *, resolution: int = 24) -> str:
    """Return why a volume has no surface: "empty", "diffuse" (opaque everywhere on the box's boundary), or "" if it has one."""
    densities = lattice(volume, resolution)
    try:
        cut = suggested_threshold(densities, volume.radius)
    except InvalidInput:
        return "empty"
    return "diffuse" if float((_shell(densities) > cut).mean()) > 0.5 else ""


def _shell(densities: np.ndarray) -> np.ndarray:
    """Densities on the boundary of the box."""
    outer = np.ones_like(densities, dtype=bool)
    outer[1:-1, 1:-1, 1:-1] = False
    return densities[outer]


@torch.no_grad()
def extract_mesh(volume: Volume, *, resolution: int = 128, threshold: float | None = None, texture: int | None = None) -> Mesh:
    """Extract the surface where the density of a volume crosses a threshold.

    Args:
        volume: a density and an albedo, such as `nerf.field`.
        resolution: lattice points along each side.
        threshold: None: `suggested_threshold`.
        texture: side of a texture to bake, in texels; None: colours at the vertices only.

    Raises:
        InvalidInput: an empty or diffuse field, or a threshold that no density reaches.
        MissingPackage: the extra `threed` is not installed.
    """
    if resolution < 4:
        raise InvalidInput(f"a mesh needs a resolution of at least 4, got {resolution}")
    measure, radius, densities = optional("skimage.measure"), volume.radius, lattice(volume, resolution)
    cut = suggested_threshold(densities, radius) if threshold is None else threshold
    shell = _shell(densities)
    if (covered := float((shell > cut).mean())) > 0.5:
        raise InvalidInput(
            f"the field is diffuse: {covered:.0%} of the box's boundary is denser than the threshold {cut:.3g}; give a higher one"
        )
    if not densities.min() < cut < densities.max():
        span = f"between {densities.min():.3g} and {densities.max():.3g}"
        raise InvalidInput(f"no surface at the threshold {cut:.3g}: densities are {span}; give another, or train longer")
    closed = np.pad(densities, 1, constant_values=min(0.0, 2 * cut - float(shell.max())))
    vertices, faces, _, _ = measure.marching_cubes(closed, level=cut, gradient_direction="ascent")
    vertices = (vertices - 1) / (resolution - 1) * 2 * radius - radius
    mesh = Mesh(vertices, faces, _colours(volume, vertices), float(cut))
    return mesh if texture is None else baked(mesh, volume, texture)


@torch.no_grad()
def baked(mesh: Mesh, volume: Volume, size: int) -> Mesh:
    """Return the mesh with a texture of size x size texels; vertices on seams are duplicated.

    Raises:
        InvalidInput: a size below 16.
        MissingPackage: the extra `threed` is not installed.
    """
    if size < 16:
        raise InvalidInput(f"a texture needs a side of at least 16 texels, got {size}")
    xatlas = optional("xatlas")
    charts, packing, atlas = xatlas.ChartOptions(), xatlas.PackOptions(), xatlas.Atlas()
    charts.max_chart_area, packing.resolution = CHART * float(mesh.trimesh().area_faces.mean()), size
    atlas.add_mesh(mesh.vertices, mesh.faces)
    atlas.generate(chart_options=charts, pack_options=packing)
    origin, faces, uv = atlas[0]
    vertices, faces = mesh.vertices[origin], faces.astype(np.int64)
    texel, face, weights = covered_texels(uv[faces] * size, size)
    points = (vertices[faces[face]] * weights[..., None]).sum(1)
    texture, known = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    row, column = size - 1 - texel // size, texel % size  # v points up, rows point down
    texture[row, column], known[row, column] = _colours(volume, points), True
    nearest = optional("scipy.ndimage").distance_transform_edt(~known, return_distances=False, return_indices=True)
    return Mesh(vertices, faces, mesh.colours[origin], mesh.threshold, uv, texture[tuple(nearest)])


def covered_texels(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find texels whose centres lie in triangles (f, 3, 2): texel (t,) as v size + u, triangle (t,), barycentric weights (t, 3)."""
    low = np.clip(np.ceil(corners.min(1) - 0.5), 0, size).astype(np.int64)
    span = np.clip(np.floor(corners.max(1) - 0.5).astype(np.int64) + 1 - low, 0, size - low)
    counts = span.prod(1)
    face = np.repeat(np.arange(len(corners)), counts)
    place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # index within the triangle's bounding box
    u, v = low[face, 0] + place % np.maximum(span[face, 0], 1), low[face, 1] + place // np.maximum(span[face, 0], 1)
    a, b, c = (corners[face, k] for k in range(3))
    p = np.stack([u, v], 1) + 0.5
    whole = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], 1) / whole[:, None]
    inside = np.isfinite(weights).all(1) & (weights >= -1e-6).all(1)
    return (v * size + u)[inside], face[inside], weights[inside]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _colours(volume: Volume, points: np.ndarray) -> np.ndarray:
    device = next(volume.parameters()).device if isinstance(volume, torch.nn.Module) else None
    return _evaluated(volume.albedo, torch.as_tensor(points, dtype=torch.float32, device=device)).clip(0, 1)


def _evaluated(function: Any, points: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([function(part).float().cpu().numpy() for part in points.split(BATCH)])


def _write(path: Path, *, data: bytes) -> None:
    path.write_bytes(data)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)
