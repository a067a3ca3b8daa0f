"""Scores against exact solids: closed forms of the metrics, points on surfaces, perfect and imperfect objects, the experiments in 3-D."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeseek.cli import main
from modeseek.core.errors import InvalidInput
from modeseek.metrics.shapes import chamfer_and_f, diameter, on_triangles, psnr, silhouette_iou, ssim
from modeseek.representations.nerf import Cameras, NeRFSettings, Ranges, extract_mesh
from modeseek.representations.nerf.cameras import draw
from modeseek.reproduction import EXPERIMENTS, Settings
from modeseek.reproduction.object_cells import HELD_OUT_OBJECTS, FittedObject, TrueObject
from modeseek.solids.captions import COMPOSITES, Scene, parse
from modeseek.solids.evaluation import (
    aligning_turn,
    facing,
    held_out_cameras,
    score_object,
    seen_points,
    shape_scores,
    true_images,
    true_outside,
    true_weights,
)
from modeseek.solids.fitting import fit_to_truth
from modeseek.solids.rendering import view_cameras
from modeseek.solids.shapes import solid
from modeseek.solids.surfaces import surface_points
from modeseek.sweeps.cells import cell_path, execute, load
from modeseek.tasks.text_to_image import PriorChoice


# ---------------------------------------------------------------- closed forms
def test_iou_of_two_discs():
    """Discs of radius r whose centres are d apart share 2 r^2 acos(d / 2r) - d / 2 sqrt(4 r^2 - d^2)."""
    y, x = torch.meshgrid(torch.arange(400.0), torch.arange(400.0), indexing="ij")
    r, d = 100.0, 60.0
    one, two = ((x - 170) ** 2 + (y - 200) ** 2 < r**2)[None], ((x - 230) ** 2 + (y - 200) ** 2 < r**2)[None]
    shared = 2 * r**2 * math.acos(d / (2 * r)) - d / 2 * math.sqrt(4 * r**2 - d**2)
    assert float(silhouette_iou(one, two)) == pytest.approx(shared / (2 * math.pi * r**2 - shared), abs=3e-3)
    nothing = torch.zeros_like(one)
    assert silhouette_iou(nothing, nothing).tolist() == [1.0]
    assert silhouette_iou(one, nothing).tolist() == [0.0]


def test_psnr_of_a_known_error():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    assert psnr(a, b).tolist() == pytest.approx([20.0, 40.0])
    assert psnr(b, b).tolist() == [math.inf, math.inf]
    with pytest.raises(InvalidInput, match="pairs of one shape"):
        psnr(a, b[:1])


def test_ssim_of_equals_constants_and_a_pattern(rng):
    image = torch.rand(2, 3, 16, 20, generator=rng)
    assert ssim(image, image).tolist() == pytest.approx([1.0, 1.0])
    p, q = 0.3, 0.7
    flat = ssim(torch.full((1, 1, 12, 12), p), torch.full((1, 1, 12, 12), q))
    assert float(flat) == pytest.approx((2 * p * q + 1e-4) / (p**2 + q**2 + 1e-4), rel=1e-5)
    # one window, straight from the definition
    a, b = image[:1, :1, :11, :11].double(), image[1:, :1, :11, :11].double()
    g = torch.tensor([math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-5, 6)], dtype=torch.float64)
    w = g[:, None] * g[None] / g.sum() ** 2
    ma, mb = float((w * a).sum()), float((w * b).sum())
    va, vb, ab = (float((w * (x * y)).sum()) for x, y in ((a - ma, a - ma), (b - mb, b - mb), (a - ma, b - mb)))
    by_hand = (2 * ma * mb + 1e-4) * (2 * ab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert float(ssim(a, b)) == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(InvalidInput, match="at least 11 pixels"):
        ssim(image[..., :10], image[..., :10])


def test_chamfer_and_f_score_of_shifted_planes_and_nested_spheres(rng):
    ticks = torch.linspace(0, 1, 30)
    plane = torch.cartesian_prod(ticks, ticks, torch.zeros(1))
    lifted = plane + torch.tensor([0.0, 0.0, 0.2])
    assert chamfer_and_f(plane, lifted, 0.25) == pytest.approx((0.2, 1.0))
    assert chamfer_and_f(plane, lifted, 0.15) == pytest.approx((0.2, 0.0))
    half = torch.cat([plane, lifted])  # half of it is far: precision 1/2, recall 1
    assert chamfer_and_f(half, plane, 0.1) == pytest.approx((0.05, 2 / 3))
    directions = torch.nn.functional.normalize(torch.randn(3000, 3, generator=rng), dim=1)
    assert chamfer_and_f(directions, 1.5 * directions, 1.0)[0] == pytest.approx(0.5, abs=1e-5)
    assert diameter(directions) == pytest.approx(2.0, abs=0.01)
    with pytest.raises(InvalidInput, match="finite"):
        chamfer_and_f(plane, plane[:0], 0.1)


def test_points_on_triangles_are_even(rng):
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]])  # areas 0.5 and 1.5
    points = on_triangles(vertices, faces, 4000, rng=rng)
    assert float((points[:, 2] == 0).float().mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))
    flat = points[points[:, 2] == 0]
    assert flat.mean(0)[:2].tolist() == pytest.approx([1 / 3, 1 / 3], abs=4 * 0.236 / math.sqrt(len(flat)))
    with pytest.raises(InvalidInput, match="no area"):
        on_triangles(vertices, faces[:0], 10, rng=rng)


# ---------------------------------------------------------------- the true surface
@pytest.mark.parametrize("structure", [("torus",), ("cone", "cube"), *((name,) for name in COMPOSITES)])
def test_surface_points_are_on_the_surface(structure):
    points = surface_points(structure, 3000, seed=1)
    assert points.shape == (3000, 3)
    assert float(solid(structure).distance(points).abs().max()) < 1e-4
    assert torch.equal(points, surface_points.__wrapped__(structure, 3000, seed=1))
    assert not torch.equal(points, surface_points(structure, 3000, seed=2))


def share_is(found, share):
    assert float(found.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(found)))


def test_surface_points_are_even():
    """Every face of the cube has its sixth, the caps of a capsule and the base of a pyramid their shares of the area."""
    part = solid(("cube",)).parts[0]
    c, s = math.cos(math.radians(part.turn)), math.sin(math.radians(part.turn))
    points = surface_points(("cube",), 12000) @ torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    for axis in range(3):
        for side in (1, -1):
            share_is((side * points[:, axis] - 0.5).abs() < 1e-6, 1 / 6)
    r, h = 0.34, 0.42
    share_is(surface_points(("capsule",), 12000)[:, 2].abs() > h, 4 * r**2 / (4 * r**2 + 4 * r * h))
    a, h = 0.58, 0.62
    share_is((surface_points(("pyramid",), 12000)[:, 2] + h).abs() < 1e-6, 4 * a**2 / (4 * a**2 + 4 * a * math.hypot(2 * h, a)))


def test_what_is_inside_or_below_is_not_compared(rng):
    """Of nested spheres every point of the upper half of the outer one is seen, and none of the inner one."""
    directions = torch.nn.functional.normalize(torch.randn(60_000, 3, generator=rng), dim=1)
    seen = seen_points(torch.cat([0.6 * directions, 0.4 * directions]))
    outer = seen[seen.norm(dim=1) > 0.5]
    assert len(outer) == len(seen)
    assert int((outer[:, 2] > 0).sum()) == int((directions[:, 2] > 0).sum())
    below = [float((points[:, 2] < -0.659).float().mean()) for points in (surface_points(("house",), 12000), true_outside(("house",)))]
    assert below[0] > 0.12
    assert below[1] < 0.04  # the rim of the base is within the tolerance


def test_cameras_are_within_what_the_world_knows():
    cameras = held_out_cameras()
    assert len(cameras) == 24
    assert set(cameras.names) == {"front", "side", "back"}
    low, high = Ranges.solids().elevation
    assert low <= float(cameras.elevation.min()) <= float(cameras.elevation.max()) <= high
    known = view_cameras("back", 500, rng=torch.Generator().manual_seed(0))
    back = facing("back")
    assert float(known.azimuth.min()) <= float(back.azimuth.min()) <= float(back.azimuth.max()) <= float(known.azimuth.max())
    with pytest.raises(InvalidInput, match="look at the origin"):
        true_weights(parse("a red cube")[0], Cameras.orbit([0.0], fov=50.0))


# ---------------------------------------------------------------- objects
class TrueNeRF:
    """Stands for a NeRF and shows the truth itself; as a volume its density crosses the suggested threshold on the solid's surface."""

    radius = 1.05

    def __init__(self, prompt, background=(0.2, 0.4, 0.6), turn=0.0):
        self.scene, self.colour, self.turn, self.field = parse(prompt)[0], torch.tensor(background), turn, self

    def render(self, cameras, size, /):
        turned = Cameras.orbit(cameras.azimuth + self.turn, cameras.elevation)
        weights = true_weights(self.scene, turned, size=size[0])
        behind = self.colour[None, :, None, None].expand(len(cameras), -1, *size)
        image = true_images(self.scene, weights, behind)
        return SimpleNamespace(image=image, opacity=1 - weights[:, -1:], directions=torch.zeros(size[0] * size[1], 3))

    def background(self, directions, /):
        return self.colour.expand(len(directions), 3)

    def density(self, points, /):
        return (10 / self.radius * (1 - solid(self.scene.structure).distance(points) / 0.05)).clamp_min(0)

    def albedo(self, points, /):
        return points.new_full((len(points), 3), 0.5)


class SaysFront:
    """A classifier that sees the front everywhere."""

    def agreement(self, images, prompts):
        return {"view": torch.tensor([float(parse(prompt)[1] == "front") for prompt in prompts])}


@pytest.mark.parametrize("prompt", ["a red house, grey background", "an orange cube on a blue cylinder"])
def test_the_truth_scores_perfectly(prompt):
    found = score_object(TrueNeRF(prompt), prompt, classifier=SaysFront())
    assert found["IoU"] == 1.0
    assert found["PSNR"] > 60
    assert found["SSIM"] == pytest.approx(1.0)
    assert found["mesh"] == 1.0
    assert found["Chamfer"] < 0.015
    assert found["F-score"] > 0.98
    assert ("front" in found) == ("house" in prompt)


def test_a_rotated_object_is_aligned():
    """An object that is right but rotated by -15 degrees has the scores of the truth after alignment, and lower ones before."""
    prompt = "a red pyramid on a blue cube, grey background"
    mesh = extract_mesh(TrueNeRF(prompt), resolution=64)
    c, s = math.cos(math.radians(15)), math.sin(math.radians(15))
    vertices = mesh.vertices @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])  # x to R(-15) x, as cameras moved by 15 see it
    found = score_object(TrueNeRF(prompt, turn=15.0), prompt, replace(mesh, vertices=vertices), points=4000, align=True)
    assert found["rotation"] == -15.0
    assert found["aligned IoU"] == 1.0
    assert found["aligned PSNR"] > 60
    assert found["aligned F-score"] > 0.97
    assert found["IoU"] < 0.97
    assert found["PSNR"] < 30
    assert found["F-score"] < found["aligned F-score"] - 0.1


def test_the_angle_of_a_rotation_is_found_within_the_free_range():
    base = torch.zeros(2, 3, 8, 8)

    def truth(angle):
        return base + abs(angle - 17.0) / 100

    assert aligning_turn(base, truth) == 17.5
    assert aligning_turn(base, lambda angle: base + abs(angle + 80.0) / 200) == -30.0  # no further than the names of views allow


def test_what_is_wrong_lowers_its_score():
    prompt = "an orange car"
    mesh = extract_mesh(TrueNeRF(prompt), resolution=48)
    turned = score_object(TrueNeRF(prompt, turn=90.0), prompt, mesh, classifier=SaysFront(), points=2000)
    assert turned["IoU"] < 0.9
    assert turned["PSNR"] < 30
    assert (turned["front"], turned["back"]) == (1.0, 0.0)
    assert shape_scores(TrueNeRF("a red sphere"), ("car",), points=2000)["F-score"] < 0.6

    class DiffuseDensity(TrueNeRF):
        def density(self, points, /):
            return points.new_full((len(points),), 0.01)

    assert shape_scores(DiffuseDensity(prompt), ("car",)) == {"F-score": 0.0, "mesh": 0.0}


def test_a_named_background_must_be_learned():
    silent = score_object(TrueNeRF("a red sphere", background=(1.0, 1.0, 1.0)), "a red sphere", points=500)
    named = score_object(TrueNeRF("a red sphere", background=(1.0, 1.0, 1.0)), "a red sphere, navy background", points=500)
    assert silent["PSNR"] > 60
    assert named["PSNR"] < 15
    assert named["IoU"] == 1.0


def test_fit_to_truth_comes_nearer():
    views = NeRFSettings.cpu().views
    settings = NeRFSettings(**{**vars(NeRFSettings.cpu()), "views": type(views)(**{**vars(views), "size": (16, 16)})})
    errors = []
    nerf = fit_to_truth("a red sphere", settings, steps=40, bank=10, lr=0.1, seed=1, progress=lambda step, error: errors.append(error))
    assert len(errors) == 40
    assert sum(errors[-5:]) < 0.3 * sum(errors[:5])
    again = fit_to_truth("a red sphere", settings, steps=3, bank=10, seed=1)
    assert again.step == 3
    assert nerf.step == 40
    with pytest.raises(InvalidInput, match="at least one step"):
        fit_to_truth("a red sphere", settings, steps=0)


# ---------------------------------------------------------------- the classifier and the experiments
def test_the_classifier_tells_the_sides_of_true_composites():
    for prompt in ("a red house, white background", "a green rocket, grey background"):
        told = TrueObject(prompt=prompt).run().row["metrics"]
        assert min(told["front"], told["back"]) > 0.8


def test_prompts_are_held_out():
    scenes = [parse(prompt)[0] for prompt in HELD_OUT_OBJECTS]
    assert len(set(scenes)) == 6
    assert all(Scene(**{**vars(scene), "background": None}).held_out for scene in scenes)
    assert sum(scene.shape in COMPOSITES for scene in scenes) >= 2


def test_cells_of_the_objects(tmp_path):
    table, figure = (EXPERIMENTS[name].cells(Settings()) for name in ("table3d", "fig6"))
    assert [repr(cell) for cell in table] == [repr(cell) for cell in figure]
    distilled = [cell for cell in table if hasattr(cell, "recipe")]
    assert len(distilled) == 6 * 2 * 6
    assert max(cell.recipe.calls for cell in distilled) <= 1000
    assert {(cell.method, cell.row) for cell in distilled} >= {
        ("SDS", "as published, equal calls"),
        ("mean shift", "one call"),
        ("MSD", "reverse process, equal calls"),
    }
    assert len({cell_path(cell, tmp_path) for cell in table}) == len(table)
    fitted = FittedObject(prompt="a red sphere, grey background", steps=2, seed=0)
    execute(fitted, tmp_path)
    result = load(fitted, tmp_path)
    assert result is not None
    assert result.arrays["turntable"].shape == (24, 3, 64, 64)
    assert {"IoU", "PSNR", "SSIM", "F-score", "mesh"} <= set(result.row["metrics"])
    assert TrueObject(prompt="a red sphere").run().row["metrics"] == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
def test_experiments_run_on_any_prior(pipeline_folder, tmp_path, capsys):
    arguments = ["--quick", "--prior", str(pipeline_folder("sd1")), "--out", str(tmp_path)]
    assert main(["run", "table3d", "fig6", *arguments]) == 0
    capsys.readouterr()
    rows = json.loads((tmp_path / "table3d-sd1-quick" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["SDS", "VSD", "SDI", "MSD", "mean shift", "MSD"]
    assert all(row["calls"] <= 30 for row in rows)
    assert [row["guidance"] for row in rows] == ["CFG 101", *["CFG 7.5"] * 5]  # SDS at its published scale
    assert (tmp_path / "fig6-sd1-quick" / "fig6.png").stat().st_size > 1000
    choice = PriorChoice(name=str(pipeline_folder("sd1")))
    assert len(EXPERIMENTS["table3d"].cells(Settings(quick=True, prior=choice))) == len(rows)


def test_drawn_cameras_have_their_distribution():
    """The cameras that fits and distillations are drawn from are cameras the truth is known from."""
    cameras = draw(Ranges.solids_views(), 5, rng=torch.Generator().manual_seed(0))
    weights = true_weights(parse("a red cube")[0], cameras, size=8)
    assert torch.allclose(weights.sum(1).amax((1, 2)), torch.ones(5))
