"""`modeseek 3d` end to end on a tiny pipeline: files, resume to the same object, prompts that follow the cameras, errors."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from modeseek.cli import main
from modeseek.cli.objects import Object, object_run
from modeseek.core.errors import Degenerate, InvalidInput, MissingPackage, OutputError
from modeseek.core.files import read_state
from modeseek.distillation.interface import resized
from modeseek.distillation.recipes import METHOD_RECIPES, get_recipe
from modeseek.distillation.recommend import PAPER_VIEW_RECIPES, VIEW_RECIPES
from modeseek.priors.view_dependent import KEPT, ViewDependentPrior
from modeseek.solids.captions import parse
from modeseek.solids.rendering import Cameras as SolidCameras
from modeseek.solids.rendering import render as render_solid
from modeseek.solids.scoring import ASSETS
from modeseek.tasks import text_to_3d
from modeseek.tasks.run_folder import lines_before
from modeseek.tasks.text_to_3d import ObjectRun, distill_object, reopened, steps_of, volume_of
from modeseek.tasks.text_to_image import PriorChoice

pytestmark = pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
SMALL = {"steps": 30, "refresh": 3, "sampler_steps": 2}


@pytest.fixture(autouse=True)
def small_results(monkeypatch):
    """Turntables of 32 x 32 pixels and coarse meshes, which take most of a short run's time at their full size."""
    monkeypatch.setattr(text_to_3d, "show", partial(text_to_3d.show, size=32))
    monkeypatch.setattr(text_to_3d, "export_mesh", partial(text_to_3d.export_mesh, resolution=32, texture=64))


def tiny_run(folder, **changes):
    recipe = get_recipe("msd", recipes=VIEW_RECIPES, **{**SMALL, **changes})
    return ObjectRun(prompt="a red cat", prior=PriorChoice(name=str(folder)), recipe=recipe, views=2)


@pytest.mark.slow
def test_run_leaves_an_object_and_resumes_to_the_same(pipeline_folder, tmp_path):
    run = tiny_run(pipeline_folder("sd1"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps = list(distill_object(run, whole))
    assert steps[-1].calls == pytest.approx(run.recipe.calls)
    for step in distill_object(run, broken):
        if step.index == 27:  # saved at 25
            break
    assert not json.loads((broken / "run.json").read_text())["finished"]
    list(distill_object(run, broken))
    one, two = (read_state(folder / "checkpoint.safetensors", kind="distillation") for folder in (whole, broken))
    assert all(torch.equal(one["representation"][name], value) for name, value in two["representation"].items() if torch.is_tensor(value))
    one, two = (folder.joinpath("curves.jsonl").read_text() for folder in (whole, broken))
    assert [json.loads(line)["step"] for line in one.splitlines()] == list(range(30))
    assert json.loads(two.splitlines()[0]) == json.loads(one.splitlines()[0])  # what was written before the kill is kept
    facts = json.loads((whole / "run.json").read_text())
    assert facts["finished"]
    assert facts["calls"] == json.loads((broken / "run.json").read_text())["calls"] == steps[-1].calls
    names = {path.name for path in whole.iterdir()}
    assert {"turntable.gif", "turntable.png", "depth.png", "normals.png", "preview.png", "curves.jsonl"} <= names
    if facts["mesh"] is not None:
        assert {"mesh.glb", "mesh.obj", "mesh.ply"} <= names
    _, nerf = reopened(whole)
    assert nerf.step == 30
    assert nerf.settings.views.size == (16, 16)
    assert list(distill_object(run, whole)) == []


def test_export_needs_neither_the_prior_nor_the_device(pipeline_folder, tmp_path, capsys):
    """The folder of a run that was copied to a machine without its model and without its GPU."""
    pytest.importorskip("skimage")
    folder = shutil.copytree(pipeline_folder("sd1"), tmp_path / "prior")
    run, out = tiny_run(folder, steps=2), tmp_path / "run"
    list(distill_object(run, out))
    facts = json.loads((out / "run.json").read_text())
    facts["config"]["prior"] |= {"device": "cuda:7", "dtype": "bfloat16"}
    (out / "run.json").write_text(json.dumps(facts))
    shutil.rmtree(folder)
    found, nerf = reopened(out)
    assert found.prior.device == "cuda:7"
    assert nerf.step == 2
    for path in out.glob("mesh.*"):
        path.unlink()
    code = main(["export", str(out), "--resolution", "24", "--texture", "0", "--threshold", "5"])
    assert code == 0, capsys.readouterr().err
    assert {path.name for path in out.glob("mesh.*")} == {"mesh.glb", "mesh.obj", "mesh.ply"}


def test_a_bounded_number_of_views_stays_encoded():
    """Every combination of views makes its own denoiser; those beyond the last `KEPT` are made again, with the same values."""
    made = []

    class Fake:
        def denoiser(self, prompts, **settings):
            made.append(tuple(prompts))
            return lambda x, sigma: x * len(prompts[0])

    names = []
    viewed = ViewDependentPrior(prior=Fake(), names=lambda: names).denoiser(["a cat"])
    x, sigma = torch.ones(1, 2), torch.tensor(1.0)
    for view in [*range(KEPT), 0, KEPT, 1]:  # 0 is still kept, and KEPT takes the place of 1
        names[:] = [f"view {view:02}"]
        assert torch.equal(viewed(x, sigma), x * len(f"a cat, view {view:02} view"))
    assert len(made) == KEPT + 2
    assert made[-1] == ("a cat, view 01 view",)


def test_the_last_preview_is_the_finished_object():
    for steps in (1, 7, 40, 250):
        shown = text_to_3d.preview_steps(steps)
        assert {0, steps - 1} <= shown <= set(range(steps))
        assert len(shown) <= 23


@pytest.mark.parametrize("method", [*(name for name in VIEW_RECIPES if name not in METHOD_RECIPES), "consistent3d", "ism"])
def test_every_method(pipeline_folder, method):
    recipe = replace(VIEW_RECIPES[method], steps=2, sampler_steps=2)
    run = ObjectRun(prompt="a cat", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=recipe, views=1)
    prior = run.prior.open()
    steps = list(steps_of(run, prior, volume_of(run, prior)))
    assert len(steps) == 2
    assert bool(steps[-1].estimate.gradient.isfinite().all())


def test_an_object_without_the_mesh_libraries_is_finished(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise MissingPackage("meshes need skimage: pip install 'modeseek[threed]'")

    monkeypatch.setattr(text_to_3d, "extract_mesh", missing)
    found = text_to_3d.export_mesh(SimpleNamespace(field=None), tmp_path)
    assert found == {"mesh": None, "why": "meshes need skimage: pip install 'modeseek[threed]'"}


def test_prompts_follow_the_cameras():
    queried = []

    class Fake:
        event = (1, 2, 2)

        def denoiser(self, prompts, **settings):
            queried.append(tuple(prompts))
            return lambda x, sigma: x

    names = ["front", "back"]
    viewed = ViewDependentPrior(prior=Fake(), names=lambda: names)
    denoise = viewed.denoiser(["a cat", "a cat"])
    for chosen in (["front", "back"], ["side", "side"], ["front", "back"]):
        names[:] = chosen
        denoise(torch.zeros(2, 1, 2, 2), torch.tensor(1.0))
    assert queried == [("a cat, front view", "a cat, back view"), ("a cat, side view", "a cat, side view")]
    assert viewed.event == (1, 2, 2)


def test_perp_neg_evaluates_the_other_views(pipeline_folder):
    run = ObjectRun(**{**vars(tiny_run(pipeline_folder("sd1"), steps=3)), "perp_neg": True})
    prior = run.prior.open()
    plain = ObjectRun(**{**vars(run), "perp_neg": False})
    ends = [list(steps_of(which, prior, volume_of(which, prior)))[-1] for which in (run, plain)]
    assert all(bool(step.estimate.gradient.isfinite().all()) for step in ends)
    assert not torch.equal(ends[0].estimate.gradient, ends[1].estimate.gradient)

    class Fake:
        def denoiser(self, prompts, *, guidance, **settings):
            word = prompts[0].split(", ")[1].split()[0]
            ends = {"back": torch.tensor([[[[1.0, 0.0]]]]), "front": torch.tensor([[[[1.0, 1.0]]]]), "side": torch.zeros(1, 1, 1, 2)}
            return lambda x, sigma: guidance * ends[word]

    viewed = ViewDependentPrior(prior=Fake(), names=lambda: ["back"], azimuths=lambda: torch.tensor([180.0]))
    found = viewed.denoiser(["a cat"], guidance=2.0)(torch.zeros(1, 1, 1, 2), torch.tensor(1.0))
    assert torch.allclose(found, torch.tensor([[[[2.0, -2 * 1.967]]]]))  # the front is pushed off beside the back's direction


def test_an_object_that_is_lost_stops_its_run(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeseek.tasks.text_to_3d.degenerate", lambda volume: "empty")
    run = tiny_run(pipeline_folder("sd1"), steps=60)
    with pytest.raises(Degenerate, match=r"step 8: the object is empty and has been for 3 previews; its last state is in .* --seed"):
        list(distill_object(run, tmp_path))
    assert not json.loads((tmp_path / "run.json").read_text())["finished"]
    assert (tmp_path / "preview.png").exists()


def test_a_resumed_run_stops_at_the_same_step(pipeline_folder, tmp_path, monkeypatch):
    """Previews of a degenerate object are counted across an interruption."""
    monkeypatch.setattr("modeseek.tasks.text_to_3d.degenerate", lambda volume: "empty")
    run = tiny_run(pipeline_folder("sd1"), steps=260)  # previews after steps 12, 25 and 38, a checkpoint after step 24
    assert next(step.index for step in distill_object(run, tmp_path) if step.index == 30)
    assert next(distill_object(run, tmp_path)).index == 25
    with pytest.raises(Degenerate, match="step 38: "):
        list(distill_object(run, tmp_path))
    assert [line["degenerate"] for line in lines_before(tmp_path, 260) if "degenerate" in line] == [1, 2, 3]


@pytest.mark.parametrize("name", ["white", "grey", "black", "navy"])
def test_the_background_is_fixed_at_the_priors(name):
    """The NeRF starts with the colour of the true renders and keeps it."""
    run = ObjectRun(
        prompt=f"a red cone, {name} background", recipe=get_recipe("mean-shift", recipes=VIEW_RECIPES, steps=2), size=64, views=1
    )
    prior = run.prior.open()
    nerf, camera = volume_of(run, prior), SolidCameras(torch.zeros(1), torch.full((1,), 20.0), torch.full((1,), 3.2))
    truth = render_solid(parse(run.prompt)[0], camera, size=64)[0, :, 0, 0]
    assert torch.allclose(nerf.render().image[0, :, 0, 0], truth, atol=0.02)
    first = nerf.field.colour.clone()
    list(steps_of(run, prior, nerf))
    assert torch.equal(nerf.field.colour, first)


def test_prompts_follow_the_backgrounds(monkeypatch):
    """Every view's prompt names the background that it is rendered on, instead of the run's own, which later renders have."""
    run = ObjectRun(prompt="a red cone, navy background", recipe=get_recipe("mean-shift", recipes=VIEW_RECIPES, steps=1), views=6)
    prior, seen = run.prior.open(), []
    make = type(prior).denoiser
    monkeypatch.setattr(type(prior), "denoiser", lambda self, prompts, **kind: seen.append(list(prompts)) or make(self, prompts, **kind))
    nerf = volume_of(run, prior)
    assert seen.pop() == ["a red cone, navy background, front view"]
    list(steps_of(run, prior, nerf))
    assert seen == [[f"a red cone, {name} view" for name in nerf.view_names]]
    assert len(set(seen[0])) > 1
    perp = text_to_3d.untrained_nerf(ObjectRun(**{**vars(run), "perp_neg": True}), prior.image_size)
    assert perp.settings.views.backgrounds == ()  # Perp-Neg's other views would lack the background


def test_a_trained_folder_has_the_cameras_backgrounds_and_captions_of_the_embedded_prior(tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(ASSETS, folder)
    own, shipped = (ObjectRun(prompt="a red house", prior=PriorChoice(name=str(name))) for name in (folder, "solids"))
    settings = volume_of(own, own.prior.open()).settings
    assert settings == volume_of(shipped, shipped.prior.open()).settings
    assert len(settings.views.backgrounds) == 4
    prior = own.prior.open()
    assert prior.default_guidance == shipped.prior.open().default_guidance
    with pytest.raises(InvalidInput, match="hamburger"):
        prior.denoiser(["a hamburger"])


@pytest.mark.slow
def test_no_haze_fills_the_box():
    """At the full learning rate the part of the box that is marched grows to 0.6 in the first steps; the warm-up keeps it below 0.3."""
    fractions = {}
    for warmup in (0.0, VIEW_RECIPES["mean-shift"].warmup):
        run = ObjectRun(prompt="a red house, grey background", recipe=replace(VIEW_RECIPES["mean-shift"], warmup=warmup))
        prior = run.prior.open()
        nerf = volume_of(run, prior)
        for step in steps_of(run, prior, nerf):
            if step.index == 16:  # the grid is updated before this step
                break
        fractions[warmup] = float(nerf.occupancy.fraction())
    without, with_warmup = fractions.values()
    assert with_warmup < 0.3 < 0.5 < without


def test_the_papers_volume_learns_its_background():
    assert text_to_3d.untrained_nerf(ObjectRun(prompt="a cat", preset="paper"), (16, 16)).settings.field.background == "mlp"


def test_default_methods():
    """The method of the embedded prior's comparison with the small volume, the paper's with the paper's."""
    small, paper = (object_run(Object(prompt="a red cone", preset=preset))[0] for preset in ("cpu", "paper"))
    assert (small.recipe, paper.recipe) == (VIEW_RECIPES["mean-shift"], PAPER_VIEW_RECIPES["msd"])
    assert ObjectRun(prompt="a red cone").recipe == small.recipe


def test_cameras_stay_as_long_as_a_target(pipeline_folder):
    run = tiny_run(pipeline_folder("sd1"), refresh=5)
    nerf = volume_of(run, run.prior.open())
    seen = []
    for _ in range(10):
        nerf()
        seen.append(nerf.cameras.azimuth.tolist())
    assert seen[:5] == [seen[0]] * 5
    assert seen[5:] == [seen[5]] * 5
    assert seen[0] != seen[5]


@pytest.mark.parametrize("method", ["msd", "vsd", "sds"])
def test_images_grow_with_their_cameras(pipeline_folder, method):
    recipe = replace(VIEW_RECIPES[method], steps=6, sampler_steps=2, refresh=2)
    run = ObjectRun(prompt="a cat", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=recipe, views=1, size=12, low=(8, 3))
    prior = run.prior.open()
    nerf, sizes = volume_of(run, prior), []
    for step in steps_of(run, prior, nerf):
        assert bool(step.estimate.gradient.isfinite().all())
        sizes.append(nerf.size)
    assert sizes == [(8, 8)] * 4 + [(12, 12)] * 2
    with pytest.raises(InvalidInput, match="positive"):
        volume_of(ObjectRun(**{**vars(run), "low": (0, 3)}), prior)


def test_resizing_keeps_images_of_the_right_size():
    image = torch.rand(1, 3, 8, 8)
    assert resized(image, (8, 8)) is image
    plain = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(resized(plain, (4, 6)), torch.full((1, 3, 4, 6), 0.3))


def test_errors(pipeline_folder, tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert main(["3d", "a cat", "--method", "magic", "--out", str(tmp_path / "a")]) == 1
    assert "choose msd, msd-published" in capsys.readouterr().err
    run = tiny_run(pipeline_folder("sd1"))
    with pytest.raises(InvalidInput, match="choose cpu, paper"):
        volume_of(ObjectRun(**{**vars(run), "preset": "big"}), run.prior.open())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text('{"config": {"prompt": "another"}}')
    with pytest.raises(OutputError, match="holds another run"):
        list(distill_object(run, tmp_path / "b"))
