"""Meshes of volumes with a known surface: volume, closedness, colours, textures, files, and fields that have no surface."""

import numpy as np
import pytest
import torch

from modeseek.core.errors import InvalidInput, MissingPackage
from modeseek.representations.nerf import FieldSettings, HashGridSettings, Mesh, NeRF, NeRFSettings, degenerate, extract_mesh
from modeseek.representations.nerf import mesh as module
from modeseek.representations.nerf.mesh import covered_texels, lattice, suggested_threshold

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")


class Sphere:
    """Dense within r of a centre off the origin; red above its middle and green below, blue growing along x."""

    def __init__(self, r=0.6, centre=(0.1, -0.2, 0.05), radius=1.0, sigma=300.0):
        self.r, self.centre, self.radius, self.sigma = r, torch.tensor(centre), radius, sigma

    def density(self, points):
        return self.sigma * ((self.r - (points - self.centre).norm(dim=1)) / 0.02).sigmoid()

    def albedo(self, points):
        up = (points[:, 2] > self.centre[2]).float()
        return torch.stack([up, 1 - up, (points[:, 0] + 1) / 2], 1)


@pytest.fixture(scope="module")
def sphere_mesh():
    return extract_mesh(Sphere(), resolution=48, threshold=150.0)


def test_the_mesh_of_a_sphere(sphere_mesh):
    made = sphere_mesh.trimesh()
    assert made.is_watertight
    assert made.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)  # positive: faces look outwards
    assert np.allclose(np.linalg.norm(sphere_mesh.vertices - [0.1, -0.2, 0.05], axis=1), 0.6, atol=0.01)


def test_colours_are_those_of_the_place(sphere_mesh):
    up = sphere_mesh.vertices[:, 2] > 0.05
    assert np.array_equal(sphere_mesh.colours[:, 0] > 0.5, up)
    assert np.allclose(sphere_mesh.colours[:, 2], (sphere_mesh.vertices[:, 0] + 1) / 2, atol=1e-5)
    assert np.array_equal(sphere_mesh.trimesh().visual.vertex_colors[:, 0] > 127, up)


def test_the_suggested_threshold_is_what_is_seen():
    dense = lattice(Sphere(sigma=300.0), 32)
    assert suggested_threshold(dense, 1.0) == 10.0  # opaque over a tenth of the radius
    thin = suggested_threshold(lattice(Sphere(sigma=8.0), 32), 1.0)
    assert thin == pytest.approx(4.0, rel=0.1)  # half way up
    assert extract_mesh(Sphere(), resolution=32).threshold == 10.0


def test_an_object_that_the_box_cuts_is_closed():
    made = extract_mesh(Sphere(r=0.7, centre=(0.8, 0.0, 0.0)), resolution=32, threshold=150.0).trimesh()
    assert made.is_watertight
    assert made.bounds[1][0] == pytest.approx(1.0, abs=0.05)


def test_empty_and_diffuse_fields_are_refused():
    with pytest.raises(InvalidInput, match="empty"):
        extract_mesh(Sphere(sigma=0.1), resolution=16)
    with pytest.raises(InvalidInput, match="densities are between"):
        extract_mesh(Sphere(), resolution=16, threshold=1e4)
    diffuse = Sphere(r=9.0)
    diffuse.density = lambda points: 20 + points[:, 0]
    with pytest.raises(InvalidInput, match="diffuse"):
        extract_mesh(diffuse, resolution=16)
    with pytest.raises(InvalidInput, match="resolution"):
        extract_mesh(diffuse, resolution=2)


def test_a_field_never_trained_is_a_blob_and_can_be_meshed():
    field = FieldSettings(grid=HashGridSettings.cpu(), blob_width=0.6, blob_scale=40.0)
    made = extract_mesh(NeRF(NeRFSettings(field=field)).field, resolution=24, threshold=10.0).trimesh()
    assert made.is_watertight
    assert made.volume == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.1)  # raw = 10 at 0.6 (1 - 10 / 40)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_files_are_read_back(sphere_mesh, tmp_path, suffix):
    sphere_mesh.save(tmp_path / f"ball{suffix}")
    loaded = trimesh.load(tmp_path / f"ball{suffix}", force="mesh")
    assert len(loaded.faces) == len(sphere_mesh.faces)
    loaded.merge_vertices()
    assert loaded.volume == pytest.approx(sphere_mesh.trimesh().volume, rel=1e-3)
    upper = loaded.vertices[:, 2 if suffix == ".ply" else 1] > 0.1
    assert np.asarray(loaded.visual.vertex_colors)[upper, 0].min() > 200
    assert [path.name for path in tmp_path.iterdir()] == [f"ball{suffix}"]


class Tower(Sphere):
    """A tall box along z with a nose at the front, +x, at half height."""

    def __init__(self):
        super().__init__()

    def density(self, points):
        body = ((points - points.new_tensor([0.0, 0.0, 0.0])).abs() - points.new_tensor([0.2, 0.3, 0.8])).amax(1)
        nose = ((points - points.new_tensor([0.4, 0.0, 0.1])).abs() - points.new_tensor([0.25, 0.1, 0.1])).amax(1)
        return self.sigma * (-torch.minimum(body, nose) / 0.02).sigmoid()


@pytest.mark.parametrize(
    ("suffix", "up", "front", "texture"),
    [(".glb", 1, 2, None), (".obj", 1, 2, None), (".ply", 2, 0, None), (".glb", 1, 2, 64), (".obj", 1, 2, 64)],
)
def test_a_tower_stands_upright_and_looks_ahead(tmp_path, suffix, up, front, texture):
    """glTF: y up, the front at +z, right-handed; .obj likewise; .ply keeps the axes of the volume, z up and the front at +x."""
    if texture:
        pytest.importorskip("xatlas")
    extract_mesh(Tower(), resolution=32, threshold=150.0, texture=texture).save(tmp_path / f"tower{suffix}")
    loaded = trimesh.load(tmp_path / f"tower{suffix}", force="mesh")
    low, high = loaded.bounds
    side = 3 - up - front
    assert high[up] == pytest.approx(0.8, abs=0.05)
    assert low[up] == pytest.approx(-0.8, abs=0.05)
    assert high[front] == pytest.approx(0.65, abs=0.05)  # the nose
    assert low[front] == pytest.approx(-0.2, abs=0.05)
    assert high[side] == pytest.approx(0.3, abs=0.05)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.volume > 0  # a rotation, not a mirror: faces still look outwards


def test_unknown_endings_are_refused(sphere_mesh, tmp_path):
    with pytest.raises(InvalidInput, match="glb"):
        sphere_mesh.save(tmp_path / "ball.stl")


def test_texels_of_a_triangle_are_those_whose_centres_it_covers():
    corners = np.array([[[1.0, 1.0], [7.0, 2.0], [3.0, 6.5]]])
    texel, face, share = covered_texels(corners, 8)
    u, v = texel % 8 + 0.5, texel // 8 + 0.5
    assert np.allclose((corners[face] * share[..., None]).sum(1), np.stack([u, v], 1))
    assert np.allclose(share.sum(1), 1)
    assert len(texel) == pytest.approx(0.5 * (6 * 5.5 - 2 * 1), abs=2)  # the triangle's area


def test_a_baked_texture_holds_the_albedo(tmp_path):
    pytest.importorskip("xatlas")
    volume = Sphere()
    made = extract_mesh(volume, resolution=14, threshold=150.0, texture=128)
    column = np.clip((made.uv[:, 0] * 128).astype(int), 0, 127)
    row = np.clip(((1 - made.uv[:, 1]) * 128).astype(int), 0, 127)
    assert np.abs(made.texture[row, column, 2] - (made.vertices[:, 0] + 1) / 2).mean() < 0.02
    for name in ("ball.glb", "ball.obj"):
        made.save(tmp_path / name)
        loaded = trimesh.load(tmp_path / name, force="mesh")
        assert loaded.visual.uv.shape == (len(loaded.vertices), 2)
        material = loaded.visual.material
        image = np.asarray(material.baseColorTexture if name.endswith("glb") else material.image)[..., :3] / 255
        assert np.abs(image - made.texture).max() < 0.01
        u, v = loaded.visual.uv.T
        seen = image[np.clip(((1 - v) * 128).astype(int), 0, 127), np.clip((u * 128).astype(int), 0, 127), 2]
        assert np.abs(seen - (loaded.vertices[:, 2] + 1) / 2).mean() < 0.02  # +z of these files is +x of the volume
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ball.glb", "ball.mtl", "ball.obj", "ball.png"]
    made.save(tmp_path / "ball.ply")
    assert len(trimesh.load(tmp_path / "ball.ply").faces) == len(made.faces)


def test_missing_packages_are_named(monkeypatch):
    def refuse(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(module.importlib, "import_module", refuse)
    with pytest.raises(MissingPackage, match=r"pip install 'modeseek\[threed\]'"):
        extract_mesh(Sphere(), resolution=16)
    with pytest.raises(MissingPackage, match="trimesh"):
        Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), np.zeros((3, 3)), 1.0).trimesh()


def test_what_has_no_surface_is_named():
    assert degenerate(Sphere()) == ""
    assert degenerate(Sphere(sigma=0.1)) == "empty"
    assert degenerate(Sphere(r=5.0)) == "diffuse"
