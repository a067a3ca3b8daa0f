"""Where settings come from, and code that repeats a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from modeseek.distillation.recipes import RECIPES, Recipe
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.tasks.provenance import code_of, method_of, settings_of
from modeseek.tasks.sampling import SampleRun
from modeseek.tasks.text_to_3d import ObjectRun
from modeseek.tasks.text_to_image import ImageRun, PriorChoice

RUNS = [
    ImageRun(prompt="a red 'cat' \"x\""),
    ImageRun(prompt="a", negative="b", prior=PriorChoice(name="/models/sd", device="cuda", image_size=512), seeds=(3, 5), seed=7),
    ImageRun(prompt="a", recipe=replace(RECIPES["sds"], steps=7, timesteps=(500, 20)), representation="pixels"),
    ImageRun(prompt="a", recipe=replace(RECIPES["msd-published"], guidance=2.5, interval=(999, 0))),
    ObjectRun(prompt="a", recipe=replace(VIEW_RECIPES["msd"], lr=0.01), low=(32, 100), perp_neg=True),
    SampleRun(prompt="a", steps=4, guidance=2.0),
]


@pytest.mark.parametrize("run", RUNS, ids=[str(k) for k in range(len(RUNS))])
def test_code_makes_the_same_run(run):
    name = "VIEW_RECIPES" if isinstance(run, ObjectRun) else "RECIPES"
    code = code_of(run, recipes=VIEW_RECIPES if isinstance(run, ObjectRun) else RECIPES, recipes_name=name)
    names = {"ImageRun": ImageRun, "ObjectRun": ObjectRun, "SampleRun": SampleRun, "PriorChoice": PriorChoice, "Recipe": Recipe}
    names |= {"replace": replace, "RECIPES": RECIPES, "VIEW_RECIPES": VIEW_RECIPES, "Path": Path}
    assert eval(code, names) == run


def test_code_leaves_defaults_out():
    assert code_of(ImageRun(prompt="a"), recipes=RECIPES, recipes_name="RECIPES") == "ImageRun(prompt='a')"
    run = ImageRun(prompt="a", recipe=replace(RECIPES["sds"], steps=7))
    assert code_of(run, recipes=RECIPES, recipes_name="RECIPES") == "ImageRun(prompt='a', recipe=replace(RECIPES[\"sds\"], steps=7))"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_keeps_its_name_when_varied(name):
    assert method_of(RECIPES[name], RECIPES) == name
    assert method_of(replace(RECIPES[name], steps=3, lr=0.5), RECIPES) == name


def test_sources():
    run = ImageRun(prompt="a", recipe=replace(RECIPES["msd"], steps=50), seeds=(0,), prior=PriorChoice(image_size=None))
    found = settings_of(run, recipes=RECIPES, from_prior={"guidance": 3.0, "image_size": [64, 64]})
    assert found["prompt"] == {"value": "a", "source": "given"}
    assert found["method"] == {"value": "msd", "source": "given"}
    assert found["steps"] == {"value": 50, "source": "given"}
    assert found["lr"] == {"value": RECIPES["msd"].lr, "source": "recipe"}
    assert found["guidance"] == {"value": 3.0, "source": "prior"}
    assert found["image_size"] == {"value": [64, 64], "source": "prior"}
    assert found["seeds"]["source"] == "given"
    assert found["prior"] == {"value": "solids", "source": "default"}
    assert found["seed"] == {"value": 0, "source": "default"}
    given = replace(run, recipe=replace(run.recipe, guidance=2.0))
    assert settings_of(given, recipes=RECIPES, from_prior={"guidance": 3.0})["guidance"] == {"value": 2.0, "source": "given"}
