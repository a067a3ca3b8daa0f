"""`modeseek.distill` with a prior and a prompt: the same numbers as the recipe in the loop, every setting by keyword, typos refused."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import modeseek
from modeseek import VIEW_RECIPES, InvalidInput, OutputError, recommend
from modeseek.distillation.loop import optimise
from modeseek.distillation.recipes import ALL_RECIPES, SINGLE, Recipe, build_gradient, get_recipe
from modeseek.distillation.settings import IGNORED_BY, READ_BY, ignored

FEW = {"steps": 3, "sampler_steps": 2, "refresh": 2}


class Flat(torch.nn.Module):
    """A renderer of two images of one colour each."""

    def __init__(self, size=(32, 32), count=2, channels=3):
        super().__init__()
        self.colours = torch.nn.Parameter(torch.linspace(0.2, 0.8, count * channels).reshape(count, channels, 1, 1))
        self.size = size

    def forward(self):
        return self.colours.expand(-1, -1, *self.size)


@pytest.fixture
def prior(pipeline_folder):
    return modeseek.load_prior(pipeline_folder("sd1"), image_size=(32, 32))


@pytest.fixture(scope="module")
def solids():
    return modeseek.load_prior("solids")


def final(steps):
    *_, last = steps
    return last


@pytest.mark.parametrize("method", ["msd", "sds", "sdi"])
def test_equals_the_recipe_in_the_loop(prior, method):
    renderer, same = Flat(), Flat()
    few = {name: value for name, value in FEW.items() if not ignored(method, [name])}
    step = final(modeseek.distill(renderer, prior, "a cat", method=method, seed=3, **few))
    recipe = get_recipe(method, **few)
    gradient = build_gradient(recipe, prior, ["a cat"], seed=3)
    settings = {"optimiser": recipe.optimiser, "lr": recipe.lr, "schedule": recipe.schedule, "space": recipe.space, "refresh": 2}
    other = final(optimise(same, gradient, steps=3, seed=3, encode=prior.encode, decode=prior.decode, **settings))
    assert step.calls == other.calls > 0
    assert_close(renderer.colours, same.colours, rtol=0, atol=0)


def test_one_prompt_serves_the_batch_and_a_list_gives_one_each(prior):
    runs = {}
    for name, prompt in {"one": "a cat", "same twice": ["a cat", "a cat"], "two": ["a cat", "a dog"]}.items():
        renderer = Flat()
        final(modeseek.distill(renderer, prior, prompt, method="sds", steps=2))
        runs[name] = renderer.colours.detach()
    assert_close(runs["one"], runs["same twice"], rtol=1e-4, atol=1e-5)
    assert not torch.equal(runs["same twice"][1], runs["two"][1])


def test_renders_of_any_size(prior):
    renderer = Flat(size=(24, 40))
    step = final(modeseek.distill(renderer, prior, "a cat", **FEW))
    assert step.x.shape == (2, 3, 24, 40)


def test_views_follow_the_cameras(solids):
    queried = []

    def names():
        queried.append(None)
        return ["front", "side"]

    step = final(modeseek.distill(Flat(), solids, "a red sphere", views=names, **FEW))
    assert queried
    assert step.index == 2


@pytest.mark.parametrize("views", [None, lambda: ["front", "side"]])
def test_a_checkpoint_belongs_to_its_prompt_and_guidance(solids, tmp_path, views):
    common = {"method": "sds", "steps": 4, "views": views, "checkpoint": tmp_path / "c.safetensors", "every": 1}
    steps = modeseek.distill(Flat(), solids, "a red sphere", guidance=2.0, **common)
    next(steps)
    next(steps)
    steps.close()
    for prompt, guidance, negative in (("a blue sphere", 2.0, ""), ("a red sphere", 3.0, ""), ("a red sphere", 2.0, "a red cube")):
        with pytest.raises(OutputError, match="belongs to another run"):
            next(modeseek.distill(Flat(), solids, prompt, guidance=guidance, negative=negative, **common))
    assert next(modeseek.distill(Flat(), modeseek.load_prior("solids"), "a red sphere", guidance=2.0, **common)).index >= 1


def test_a_chain_for_views_is_refused(solids):
    recipe = get_recipe("msd-persistent", steps=2)
    with pytest.raises(InvalidInput, match="choose msd or mean-shift"):
        modeseek.distill(Flat(), solids, "a red sphere", method=recipe, views=lambda: ["front", "side"])


def test_azimuths_need_views(solids):
    with pytest.raises(InvalidInput, match="give views as well"):
        modeseek.distill(Flat(), solids, "a red sphere", azimuths=lambda: torch.zeros(2))


def test_samples_are_refused_where_a_method_has_none():
    for name in ("mean-shift", "ism", "sdi", "cfd"):
        with pytest.raises(InvalidInput, match=f"{name} has one sample per estimate"):
            get_recipe(name, samples=4)
    assert get_recipe("csd", samples=4).calls == 4 * get_recipe("csd").calls


@pytest.mark.parametrize("settings", [{"timesteps": (0.98, 0.02)}, {"interval": (800.0, 200)}])
def test_timesteps_are_whole_numbers(settings):
    with pytest.raises(InvalidInput, match="whole number"):
        Recipe(method="msd-split", **settings)


OTHER = {
    "noise": "shared",
    "timesteps": (700, 100),
    "sampler_steps": 7,
    "bandwidth": (3.0, 0.7),
    "first": 40.0,
    "interval": (999, 0),
    "scaling": "none",
    "inversion": -0.5,
    "eta": 0.8,
    "lora_lr": 3e-3,
    "guidance": 1.5,
    "samples": 2,
    "as_published": True,
}
"""A value of each setting of the gradient that no recipe has."""


def few_steps(recipe, prior):
    renderer, short = Flat(size=(8, 8)), replace(recipe, steps=3, optimiser="sgd")
    final(modeseek.distill(renderer, prior, ["a cat", "a dog"], method=short, negative="grey"))
    return renderer.colours.detach()


def gaussians():
    """Images of about one colour, another one for each prompt, with their exact denoiser."""
    means = {"a cat": 0.4, "a dog": -0.3, "grey": 0.1, "": 0.0}

    def denoiser(x, sigma, mean):
        return mean + 0.09 / (0.09 + sigma.reshape(-1, 1, 1, 1) ** 2) * (x - mean)

    def condition(prompts):
        return {"mean": torch.tensor([means[prompt] for prompt in prompts]).reshape(-1, 1, 1, 1)}

    return modeseek.NetworkPrior(network=denoiser, event=(3, 8, 8), prediction="denoiser", levels=(0.01, 80.0), condition=condition)


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] if name == "vsd" else []) for name in ALL_RECIPES])
def test_settings_said_to_be_ignored_are_and_the_others_are_not(pipeline_folder, method):
    prior = modeseek.load_prior(pipeline_folder("sd1"), image_size=(8, 8)) if method == "vsd" else gaussians()
    recipe = replace(ALL_RECIPES[method], sampler_steps=4, refresh=1)
    before, found = few_steps(recipe, prior), []
    for name, value in OTHER.items():
        if name == "samples" and recipe.method in SINGLE:
            continue
        if name == "as_published":
            value = not recipe.as_published
        if torch.equal(few_steps(replace(recipe, **{name: value}), prior), before):
            found.append(name)
    assert found == ignored(recipe.method, OTHER)


def test_a_setting_that_a_method_ignores_is_refused():
    assert {*READ_BY, *IGNORED_BY} <= set(OTHER)
    with pytest.raises(InvalidInput, match="method sds does not read sampler_steps"):
        get_recipe("sds", sampler_steps=3)
    with pytest.raises(InvalidInput, match="method mean-shift does not read noise"):
        get_recipe("mean-shift", noise="fixed")
    for name in ("cfd", "dsd"):
        with pytest.raises(InvalidInput, match=f"{name} follows the noise of each image"):
            get_recipe(name, noise="fresh")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepz": 3}, "did you mean steps"),
        ({"method": "smd"}, "unknown"),
        ({"gidance": 3}, "did you mean guidance"),
    ],
)
def test_typos_are_refused(prior, settings, message):
    with pytest.raises(InvalidInput, match=message):
        modeseek.distill(Flat(), prior, "a cat", **settings)


def test_what_does_not_fit_together_is_refused(prior, mixture):
    gradient = modeseek.MSD(denoiser=mixture)
    with pytest.raises(InvalidInput, match="needs a prompt"):
        modeseek.distill(Flat(), prior)
    with pytest.raises(InvalidInput, match="need an image prior"):
        modeseek.distill(Flat(), gradient, "a cat", steps=2)
    with pytest.raises(InvalidInput, match="number of steps"):
        modeseek.distill(Flat(), gradient)
    with pytest.raises(InvalidInput, match=r"modeseek\.MSD"):
        modeseek.distill(Flat(), mixture, steps=2)
    with pytest.raises(InvalidInput, match="unknown"):
        recommend("point of view")


@pytest.mark.parametrize(("kind", "recipes"), [("image", ALL_RECIPES), ("view", VIEW_RECIPES)])
def test_recommended_settings_are_the_recipes(kind, recipes):
    assert {name: recommend(kind, name) for name in recipes} == recipes


def test_the_embedded_prior_by_name(solids):
    renderer = Flat(size=(64, 64), count=1)
    before = renderer.colours.detach().clone()
    step = final(modeseek.distill(renderer, solids, "a red sphere", method="msd", **FEW))
    assert step.index == 2
    assert not torch.equal(before, renderer.colours)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_prior_takes_grey_and_coloured_renders(channels):
    """Targets in image space have the channels of the render."""
    prior = modeseek.NetworkPrior(network=lambda x, sigma: 0.5 * x, event=(1, 8, 8), prediction="denoiser", levels=(0.01, 80.0))
    step = final(modeseek.distill(Flat(size=(8, 8), channels=channels), prior, "", method="msd", **FEW))
    assert step.x.shape == (2, channels, 8, 8)


def test_digits_of_one_channel():
    """A class-conditional pixel denoiser of 8 x 8 grey images is used like Stable Diffusion."""
    templates = torch.stack([torch.eye(8), torch.eye(8).flip(0)])[:, None] * 2 - 1  # two classes, values in [-1, 1]

    def network(x, sigma, label):
        """D of a Gaussian around the class's template, standard deviation 0.05."""
        weight = (0.0025 / (0.0025 + sigma.square())).reshape(-1, 1, 1, 1)
        return weight * x + (1 - weight) * templates[label.long()].to(x)

    prior = modeseek.NetworkPrior(
        network=network,
        event=(1, 8, 8),
        prediction="denoiser",
        levels=(0.01, 10.0),
        condition=lambda prompts: {"label": torch.tensor([float(prompt == "backslash") for prompt in prompts])},
        data_std=0.5,
    )
    renderer = Flat(size=(8, 8), count=1, channels=1)
    renderer.colours = torch.nn.Parameter(torch.full((1, 1, 8, 8), 0.5))
    step = final(modeseek.distill(renderer, prior, "backslash", method="msd", steps=60, lr=0.05, sampler_steps=4, refresh=4))
    image = renderer.colours.detach()[0, 0]
    assert step.calls == 60
    assert_close(image.clamp(0, 1), torch.eye(8).flip(0), rtol=0, atol=0.15)
