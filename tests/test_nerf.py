"""The NeRF: each part against a closed form, the complete model against images of a known solid."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from modeseek import InvalidInput, distill
from modeseek.core.errors import MissingPackage
from modeseek.gradients import Estimate
from modeseek.representations.nerf import FieldSettings, HashGrid, HashGridSettings, NeRF, NeRFSettings, Shading, Views
from modeseek.representations.nerf.cameras import VIEWS, Cameras, Ranges, draw, view_name
from modeseek.representations.nerf.field import Field, difference_normals, evaluated
from modeseek.representations.nerf.occupancy import Occupancy
from modeseek.representations.nerf.regularisers import Regularisers, attach, opaque, orientation, sparsity, variance, weight_at
from modeseek.representations.nerf.rendering import Light, March, box, in_chunks, light_before, marched, render
from modeseek.solids.captions import Scene
from modeseek.solids.rendering import Cameras as SolidCameras
from modeseek.solids.rendering import render as render_solid

SMALL = HashGridSettings(levels=4, log2_entries=10, base=4, growth=1.6)  # 4, 6, 10, 16 cells: two levels dense, two hashed


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*size, seed=0):
    return torch.rand(*size, generator=seeded(seed), dtype=torch.float64)


def hash_grid(settings=SMALL, scale=1.0):
    grid = HashGrid(settings, rng=seeded()).double()
    grid.table.data = scale * torch.randn(grid.table.shape, generator=seeded(1), dtype=torch.float64)
    return grid


class Closed:
    """A volume from functions; its background is dark blue."""

    def __init__(self, density, *, radius=1.0, albedo=(0.9, 0.5, 0.2)):
        self.density, self.radius, self.shade = density, radius, albedo

    def albedo(self, points):
        return points.new_tensor(self.shade).expand(len(points), 3)

    def __call__(self, points):
        return self.density(points), self.albedo(points)

    def background(self, directions):
        return directions.new_tensor([0.0, 0.1, 0.3]).expand(len(directions), 3)


def ball(sigma=200.0, r=0.6):
    """Dense inside a sphere, with a boundary soft enough to have a gradient."""
    return Closed(lambda p: sigma * ((r - (p**2).sum(1).add(1e-12).sqrt()) / 0.01).sigmoid())


def one_camera(**options):
    return Cameras.orbit(torch.tensor([30.0], dtype=torch.float64), 20.0, **options)


# ---------------------------------------------------------------- hash grid
def test_a_grid_without_collisions_is_trilinear_interpolation():
    grid = hash_grid(HashGridSettings(levels=1, log2_entries=12, base=7, growth=1.0))
    assert grid.dense == 1
    points = uniform(200, 3)
    volume = grid.table.reshape(8, 8, 8, 2).permute(3, 0, 1, 2)[None]  # z, y, x
    expected = torch.nn.functional.grid_sample(volume, points[None, None, None] * 2 - 1, align_corners=True)[0, :, 0, 0].T
    assert_close(grid(points), expected)


def test_trilinear_functions_are_exact_at_every_level_and_the_faces_belong_to_the_grid():
    grid = HashGrid(HashGridSettings(levels=3, log2_entries=16, base=4, growth=1.9), rng=seeded()).double()

    def function(p):
        x, y, z = p.unbind(1)
        return 0.3 + x - 2 * y + 0.7 * z + 1.5 * x * y - y * z + 2 * x * y * z

    for level, (cells, start) in enumerate(zip(grid.cells.tolist(), grid.starts.tolist(), strict=True)):
        ticks = torch.arange(cells + 1, dtype=torch.float64) / cells
        vertices = torch.cartesian_prod(ticks, ticks, ticks).flip(1)  # x fastest
        grid.table.data[start : start + len(vertices), level % 2] = function(vertices)
    points = torch.cat([uniform(50, 3), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5]], dtype=torch.float64)])
    values = grid(points).reshape(-1, 3, 2)
    for level in range(3):
        assert_close(values[:, level, level % 2], function(points))
    assert_close(grid(torch.tensor([[1.5, -0.2, 0.4]]).double()), grid(torch.tensor([[1.0, 0.0, 0.4]]).double()))


def test_hashed_levels_follow_the_published_hash():
    grid = hash_grid()
    assert grid.dense == 2
    assert grid.cells.tolist() == [4, 6, 10, 16]
    vertex = torch.tensor([[3, 7, 5]])
    values = grid(vertex.double() / 10).reshape(4, 2)[2]
    entry = (3 ^ (7 * 2654435761) ^ (5 * 805459861)) % 1024
    assert_close(values, grid.table[grid.starts[2] + entry])


def test_gradients_of_the_grid_against_finite_differences():
    grid, points = hash_grid(HashGridSettings(levels=2, log2_entries=5, base=2, growth=2.0)), uniform(2, 3)
    assert grid.dense == 1
    table = grid.table.detach().clone().requires_grad_()

    def features(table, points):
        return torch.func.functional_call(grid, {"table": table}, (points,))

    assert torch.autograd.gradcheck(lambda t: features(t, points), (table,))
    assert torch.autograd.gradcheck(features, (table, points.clone().requires_grad_()))
    assert torch.autograd.gradgradcheck(features, (table, points.clone().requires_grad_()))


def test_levels_join_in_and_cost_nothing_before():
    grid, points = hash_grid(), uniform(5, 3)
    whole = grid(points)
    grid.active = 3
    assert_close(grid(points), torch.cat([whole[:, :6], torch.zeros(5, 2, dtype=torch.float64)], 1))
    assert [HashGridSettings(start=8, begin=2000, every=500).active(step) for step in (0, 1999, 2000, 2499, 2500, 10**5)] == [
        8,
        8,
        8,
        8,
        9,
        16,
    ]
    with pytest.raises(InvalidInput, match="start"):
        HashGridSettings(start=17)


# ---------------------------------------------------------------- field
def test_a_field_starts_as_its_blob_and_its_background():
    settings = FieldSettings(grid=SMALL, blob="dreamfusion", blob_scale=5.0, blob_width=0.2, activation="exp", background="constant")
    field = Field(replace(settings, colour=(0.2, 0.5, 0.7)), rng=seeded()).double()
    points = uniform(20, 3) - 0.5
    assert_close(field.density(points), (5 * (-(points**2).sum(1) / 0.08).exp()).exp(), rtol=1e-3, atol=0)
    assert_close(field.background(points), torch.tensor([0.2, 0.5, 0.7]).double().expand(20, 3))
    magic = Field(FieldSettings(grid=SMALL), rng=seeded()).double()
    assert_close(magic.density(points), torch.nn.functional.softplus(10 - 20 * points.norm(dim=1)), rtol=1e-3, atol=1e-4)
    assert magic.background(torch.nn.functional.normalize(points, dim=1)).shape == (20, 3)


def test_the_exponential_is_cut_off_in_its_gradient_alone():
    field = Field(FieldSettings(grid=SMALL, blob=None, activation="exp"), rng=seeded()).double()
    raw = torch.tensor([[1.0], [20.0]], dtype=torch.float64, requires_grad=True)
    field.density_head = torch.nn.Identity()
    density = field._density(torch.zeros(2, 3, dtype=torch.float64), raw)
    density.sum().backward()
    assert_close(density.detach(), torch.tensor([math.e, math.exp(15.0)]).double())
    assert_close(raw.grad[:, 0], torch.tensor([math.e, math.exp(15.0)]).double())


@pytest.mark.parametrize("how", ["autograd", "differences"])
def test_normals_of_a_sphere_are_radial(how):
    points = uniform(50, 3) - 0.5
    normals = evaluated(ball(r=0.4), points, how, step=1e-6)[2]
    near = (points.norm(dim=1) - 0.4).abs() < 0.1
    assert near.sum() > 5
    assert_close(normals[near], torch.nn.functional.normalize(points[near], dim=1), rtol=0, atol=1e-4)


def test_normals_of_a_field_agree_and_can_be_trained():
    field = Field(FieldSettings(grid=SMALL), rng=seeded()).double()
    field.grid.table.data *= 3e3
    points = uniform(30, 3) - 0.5
    by_autograd = evaluated(field, points, "autograd", step=1e-6)[2]
    assert_close(by_autograd, difference_normals(field.density, points, step=1e-7), rtol=0, atol=1e-4)
    by_autograd[:, 0].sum().backward()
    assert field.grid.table.grad.abs().max() > 0
    with torch.no_grad():
        assert not evaluated(field, points, "autograd", step=1e-6)[2].requires_grad


# ---------------------------------------------------------------- cameras
def test_the_front_camera_looks_along_minus_x_with_y_to_the_right():
    camera = Cameras.orbit([0.0], 0.0, distance=3.2, fov=40.0)
    origins, directions = camera.rays((5, 5))
    assert_close(origins[0, 0, 0], torch.tensor([3.2, 0, 0]))
    assert_close(directions[0, 2, 2], torch.tensor([-1.0, 0, 0]))
    right, up, _ = camera.axes()
    assert_close(right[0], torch.tensor([0.0, 1, 0]))
    assert_close(up[0], torch.tensor([0.0, 0, 1]))
    assert directions[0, 0, 2, 2] > 0  # first row: upwards


def test_rays_are_those_of_the_solids():
    azimuth, elevation = torch.tensor([10.0, 200.0, -75.0]), torch.tensor([8.0, 40.0, 75.0])
    ours = Cameras.orbit(azimuth, elevation, distance=3.2, fov=40.0).rays((6, 6))
    origins, directions = SolidCameras(azimuth, elevation, torch.full((3,), 3.2)).rays(6)
    assert_close(ours[0][:, 0, 0], origins)
    assert_close(ours[1], directions)


def test_rays_and_projections_are_inverse():
    cameras = Ranges().draw(3, rng=seeded(2)).to(torch.zeros((), dtype=torch.float64))
    origins, directions = cameras.rays((4, 7))
    distance = 0.5 + uniform(3, 4, 7, 1)
    for view in range(3):
        places, depth = cameras[[view]].project((origins + distance * directions)[view].reshape(-1, 3), (4, 7))
        rows, columns = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(7) + 0.5, indexing="ij")
        assert_close(places[0], torch.stack([rows, columns], -1).reshape(-1, 2).double())
        assert bool((depth > 0).all())


def test_views_have_names():
    cameras = Cameras.orbit([0.0, 44.0, 46.0, 90.0, -90.0, 136.0, 180.0, 315.5, 10.0], [0.0] * 8 + [61.0])
    assert cameras.names == ("front", "front", "side", "side", "side", "back", "back", "front", "overhead")
    assert view_name(50.0, 0.0, front=60.0) == "front"


def test_straight_down_is_a_view_too():
    _, up, back = Cameras.orbit([0.0, 90.0], 90.0).axes()
    assert_close(back, torch.tensor([[0.0, 0, 1]] * 2), atol=1e-6, rtol=0)
    assert_close(up, torch.tensor([[-1.0, 0, 0], [0, -1, 0]]), atol=1e-6, rtol=0)


def test_drawn_cameras_stay_in_their_ranges_and_surround_the_object():
    distribution = Ranges(eye=0.0, target=0.0, up=0.0)
    cameras = distribution.draw(64, rng=seeded())
    assert_close(cameras.eye.norm(dim=1), cameras.distance)
    for values, (low, high) in (
        (cameras.elevation, distribution.elevation),
        (cameras.distance, distribution.distance),
        (cameras.fov, distribution.fov),
    ):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert bool((cameras.azimuth.diff() > 0).all())  # one a sector
    shifted = Ranges().draw(64, rng=seeded())
    assert_close(shifted.azimuth, cameras.azimuth)
    assert 0 < (shifted.eye - cameras.eye).abs().max() <= 0.1
    assert 0.1 < shifted.target.std() < 0.3


def test_the_solids_views_are_the_trained_ones():
    cameras = draw(Ranges.solids_views(), 10, rng=seeded())
    assert sorted(cameras.names) == sorted(["front", "side", "back", "side", "overhead"] * 2)
    assert set(Ranges.solids().draw(200, rng=seeded()).names) == set(VIEWS)


def test_cameras_say_what_is_wrong():
    with pytest.raises(InvalidInput, match="one elevation"):
        Cameras.orbit([0.0, 1.0, 2.0], [1.0, 2.0])
    with pytest.raises(InvalidInput, match="distances above 0"):
        Cameras.orbit([0.0], distance=0.0)
    with pytest.raises(InvalidInput, match="lowest"):
        Ranges(fov=(50.0, 40.0))
    with pytest.raises(InvalidInput, match="at least one distribution"):
        draw([], 1, rng=seeded())


# ---------------------------------------------------------------- rendering
def test_rays_meet_the_box():
    origins = torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 0, 0], [3, 1.5, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, 0, 1], [-1, 0, 0]])
    near, far = box(origins, directions, 1.0)
    assert_close(near[[0, 2]], torch.tensor([2.0, 0.0]))
    assert_close(far[[0, 2]], torch.tensor([4.0, 1.0]))
    assert_close(near[[1, 3]], far[[1, 3]])


@pytest.mark.parametrize("samples", [7, 64])
def test_a_slab_of_constant_density_is_exact(samples):
    sigma = 0.8
    cameras = one_camera()
    out = render(Closed(lambda p: torch.full_like(p[:, 0], sigma)), cameras, (9, 9), march=March(samples=samples), rng=seeded())
    near, far = box(*(part.flatten(0, 2) for part in cameras.rays((9, 9))), 1.0)
    opacity = (1 - (-sigma * (far - near)).exp()).reshape(9, 9)
    assert_close(out.opacity[0, 0], opacity)
    expected = opacity * 0.9 + (1 - opacity) * 0.0
    assert_close(out.image[0, 0], expected)


def test_distance_and_variance_of_a_slab_converge_to_their_closed_forms():
    sigma, camera = 1.3, Cameras.orbit(torch.zeros(1, dtype=torch.float64), distance=3.0)
    volume = Closed(lambda p: sigma * (p[:, 0].abs() < 0.5))
    out = render(volume, camera, (1, 1), march=March(samples=4000))
    d = torch.tensor(1.0, dtype=torch.float64)
    mass = 1 - (-sigma * d).exp()
    mean = (1 - (1 + sigma * d) * (-sigma * d).exp()) / sigma / mass
    square = (2 - (2 + 2 * sigma * d + (sigma * d) ** 2) * (-sigma * d).exp()) / sigma**2 / mass
    assert_close(out.opacity.squeeze(), mass, rtol=0, atol=2e-3)
    assert_close(out.depth.squeeze(), 2.5 + mean, rtol=0, atol=2e-3)
    assert_close(out.variance.squeeze(), square - mean**2, rtol=0, atol=2e-3)


def test_the_silhouette_of_a_dense_sphere_has_its_closed_form_area():
    r, distance, size = 0.6, 3.2, 64
    hard = Closed(lambda p: 1e4 * (p.norm(dim=1) < r))
    out = render(hard, one_camera(distance=distance), (size, size), march=March(samples=200))
    radius = r / math.sqrt(distance**2 - r**2) / math.tan(math.radians(20))  # of the disc, in half images
    assert float(out.opacity.mean()) == pytest.approx(math.pi * radius**2 / 4, rel=0.02)
    assert float(out.depth[0, 0, size // 2, size // 2]) == pytest.approx(distance - r, abs=0.03)


def test_occupied_cells_alone_give_the_same_image_and_gradient():
    field = Field(FieldSettings(grid=SMALL, blob_width=0.3, blob_scale=20.0), rng=seeded()).double()
    march, occupancy = March(samples=48), Occupancy(radius=1.0, cells=16, threshold=1e-5).double()
    for k in range(3):
        occupancy.update(field, step_length=march.step(1.0), rng=seeded(k))
    assert 0.02 < occupancy.fraction() < 0.4
    found = []
    for grid in (None, occupancy):
        field.zero_grad()
        out = render(field, one_camera(), (12, 12), march=march, occupancy=grid, rng=seeded())
        out.image.square().sum().backward()
        found.append((out.image.detach(), field.density_head[0].weight.grad.clone(), len(out.weights)))
    assert found[1][2] < 0.4 * found[0][2]
    assert_close(found[1][0], found[0][0], rtol=0, atol=1e-3)
    assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-2 * float(found[0][1].abs().max()))


def test_an_occupancy_grid_forgets_slowly_and_finds_what_is_there():
    grid, full = Occupancy(radius=1.0, cells=4, decay=0.5, threshold=0.01), Closed(lambda p: 10.0 * (p[:, 0] > 0))
    empty = Closed(lambda p: torch.zeros(len(p)))
    grid.update(full, step_length=0.1, rng=seeded())
    assert_close(grid.occupied, (torch.cartesian_prod(*[torch.arange(4)] * 3)[:, 0] > 1))
    assert grid(torch.tensor([[0.9, -0.9, 0.9], [-0.1, 0.0, 0.0], [5.0, 5.0, 5.0]])).tolist() == [True, False, True]
    for _ in range(4):
        grid.update(empty, step_length=0.1, rng=seeded())
    assert_close(grid.level.max(), torch.tensor(0.5**4))


@pytest.mark.parametrize("normals", ["autograd", "differences"])
def test_chunks_and_unseen_samples_change_nothing(normals):
    field = Field(FieldSettings(grid=SMALL), rng=seeded()).double()
    light = Light("shaded", torch.tensor([[0.6, 0.0, 0.8]]).double(), 0.1)
    found = []
    for options in ({}, {"chunk": 100}, {"visible": 1e-9}):
        field.zero_grad()
        march = March(samples=32, normals=normals, **options)
        out = render(field, one_camera(), (8, 8), march=march, light=light, rng=seeded())
        out.image.square().sum().backward()
        found.append((out.image.detach(), field.grid.table.grad.clone()))
    for image, gradient in found[1:]:
        assert_close(image, found[0][0])
        assert_close(gradient, found[0][1], rtol=1e-6, atol=1e-9)


def test_chunks_keep_no_activations():
    kept = []

    def evaluate(points):
        return (points**2).exp().sum(1), points.sin(), None

    points = uniform(400, 3).requires_grad_()
    for chunk in (None, 100):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            in_chunks(evaluate, points, chunk)
    assert sum(kept) > 0
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(-t.numel()), t)[1], lambda t: t):
        in_chunks(evaluate, points, 100)
    assert -sum(k for k in kept if k < 0) < sum(k for k in kept if k > 0) / 2


def test_light_before_a_sample_does_not_mix_rays():
    ray, depth = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([1.0, 2, 1e6, 0.5, 3])
    assert_close(light_before(depth, ray), torch.tensor([1.0, math.exp(-1), 1.0, 0.0, 0.0]))


def test_gradient_of_a_rendering_against_finite_differences():
    camera = one_camera()

    def image(sigma, slope):
        volume = Closed(lambda p: (sigma + slope * p[:, 2]).abs())
        return render(volume, camera, (3, 3), march=March(samples=12)).image

    start = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.9, 0.4)]
    assert torch.autograd.gradcheck(image, start)


def test_shading_of_a_sphere_is_lambertian():
    towards = torch.nn.functional.normalize(torch.tensor([[1.0, 0.3, 0.5]]).double(), dim=1)
    camera = Cameras.orbit(torch.zeros(1, dtype=torch.float64), 0.0)
    volume, march = ball(sigma=2000.0), March(samples=1200)
    shots = {
        look: render(volume, camera, (9, 9), march=march, light=Light(look, towards, 0.2), normals=True)
        for look in ("albedo", "shaded", "textureless")
    }
    middle = shots["shaded"].image[0, :, 4, 4]
    facing = 0.2 + 0.8 * float(towards[0, 0])
    assert_close(middle, facing * torch.tensor([0.9, 0.5, 0.2]).double(), rtol=0, atol=0.01)
    assert_close(shots["textureless"].image[0, :, 4, 4], torch.full((3,), facing).double(), rtol=0, atol=0.01)
    assert_close(shots["albedo"].image[0, :, 4, 4], torch.tensor([0.9, 0.5, 0.2]).double(), rtol=0, atol=1e-3)
    assert_close(shots["albedo"].normals[0, :, 4, 4], torch.tensor([1.0, 0, 0]).double(), rtol=0, atol=0.01)


def test_rays_that_meet_nothing_are_background():
    camera = replace(one_camera(), target=torch.tensor([[9.0, 9.0, 9.0]]).double())
    out = render(ball(), camera, (4, 4), march=March(samples=8), normals=True)
    assert len(out.weights) == 0
    assert_close(out.image, torch.tensor([0.0, 0.1, 0.3]).double()[None, :, None, None].expand(1, 3, 4, 4))
    assert bool((out.depth == 0).all())


def test_stratified_samples_lie_in_their_intervals():
    origins, directions = (part.flatten(0, 2) for part in one_camera().rays((5, 5)))
    jitter = uniform(25)
    packed = marched(origins, directions, radius=1.0, samples=20, jitter=jitter, occupancy=None)
    near, far = box(origins, directions, 1.0)
    total = torch.zeros(25, dtype=torch.float64).index_add(0, packed.ray, packed.length)
    assert_close(total, far - near)
    inside = (packed.distance >= near[packed.ray]) & (packed.distance <= far[packed.ray])
    assert bool(inside.all())


# ---------------------------------------------------------------- regularisers
@torch.no_grad()
def test_regularisers_on_closed_forms():
    out = render(ball(), one_camera(), (16, 16), march=March(samples=64), normals=True)
    backwards = replace(out, sample_normals=-out.sample_normals)
    assert float(orientation(out)) < 0.005
    assert float(orientation(backwards)) > 0.1
    along = replace(out, sample_normals=out.directions[out.samples.ray])
    covered = float(out.weights.sum() / (out.opacity > 0).sum())
    assert float(orientation(along)) == pytest.approx(covered, rel=1e-6)
    half = replace(out, opacity=torch.full_like(out.opacity, 0.5))
    assert float(opaque(half)) == pytest.approx(math.log(2))
    assert float(opaque(replace(out, opacity=torch.ones_like(out.opacity)))) == pytest.approx(0.0079, abs=1e-4)
    assert float(sparsity(half)) == pytest.approx(math.sqrt(0.26))
    assert float(variance(replace(half, opacity=half.opacity + 0.1, variance=torch.full_like(out.variance, 0.3)))) == pytest.approx(0.3)
    with pytest.raises(InvalidInput, match="normals"):
        orientation(replace(out, sample_normals=None))


def test_weights_follow_their_schedules():
    assert [weight_at((1000, 0.0, 10.0, 5000), step) for step in (0, 1000, 3000, 5000, 9000)] == [0, 0, 5, 10, 10]
    assert [weight_at((0, 1.0, 3.0, 10, 0.0, 20), step) for step in (0, 5, 10, 15, 30)] == [1, 2, 3, 1.5, 0]
    for wrong in ((0, 1.0, 2.0), (0, 1.0, 2.0, 10, 3.0), (10, 1.0, 2.0, 10)):
        with pytest.raises(InvalidInput, match=r"schedule of a weight|must increase"):
            Regularisers(sparsity=wrong)


def test_an_attached_penalty_descends_whatever_the_gradient():
    x = torch.tensor([2.0, -1.0], requires_grad=True)
    attach(3 * x, (x**2).sum()).backward(torch.tensor([0.0, 1.0]))
    assert_close(x.grad, torch.tensor([4.0, 1.0]))


# ---------------------------------------------------------------- the representation
TINY = NeRFSettings(
    field=FieldSettings(radius=1.05, grid=SMALL, hidden=16, background="constant"),
    views=Views(count=2, size=(10, 10), distributions=(Ranges.solids(),)),
    march=March(samples=24, normals="differences"),
    shading=Shading(begin=2, shaded=0.5),
    regularisers=Regularisers(orientation=1.0, sparsity=(2, 0.0, 1.0, 6)),
)


class Towards:
    """A gradient towards a uniform colour plus noise, so that its generator matters as well."""

    def __call__(self, x, *, progress, rng):
        gradient = x - 0.8 + 0.1 * torch.randn(x.shape, generator=rng)
        return Estimate(gradient=gradient, target=x - gradient, info={"calls": 1.0})


def test_forward_gives_images_and_their_cameras():
    nerf = NeRF(TINY, seed=4)
    first = nerf()
    assert first.shape == (2, 3, 10, 10)
    assert 0 <= float(first.detach().min()) <= float(first.detach().max()) <= 1
    cameras = nerf.cameras
    assert set(cameras.names) <= set(VIEWS)
    assert len(cameras) == 2
    with torch.no_grad():  # a image in between changes nothing
        before = {name: value.clone() for name, value in nerf.state_dict().items() if isinstance(value, torch.Tensor)}
        assert nerf().shape == (2, 3, 10, 10)
        assert nerf(Cameras.orbit([0.0]), (4, 6)).shape == (1, 3, 4, 6)
    assert nerf.calls == 1
    assert nerf.cameras is cameras
    for name, value in before.items():
        assert_close(nerf.state_dict()[name], value)
    nerf()
    assert not torch.equal(nerf.cameras.eye, cameras.eye)
    assert NeRF(TINY, seed=4).cameras.eye.equal(cameras.eye)
    assert not NeRF(TINY, seed=5).cameras.eye.equal(cameras.eye)


def test_cameras_come_again_for_a_target_that_is_held():
    settings = replace(TINY, views=replace(TINY.views, accumulate=2, refresh=3))
    nerf, eyes, steps = NeRF(settings), [], []
    for _ in range(8):
        steps.append(nerf.step)
        nerf()
        eyes.append(nerf.cameras.eye)
    assert steps == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(eyes[k].equal(eyes[k % 2]) for k in range(6))
    assert not any(eyes[a].equal(eyes[b]) for a, b in ((0, 1), (0, 6), (1, 7)))


def test_a_resumed_run_goes_on_to_the_same_bits(tmp_path):
    def run(checkpoint, limit=None):
        nerf = NeRF(TINY, seed=1)
        nerf.occupancy.every = 2
        for step in distill(nerf, Towards(), steps=7, lr=0.02, checkpoint=checkpoint, every=1):
            if step.index == limit:
                break
        return nerf

    whole = run(None)
    run(tmp_path / "half.safetensors", limit=3)
    resumed = run(tmp_path / "half.safetensors")
    assert resumed.calls == whole.calls == 7
    for name, value in whole.named_parameters():
        assert torch.equal(value, dict(resumed.named_parameters())[name]), name
    assert torch.equal(whole.occupancy.level, resumed.occupancy.level)
    with torch.no_grad():
        assert torch.equal(whole(), resumed())


def test_regularisers_reach_the_parameters_through_the_loop():
    nerf = NeRF(replace(TINY, regularisers=Regularisers(sparsity=3.0), shading=None))
    nerf().backward(torch.zeros(2, 3, 10, 10))
    assert nerf.field.density_head[0].weight.grad.abs().max() > 0


def test_the_background_is_learned_alone_at_first():
    """The image is the same; its gradient reaches the background as in later steps, and no other parameter."""
    plain = replace(TINY, regularisers=Regularisers(sparsity=3.0), shading=None)
    early, later = (NeRF(replace(plain, background_first=first), seed=2) for first in (1, 0))
    gradient = torch.randn(2, 3, 10, 10, generator=seeded(3))
    images = [nerf() for nerf in (early, later)]
    assert_close(*images)
    for image in images:
        image.backward(gradient)
    assert_close(early.field.colour.grad, later.field.colour.grad)
    assert [name for name, value in early.named_parameters() if value.grad is not None] == ["field.colour"]
    early().backward(gradient)
    assert early.field.density_head[0].weight.grad.abs().max() > 0


def test_backgrounds_drawn_for_views_are_those_of_the_field():
    """Each view equals that of a NeRF whose own background has the drawn colour, and its gradient too; other renders have the field's."""
    palette = (("white", (0.9, 0.9, 0.9)), ("red", (0.8, 0.1, 0.1)))
    settings = replace(TINY, views=replace(TINY.views, count=6, backgrounds=palette), shading=None)
    nerf, gradient = NeRF(settings, seed=2), torch.randn(6, 3, 10, 10, generator=seeded(3))
    image = nerf()
    image.backward(gradient)
    names = [name.split(" background, ")[0] for name in nerf.view_names]
    assert set(names) == {"white", "red"}
    assert [name.split(", ")[1] for name in nerf.view_names] == list(nerf.cameras.names)
    total = 0
    for name, colour in palette:
        own = replace(settings, views=replace(settings.views, backgrounds=()), field=replace(settings.field, colour=colour))
        plain, chosen = NeRF(own, seed=2), torch.tensor([n == name for n in names])
        other = plain()
        assert_close(image[chosen], other[chosen])
        other.backward(gradient * chosen[:, None, None, None])
        total = total + plain.field.density_head[0].weight.grad
    assert_close(nerf.field.density_head[0].weight.grad, total)
    assert_close(
        nerf.render().image, NeRF(replace(settings, views=replace(settings.views, backgrounds=())), seed=2).render(nerf.cameras).image
    )


def test_backgrounds_stay_as_long_as_their_cameras():
    palette = (("white", (0.9, 0.9, 0.9)), ("red", (0.8, 0.1, 0.1)))
    nerf, seen = NeRF(replace(TINY, views=replace(TINY.views, count=8, backgrounds=palette, refresh=2)), seed=1), []
    for _ in range(4):
        nerf()
        seen.append(nerf.view_names)
    assert seen[0] == seen[1] != seen[2] == seen[3]


@pytest.mark.slow
def test_a_nerf_fits_images_of_a_solid():
    scene = Scene(shape="cube", colour="red", background="white")
    settings = NeRFSettings.cpu()
    settings = replace(settings, views=replace(settings.views, count=2, size=(24, 24)), march=replace(settings.march, samples=48))
    nerf = NeRF(replace(settings, background_first=0))
    cameras, cached = (Ranges.solids().draw(count, rng=seeded(seed)) for count, seed in ((12, 1), (3, 2)))
    images, truth = (render_solid(scene, SolidCameras(c.azimuth, c.elevation, c.distance), size=24) for c in (cameras, cached))
    optimiser = torch.optim.Adam(nerf.groups(0.03), betas=(0.9, 0.99), eps=1e-15)

    @torch.no_grad()
    def error():
        return float(((nerf.render(cached).image - truth) ** 2).mean())

    start = error()
    for step in range(60):
        shown = [(2 * step + k) % 12 for k in range(2)]
        optimiser.zero_grad()
        ((nerf(cameras[shown]) - images[shown]) ** 2).mean().backward()
        optimiser.step()
    assert error() < min(start / 15, 0.012)


def test_presets_are_the_papers():
    paper = NeRFSettings.paper()
    assert paper.views.size == (512, 512)
    assert paper.views.count == 1
    assert (paper.field.hidden, paper.field.layers) == (64, 1)
    assert (paper.field.grid.levels, paper.field.grid.log2_entries, paper.field.grid.base) == (16, 19, 16)
    assert paper.field.grid.cells[-1] == 4096
    small = NeRF.cpu(seed=2, regularisers=Regularisers(sparsity=1.0))
    assert small.settings.regularisers.sparsity == 1.0
    assert sum(len(group["params"]) for group in small.groups(0.01)) == len(list(small.parameters()))


def test_unknown_names_are_refused():
    with pytest.raises(InvalidInput, match="background"):
        FieldSettings(background="sky")
    with pytest.raises(InvalidInput, match="normals"):
        March(normals="guessed")
    with pytest.raises(InvalidInput, match="backend"):
        Field(FieldSettings(grid=SMALL, backend="jax"), rng=seeded())
    with pytest.raises(InvalidInput, match="probabilities"):
        Shading(shaded=2.0)


def test_compiled_code_is_only_used_where_it_is():
    if torch.cuda.is_available() and importlib.util.find_spec("tinycudann"):
        field = Field(FieldSettings(grid=HashGridSettings.cpu(), backend="tcnn"), rng=seeded()).cuda()
        assert field.density(torch.zeros(4, 3, device="cuda")).shape == (4,)
    else:
        with pytest.raises(MissingPackage, match="tiny-cuda-nn"):
            Field(FieldSettings(grid=SMALL, backend="tcnn"), rng=seeded())
