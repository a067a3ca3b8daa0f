"""The guidance for threestudio, on a stub of what it touches there: the registry, BaseModule, and prompt utilities of a tiny pipeline."""

import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from modeseek.core.errors import InvalidInput, MissingPackage, NonFiniteError
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.gradients.cached import CachedTarget
from modeseek.integrations import threestudio as integration
from modeseek.integrations.prompt_embeddings import resized
from modeseek.priors.pipelines.loading import load_prior

PROMPTS = {"side": "a red cube", "front": "a blue cube", "plain": "a cube", "": ""}


class BaseModule(nn.Module):
    """As threestudio's: a Config of keywords, a device, `configure`, and a buffer that no checkpoint holds."""

    def __init__(self, cfg: Mapping):
        super().__init__()
        self.cfg = self.Config(**cfg)
        self.device = torch.device("cpu")
        self.configure()
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)


class PromptUtils:
    """Embeddings of two views, (cond, uncond) as threestudio orders them; the front is |azimuth| < 45."""

    def __init__(self, prior, use_perp_neg=False):
        self.use_perp_neg = use_perp_neg
        self.of = {name: prior.family.conditions([prompt])["tokens"][0] for name, prompt in PROMPTS.items() if name}
        self.of[""] = prior.family.opposite([""])["tokens"][0]

    def names(self, azimuth):
        return ["front" if abs(float(a)) < 45 else "side" for a in azimuth]

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent_prompting=True):
        names = self.names(azimuth) if view_dependent_prompting else ["plain"] * len(azimuth)
        return torch.stack([self.of[name] for name in names] + [self.of[""]] * len(azimuth))

    def get_text_embeddings_perp_neg(self, elevation, azimuth, camera_distances, view_dependent_prompting=True):
        both = self.get_text_embeddings(elevation, azimuth, camera_distances)
        others = torch.stack([self.of[name] for _ in azimuth for name in ("side", "plain")])
        return torch.cat([both, others]), torch.tensor([[-0.7, -0.2]]).expand(len(azimuth), 2)


@pytest.fixture
def registry(monkeypatch):
    """The stub in place of threestudio."""
    stub, utils, base = (types.ModuleType(name) for name in ("threestudio", "threestudio.utils", "threestudio.utils.base"))
    stub.__modules__ = {}

    def register(name):
        def keep(cls):
            if name in stub.__modules__:
                raise ValueError(f"Module {name} already exists!")
            stub.__modules__[name] = cls
            return cls

        return keep

    stub.register, base.BaseModule = register, BaseModule
    for module in (stub, utils, base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return stub.__modules__


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_prior(pipeline_folder("sd1"))


@pytest.fixture
def make(registry, pipeline_folder):
    """`make(recipe=...)`: the guidance as a system makes it."""
    integration.register()

    def made(**config):
        base = {"pretrained_model_name_or_path": str(pipeline_folder("sd1")), "half_precision_weights": False, "max_steps": 4}
        return registry["modeseek-guidance"](base | config)

    return made


def cameras(azimuth=(0.0, 120.0)):
    azimuth = torch.tensor(azimuth)
    return {"elevation": torch.full_like(azimuth, 15.0), "azimuth": azimuth, "camera_distances": torch.full_like(azimuth, 1.8)}


def image(count=2, side=8, channels=3):
    """(B, H, W, C), a leaf."""
    return torch.rand(count, side, side, channels, generator=torch.Generator().manual_seed(3)).requires_grad_()


def rng_of(seed, step, passes=0):
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 0, step, passes]).generate_state(1, np.uint64)[0]))


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "threestudio", None)
    with pytest.raises(MissingPackage, match="threestudio cannot be imported"):
        integration.register()


def test_registers_once(registry):
    assert integration.register() is integration.register() is registry["modeseek-guidance"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(make, prior, name):
    """Two views with a prompt each: the loss, three steps, and what dreamfusion-system logs and adds up."""
    guidance = make(recipe=name, sampler_steps=3)
    assert guidance.state_dict() == {}  # dreamfusion-system's checkpoints hold nothing of it
    for step in range(3):
        guidance.update_step(0, step)
        rgb = image()
        found = guidance(rgb, PromptUtils(prior), **cameras(), rgb_as_latents=False, index=torch.zeros(2))
        assert [key for key in found if key.startswith("loss_")] == ["loss_sds"]
        found["loss_sds"].backward()
        assert rgb.grad.isfinite().all()
        assert all(float(rgb.grad[k].norm()) > 0 for k in range(2))
    assert found["min_step"] < found["max_step"]
    assert all(isinstance(value, int | float) or value.numel() == 1 for value in found.values())
    # SDI is at t = 493 by now: two steps up and the target
    assert found["calls"] == {"vsd": 3, "sdi": 3, "msd-published": 5, "msd": 3}.get(name, 1)


@pytest.mark.parametrize("name", ["sds", "sdi", "msd-published", "msd"])
def test_gradient_is_our_own(make, prior, name):
    """Step 2 of 4 of the guidance against `backward` of the gradient built on the prior and its prompts, with the same noise."""
    guidance = make(recipe=name, sampler_steps=3, seed=5, guidance_scale=4.0)
    guidance.update_step(0, 2)
    rgb = image()
    found = guidance(rgb, PromptUtils(prior), **cameras())
    found["loss_sds"].backward()
    recipe = integration.recipe_of(guidance.cfg)
    prompts = [PROMPTS["front"], PROMPTS["side"]]
    gradient = build_gradient(recipe, prior, prompts, guidance=4.0, seed=5)

    def encode(image):
        return prior.encode(resized(image, (16, 16)))

    cached = CachedTarget(gradient, space=recipe.space, refresh=1, encode=encode, decode=lambda x: resized(prior.decode(x), (8, 8)))
    ours = image()
    expected = cached(ours.permute(0, 3, 1, 2), slot=0, progress=2 / 3, rng=rng_of(5, 2))
    expected.place.backward(expected.estimate.gradient)
    torch.testing.assert_close(rgb.grad, ours.grad / 2, rtol=1e-4, atol=1e-4 * float(ours.grad.abs().max()))
    torch.testing.assert_close(found["grad_norm"], expected.estimate.gradient.norm())


def test_guidance_scale_is_ours(make, prior):
    """D_u + s (D_c - D_u) at the sampled state; threestudio's SDS writes s - 1."""
    guidance = make(recipe="sds", guidance_scale=4.0)
    guidance.forward(image(), PromptUtils(prior), **cameras())
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 2.0])
    prompts = [PROMPTS["front"], PROMPTS["side"]]
    strong, weak = prior.denoiser(prompts, guidance=1.0)(x, sigma), prior.denoiser(prompts, guidance=0.0)(x, sigma)
    torch.testing.assert_close(guidance.gradient.denoiser(x, sigma), weak + 4.0 * (strong - weak), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guidance.gradient.denoiser(x, sigma), strong + 3.0 * (strong - weak), rtol=1e-4, atol=1e-4)


def test_perp_neg(make, prior):
    """D_u + s (D_c - D_u + sum w_i perp_i), by its definition; samples repeat the whole batch."""
    guidance = make(recipe="sds", guidance_scale=4.0)
    guidance(image(), PromptUtils(prior, use_perp_neg=True), **cameras())
    x, sigma = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 2.0, 1.0, 3.0])
    blue, red = PROMPTS["front"], PROMPTS["side"]
    strong, weak = prior.denoiser([blue, red], guidance=1.0)(x, sigma), prior.denoiser([blue, red], guidance=0.0)(x, sigma)
    away = [prior.denoiser([other] * 2, guidance=1.0)(x, sigma) for other in (red, PROMPTS["plain"])]
    towards = strong - weak
    moved = strong
    for other, weight in zip(away, (-0.7, -0.2), strict=True):
        v = other - weak
        along = (v * towards).sum((1, 2, 3), keepdim=True) / (towards * towards).sum((1, 2, 3), keepdim=True)
        moved = moved + weight * (v - along * towards)
    torch.testing.assert_close(guidance.gradient.denoiser(x, sigma), weak + 4.0 * (moved - weak), rtol=1e-3, atol=1e-4)


def test_latents(make, prior):
    """A rendered latent is x itself: SDS's gradient over the batch."""
    guidance = make(recipe="sds")
    latent = image(channels=4)
    guidance(latent, PromptUtils(prior), **cameras(), rgb_as_latents=True)["loss_sds"].backward()
    gradient = build_gradient(integration.recipe_of(guidance.cfg), prior, [PROMPTS["front"], PROMPTS["side"]], guidance=7.5)
    expected = gradient(latent.detach().permute(0, 3, 1, 2), progress=0.0, rng=rng_of(0, 0)).gradient / 2
    torch.testing.assert_close(latent.grad.permute(0, 3, 1, 2), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="space: latent"):
        make(recipe="msd")(image(channels=4), PromptUtils(prior), **cameras(), rgb_as_latents=True)


def test_noise_is_of_the_step(make, prior):
    """The same step again, in a guidance made anew, meets the same noise; another pass or step does not."""
    utils = PromptUtils(prior)

    def norm(guidance, step):
        guidance.update_step(0, step)
        return float(guidance(image(), utils, **cameras())["grad_norm"])

    first, second = make(recipe="sds"), make(recipe="sds")
    norms = [norm(first, 1), norm(first, 1), norm(first, 2)]
    assert len(set(norms)) == 3
    assert norm(second, 2) == norms[2]


def test_held_targets_need_views_that_stay(make, prior):
    utils, guidance = PromptUtils(prior), make(recipe="msd", sampler_steps=3, refresh=2)
    assert [guidance(image(), utils, **cameras())["calls"] for _ in range(3)] == [3, 0, 3]
    with pytest.raises(InvalidInput, match="refresh: 1"):
        guidance(image(), utils, **cameras((10.0, 130.0)))
    assert guidance(image(), utils, **cameras())["calls"] == 0
    assert guidance(image(), utils, **cameras((10.0, 130.0)))["calls"] == 3


def test_a_chain_needs_views_that_stay(make, prior):
    utils, guidance = PromptUtils(prior), make(recipe="msd-persistent", sampler_steps=3)
    c2w = torch.eye(4).expand(2, 4, 4)
    guidance(image(), utils, **cameras(), c2w=c2w)
    with pytest.raises(InvalidInput, match="take recipe: msd"):
        guidance(image(), utils, **cameras(), c2w=2 * c2w)


@pytest.mark.parametrize("name", ["vsd", "msd-persistent"])
def test_state(make, prior, name):
    """With keep_state a guidance that loads another's state goes on as that one does."""
    utils = PromptUtils(prior)

    def step(guidance, index):
        guidance.update_step(0, index)
        return float(guidance(image(), utils, **cameras())["grad_norm"])

    first, second = (make(recipe=name, keep_state=True, lora_lr=0.1, loss_name="vsd", sampler_steps=3) for _ in range(2))
    step(first, 0)
    second.load_state_dict(first.state_dict())
    assert step(first, 1) == step(second, 1) != step(make(recipe=name, lora_lr=0.1, loss_name="vsd", sampler_steps=3), 1)
    assert "loss_vsd" in first(image(), utils, **cameras())
    assert list(first.parameters()) == []


def test_errors(make, prior):
    for config, words in [
        ({"recipe": "ism"}, "recipe 'ism' is unknown"),
        ({"weighting_strategy": "uniform"}, "recipe: sjc"),
        ({"bandwidth": [1.0]}, "first, last"),
        ({"max_steps": 0}, "trainer.max_steps"),
        ({"min_step_percent": 0.99}, "timesteps must descend"),
        ({"space": "pixels"}, "space 'pixels' is unknown"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            make(**config)
    guidance = make(recipe="sds")
    with pytest.raises(InvalidInput, match="guidance_eval: 0"):
        guidance(image(), PromptUtils(prior), **cameras(), guidance_eval=True)
    foreign = PromptUtils(prior)
    foreign.of = {name: value.repeat(1, 2) for name, value in foreign.of.items()}
    with pytest.raises(InvalidInput, match="same pretrained_model_name_or_path"):
        guidance(image(), foreign, **cameras())
    with pytest.raises(NonFiniteError):
        guidance(image().detach() * torch.nan, PromptUtils(prior), **cameras())


def test_other_families(make, pipeline_folder):
    with pytest.raises(InvalidInput, match="StableDiffusionXLPipeline"):
        make(pretrained_model_name_or_path=str(pipeline_folder("sdxl")))


def test_the_block_of_dreamfusion_stays(make):
    """Every key of threestudio's own dreamfusion-sd block is read; its scale, which is one for SDS, is warned of."""
    block = {"guidance_scale": 100.0, "weighting_strategy": "sds", "min_step_percent": 0.02, "max_step_percent": 0.98}
    with pytest.warns(UserWarning, match="meant for about 7.5"):
        guidance = make(**block)
    assert guidance.recipe.timesteps == (980, 20)


def test_the_example(make, pipeline_folder):
    """The shipped YAML's guidance block is a configuration, its prompt processor names the same model, and each loss has its weight."""
    config = yaml.safe_load((Path(__file__).parent.parent / "examples" / "threestudio" / "dreamfusion-msd.yaml").read_text())
    system = config["system"]
    block = system["guidance"] | {"pretrained_model_name_or_path": str(pipeline_folder("sd1")), "max_steps": config["trainer"]["max_steps"]}
    guidance = make(**block)
    assert system["guidance_type"] == integration.NAME
    assert guidance.recipe == integration.recipe_of(integration.Config())
    assert f"lambda_{guidance.cfg.loss_name}" in system["loss"]
