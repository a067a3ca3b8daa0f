r"""Scores of a distilled object against the exact solid of its caption: renders, shape, and whether it has a single front.

    IoU               silhouettes (opacity above a half; of the solid, half of a pixel's rays), from 24 cameras
    PSNR, SSIM        images from those cameras
    Chamfer, F-score  points spread evenly over the mesh's outside against such points of the solid; the threshold is 0.02 diameters
    mesh              1, or 0 where the volume has no surface: then there is no Chamfer distance, and the F-score is 0
    front, back       shares of renders of the front and of the back that the classifier assigns to that view, which detects a second front
                      (Janus). Composites alone have a front; the sides of the other objects differ in shading only and are not scored

The name of a view leaves its azimuth free within 30 degrees on either side, so a prompt determines an object only up to such a rotation
about the vertical axis. With `align` the object is also compared with the solid at the rotation of highest PSNR among those:

    rotation          of the object against the solid, in degrees, to 2.5
    aligned IoU, aligned PSNR, aligned F-score

A caption may leave the background out. Then the true solid is composited over the object's own background; a background that is named has
to be learned.

Two sets of n random points on one surface have a Chamfer distance of about sqrt(area / n) / 2: 0.01 for 12 000 points, the lower limit of
this score; the threshold of the F-score is three times that. Only points visible from around and above are compared, of both surfaces: no
render shows the inside or the underside, and an opaque volume is full of walls there (`seen_points`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.metrics.shapes import chamfer_and_f, diameter, on_triangles, psnr, silhouette_iou, ssim
from modeseek.representations.nerf import Cameras, Mesh, extract_mesh
from modeseek.representations.nerf.field import Volume
from modeseek.representations.nerf.rendering import Rendering
from modeseek.solids import rendering
from modeseek.solids.captions import COMPOSITES, Scene, parse
from modeseek.solids.rendering import colour, palette, trace
from modeseek.solids.shapes import solid
from modeseek.solids.surfaces import surface_points

if TYPE_CHECKING:
    from modeseek.solids.scoring import Scorer

VIEWS = 24
ELEVATIONS = (10.0, 20.0, 30.0)
THRESHOLD = 0.02  # of the F-score, in diameters
FREE = 30.0  # degrees on either side of a view's centre, all of which have its name
DENSE = 200_000  # points on a mesh, before the hidden ones are dropped


class Shown(Protocol):
    """What is scored: a `NeRF`, or an object with its `field` and `render`."""

    @property
    def field(self) -> Volume: ...
    def render(self, cameras: Cameras, size: tuple[int, int], /) -> Rendering: ...


def held_out_cameras(turn: float = 0.0) -> Cameras:
    """The 24 cameras of the scores: every 15 degrees around, elevations 10, 20, 30 in turn. Training cameras are random.

    All of them are moved `turn` degrees around the object.
    """
    azimuths = [360 / VIEWS * (k + 0.5) + turn for k in range(VIEWS)]
    return Cameras.orbit(azimuths, [ELEVATIONS[k % 3] for k in range(VIEWS)], distance=rendering.DISTANCE, fov=rendering.FIELD_OF_VIEW)


def facing(side: str) -> Cameras:
    """Nine cameras around the front or the back, within the range of that view's name."""
    centre = {"front": 0.0, "back": 180.0}[side]
    places = [(centre + a, e) for a in (-24.0, 0.0, 24.0) for e in ELEVATIONS]
    return Cameras.orbit([a for a, _ in places], [e for _, e in places], distance=rendering.DISTANCE, fov=rendering.FIELD_OF_VIEW)


# ---------------------------------------------------------------- the truth
def true_weights(scene: Scene, cameras: Cameras, *, size: int = 64) -> Tensor:
    """Weights of colour slots and background, as `rendering.trace` gives them, from a NeRF's cameras: (n, slots + 1, size, size).

    Raises:
        InvalidInput: cameras that do not look at the origin with the world's field of view.
    """
    here = Cameras.orbit(cameras.azimuth, cameras.elevation, distance=cameras.distance, fov=rendering.FIELD_OF_VIEW)
    straight = torch.allclose(here.eye, cameras.eye, atol=1e-4) and torch.allclose(here.target, cameras.target, atol=1e-4)
    if not straight or not torch.allclose(here.fov, cameras.fov):
        raise InvalidInput("true renders exist for cameras that look at the origin with a field of view of 40 degrees")
    parts = [part.float().cpu() for part in (cameras.azimuth, cameras.elevation, cameras.distance)]
    groups = torch.arange(len(cameras)).split(8)
    return torch.cat([trace(solid(scene.structure), rendering.Cameras(*(p[g] for p in parts)), size=size) for g in groups])


@cache
def _held_out_weights(structure: tuple[str, ...], size: int, turn: float = 0.0) -> Tensor:
    base = structure[1] if len(structure) == 2 else None
    scene = Scene(shape=structure[0], colour="red", base=base, base_colour="red" if base else None)
    return true_weights(scene, held_out_cameras(turn), size=size)


def true_images(scene: Scene, weights: Tensor, background: Tensor | None = None) -> Tensor:
    """Renders of a scene from `true_weights`: (n, 3, h, w). `background` (n, 3, h, w) is used where the scene names none."""
    slots = palette(scene)
    if scene.background is None and background is not None:
        slots[-1] = 0.0
        return (colour(weights, slots.expand(len(weights), -1, -1)) + weights[:, -1:] * background).clamp(0, 1)
    return colour(weights, slots.expand(len(weights), -1, -1))


# ---------------------------------------------------------------- the scores
@torch.no_grad()
def score_object(
    nerf: Shown,
    prompt: str,
    mesh: Mesh | None = None,
    *,
    size: int = 64,
    points: int = 12_000,
    classifier: Scorer | None = None,
    align: bool = False,
) -> dict[str, float]:
    """Every score of the module's page.

    Args:
        nerf: the object.
        prompt: its caption; a view is ignored.
        mesh: its surface; None: extracted.
        size: side of the images.
        points: on each of the two surfaces.
        classifier: None: the shipped one.
        align: also compare with the rotated solid. Costs up to 264 traced renders for the first object of a solid, 6 s.

    Raises:
        InvalidInput: the prompt names no scene.
        WeightsError: the shipped classifier is needed and missing.
        MissingPackage: meshes need the extra `threed`.

    Returns:
        "IoU", "PSNR", "SSIM", "F-score", "mesh" always; "Chamfer" where there is a surface; "front", "back" of composites;
        "rotation" and the aligned scores with `align`.
    """
    scene, _ = parse(prompt)
    weights = _held_out_weights(scene.structure, size)
    rendered = [nerf.render(held_out_cameras()[[k]], (size, size)) for k in range(VIEWS)]
    image = torch.cat([r.image for r in rendered]).float().cpu().clamp(0, 1)
    opacity = torch.cat([r.opacity for r in rendered]).float().cpu()
    behind = torch.cat([_background(nerf, r, size) for r in rendered]) if scene.background is None else None
    truth = true_images(scene, weights, behind)
    found = {
        "IoU": float(silhouette_iou(opacity > 0.5, weights[:, -1:] < 0.5).mean()),
        "PSNR": float(psnr(image, truth).mean()),
        "SSIM": float(ssim(image, truth).mean()),
    }
    mesh = _surface(nerf.field) if mesh is None else mesh
    found |= shape_scores(nerf.field, scene.structure, mesh, points=points)
    if align:
        turn = aligning_turn(image, lambda angle: true_images(scene, _held_out_weights(scene.structure, size, angle), behind))
        weights = _held_out_weights(scene.structure, size, turn)
        found |= {
            "rotation": 0.0 - turn,
            "aligned IoU": float(silhouette_iou(opacity > 0.5, weights[:, -1:] < 0.5).mean()),
            "aligned PSNR": float(psnr(image, true_images(scene, weights, behind)).mean()),
            "aligned F-score": shape_scores(nerf.field, scene.structure, mesh, points=points, turn=turn)["F-score"],
        }
    if scene.shape not in COMPOSITES:
        return found
    return found | side_accuracy(
        lambda cameras: torch.cat([nerf.render(cameras[[k]], (64, 64)).image for k in range(len(cameras))]), prompt, classifier=classifier
    )


def aligning_turn(images: Tensor, truth: Callable[[float], Tensor]) -> float:
    """Degrees, within `FREE` and to 2.5, that cameras move around a solid for its images to have the highest PSNR to the given ones.

    A search over every 10 degrees, refined twice: 11 evaluations of `truth` at most.

    Args:
        images: (n, 3, h, w) in [0, 1].
        truth: angle in degrees -> true images of that shape.
    """

    @cache
    def quality(angle: float) -> float:
        return float(psnr(images, truth(angle)).mean())

    best = max((float(angle) for angle in range(-int(FREE), int(FREE) + 1, 10)), key=quality)
    for step in (5.0, 2.5):
        best = max((angle for angle in (best - step, best, best + step) if abs(angle) <= FREE), key=quality)
    return best


def _surface(volume: Volume) -> Mesh | None:  # None: diffuse or empty
    with suppress(InvalidInput):
        return extract_mesh(volume, resolution=96)
    return None


def shape_scores(
    volume: Volume, structure: tuple[str, ...], mesh: Mesh | None = None, *, points: int = 12_000, turn: float = 0.0
) -> dict[str, float]:
    """ "Chamfer" (a length; the solids' box is 2.1 wide), "F-score" and "mesh" of a volume's surface.

    The solid is turned by -`turn` degrees about the vertical axis: as cameras that move by `turn` around it see it.
    """
    mesh = _surface(volume) if mesh is None else mesh
    if mesh is None:
        return {"F-score": 0.0, "mesh": 0.0}
    vertices, faces = torch.as_tensor(mesh.vertices).float(), torch.as_tensor(mesh.faces.astype("int64"))
    made = seen_points(on_triangles(vertices, faces, DENSE, rng=torch.Generator().manual_seed(0)))[:points]
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    truth = true_outside(structure)[:points] @ torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    chamfer, f_score = chamfer_and_f(made, truth, THRESHOLD * diameter(truth[:4000]))
    return {"Chamfer": chamfer, "F-score": f_score, "mesh": 1.0}


def seen_points(points: Tensor, *, pixels: int = 64, tolerance: float = 0.04) -> Tensor:
    """Points of a surface that are visible from at least one of 32 cameras around and above it, in their order.

    A depth buffer of points (Catmull 1974): a point is visible where it is within the tolerance of the nearest one in its pixel, so every
    pixel that the surface covers needs several points.
    """
    above = Cameras.orbit([45.0 * k for k in range(8)], 65.0)
    seen = torch.zeros(len(points), dtype=torch.bool)
    for cameras in (held_out_cameras(), above):
        for k in range(len(cameras)):
            place, depth = (part[0] for part in cameras[[k]].project(points, (pixels, pixels)))
            row, column = place.long().clamp(0, pixels - 1).unbind(1)
            pixel = row * pixels + column
            front = torch.full((pixels * pixels,), float("inf")).scatter_reduce(0, pixel, depth, "amin")
            seen |= depth <= front[pixel] + tolerance
    return points[seen]


@cache
def true_outside(structure: tuple[str, ...]) -> Tensor:
    """Sample points uniformly on the visible surface of a solid."""
    return seen_points(surface_points(structure, DENSE // 4).float())


@torch.no_grad()
def side_accuracy(show: Callable[[Cameras], Tensor], prompt: str, *, classifier: Scorer | None = None) -> dict[str, float]:
    """Fractions of front and back renders that the classifier assigns to the correct view.

    Args:
        show: cameras -> images (n, 3, 64, 64) in [0, 1].
        prompt: the caption.
        classifier: None: the shipped one.
    """
    if classifier is None:
        from modeseek.solids.scoring import scorer

        classifier = scorer()
    scene, _ = parse(prompt)
    found = {}
    for side in ("front", "back"):
        images = show(facing(side)).float().cpu()
        found[side] = float(classifier.agreement(images, [scene.caption(side)] * len(images))["view"].mean())
    return found


def _background(nerf: Shown, rendered: Rendering, size: int) -> Tensor:
    return nerf.field.background(rendered.directions).float().cpu().reshape(1, size, size, 3).permute(0, 3, 1, 2)
