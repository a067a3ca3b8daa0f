"""Editing on a tiny pipeline and on solids: files, resume, what is refused, and what an edit leaves alone."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from modeseek.cli import main
from modeseek.core.errors import InvalidInput, OutputError
from modeseek.plots.images import save_image
from modeseek.priors.solids import solids_prior
from modeseek.reproduction.studies.edit import FIRST_CAMERA, SCORED, TUNED, make_task, rms
from modeseek.tasks.edit_mask import keep_local
from modeseek.tasks.editing import EDIT_RECIPES, Edit, EditRecipe, EditRun, edit_image, get_edit_recipe, read_image
from modeseek.tasks.prior_choice import PriorChoice


@pytest.fixture
def source_image(tmp_path):
    path = tmp_path / "source.png"
    save_image(path, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return path


def run_of(path, folder, method="dds", **changes):
    recipe = get_edit_recipe(method, steps=3, **changes)
    return EditRun(image=str(path), source="a red cat", prompt="a blue dog", prior=PriorChoice(name=str(folder)), recipe=recipe)


@pytest.mark.parametrize("method", list(EDIT_RECIPES))
def test_an_edit_leaves_its_files_and_is_done_once(pipeline_folder, source_image, tmp_path, method):
    run = run_of(source_image, pipeline_folder("sd1"), method)
    steps = list(edit_image(run, tmp_path / "out"))
    assert steps[-1].calls == 6  # two prompts a step
    assert {"run.json", "source.png", "image-0.png", "sheet.png", "curves.jsonl", "index.html"} <= set(os.listdir(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"]
    assert list(edit_image(run, tmp_path / "out")) == []
    with pytest.raises(OutputError, match="holds another run"):
        list(edit_image(run_of(source_image, pipeline_folder("sd1"), method, lr=0.7), tmp_path / "out"))


def test_an_interrupted_edit_resumes_to_the_same_pixels(pipeline_folder, source_image, tmp_path):
    run = run_of(source_image, pipeline_folder("sd1"))
    list(edit_image(run, tmp_path / "whole"))
    steps = edit_image(run, tmp_path / "cut")
    next(steps)
    steps.close()
    list(edit_image(run, tmp_path / "cut"))
    assert (tmp_path / "whole" / "image-0.png").read_bytes() == (tmp_path / "cut" / "image-0.png").read_bytes()


def test_an_edit_killed_before_its_results_ends_with_the_same_facts(pipeline_folder, source_image, tmp_path, monkeypatch):
    run = run_of(source_image, pipeline_folder("sd1"))
    list(edit_image(run, tmp_path / "whole"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("modeseek.tasks.editing.complete", killed)
        with pytest.raises(KeyboardInterrupt):
            list(edit_image(run, tmp_path / "cut"))
    assert list(edit_image(run, tmp_path / "cut")) == []  # every step was done
    whole, cut = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "cut"))
    assert whole["calls"] == cut["calls"] == 6


def test_the_command_edits(pipeline_folder, source_image, tmp_path, capsys):
    command = ["edit", str(source_image), "--source", "a red cat", "--target", "a blue dog", "--prior", str(pipeline_folder("sd1"))]
    assert main([*command, "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "image-0.png").exists()
    assert main([*command, "--method", "other"]) == 1
    assert "choose dds, pds, pds-posterior" in capsys.readouterr().err


def test_bad_input_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InvalidInput, match="cannot be read as an image"):
        read_image(tmp_path / "text.png", (8, 8))
    with pytest.raises(InvalidInput, match="must descend"):
        EditRecipe(method="dds", timesteps=(20, 980))
    with pytest.raises(InvalidInput, match="thresholds 0 <= low < high"):
        EditRecipe(method="dds", local=(0.3, 0.2))
    with pytest.raises(InvalidInput, match="images must be"):
        Edit(solids_prior(), torch.zeros(1, 3, 8, 8), ["a red cube"], ["a blue cube"], EDIT_RECIPES["dds"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "DDS"}, "method"),
        ({"guidance": float("nan")}, "guidance"),
        ({"timesteps": (900.5, 20)}, "whole number"),
    ],
)
def test_bad_settings_of_a_recipe_are_named(changes, message):
    with pytest.raises(InvalidInput, match=message):
        replace(EDIT_RECIPES["dds"], **changes)


def test_another_image_of_the_same_name_is_another_edit(pipeline_folder, source_image, tmp_path):
    run = run_of(source_image, pipeline_folder("sd1"))
    list(edit_image(run, tmp_path / "out"))
    before = (tmp_path / "out" / "image-0.png").read_bytes()
    save_image(source_image, torch.zeros(3, 32, 32))
    with pytest.raises(OutputError, match="edit of another image"):
        list(edit_image(run, tmp_path / "out"))
    assert (tmp_path / "out" / "image-0.png").read_bytes() == before
    source_image.unlink()
    assert list(edit_image(run, tmp_path / "out")) == []


@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
def test_prompts_with_dollars_are_no_mathematics(pipeline_folder, source_image, tmp_path):
    run = replace(run_of(source_image, pipeline_folder("sd1")), prompt="a note of $5_1_2 or $20")
    list(edit_image(run, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"]


def test_images_are_read_as_people_see_them(tmp_path):
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 2, 3) * 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    assert_close(read_image(tmp_path / "turned.png", (4, 2)), read_image(tmp_path / "upright.png", (4, 2)))
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    expected = torch.from_numpy(ramp.astype(np.float32) / 65535).expand(3, 4, 4)
    assert_close(read_image(tmp_path / "deep.png", (4, 4)), expected, atol=1 / 255, rtol=0)
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert_close(read_image(tmp_path / "clear.png", (2, 2)), torch.ones(3, 2, 2))


def test_an_image_beyond_the_limit_is_named(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InvalidInput, match=r"large\.png cannot be read as an image"):
        read_image(tmp_path / "large.png", (8, 8))


@pytest.mark.parametrize("method", list(EDIT_RECIPES))
def test_an_edit_to_the_same_prompt_returns_the_source(method):
    """The codec's error leaves no trace: the result is the source exactly."""
    task = make_task("a red cube on a blue cylinder", "a green cube on a blue cylinder", 0)
    prompt = [task.prompts[0]]
    edit = Edit(solids_prior(), task.source[None], prompt, prompt, get_edit_recipe(method, steps=2))
    list(edit)
    assert_close(edit.images[0], task.source, rtol=0, atol=1e-6)


def test_the_outside_of_an_edit_is_where_the_exact_renders_agree():
    task = make_task("a red sphere on a green cylinder", "a purple sphere on a green cylinder", 3)
    assert task.attribute == "colour"
    assert rms(task.source - task.target, task.outside) == 0
    assert rms(task.source - task.target, 1 - task.outside) > 0.1
    assert make_task("a red cone", "a red cylinder", 3).attribute == "object"
    assert make_task("a cyan cone on a red torus", "a cyan cone on a yellow torus", 3).attribute == "base colour"


def test_scored_edits_are_not_those_of_the_tuning():
    assert len(set(SCORED)) == 10
    assert not set(SCORED) & set(TUNED)
    assert FIRST_CAMERA[SCORED] + len(SCORED) <= FIRST_CAMERA[TUNED]


def test_small_changes_are_removed_and_the_edit_is_kept():
    """A square of change 0.5 on drift of 0.02: the drift goes, the square stays, its border is blended over one pixel."""
    change = torch.full((2, 3, 16, 16), 0.02)
    change[:, 0, 4:12, 4:12] = -0.5
    kept = keep_local(change, 0.1, 0.2)
    assert_close(kept[:, 0, 4:12, 4:12], change[:, 0, 4:12, 4:12])
    assert float(kept[..., :2].abs().max()) == float(kept[..., 14:].abs().max()) == 0.0
    assert_close(keep_local(100 * change, 0.1, 0.2), 100 * kept)  # relative to the edit
    assert torch.equal(keep_local(change, 0, 0), change)
    assert float(keep_local(torch.zeros(1, 3, 8, 8), 0.1, 0.2).abs().max()) == 0.0


def test_an_edit_keeps_every_change_if_told_so():
    task = make_task("a red cube on a blue cylinder", "a green cube on a blue cylinder", 0)
    edit = Edit(
        solids_prior(), task.source[None], [task.prompts[0]], [task.prompts[1]], get_edit_recipe("dds", steps=1, lr=1.0, local=(0, 0))
    )
    list(edit)
    assert torch.equal(edit.images, edit.with_thresholds(0, 0))
    assert rms(edit.with_thresholds(0.1, 0.2)[0] - task.source, task.outside) < rms(edit.images[0] - task.source, task.outside)


@pytest.mark.slow
def test_dds_changes_the_colour_and_nothing_else():
    from modeseek.reproduction.studies.edit import scores

    task = make_task("a red sphere on a green cylinder", "a purple sphere on a green cylinder", 500)
    edit = Edit(solids_prior(), task.source[None], [task.prompts[0]], [task.prompts[1]], EDIT_RECIPES["dds"])
    list(edit)
    found = scores(edit.images, [task])
    assert found["changed"] == 1
    assert found["outside"] < 2
