"""Pre-trained pipelines as priors: D is the pipeline's own, the image's gradient is right, what goes wrong is said in one line."""

import dataclasses
import json
import shutil
import warnings
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from modeseek import VSD, Guided, InvalidInput, NoiseLevels, OutOfMemory, PromptCut, WeightsError
from modeseek.core.sampling import ddim
from modeseek.priors import load_prior
from modeseek.priors.pipelines.levels import read_scheduler
from modeseek.priors.pipelines.loading import has_bfloat16

PROMPTS = ["a red cube", "photo of a blue sphere"]
TEXT = ["sd1", "sd2-v", "sdxl", "sd3", "sd3-t5", "flux", "flux-schnell"]
MORE = ["lcm", "edm", "edm-v"]
EVERY = [
    *TEXT,
    "sd2-zero-snr",
    "pixels",
    "pixels-grey",
    "pixel-classes",
    "dit",
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE),
]


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    """`prior(family, **settings)`, loaded once."""

    def load(family, **settings):
        size = {"image_size": (16, 16)} if "flux" in family else {}
        return load_prior(pipeline_folder(family), **size, **settings)

    return cache(load)


def prompts_for(family):
    named = {"pixels": ["", ""], "pixels-grey": ["", ""], "pixel-classes": ["1", "3"], "dit": ["goldfish", "4"]}
    return named.get(family, PROMPTS)


def denoiser_for(prior, family, guidance=3.0, **settings):
    negative = {"negative": "0"} if family == "pixel-classes" else {}
    return prior.denoiser(prompts_for(family), guidance=guidance, **(negative | settings))


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network_calls(prior):
    """A list that grows by the batch size of each call of the prior's network."""
    batches = []
    prior.family.network.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(len(kwargs.get("hidden_states", args[0] if args else ()))), with_kwargs=True
    )
    return batches


# ---------------------------------------------------------------- the contract
@pytest.mark.parametrize("family", EVERY)
def test_contract(prior, family, record_property):
    found = prior(family)
    assert found.image_size == (16, 16)
    assert found.event == ((1 if "grey" in family else 3, 16, 16) if "pixel" in family else (4, 8, 8))
    assert 0 < found.sigmas[0] < 0.1 < 10 < found.sigmas[1] < 3000
    assert not any(weight.requires_grad or weight.grad is not None for weight in found.family.network.parameters())
    assert not found.family.network.training
    x = noise(2, *found.event).requires_grad_()
    denoised = denoiser_for(found, family)(x, torch.tensor([0.5, 4.0]))
    assert denoised.shape == x.shape
    assert denoised.dtype == x.dtype
    assert not denoised.requires_grad
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert found.encode(image).shape == x.shape
    assert found.decode(found.encode(image)).shape == image.shape
    record_property("supports", f"{family}: folder")


@pytest.mark.parametrize("family", EVERY)
def test_a_level_an_item_and_copies_of_the_batch(prior, family):
    """Each item is evaluated at its own level with its own prompt; copies of the batch follow one another."""
    found = prior(family)
    denoiser, one_prompt = denoiser_for(found, family), []
    x, sigma = noise(4, *found.event), torch.tensor([0.3, 2.0, 5.0, 0.7])
    for item in range(4):
        own = prompts_for(family)[item % 2]
        negative = {"negative": "0"} if family == "pixel-classes" else {}
        one_prompt.append(found.denoiser([own], guidance=3.0, **negative)(x[item : item + 1], sigma[item]))
    assert_close(denoiser(x, sigma), torch.cat(one_prompt), rtol=1e-4, atol=1e-4)


def test_a_batch_that_is_no_multiple_of_the_prompts(prior):
    found = prior("sd1")
    with pytest.raises(InvalidInput, match="3 items for 2 prompts"):
        denoiser_for(found, "sd1")(noise(3, *found.event), torch.tensor(1.0))
    with pytest.raises(InvalidInput, match="this prior's x is"):
        denoiser_for(found, "sd1")(noise(2, 4, 8, 9), torch.tensor(1.0))


# ---------------------------------------------------------------- against diffusers' own loops
def discrete_levels(scheduler):
    """sigma at the scheduler's timesteps and at its end, and alphabar at both ends."""
    alphas = [scheduler.alphas_cumprod[t].double() for t in scheduler.timesteps] + [scheduler.final_alpha_cumprod.double()]
    return torch.stack([((1 - a) / a).sqrt() for a in alphas]), alphas[0].sqrt(), alphas[-1].sqrt()


@pytest.mark.parametrize("negative", ["", "photo of"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl"])
def test_ddim_is_the_pipelines_own(prior, family, spacing, negative):
    """Euler in sigma on our D and diffusers' DDIM loop on z = a x end at the same latents, guidance included."""
    found = prior(family)
    pipe = found.pipeline
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing=spacing)
    z = noise(2, *found.event)
    settings = {"guidance_scale": 4.0, "num_inference_steps": 8, "latents": z, "output_type": "latent"}
    theirs = pipe(PROMPTS, negative_prompt=[negative] * 2 if negative or family != "sdxl" else None, **settings).images
    levels, first, last = discrete_levels(pipe.scheduler)
    ours = ddim(found.denoiser(PROMPTS, guidance=4.0, negative=negative or None), z / first, levels) * last
    assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["sd3", "sd3-t5", "flux", "flux-schnell"])
def test_flow_sampling_is_the_pipelines_own(prior, family):
    found = prior(family)
    pipe = found.pipeline
    pipe.set_progress_bar_config(disable=True)
    z = noise(2, *found.event)
    settings = {"sigmas": [0.95, 0.7, 0.4, 0.2], "num_inference_steps": 4, "output_type": "latent", "height": 16, "width": 16}
    if family.startswith("sd3"):
        theirs = pipe(PROMPTS, negative_prompt=["photo of"] * 2, guidance_scale=4.0, latents=z, **settings).images
    else:
        guided = {"guidance_scale": 4.0} if family == "flux" else {"true_cfg_scale": 4.0, "negative_prompt": ["photo of"] * 2}
        packed = pipe._pack_latents(z, 2, *found.event)
        length = {"max_sequence_length": 512 if family == "flux" else 256}
        theirs = pipe._unpack_latents(pipe(PROMPTS, latents=packed, **guided, **length, **settings).images, 16, 16, pipe.vae_scale_factor)
    t = pipe.scheduler.sigmas.double()
    denoiser = found.denoiser(PROMPTS, guidance=4.0, negative=None if family == "flux" else "photo of")
    ours = ddim(denoiser, z / (1 - t[0]), t / (1 - t))
    assert_close(ours, theirs, rtol=0, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("family", ["pixels", "pixels-grey"])
def test_pixel_sampling_is_the_schedulers_own(prior, family):
    """The loop of DDIMPipeline, which has no way to see the image before it is clamped."""
    found = prior(family)
    scheduler = found.pipeline.scheduler
    scheduler.set_timesteps(8)
    theirs = z = noise(2, *found.event)
    for t in scheduler.timesteps:
        theirs = scheduler.step(found.pipeline.unet(theirs, t).sample.detach(), t, theirs).prev_sample
    levels, first, last = discrete_levels(scheduler)
    ours = ddim(denoiser_for(found, family), z / first, levels) * last
    assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_class_sampling_is_the_pipelines_own(prior):
    found = prior("dit")
    pipe = found.pipeline
    pipe.set_progress_bar_config(disable=True)
    z = noise(2, *found.event, seed=5)
    settings = {"generator": torch.Generator().manual_seed(5), "num_inference_steps": 8, "output_type": "pt"}
    theirs = pipe(class_labels=[1, 4], guidance_scale=3.0, **settings).images
    levels, first, last = discrete_levels(pipe.scheduler)
    ours = found.decode(ddim(found.denoiser(["goldfish", "4"], guidance=3.0), z / first, levels) * last)
    assert float(((ours > 0) & (ours < 1)).float().mean()) > 0.5  # the comparison is of images, not of clamped walls
    assert_close(ours.clamp(0, 1), theirs, rtol=0, atol=1e-4)


def test_class_conditional_pixels_are_the_networks_own(prior):
    """One DDPM prediction, by hand: eps of class 3 at an integer t."""
    found = prior("pixel-classes")
    alpha = found.pipeline.scheduler.alphas_cumprod[400].double()
    sigma = ((1 - alpha) / alpha).sqrt().float()
    x = noise(2, *found.event)
    eps = found.pipeline.unet(x * alpha.sqrt().float(), 400, class_labels=torch.tensor([3, 0])).sample
    assert_close(found.denoiser(["3", "0"], guidance=1.0)(x, sigma), (x - sigma * eps).detach(), rtol=1e-4, atol=1e-4)


def test_zero_terminal_snr(prior):
    """The level of pure noise is dropped; near it D is still a z - b v."""
    found = prior("sd2-zero-snr")
    alphas = found.pipeline.scheduler.alphas_cumprod
    assert alphas[-1] == 0
    assert found.sigmas[1] == pytest.approx(float(((1 - alphas[-2].double()) / alphas[-2].double()).sqrt()))
    x = noise(2, *found.event) * found.sigmas[1]
    tokens, _ = found.pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    a, b = alphas[-2].sqrt(), (1 - alphas[-2]).sqrt()
    expected = a * (a * x) - b * found.pipeline.unet(a * x, len(alphas) - 2, tokens).sample
    assert_close(found.denoiser(PROMPTS, guidance=1.0)(x, torch.tensor(found.sigmas[1])), expected.detach(), rtol=1e-4, atol=1e-4)
    assert found.denoiser(PROMPTS)(x, torch.tensor(1e5)).isfinite().all()


# ---------------------------------------------------------------- views
class Converted:
    """The same network, its eps written as another prediction by the definitions of the table in `modeseek.core.denoiser`."""

    def __init__(self, family, alphas, kind):
        self.family, self.alphas, self.kind = family, alphas, kind

    def __getattr__(self, name):
        return getattr(self.family, name)

    flow_time = 1.0

    def predict(self, z, t, conditions):
        if self.kind == "flow":
            sigma = t / (1 - t)
            levels = ((1 - self.alphas) / self.alphas).sqrt()
            step = (levels - sigma[:, None].double()).abs().argmin(1)
        else:
            step = t.round().long()
        a, b = (value[step].reshape(-1, 1, 1, 1).to(z) for value in (self.alphas.sqrt(), (1 - self.alphas).sqrt()))
        if self.kind == "flow":
            t = t.reshape(-1, 1, 1, 1)
            n = self.family.predict(z / (1 - t) * a, step.to(z), conditions)
            return n - (z - t * n) / (1 - t)
        n = self.family.predict(z, t, conditions)
        y = (z - b * n) / a
        return a * n - b * y if self.kind == "v" else y


@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_one_network_written_in_every_prediction_gives_one_denoiser(prior, kind):
    found = prior("sd1", dtype="float64")
    scheduler = found.pipeline.scheduler
    alphas = scheduler.alphas_cumprod.double()
    levels = read_scheduler(scheduler, prediction=kind)
    converted = dataclasses.replace(found, family=Converted(found.family, alphas, kind), levels=levels)
    sigma = ((1 - alphas) / alphas).sqrt()[torch.tensor([100, 850])]
    x = noise(2, *found.event, dtype=torch.float64)
    assert_close(converted.denoiser(PROMPTS, guidance=3.0)(x, sigma), found.denoiser(PROMPTS, guidance=3.0)(x, sigma), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- guidance
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "dit"])
def test_guidance_in_one_call_is_guidance_in_two(prior, family):
    found = prior(family)
    negative = "2" if family == "dit" else "photo"
    strong, weak = denoiser_for(found, family, guidance=1.0), found.denoiser([negative] * 2, guidance=1.0)
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 5.0])
    interval = (0.1, 2.0)
    two = Guided(denoiser=strong, weaker=weak, scale=4.0, interval=interval)
    one = denoiser_for(found, family, guidance=4.0, negative=negative, interval=interval)
    assert_close(one(x, sigma), two(x, sigma), rtol=1e-4, atol=1e-4)
    assert float((one(x, sigma) - strong(x, sigma))[0].abs().max()) > 1e-3
    assert_close(one(x, sigma)[1], strong(x, sigma)[1], rtol=1e-4, atol=1e-4)


def test_one_network_call_on_both_halves_or_on_one(pipeline_folder):
    found = load_prior(pipeline_folder("sd1"))
    batches = network_calls(found)
    x = noise(2, *found.event)
    denoiser = found.denoiser(PROMPTS, guidance=4.0, interval=(0.1, 2.0))
    denoiser(x, torch.tensor([0.5, 5.0]))
    denoiser(x, torch.tensor(5.0))
    found.denoiser(PROMPTS, guidance=1.0)(x, torch.tensor(0.5))
    assert batches == [4, 2, 2]


def test_distilled_guidance_is_an_input(pipeline_folder):
    found = load_prior(pipeline_folder("flux"), image_size=(16, 16))
    batches = network_calls(found)
    x = noise(2, *found.event)
    low, high = (found.denoiser(PROMPTS, guidance=scale)(x, torch.tensor(1.0)) for scale in (1.0, 7.0))
    assert batches == [2, 2]
    assert float((low - high).abs().max()) > 1e-3
    for setting in ({"negative": "photo"}, {"interval": (0.0, 1.0)}):
        with pytest.raises(InvalidInput, match="distilled"):
            found.denoiser(PROMPTS, **setting)


def test_third_text_encoder_left_out(prior, pipeline_folder):
    found = load_prior(pipeline_folder("sd3-t5"), t5=False)
    assert found.pipeline.text_encoder_3 is None
    tokens = found.family.conditions(PROMPTS)["tokens"]
    assert float(tokens[:, -256:].abs().max()) == 0
    with pytest.raises(InvalidInput, match="t5=False"):
        load_prior(pipeline_folder("sd1"), t5=False)


# ---------------------------------------------------------------- images
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "pixels", "pixels-grey"])
def test_gradient_through_the_encoder_equals_finite_differences(prior, family):
    found = prior(family, dtype="float64")
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    weight, direction = noise(1, *found.event, dtype=torch.float64), noise(1, 3, 16, 16, seed=3, dtype=torch.float64)
    (found.encode(image) * weight).sum().backward()
    step = 1e-5
    with torch.no_grad():
        ahead, behind = ((found.encode(image + sign * step * direction) * weight).sum() for sign in (1, -1))
    slope = float((image.grad * direction).sum())
    assert slope == pytest.approx(float((ahead - behind) / (2 * step)), rel=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_posterior(prior, family):
    """A draw has the posterior's mean and spread; x is the shifted and scaled latent; decode undoes that."""
    found = prior(family)
    vae, count = found.pipeline.vae, 400
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    posterior = vae.encode(2 * image - 1).latent_dist
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    mean = found.encode(image)
    assert_close(mean, (posterior.mean - shift) * scale)
    draws = torch.cat([found.encode(image.expand(100, -1, -1, -1), rng=torch.Generator().manual_seed(seed)) for seed in range(4)])
    error = posterior.std * scale / count**0.5
    assert float(((draws.mean(0) - mean) / error).abs().max()) < 4.5
    assert float((draws.std(0) / (posterior.std * scale)).mean()) == pytest.approx(1, abs=0.02)
    assert_close(found.decode(mean), vae.decode(posterior.mean).sample / 2 + 0.5, rtol=1e-4, atol=1e-4)


def test_grey_images(prior):
    found = prior("pixels-grey")
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert_close(found.decode(found.encode(image)), image.mean(1, keepdim=True).expand_as(image))


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_low_precision_networks_leave_x_alone(prior):
    """bfloat16 networks and a float32 autoencoder: x and images stay float32, and D is the float32 one to bfloat16's digits."""
    found = prior("sdxl", dtype="bfloat16", vae_dtype="float32")
    assert found.pipeline.unet.dtype == found.pipeline.text_encoder.dtype == torch.bfloat16
    assert found.pipeline.vae.dtype == torch.float32
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    reference = prior("sdxl").denoiser(PROMPTS, guidance=1.0)(x, sigma)
    assert_close(found.denoiser(PROMPTS, guidance=1.0)(x, sigma), reference, rtol=0.1, atol=0.1)
    assert prior("sdxl", dtype="float16").pipeline.vae.dtype == torch.float32  # it says force_upcast
    assert prior("sd1", dtype="bfloat16").encode(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_emulated_bfloat16_is_said(pipeline_folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False}, raising=False)
    with pytest.warns(UserWarning, match="no bfloat16 arithmetic"):
        load_prior(pipeline_folder("sd1"), dtype="bfloat16")
    assert has_bfloat16(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    load_prior(pipeline_folder("sd1"), dtype="bfloat16")


def test_another_size(pipeline_folder):
    found = load_prior(pipeline_folder("sd1"), image_size=(24, 16))
    assert found.event == (4, 12, 8)
    assert found.denoiser(["a cube"])(noise(1, *found.event), torch.tensor(1.0)).shape == (1, 4, 12, 8)
    with pytest.raises(InvalidInput, match="multiples of 2"):
        load_prior(pipeline_folder("sd1"), image_size=(15, 16))
    with pytest.raises(InvalidInput, match="one size"):
        load_prior(pipeline_folder("dit"), image_size=(32, 32))
    with pytest.raises(InvalidInput, match="encodes images"):
        found.encode(torch.rand(1, 3, 16, 16))


# ---------------------------------------------------------------- the auxiliary network of VSD
@pytest.mark.parametrize("family", EVERY)
def test_auxiliary_starts_as_the_prior_and_learns_alone(pipeline_folder, family, record_property):
    found = load_prior(pipeline_folder(family), **({"image_size": (16, 16)} if "flux" in family else {}))
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    conditional = denoiser_for(found, family, guidance=1.0)
    guided = denoiser_for(found, family, guidance=3.0)
    before, guided_before = conditional(x, sigma), guided(x, sigma)
    auxiliary = found.auxiliary(prompts_for(family), rank=2, seed=3)
    assert torch.equal(auxiliary(x, sigma), before)
    weights = {name: weight.clone() for name, weight in found.family.network.state_dict().items() if "lora_" not in name}
    vsd = VSD(denoiser=conditional, auxiliary=auxiliary, levels=NoiseLevels(low=0.2, high=2.0), learning_rate=1e-2, adapt_steps=3)
    rng = torch.Generator().manual_seed(0)
    assert float(vsd(x, progress=0.0, rng=rng).gradient.abs().max()) == 0
    vsd.adapt(x, rng)
    assert float((auxiliary(x, sigma) - before).detach().abs().max()) > 1e-4
    assert float(vsd(x, progress=0.0, rng=rng).gradient.abs().max()) > 1e-4
    assert torch.equal(conditional(x, sigma), before)
    assert torch.equal(guided(x, sigma), guided_before)
    assert all(torch.equal(found.family.network.state_dict()[name], weight) for name, weight in weights.items())
    assert all(weight.grad is None for name, weight in found.family.network.named_parameters() if "lora_" not in name)
    record_property("supports", f"{family}: VSD")


def test_auxiliary_state(pipeline_folder):
    """Only the adapter is saved; another one takes it over; two of them on one network do not meet."""
    found = load_prior(pipeline_folder("sd1"))
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    first, second = found.auxiliary(PROMPTS, seed=1), found.auxiliary(PROMPTS, seed=2)
    base = sum(weight.numel() for name, weight in found.pipeline.unet.named_parameters() if "lora_" not in name)
    assert sum(weight.numel() for weight in first.parameters()) < 0.1 * base
    assert all(weight.requires_grad for weight in [*first.parameters(), *second.parameters()])
    again, random = found.auxiliary(PROMPTS, seed=1).state_dict(), second.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in first.state_dict().items())
    assert not any(torch.equal(random[name], weight) for name, weight in first.state_dict().items() if name.endswith("A"))
    VSD(denoiser=found.denoiser(PROMPTS), auxiliary=first, learning_rate=1e-2).adapt(x, torch.Generator().manual_seed(0))
    assert not torch.equal(first(x, sigma), second(x, sigma))
    assert torch.equal(second(x, sigma), found.denoiser(PROMPTS, guidance=1.0)(x, sigma))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, sigma), second(x, sigma))
    with pytest.raises(InvalidInput, match="rank"):
        found.auxiliary(PROMPTS, rank=0)


def test_auxiliary_leaves_the_random_state_and_other_adapters_alone(pipeline_folder):
    from peft import LoraConfig

    found = load_prior(pipeline_folder("sd1"))
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    found.pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name="theirs")
    before, state = found.denoiser(PROMPTS)(x, sigma), torch.get_rng_state()
    auxiliary = found.auxiliary(PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.denoiser(PROMPTS)(x, sigma), before)
    assert torch.equal(auxiliary(x, sigma), found.denoiser(PROMPTS, guidance=1.0)(x, sigma))
    assert torch.equal(found.denoiser(PROMPTS)(x, sigma), before)


# ---------------------------------------------------------------- prompts
def test_empty_and_misplaced_prompts(prior):
    for prompts in (["a cube", ""], [" "], [], "a cube"):
        with pytest.raises(InvalidInput, match="prompt"):
            prior("sd1").denoiser(prompts)
    with pytest.raises(InvalidInput, match="unconditional"):
        prior("pixels").denoiser(["a cube"])
    with pytest.raises(InvalidInput, match="no negative prompt"):
        prior("pixels").denoiser([""], negative="a cube")
    with pytest.raises(InvalidInput, match="lo < hi"):
        prior("sd1").denoiser(PROMPTS, guidance=1.0, interval=(2.0, 1.0))
    with pytest.raises(InvalidInput, match="from 0 to 4"):
        prior("pixel-classes").denoiser(["5"])
    with pytest.raises(InvalidInput, match="goldfish"):
        prior("dit").denoiser(["a cube"])
    with pytest.raises(InvalidInput, match="guidance=1"):
        prior("pixel-classes").denoiser(["1"], guidance=3.0)


@pytest.mark.parametrize("family", TEXT)
def test_what_a_long_prompt_loses_is_said(prior, family):
    long = "a red cube on a blue sphere on a red cube on a red sphere"
    with pytest.warns(PromptCut, match=r"reads 12 of the 17 tokens.*cut: 'cube on a red sphere'"):
        prior(family).denoiser([long], guidance=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior(family).denoiser(["a red cube"], guidance=1.0)


# ---------------------------------------------------------------- what goes wrong
@pytest.fixture
def broken(pipeline_folder, tmp_path):
    """A copy of the tiny Stable Diffusion to spoil."""
    return shutil.copytree(pipeline_folder("sd1"), tmp_path / "broken")


def test_no_pipeline(tmp_path, broken):
    with pytest.raises(InvalidInput, match=r"no model_index\.json"):
        load_prior(tmp_path)
    with pytest.raises(InvalidInput, match="is a file"):
        load_prior(broken / "model_index.json")
    with pytest.raises(InvalidInput, match="there is no folder"):
        load_prior(tmp_path / "nowhere")
    (broken / "model_index.json").write_text("{")
    with pytest.raises(InvalidInput, match="not readable"):
        load_prior(broken)
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "WuerstchenPipeline"}))
    with pytest.raises(
        InvalidInput, match=r"WuerstchenPipeline, which is not supported; supported are StableDiffusionPipeline, .*FluxPipeline"
    ):
        load_prior(broken)


def test_code_of_others_is_not_run(broken):
    index = json.loads((broken / "model_index.json").read_text())
    index["unet"] = ["their_library", "TheirUNet"]
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match="code of others"):
        load_prior(broken)


@pytest.mark.parametrize(
    ("part", "file"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model"), ("vae", "diffusion_pytorch_model")]
)
def test_spoiled_weights(broken, part, file):
    path = broken / part / f"{file}.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=f"lack 1 tensors .*{name}"):
        load_prior(broken)
    save_file(tensors | {name: torch.zeros(3, 5)}, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="do not load"):
        load_prior(broken)
    save_file(tensors, path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="do not load"):
        load_prior(broken)
    path.rename(path.with_name(f"{file}.fp16.safetensors"))
    with pytest.raises(WeightsError, match="variant='fp16'"):
        load_prior(broken)
    path.with_name(f"{file}.fp16.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights"):
        load_prior(broken)
    torch.save(tensors, broken / part / f"{file}.bin")
    with pytest.raises(WeightsError, match="pickled"):
        load_prior(broken)
    (broken / part / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config.json"):
        load_prior(broken)


def test_variant(broken, prior):
    for path in broken.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    found = load_prior(broken, variant="fp16")
    x = noise(2, *found.event)
    assert_close(found.denoiser(PROMPTS)(x, torch.tensor(1.0)), prior("sd1").denoiser(PROMPTS)(x, torch.tensor(1.0)))


def test_missing_tokenizer(broken):
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(WeightsError, match="tokenizer is missing"):
        load_prior(broken)


def test_missing_scheduler(broken):
    (broken / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(WeightsError, match="does not make a StableDiffusionPipeline"):
        load_prior(broken)
    shutil.rmtree(broken / "scheduler")
    with pytest.raises(WeightsError, match="scheduler is missing"):
        load_prior(broken)


def test_a_model_that_is_not_on_disk(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"someone/model is not on disk.*download=True, --download.*hf download someone/model"):
        load_prior("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        load_prior("someone/model", download=True)


def test_a_model_in_the_hubs_cache(tmp_path, monkeypatch, pipeline_folder, prior):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--model"
    shutil.copytree(pipeline_folder("sd1"), repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    found = load_prior("someone/model")
    x = noise(2, *found.event)
    assert_close(found.denoiser(PROMPTS)(x, torch.tensor(1.0)), prior("sd1").denoiser(PROMPTS)(x, torch.tensor(1.0)))


def test_a_download_that_fails(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    def unreachable(*args, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(no route to host\)"):
        load_prior("someone/model", download=True)


@pytest.mark.parametrize("name", ["2", "2-base", "2-1", "2-1-base"])
@pytest.mark.parametrize("download", [True, False])
def test_models_taken_off_the_hub(name, download, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidInput, match=f"sd2-community/stable-diffusion-{name}: give that id if you trust it"):
        load_prior(f"stabilityai/stable-diffusion-{name}", download=download)


def test_settings_that_do_not_exist(pipeline_folder):
    folder = pipeline_folder("sd1")
    with pytest.raises(InvalidInput, match="dtype 'int8'"):
        load_prior(folder, dtype="int8")
    with pytest.raises(InvalidInput, match="device 'gpu'"):
        load_prior(folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="device cuda is not there"):
            load_prior(folder, device="cuda")
    with pytest.raises(InvalidInput, match="no autoencoder"):
        load_prior(pipeline_folder("pixels"), vae_dtype="float32")


def test_schedulers_of_another_kind_are_refused(pipeline_folder):
    """A flow's scheduler in a UNet of discrete timesteps is a flow of t in 1000; a table of alphas in SD 3 has no meaning."""
    found = load_prior(pipeline_folder("sd3"))
    found.pipeline.scheduler = load_prior(pipeline_folder("sd1")).pipeline.scheduler
    with pytest.raises(InvalidInput, match="DDIMScheduler states discrete noise levels"):
        found.denoiser(PROMPTS)(noise(2, *found.event), torch.tensor(1.0))


def test_out_of_memory(pipeline_folder):
    found = load_prior(pipeline_folder("sd1"))

    def full(*args, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    found.pipeline.unet.forward = full
    with pytest.raises(OutOfMemory, match=r"network call on 4 items.*enable_attention_slicing"):
        found.denoiser(PROMPTS)(noise(2, *found.event), torch.tensor(1.0))
    found.pipeline.vae.encoder.forward = full
    with pytest.raises(OutOfMemory, match="encoding 1 images"):
        found.encode(torch.rand(1, 3, 16, 16))
