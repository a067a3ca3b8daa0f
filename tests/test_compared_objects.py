"""Text to 3-D under equal conditions: separate lists, exact draws with q's probabilities, paired differences and their intervals."""

import json

import pytest
import torch

from modeseek.core.errors import InvalidInput
from modeseek.distillation.recipes import build_gradient
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.metrics.bootstrap import bootstrap_interval
from modeseek.priors.solids_ideal import IdealSolidsPrior
from modeseek.reproduction import Settings
from modeseek.reproduction import compared_objects as objects
from modeseek.reproduction.studies import compare3d, table3d
from modeseek.solids.captions import Scene, parse
from modeseek.solids.renders import true_renders
from modeseek.sweeps.cells import Result
from modeseek.tasks.prior_choice import PriorChoice


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_nothing_of_the_scoring_lists_is_used_for_tuning():
    tune, score = set(objects.TUNE_OBJECTS), set(objects.SCORE_OBJECTS)
    assert not tune & score
    assert not {parse(p)[0].structure for p in tune} & {parse(p)[0].structure for p in score}
    assert not set(objects.TUNE_SEEDS) & set(objects.SCORE_SEEDS)
    assert all(Scene(**{**vars(parse(p)[0]), "background": None}).held_out for p in tune | score)
    cells = compare3d.cells(Settings())
    for cell in cells:
        lists = (objects.TUNE_OBJECTS, objects.TUNE_SEEDS) if cell.split == "tune" else (objects.SCORE_OBJECTS, objects.SCORE_SEEDS)
        assert cell.prompt in lists[0]
        assert cell.seed in lists[1]
    assert len(cells) == 2 * 4 * (3 * 2 + 8 * 4)


def test_the_learned_column_is_the_prior_of_the_command_line():
    other = PriorChoice(name="a/folder")
    assert {cell.prior.name for cell in compare3d.cells(Settings(prior=other))} == {"solids-ideal", "a/folder"}
    assert {cell.denoiser for cell in compare3d.cells(Settings(prior=other))} == {"ideal", "learned"}
    with pytest.raises(InvalidInput, match="its own seeds"):
        compare3d.cells(Settings(seed=5))
    alone = compare3d.cells(Settings(prior=PriorChoice(name="solids-ideal")))
    assert {cell.denoiser for cell in alone} == {"ideal"}


@pytest.mark.slow
def test_exact_draws_of_views_have_qs_probabilities():
    prior, caption, level = IdealSolidsPrior(count=8), "a red house, grey background, front view", 9.0
    u = 2 * true_renders(*parse(caption), 8).flatten(1).double() - 1
    x = u[:2].mean(0)
    q = (-((x - u) ** 2).sum(1) / (2 * level**2)).softmax(0)
    count = 2000
    many = x.float().reshape(1, 3, 64, 64).expand(count, -1, -1, -1)
    y = objects.exact_draw(prior, [caption] * count, many, torch.full((count,), level), torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.cdist(y.flatten(1).double(), u).argmin(1), minlength=8).double()
    kept = count * q > 5
    assert float(((counts - count * q) ** 2 / (count * q))[kept].sum()) < 30  # at most 7 degrees of freedom
    assert int(kept.sum()) >= 3


def made(method, row, prompt, seed, psnr):
    metrics = {"PSNR": psnr, "IoU": 0.9}
    head = {"density": "solids", "denoiser": "ideal", "split": "score", "guidance": "CFG 1", "sampler": "", "calls": 250.0, "seconds": 1.0}
    return Result({**head, "method": method, "row": row, "prompt": prompt, "seed": seed, "metrics": metrics})


def test_differences_are_paired_by_prompt_and_seed():
    results = []
    for k, prompt in enumerate("abcd"):
        for seed in (1, 2):
            results.append(made("SDS", "random level", prompt, seed, 20.0 + 5 * k + seed))  # prompts differ by far more than methods
            results.append(made("mean shift", "one call", prompt, seed, 21.0 + 5 * k + seed + 0.1 * (-1) ** k))
    results.append(made("mean shift", "one call", "e", 1, 99.0))  # without its partner: left out
    iou, decibels = compare3d.differences(compare3d.grouped(results))
    assert (iou["row"], decibels["row"]) == ("IoU", "PSNR")
    assert decibels["method"] == "mean shift (one call) - SDS (random level)"
    assert decibels["metrics"]["pairs"] == 8
    assert decibels["metrics"]["difference"] == pytest.approx(1.0)
    assert 0.85 < decibels["metrics"]["low"] < 1.0 < decibels["metrics"]["high"] < 1.15
    assert iou["metrics"]["low"] == iou["metrics"]["high"] == 0


def test_differences_are_to_both_kinds_of_sds():
    rows = {("SDS", "random level"): 20.0, ("SDS", "annealed level"): 21.5, ("mean shift", "one call"): 22.0}
    results = [made(*key, prompt, 1, psnr) for key, psnr in rows.items() for prompt in "ab"]
    found = {d["method"]: d["metrics"]["difference"] for d in compare3d.differences(compare3d.grouped(results)) if d["row"] == "PSNR"}
    assert found == {
        "SDS (annealed level) - SDS (random level)": 1.5,
        "mean shift (one call) - SDS (random level)": 2.0,
        "mean shift (one call) - SDS (annealed level)": 0.5,
    }


def test_the_table_of_published_settings_has_differences_to_each_of_them(tmp_path):
    """Of mean shift and of MSD by the reverse process to the four published rows."""
    settings = Settings(images=2)
    own = {"mean shift": 26.0, "MSD": 25.0, "SDS": 24.0, "VSD": 21.0, "SDI": 22.0}

    def scored(cell):
        prompt, seed = cell.spec.prompt, cell.spec.seed
        published = 20.0 if (cell.method, cell.row) == ("MSD", "as published, equal calls") else own[cell.method]
        return made(cell.method, cell.row, prompt, seed, published + len(prompt) + 3 * seed)

    cells = [cell for cell in table3d.cells(settings) if hasattr(cell, "spec")]
    table3d.finish(tmp_path, settings, cells, [scored(cell) for cell in cells])
    rows = [row for row in json.loads((tmp_path / "paired" / "results.json").read_text())["rows"] if row["row"] == "PSNR"]
    assert {row["metrics"]["pairs"] for row in rows} == {12}
    assert [round(row["metrics"]["difference"], 6) for row in rows] == [2.0, 5.0, 4.0, 6.0, 1.0, 4.0, 3.0, 5.0]
    assert rows[0]["method"] == "mean shift (one call) - SDS (as published, equal calls)"


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        groups = torch.randn(16, 1, generator=rng) + 0.3 * torch.randn(16, 3, generator=rng)  # seeds of one prompt move together
        low, high = bootstrap_interval(groups.tolist(), draws=400, seed=trial)
        covered += low < 0 < high
    assert 172 < covered < 198  # 0.95 of 200, a little less for 16 groups
    with pytest.raises(InvalidInput, match="two groups"):
        bootstrap_interval([[1.0, 2.0]])


@pytest.mark.slow
def test_an_object_is_distilled_and_scored(monkeypatch):
    monkeypatch.setattr(objects, "opened", lambda choice: IdealSolidsPrior(count=16))
    method = objects.COMPARED[2]
    cell = objects.ComparedObject(
        prompt=objects.TUNE_OBJECTS[0], seed=0, prior=PriorChoice(name="solids-ideal"), split="tune", method=method, steps=40
    )
    result = cell.run()
    assert result.row["calls"] == 40
    assert result.row["metrics"]["PSNR"] > 19
    assert result.arrays["turntable"].shape == (24, 3, 64, 64)


RECIPES = [("sds-annealed", "sds-annealed"), ("mean-shift", "mean-shift"), ("msd", "draw")]
"""(name of the recipe for views, kind of the compared method)."""


@pytest.mark.parametrize(("name", "kind"), RECIPES)
def test_recipes_for_views_are_what_was_compared(name, kind):
    compared = next(method for method in objects.COMPARED if method.kind == kind)
    recipe = VIEW_RECIPES[name]
    assert recipe.bandwidth == compared.learned
    assert (recipe.steps, recipe.lr, recipe.schedule, recipe.warmup) == (objects.STEPS, objects.LR, "cosine", objects.WARMUP)
    assert (recipe.space, recipe.corrections, recipe.refresh) == ("image", 0, 1)


@pytest.mark.parametrize(("name", "kind"), RECIPES)
def test_a_gradient_is_that_of_the_recipe(name, kind):
    """The same gradient on the embedded prior, to the bit."""
    prior = PriorChoice().open()
    prompts, x = ["a red cone, grey background, front view"], torch.randn(1, *prior.event, generator=torch.Generator().manual_seed(1))
    method = next(method for method in objects.COMPARED if method.kind == kind)
    compared = method.gradient("learned", prior.denoiser(prompts), lambda x, bandwidth, rng: x)
    built = build_gradient(VIEW_RECIPES[name], prior, prompts)
    first, second = (made(x, progress=0.3, rng=torch.Generator().manual_seed(0)) for made in (compared, built))
    assert first.info["calls"] == second.info["calls"] == (objects.REVERSE_STEPS if kind == "draw" else 1)
    assert torch.equal(first.gradient, second.gradient)
