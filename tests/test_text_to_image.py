"""`modeseek image` and `modeseek sample` end to end on tiny pipelines of every family: files, resume after a kill, clear errors."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from modeseek.cli import main
from modeseek.core.errors import InvalidInput, OutputError
from modeseek.distillation.recipes import ALL_RECIPES, RECIPES, Recipe, build_gradient, get_recipe
from modeseek.reproduction import image_cells
from modeseek.reproduction.image_cells import ReconstructedImages, SampledImages, described, shown, to_stored
from modeseek.reproduction.image_methods import equal_calls
from modeseek.sweeps.worker import opened
from modeseek.tasks.text_to_image import ImageRun, PriorChoice, distill_images

FAMILIES = {"sd1": None, "sd2-v": None, "sdxl": None, "sd3": None, "flux": 16}
SMALL = {"steps": 4, "sampler_steps": 3}


def choice(folder, size=None):
    return PriorChoice(name=str(folder), image_size=size)


def image_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("image-*.png"))}


PAIRS = [
    pytest.param(family, method, marks=[] if family == "sd1" or method in ("sds", "msd") else pytest.mark.slow)
    for family in FAMILIES
    for method in RECIPES
]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_every_method_on_every_family(pipeline_folder, tmp_path, family, method):
    guidance = {"guidance": 1.0} if family == "flux" else {}
    recipe = replace(RECIPES[method], **SMALL, **guidance)
    if family == "flux" and method == "msd-published":
        recipe = Recipe(**{**vars(recipe), "interval": (999, 0)})
    run = ImageRun(prompt="a red cat", prior=choice(pipeline_folder(family), FAMILIES[family]), recipe=recipe, seeds=(0, 1))
    steps = list(distill_images(run, tmp_path))
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert steps[-1].calls == pytest.approx(recipe.calls)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["finished"]
    assert facts["calls"] == steps[-1].calls
    names = {path.name for path in tmp_path.iterdir()}
    assert {"image-0.png", "image-1.png", "sheet.png", "animation.gif", "curves.png", "curves.jsonl", "frames"} <= names
    with Image.open(tmp_path / "image-0.png") as image:
        assert image.size[0] == image.size[1]
    assert list(distill_images(run, tmp_path)) == []  # finished: nothing is done again


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_pixels(pipeline_folder, tmp_path):
    folder = str(pipeline_folder("sd1"))
    command = [sys.executable, "-m", "modeseek", "image", "a red cat", "--prior", folder, "--seeds", "2", "--steps", "60"]
    command += ["--method", "msd", "--sampler-steps", "4", "--refresh", "7", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "broken")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (tmp_path / "broken" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not json.loads((tmp_path / "broken" / "run.json").read_text())["finished"]
    subprocess.run([*command, str(tmp_path / "broken")], check=True, capture_output=True)
    assert image_bytes(tmp_path / "whole") == image_bytes(tmp_path / "broken")
    curves = [
        [json.loads(line)["step"] for line in (tmp_path / name / "curves.jsonl").read_text().splitlines()] for name in ("whole", "broken")
    ]
    assert curves[0] == list(range(60))
    assert curves[1][-1] == 59


@pytest.mark.parametrize("kind", ["mlp", "pixels", "latents"])
def test_representations(pipeline_folder, tmp_path, kind):
    recipe = get_recipe("sds", steps=2, space="latent")
    run = ImageRun(prompt="a red cat", prior=choice(pipeline_folder("sd1")), recipe=recipe, seeds=(3,), representation=kind)
    assert len(list(distill_images(run, tmp_path))) == 2
    assert (tmp_path / "image-3.png").exists()


def test_free_latents_are_no_images(pipeline_folder, tmp_path):
    run = ImageRun(prompt="a cat", prior=choice(pipeline_folder("sd1")), recipe=RECIPES["msd"], representation="latents")
    with pytest.raises(InvalidInput, match=r"choose space=.latent."):
        list(distill_images(run, tmp_path))
    mended = replace(run, recipe=get_recipe("sds", steps=1))  # the run that failed before its first step does not keep the folder
    assert [step.index for step in distill_images(mended, tmp_path)] == [0]


def test_another_run_is_not_overwritten(pipeline_folder, tmp_path):
    first = ImageRun(prompt="a red cat", prior=choice(pipeline_folder("sd1")), recipe=get_recipe("sds", steps=1), seeds=(0,))
    list(distill_images(first, tmp_path))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(OutputError, match="holds another run"):
        list(distill_images(ImageRun(**{**vars(first), "prompt": "a dog"}), tmp_path))
    assert (tmp_path / "run.json").read_bytes() == before


def test_sample_command(pipeline_folder, tmp_path, capsys):
    arguments = ["sample", "a red cat", "--prior", str(pipeline_folder("sd1")), "--seeds", "2", "--steps", "3", "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    *progress, end = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["done"], line["total"], line["task"]) for line in progress] == [(k, 3, f"ddim: {k} denoiser calls") for k in (1, 2, 3)]
    assert end == {"event": "done", "files": [str(tmp_path / "index.html"), str(tmp_path / "sheet.png")]}
    assert json.loads((tmp_path / "run.json").read_text())["calls"] == 3
    assert len(image_bytes(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a cat", "--method", "magic"], "choose sds, sjc"),
        (["", "--prior", "FOLDER"], "a prompt is a text that is not empty"),
        (["a cat", "--prior", "FOLDER", "--device", "cuda:7"], "give device='cpu'"),
        (["a cat", "--prior", "/nowhere/at/all"], "/nowhere/at/all"),
        (["a purple elephant"], "does not contain 'elephant'"),
    ],
)
def test_errors_are_one_line(pipeline_folder, tmp_path, capsys, arguments, message):
    arguments = [str(pipeline_folder("sd1")) if word == "FOLDER" else word for word in arguments]
    assert main(["image", *arguments, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_timesteps_must_descend(pipeline_folder):
    prior = choice(pipeline_folder("sd1")).open()
    with pytest.raises(InvalidInput, match="timesteps must descend"):
        build_gradient(Recipe(method="sds", timesteps=(20, 980)), prior, ["a cat"], guidance=7.5)


@pytest.mark.parametrize(
    ("scaling", "expected"), [("verbatim", ("inverted", True)), ("text", ("inverted", False)), ("none", ("point", False))]
)
def test_noise_scaling_as_printed_and_as_stated(pipeline_folder, scaling, expected):
    prior = choice(pipeline_folder("sd1")).open()
    gradient = build_gradient(replace(RECIPES["msd-published"], scaling=scaling), prior, ["a cat"], guidance=1.0)
    assert (gradient.sampler.centre, gradient.sampler.verbatim) == expected
    estimate = gradient(torch.zeros(1, *prior.event), progress=0.5, rng=torch.Generator().manual_seed(0))
    assert estimate.info["calls"] == (10 if scaling == "none" else 19)


def test_sdi_inverts_under_the_negative_scale(pipeline_folder):
    prior = choice(pipeline_folder("sd1")).open()
    x, sigma = torch.randn(1, *prior.event, generator=torch.Generator().manual_seed(0)), torch.tensor(2.0)
    given, ignored = (prior.denoiser(["a cat"], guidance=scale)(x, sigma) for scale in (1.0, 0.0))
    sdi = build_gradient(RECIPES["sdi"], prior, ["a cat"], guidance=7.5)
    assert float((given - ignored).abs().max()) > 1e-4
    assert torch.allclose(sdi.inversion(x, sigma), ignored - 7.5 * (given - ignored), atol=1e-4)
    assert torch.allclose(sdi.denoiser(x, sigma), ignored + 7.5 * (given - ignored), atol=1e-4)
    distilled = build_gradient(RECIPES["sdi"], choice(pipeline_folder("flux"), 16).open(), ["a cat"], guidance=3.5)
    assert distilled.inversion is distilled.denoiser


def test_calls_of_a_recipe_are_those_it_makes():
    assert RECIPES["sds"].calls == 400
    assert (
        replace(RECIPES["sdi"], timesteps=(980, 979), steps=3).calls == 3 * 12
    )  # t = -99, 1, 101, ... 901, each a step up, and the target
    assert replace(RECIPES["sdi"], timesteps=(250, 249), steps=3).calls == 3 * 5
    assert replace(RECIPES["sdi"], timesteps=(250, 249), steps=3, as_published=False).calls == 3 * 4
    assert RECIPES["msd"].calls == 400
    assert torch.tensor([recipe.calls for recipe in RECIPES.values()]).min() > 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("steps", "budget"), [(400, 400), (250, 250), (40, 40), (400, 100), (100, 4000)])
def test_equal_calls_come_as_close_to_the_budget_as_whole_estimates_can(name, steps, budget):
    recipe = replace(RECIPES[name], steps=steps)
    fitted = equal_calls(recipe, budget)
    choices = [replace(recipe, refresh=refresh, steps=steps) for refresh in range(recipe.refresh, steps + 1)]
    assert max(choice.calls for choice in choices if choice.calls <= budget) <= fitted.calls <= budget
    assert 0.95 * steps <= fitted.steps <= steps
    assert fitted.refresh >= recipe.refresh


def test_equal_calls_need_room_for_one_estimate():
    with pytest.raises(InvalidInput, match=r"costs 12 denoiser calls, more than the budget of 10"):
        equal_calls(RECIPES["sdi"], 10)


def test_remade_images_stay_close(pipeline_folder):
    """A coordinate network fits DDIM images in 400 steps; the autoencoder alone is one pass of each of its halves."""
    drawn = SampledImages(prior=choice(pipeline_folder("sd1")), prompts=("a red cat", "a dog"), seeds=1, steps=2)
    images, prior = drawn.run().arrays["images"], opened(drawn.prior)
    fitted = ReconstructedImages(drawn=drawn, way="network").run().arrays["images"]
    assert float((shown(fitted) - shown(images)).square().mean()) < 1e-3 < float(shown(images).var())
    coded = ReconstructedImages(drawn=drawn, way="autoencoder").run().arrays["images"]
    assert torch.equal(coded, to_stored(prior.decode(prior.encode(shown(images)))))


def test_a_row_names_the_settings_that_its_method_reads():
    assert described(RECIPES["sds"]) == "fresh noise, latent space, t in [20, 980]"
    assert described(ALL_RECIPES["mean-shift"]) == "image space, encoding corrected 3 times, l 8 to 0.3"
    assert described(RECIPES["sdi"]).endswith("t 980 to 250")
    assert described(RECIPES["msd"]).endswith("proximal, 25 steps per draw, l 80 to 8")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
def test_experiments_on_images_run_on_any_prior(pipeline_folder, tmp_path, capsys, monkeypatch):
    """Every table and figure on images, quick, on a tiny Stable Diffusion and three prompts: rows, images, shared cells."""
    monkeypatch.setattr(image_cells, "PAPER_PROMPTS", image_cells.PAPER_PROMPTS[:3])
    arguments = ["--quick", "--prior", str(pipeline_folder("sd1")), "--out", str(tmp_path)]
    assert main(["run", "table4", "fig4", "fig5", "fig8", "fig9", *arguments]) == 0
    results = json.loads((tmp_path / "table4-sd1-quick" / "results.json").read_text())
    rows = {(row["method"], row["row"]): row for row in results["rows"]}
    assert rows["SDI", "as published"]["calls"] == replace(RECIPES["sdi"], steps=40).calls
    assert all(row["calls"] <= 40 for (_, row_name), row in rows.items() if "equal calls" in row_name)
    assert rows["MSD", "as published"]["paper"] == {"FID": 114.12, "CLIP-SIM": 32.6}
    assert rows["DDIM, reconstructed", "through the autoencoder"]["paper"] is None
    assert rows["DDIM, reconstructed", "through the network"]["calls"] == 32
    assert "CLIP-SIM needs" in (tmp_path / "table4-sd1-quick" / "results.md").read_text()
    assert "FID needs" in (tmp_path / "fig4-sd1-quick" / "results.md").read_text()  # and so there is no figure of it
    for name in ("table4", "fig5", "fig8", "fig9"):
        assert (tmp_path / f"{name}-sd1-quick" / f"{name}.png").stat().st_size > 1000
    assert len(list((tmp_path / "cells").glob("*.json"))) == len(results["rows"]) + 1 + 1 + 6  # and the reference, fig5's, fig9's
    capsys.readouterr()
