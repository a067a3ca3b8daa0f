"""The guidance for threestudio, on a stub of what it touches there: the registry, BaseModule, and prompt utilities of a tiny pipeline."""

import subprocess
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
from modeseek.distillation.settings import READ_BY
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
        if config.get("recipe") in RECIPES and RECIPES[config["recipe"]].method not in READ_BY["sampler_steps"]:
            config.pop("sampler_steps", None)  # which the guidance refuses there
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
    assert found["min_step"] == found["max_step"] == 615 if name == "sdi" else found["min_step"] < found["max_step"]
    assert all(isinstance(value, int | float) or value.numel() == 1 for value in found.values())
    # SDI is at t = 615 by now: t = -333, 1 and 334 upwards, and the target
    assert found["calls"] == {"vsd": 3, "sdi": 4, "msd-published": 5, "msd": 3}.get(name, 1)


@pytest.mark.parametrize("name", ["sds", "msd-published", "msd"])
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
        return prior.encode(resized(image, (16, 16), antialias=False))

    cached = CachedTarget(
        gradient, space=recipe.space, refresh=1, encode=encode, decode=lambda x: resized(prior.decode(x), (8, 8), antialias=True)
    )
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
    gradient = build_gradient(integration.recipe_of(guidance.cfg), prior, [PROMPTS["front"], PROMPTS["side"]], guidance=101.0)
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


def test_cached_targets_belong_to_their_views(make, prior):
    """A target serves `refresh` steps of one camera, equal up to rounding; a camera that moved makes the target anew, with a warning."""
    utils, guidance = PromptUtils(prior), make(recipe="msd", sampler_steps=3, refresh=2)
    assert [guidance(image(), utils, **cameras())["calls"] for _ in range(3)] == [3, 0, 3]
    nearly = cameras((1e-5, 120.0 + 1e-5))
    assert guidance(image(), utils, **nearly)["calls"] == 0
    assert guidance(image(), utils, **cameras())["calls"] == 3
    with pytest.warns(UserWarning, match="refresh: 1"):
        assert guidance(image(), utils, **cameras((10.0, 130.0)))["calls"] == 3
    assert guidance(image(), utils, **cameras((10.0, 130.0)))["calls"] == 0


def test_a_chain_belongs_to_its_views(make, prior):
    """A chain advances while the camera stays and starts anew when it moves."""
    utils, guidance = PromptUtils(prior), make(recipe="msd-persistent", sampler_steps=3)
    c2w = torch.eye(4).expand(2, 4, 4)
    for step in range(2):
        guidance.update_step(0, step)
        guidance(image(), utils, **cameras(), c2w=c2w * (1 + 1e-6 * step))
    assert guidance.gradient.state_dict()["index"] == 2
    with pytest.warns(UserWarning, match="recipe: msd"):
        guidance(image(), utils, **cameras(), c2w=2 * c2w)
    assert guidance.gradient.state_dict()["index"] == 1


@pytest.mark.parametrize("name", ["vsd", "msd-persistent"])
def test_state(make, prior, name):
    """With keep_state a guidance that loads another's state goes on as that one does."""
    utils = PromptUtils(prior)

    def step(guidance, index):
        guidance.update_step(0, index)
        return float(guidance(image(), utils, **cameras())["grad_norm"])

    settings = {"recipe": name, "loss_name": "vsd", "sampler_steps": 3} | ({"lora_lr": 0.1} if name == "vsd" else {})
    first, second = (make(keep_state=True, **settings) for _ in range(2))
    step(first, 0)
    second.load_state_dict(first.state_dict())
    assert step(first, 1) == step(second, 1) != step(make(**settings), 1)
    assert "loss_vsd" in first(image(), utils, **cameras())
    assert list(first.parameters()) == []


def test_errors(make, prior):
    for config, words in [
        ({"recipe": "ism"}, "recipe 'ism' is unknown"),
        ({"weighting_strategy": "uniform"}, "weighting_strategy 'uniform' is not offered by recipe msd"),
        ({"recipe": "sds", "weighting_strategy": "fantasia3d"}, "choose sds, or uniform with sds"),
        ({"use_img_loss": True}, "space: image"),
        ({"token_merging": True}, "token_merging"),
        ({"recipe": "vsd", "guidance_scale_lora": 7.5}, "guidance_scale_lora: 7.5"),
        ({"recipe": "vsd", "camera_condition_type": "pose"}, "extrinsics or mvp"),
        ({"enable_sdi": False, "recipe": "sdi"}, "recipe: sds"),
        ({"lora_n_timestamp_samples": 2}, "lora_n_timestamp_samples belongs to recipe: vsd"),
        ({"recipe": "vsd", "inversion_eta": 0.3}, "inversion_eta belongs to recipe: sdi"),
        ({"recipe": "msd", "max_step_percent": [0, 0.98, 0.5, 10]}, "max_step_percent is a schedule"),
        ({"recipe": "sds", "max_step_percent": [0, 0.98, 0.5, 10, 3]}, "a schedule is a number or"),
        ({"scale_convention": "diffusers"}, "modeseek or threestudio"),
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


# ---------------------------------------------------------------- threestudio's own blocks, at 28d9d80
STOCK = {
    "vsd": {
        "guidance_scale": 7.5,
        "min_step_percent": 0.02,
        "max_step_percent": [5000, 0.98, 0.5, 5001],
        "sqrt_anneal": False,
        "trainer_max_steps": 25000,
    },
    "sdi": {
        "guidance_scale": 7.5,
        "weighting_strategy": "sds",
        "min_step_percent": 0.25,
        "max_step_percent": 0.98,
        "enable_sdi": True,
        "inversion_guidance_scale": -7.5,
        "inversion_n_steps": 10,
        "inversion_eta": 0.3,
        "t_anneal": True,
        "trainer_max_steps": 10000,
    },
    "sjc": {"guidance_scale": 100.0, "use_sjc": True, "var_red": True, "min_step_percent": 0.01, "max_step_percent": 0.97},
}


def test_a_stock_vsd_block(make, prior, pipeline_folder):
    """t of 20 to 980 up to step 5000 and to 500 from 5001 on; the LoRA is on the second model, and trained at all levels."""
    block = STOCK["vsd"] | {"pretrained_model_name_or_path_lora": str(pipeline_folder("sd2-v")), "camera_condition_type": "extrinsics"}
    guidance = make(recipe="vsd", loss_name="vsd", **block)
    utils, ranges = PromptUtils(prior), []
    c2w = torch.eye(4).expand(2, 4, 4)
    for step in (0, 5000, 5001, 20000):
        guidance.update_step(0, step)
        levels = guidance.gradient.levels.sample(400, rng_of(0, step))
        t = prior.timesteps.timestep(levels).round()
        ranges.append((guidance(image(), utils, **cameras(), c2w=c2w)["max_step"], float(t.max()) > 500, float(t.max()) <= 980))
    assert ranges == [(980, True, True), (980, True, True), (500, False, True), (500, False, True)]
    assert guidance.gradient.prediction == "v"  # of the second model
    assert guidance.gradient.auxiliary._network() is not guidance.prior.pipeline.unet


def test_a_stock_sdi_block(make, prior):
    """t falls from 980 to 250 over the trainer's steps; 12, 7 and 5 calls at t = 980, 500 and 250."""
    guidance = make(**STOCK["sdi"], loss_name="sdi")
    seen = []
    for step in (0, 6576, 10000):
        guidance.update_step(0, step)
        found = guidance(image(), PromptUtils(prior, use_perp_neg=True), **cameras())
        seen.append((found["min_step"], found["calls"]))
    assert seen == [(980, 12), (499, 7), (250, 5)]
    assert guidance.gradient.eta == 0.3
    assert guidance.gradient.inversion.scale == -7.5


def test_a_stock_sjc_block(make, prior):
    """`use_sjc` names the method; without variance reduction the gradient is the other form."""
    guidance = make(**STOCK["sjc"])
    assert guidance.recipe.method == "sjc"
    assert guidance.gradient.variance_reduced
    assert not make(**(STOCK["sjc"] | {"var_red": False})).gradient.variance_reduced
    latent = image(channels=4)
    guidance(latent, PromptUtils(prior), **cameras(), rgb_as_latents=True)["loss_sds"].backward()
    assert latent.grad.isfinite().all()


@pytest.mark.parametrize("perp_neg", [False, True])
def test_threestudios_convention_of_the_scale(make, prior, perp_neg):
    """D_c + s (D_c - D_u) without Perp-Neg; with it both conventions are one."""
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 2.0])
    found = []
    for convention, scale in (("threestudio", 4.0), ("modeseek", 4.0 if perp_neg else 5.0)):
        guidance = make(recipe="sds", guidance_scale=scale, scale_convention=convention)
        guidance(image(), PromptUtils(prior, use_perp_neg=perp_neg), **cameras())
        found.append(guidance.gradient.denoiser(x, sigma))
    torch.testing.assert_close(*found)


def test_perp_neg_at_scale_one(make, prior):
    """The negative prompts act at s = 1 too, where classifier-free guidance alone is an identity."""
    guidance = make(recipe="sds", guidance_scale=1.0)
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 2.0])
    guidance(image(), PromptUtils(prior), **cameras())
    plain = guidance.gradient.denoiser(x, sigma)
    guidance(image(), PromptUtils(prior, use_perp_neg=True), **cameras())
    pushed = guidance.gradient.denoiser(x, sigma)
    assert float((pushed - plain).abs().max()) > 1e-3


def test_schedules():
    """threestudio's C: numbers, three, four and more entries, epochs where the end step is a float."""
    value = integration.config.scheduled
    assert [value(0.02, 3, 7), value([0.5, 0.1, 100], 0, 50), value([100, 1.0, 2.0, 200], 0, 150)] == [0.02, 0.3, 1.5]
    assert value([0, 0.0, 1.0, 4.0], 1, 9999) == 0.25
    chain = [0, 0.0, 1.0, 10, 5.0, 20, 0.0, 40]
    assert [value(chain, 0, step) for step in (0, 5, 10, 15, 20, 30, 40, 99)] == [0.0, 0.5, 1.0, 3.0, 5.0, 2.5, 0.0, 0.0]


def test_gradients_are_clipped_on_schedule(make, prior):
    guidance = make(recipe="sds", grad_clip=[0, 0.5, 2.0, 100])
    for step, limit in ((0, 0.5), (50, 1.25)):
        guidance.update_step(0, step)
        latent = image(channels=4)
        guidance(latent, PromptUtils(prior), **cameras(), rgb_as_latents=True)["loss_sds"].backward()
        assert float(latent.grad.abs().max()) == pytest.approx(limit / 2)  # over the batch


def test_square_root_annealing(make, prior):
    """max - (max - min) sqrt(step / steps)."""
    guidance = make(recipe="sds", sqrt_anneal=True, max_steps=100)
    guidance.update_step(0, 25)
    found = guidance(image(), PromptUtils(prior), **cameras())
    assert found["min_step"] == found["max_step"] == 500


def test_the_loras_camera(make, prior):
    """The embedding of the camera moves the LoRA's answer and is trained; zeroed cameras are the same for all."""
    guidance = make(recipe="vsd", camera_condition_type="extrinsics", lora_lr=0.1)
    utils, c2w = PromptUtils(prior), torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    before = [value.detach().clone() for value in guidance.gradient.auxiliary.embedding.parameters()]
    guidance(image(), utils, **cameras(), c2w=c2w)
    assert any(not torch.equal(old, new) for old, new in zip(before, guidance.gradient.auxiliary.embedding.parameters(), strict=True))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(2, 4, 8, 8)
    guidance.moment.plain = guidance.moment.plain[:1].expand_as(guidance.moment.plain)

    def apart():
        with torch.no_grad():
            first, second = guidance.gradient.auxiliary(x, torch.tensor(1.0))
        return float((first - second).abs().max())

    assert apart() > 1e-4
    guidance.moment.without_cameras = True
    assert apart() < 1e-6
    with pytest.raises(InvalidInput, match="needs c2w in the batch"):
        guidance(image(), utils, **cameras())


def test_validation_images(make, prior):
    """What prolificdreamer-, sdi-, sjc- and latentnerf-system ask for in validation; none of it moves the training."""
    utils, c2w = PromptUtils(prior), torch.eye(4).expand(2, 4, 4)
    guidance = make(recipe="vsd", camera_condition_type="extrinsics", loss_name="vsd")
    guidance(image(), utils, **cameras(), c2w=c2w)
    for images in (guidance.sample(utils, **cameras(), c2w=c2w, seed=3), guidance.sample_lora(utils, **cameras(), c2w=c2w)):
        assert images.shape == (2, 16, 16, 3)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert make(recipe="msd", sampler_steps=3).sample_lora(utils, **cameras()).shape == (2, 16, 16, 3)
    for name in ("sdi", "sds", "vsd", "msd"):
        guidance = make(recipe=name, sampler_steps=3)
        norms = []
        for shown in (False, True):
            guidance.update_step(0, 1)
            if shown:
                info = guidance(image(), utils, **cameras(), test_info=True, rgb_as_latents=False)
                assert [info[key].shape for key in ("target", "noisy_img", "noise_img")] == [(8, 8, 3)] * 3
                assert info["target_latent"].shape == info["noise_pred"].shape == (2, 4, 8, 8)
            again = make(recipe=name, sampler_steps=3)
            again.update_step(0, 1)
            norms.append(float((guidance if shown else again)(image(), utils, **cameras())["grad_norm"]))
        assert norms[0] == norms[1]
    latents = torch.randn(1, 4, 8, 8)
    assert guidance.decode_latents(latents).shape == (1, 3, 16, 16)
    assert guidance.decode_latents(latents, latent_height=16, latent_width=12).shape == (1, 3, 32, 24)


def test_a_checkpoint_without_state(make, prior):
    """Loaded strictly, with a warning, and the guidance starts anew."""
    guidance = make(recipe="vsd", keep_state=True)
    state = guidance.state_dict()
    with pytest.warns(UserWarning, match="no state of the guidance"):
        make(recipe="vsd", keep_state=True).load_state_dict({})
    assert list(state) == ["kept._extra_state"]
    make(recipe="vsd", keep_state=True).load_state_dict(state)


PROCESSES = """
import sys, torch, torch.distributed as dist
from modeseek import VSD
from modeseek.integrations.threestudio.state import average_over_processes
from modeseek.priors import EnergyNet
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
vsd = VSD(denoiser=lambda x, s: x, auxiliary=EnergyNet(8), average=average_over_processes if sys.argv[3] == "1" else None)
for step in range(3):
    rng = torch.Generator().manual_seed(10 * rank + step)
    vsd.adapt(torch.randn(16, 2, generator=rng), rng)
print(sum(float(value.detach().double().abs().sum()) for value in vsd.auxiliary.parameters()))
"""


@pytest.mark.slow
def test_loras_of_processes_stay_equal(tmp_path):
    """Two processes with other renders and other noise end at one network; without averaging they do not."""
    ends = []
    for averaged in ("1", "0"):
        command = [sys.executable, "-c", PROCESSES]
        runs = [
            subprocess.Popen([*command, str(rank), str(tmp_path / averaged), averaged], stdout=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        ends.append([run.communicate(timeout=120)[0] for run in runs])
    assert ends[0][0] == ends[0][1] != ""
    assert ends[1][0] != ends[1][1]


def test_levels_stay_at_their_last_value_where_the_trainer_runs_longer(make):
    guidance = make(recipe="sdi", sampler_steps=3, min_step_percent=0.25, max_step_percent=0.98)
    found = []
    for step in (4, 5, 40):
        guidance.update_step(0, step)
        found.append(guidance._timesteps())
    assert found == [(250, 250)] * 3


def test_the_published_scale_of_sds_is_in_the_packages_convention(make):
    """101 in D_u + s (D_c - D_u) is threestudio's 100; a stated scale is converted."""
    guidance = make(recipe="sds", scale_convention="threestudio")
    assert guidance.gradient.denoiser.extra == 0
    assert make(recipe="sds", scale_convention="threestudio", guidance_scale=100.0).gradient.denoiser.extra == 1
    with pytest.raises(InvalidInput, match="guidance_scale, which is 0"):
        make(recipe="sdi", guidance_scale=0.0, inversion_guidance_scale=-7.5)
