"""Families of pipelines with one text encoder, ControlNet and DeepFloyd IF: D is that of the pipeline's own sampler."""

import dataclasses
import itertools
import warnings
from functools import cache

import pytest
import tiny
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny import diffusers
from torch.testing import assert_close

from modeseek import VSD, GuidedPair, InvalidInput, NoiseLevels, PromptCut
from modeseek.core.denoiser import eps
from modeseek.core.sampling import ddim
from modeseek.priors import PromptEmbeds, load_prior

PROMPTS = ["a red cube", "photo of a blue sphere"]
NEGATIVE = "photo"
DISCRETE = ["pixart-alpha", "pixart-alpha-1024", "pixart-sigma", "deepfloyd-if"]
FLOW = ["sana", "auraflow", "qwen-image", "z-image", "chroma", "flux2", "flux2-klein"]
FAMILIES = [*DISCRETE, *FLOW, "sd1-controlnet"]
QUICK = ["pixart-alpha", "z-image"]  # one of each kind in `make test`, all of them in `make check`
each_family = pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    """`prior(family)`, loaded once; ControlNet with a control image for each prompt."""

    def load(family, **settings):
        found = load_prior(pipeline_folder(family), image_size=(16, 16), **settings)
        found.pipeline.set_progress_bar_config(disable=True)
        return found.with_settings(control_image=control(), control_scale=0.7) if family == "sd1-controlnet" else found

    return cache(load)


def control():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@each_family
def test_contract(prior, family):
    """Shapes, one level per item, frozen weights, prompts that matter, and items that do not depend on their neighbours."""
    found = prior(family)
    assert not any(weight.requires_grad for weight in found.family.network.parameters())
    x, sigma = noise(4, *found.event), torch.tensor([0.3, 2.0, 5.0, 0.7])
    denoiser = found.denoiser(PROMPTS, guidance=3.0)
    together = denoiser(x, sigma)
    assert together.shape == x.shape
    assert float((together - found.denoiser(PROMPTS[::-1], guidance=3.0)(x, sigma)).abs().max()) > 1e-4
    if family != "sd1-controlnet":  # its images belong to a batch of two
        alone = torch.cat([found.denoiser([PROMPTS[k % 2]], guidance=3.0)(x[k : k + 1], sigma[k]) for k in range(4)])
        assert_close(together, alone, rtol=1e-4, atol=1e-4)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert found.encode(image).shape == (2, *found.event)
    assert found.decode(found.encode(image)).shape == image.shape


# ---------------------------------------------------------------- against the pipelines' own loops
def run(found, family, z, *, guided, output="latent"):
    """What the pipeline's own sampler makes of the noise z."""
    pipe, scale = found.pipeline, 4.0 if guided else 1.0
    settings = {"latents": z, "height": 16, "width": 16, "output_type": output, "num_inference_steps": 4, "guidance_scale": scale}
    if family in FLOW:
        settings["sigmas"] = [0.95, 0.7, 0.4, 0.2]
    if family.startswith("pixart") or family == "sana":
        settings["use_resolution_binning"] = False
    if guided and family == "flux2-klein":
        settings["negative_prompt_embeds"] = pipe.encode_prompt([NEGATIVE] * 2)[0]
    elif guided and family != "flux2":
        settings["negative_prompt"] = [NEGATIVE] * 2
    if family in ("qwen-image", "chroma"):
        settings["latents"] = pipe._pack_latents(z, 2, *found.event)
    settings |= {
        "sana": {"height": 32, "width": 32},  # only checked where latents are given
        "qwen-image": {"guidance_scale": None, "true_cfg_scale": scale},
        "z-image": {"guidance_scale": scale - 1},
        "sd1-controlnet": {"image": control(), "controlnet_conditioning_scale": 0.7},
        "deepfloyd-if": {"generator": torch.Generator().manual_seed(1), "output_type": "pt"},
    }.get(family, {})
    if family == "deepfloyd-if":  # takes no noise: the generator makes z
        del settings["latents"], settings["height"], settings["width"]
    return pipe(prompt=list(PROMPTS), **settings).images


def as_x(found, family, latents):
    """Latents that a pipeline returns, in the shape and the scale of x."""
    pipe = found.pipeline
    if family in ("qwen-image", "chroma"):
        return pipe._unpack_latents(latents, 16, 16, pipe.vae_scale_factor).reshape(2, *found.event)
    if family == "flux2":
        return latents.transpose(1, 2).reshape(2, *found.event)
    if family == "flux2-klein":  # it undoes the normalisation
        mean, variance = pipe.vae.bn.running_mean.reshape(-1, 1, 1), pipe.vae.bn.running_var.reshape(-1, 1, 1)
        return (pipe._patchify_latents(latents) - mean) / (variance + pipe.vae.config.batch_norm_eps).sqrt()
    return latents


def use_ddim(found, family):
    """For diffusion models, the multistep solver at order 1, which is DDIM, on the levels of their own scheduler."""
    if family not in FLOW:
        settings = {"solver_order": 1, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "thresholding": False}
        found.pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(found.pipeline.scheduler.config, **settings)


def sample(found, family, z, *, guided):
    """Euler in sigma on D, at the levels of the pipeline's last run."""
    levels = found.pipeline.scheduler.sigmas.double()
    denoiser = found.denoiser(PROMPTS, guidance=4.0 if guided else 1.0, negative=NEGATIVE if guided and family != "flux2" else "")
    if family in FLOW:
        return ddim(denoiser, z / (1 - levels[0]), levels / (1 - levels))
    return ddim(denoiser, z * (1 + levels[0] ** 2).sqrt(), levels)


@each_family
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the multistep solver
@pytest.mark.parametrize("guided", [False, True])
def test_sampling_is_the_pipelines_own(prior, family, guided):
    """The last latents are the same, and so are the images: noise levels, prompts, guidance, scales and packing all agree."""
    found = prior(family)
    use_ddim(found, family)
    z = noise(2, *found.event)
    theirs = as_x(found, family, run(found, family, z, guided=guided))
    ours = sample(found, family, z, guided=guided)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4, check_dtype=False)
    if not guided and family != "deepfloyd-if":
        images = run(found, family, z, guided=False, output="pt")
        assert_close(found.decode(theirs).clamp(0, 1), images, rtol=0, atol=1e-4)


def recorded_steps(found, family, z):
    """(x before, x after) of each step of the pipeline's own guided sampler, in the scale of its state."""
    scheduler, states = found.pipeline.scheduler, []
    step = scheduler.step
    packed = "flux2" if family == "flux2-klein" else family

    def recording(output, t, sample, **settings):
        after = step(output, t, sample, **settings)
        states.append(tuple(as_x(found, packed, state).clone() for state in (sample, after[0])))
        return after

    scheduler.step = recording
    run(found, family, z, guided=True)
    del scheduler.step
    return states


@each_family
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the multistep solver
def test_changes_of_a_pipeline_in_memory_act(family, record_property):
    """A LoRA, other weights in the text encoder and another scheduler, set after the denoiser was made: each step is the sampler's."""
    pipe = tiny.build(family)
    found = load_prior(pipe, image_size=(16, 16))
    found = found.with_settings(control_image=control(), control_scale=0.7) if family == "sd1-controlnet" else found
    denoiser = found.denoiser(PROMPTS, guidance=4.0, negative=None if family == "flux2" else NEGATIVE)
    x, sigma = noise(2, *found.event), torch.tensor(1.0)
    seen = [denoiser(x, sigma)]
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), found.family.network, "style")
    seen.append(denoiser(x, sigma))
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.add_(torch.randn_like(pipe.text_encoder.get_input_embeddings().weight))
    seen.append(denoiser(x, sigma))
    if family in FLOW:
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    else:
        other = {"beta_schedule": "linear"} if family == "deepfloyd-if" else {"beta_end": 0.015, "prediction_type": "v_prediction"}
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **other)
        use_ddim(found, family)
        seen.append(denoiser(x, sigma))
    changes = [float((before - after).abs().max()) for before, after in itertools.pairwise(seen)]
    assert min(changes) > 1e-6, changes
    states = recorded_steps(found, family, noise(2, *found.event))
    levels = pipe.scheduler.sigmas.double()
    scales = 1 - levels if family in FLOW else (1 + levels**2).rsqrt()
    sigmas = levels / scales if family in FLOW else levels
    assert len(states) == 4
    for index, (before, after) in enumerate(states):
        x = before / float(scales[index])
        ours = (x + float(sigmas[index + 1] - sigmas[index]) * eps(denoiser, x, sigmas[index].float())) * float(scales[index + 1])
        assert float((ours - after).abs().max()) < 1e-4 * max(1.0, float(after.abs().max()))
    record_property("supports", f"{family}: folder, object, LoRA, scheduler")


@each_family
def test_embeddings_in_place_of_prompts(family, record_property):
    """`PromptEmbeds` of the conditions that the prompts have give the same D."""
    found = load_prior(tiny.build(family), image_size=(16, 16))
    found = found.with_settings(control_image=control()) if family == "sd1-controlnet" else found
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    embeds, opposite = (
        PromptEmbeds(tokens=made["tokens"], mask=made.get("mask"))
        for made in (found.family.conditions(PROMPTS, **found.settings), found.family.opposite([NEGATIVE]))
    )
    negative = {} if family == "flux2" else {"negative": NEGATIVE}
    expected = found.denoiser(PROMPTS, guidance=3.0, **negative)(x, sigma)
    negative = {} if family == "flux2" else {"negative": opposite}
    assert_close(found.denoiser(embeds, guidance=3.0, **negative)(x, sigma), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidInput, match="width"):
        found.denoiser(PromptEmbeds(tokens=embeds.tokens[..., 1:], mask=embeds.mask), guidance=1.0)
    record_property("supports", f"{family}: embeds")


@pytest.mark.slow
def test_plain_guidance_of_qwen_image(prior):
    """Without the rescaling it is D_u + s (D_c - D_u), whose sides have different numbers of tokens."""
    found = prior("qwen-image")
    plain = dataclasses.replace(found, family=dataclasses.replace(found.family, guided_pair=GuidedPair))
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 3.0])
    strong, weak = (found.denoiser(prompts, guidance=1.0)(x, sigma) for prompts in (PROMPTS, [NEGATIVE] * 2))
    guided = plain.denoiser(PROMPTS, guidance=4.0, negative=NEGATIVE)(x, sigma)
    assert_close(guided, weak + 4 * (strong - weak), rtol=1e-4, atol=1e-4)
    outside = found.denoiser(PROMPTS, guidance=4.0, negative=NEGATIVE, interval=(0.1, 1.0))(x, sigma)
    assert_close(outside[1], strong[1], rtol=1e-4, atol=1e-4)
    assert float((outside[0] - strong[0]).abs().max()) > 1e-3


@each_family
def test_encoding_undoes_the_scales_of_decoding(prior, family):
    """An image through x and back is the image through the autoencoder and back; a draw of the posterior is another x."""
    found = prior(family)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = found.encode(image)
    if family == "deepfloyd-if":
        assert_close(found.decode(x), image)
        return
    vae, frame = found.pipeline.vae, (2 * image - 1)
    frame = frame.unsqueeze(2) if family == "qwen-image" else frame
    z = vae.encode(frame).latent if family == "sana" else vae.encode(frame).latent_dist.mean
    assert_close(found.decode(x), (vae.decode(z).sample / 2 + 0.5).reshape(image.shape), rtol=1e-4, atol=1e-4)
    draw = found.encode(image, rng=torch.Generator().manual_seed(0))
    assert torch.equal(draw, x) if family == "sana" else float((draw - x).abs().max()) > 1e-3


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@each_family
def test_a_prompt_that_is_cut_warns(family):
    """Just where the last letter of a long prompt loses its effect, a warning says so; before that it has one."""
    adapter = load_prior(tiny.build(family), check=False, image_size=(16, 16)).family
    settings = {"control_image": control()[:1]} if family == "sd1-controlnet" else {}

    def cut(count):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptCut)
            ends = [adapter.conditions(["." * (count - 1) + last], **settings) for last in ".,"]
        return any(issubclass(warning.category, PromptCut) for warning in caught), same(*ends)

    tokenizer, limit = adapter.readers()[0]
    extra = len(tokenizer("." * 5).input_ids) - 5
    assert cut(limit - extra) == (False, False)
    assert cut(limit - extra + 1)[0]
    assert cut(limit - extra + 2) == (True, True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_networks_leave_x_alone(prior, family):
    """x and images stay float32, and D is the float32 one up to bfloat16's digits.

    Chroma's network rounds 1000 t to bfloat16 itself, to a multiple of 4: its D is another one, and only finite here.
    """
    exact, low = prior(family), prior(family, dtype="bfloat16")
    x, sigma = noise(2, *exact.event), torch.tensor([0.5, 2.0])
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    results = [
        (which.denoiser(PROMPTS, guidance=3.0)(x, sigma), which.encode(image), which.decode(which.encode(image))) for which in (exact, low)
    ]
    for name, one, other in zip(("D", "x", "image"), *results, strict=True):
        assert other.dtype == torch.float32
        assert bool(other.isfinite().all())
        if (family, name) != ("chroma", "D"):
            assert float((one - other).abs().max() / one.abs().max()) < 0.08, name


# ---------------------------------------------------------------- VSD's auxiliary network
@each_family
def test_auxiliary_starts_as_the_prior_and_learns(pipeline_folder, family, record_property):
    found = load_prior(pipeline_folder(family), image_size=(16, 16))
    found = found.with_settings(control_image=control()) if family == "sd1-controlnet" else found
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 2.0])
    conditional = found.denoiser(PROMPTS, guidance=1.0)
    before = conditional(x, sigma)
    auxiliary = found.auxiliary(PROMPTS, rank=2, seed=3)
    assert torch.equal(auxiliary(x, sigma), before)
    vsd = VSD(denoiser=conditional, auxiliary=auxiliary, levels=NoiseLevels(low=0.2, high=2.0), learning_rate=1e-2, adapt_steps=2)
    vsd.adapt(x, torch.Generator().manual_seed(0))
    assert float((auxiliary(x, sigma) - before).detach().abs().max()) > 1e-6
    assert torch.equal(conditional(x, sigma), before)
    record_property("supports", f"{family}: VSD")


# ---------------------------------------------------------------- ControlNet
def test_control_images(pipeline_folder, prior):
    """The control matters, one image serves all prompts, a scale of 0 is Stable Diffusion, and what is missing is named."""
    bare = load_prior(pipeline_folder("sd1-controlnet"))
    x, sigma = noise(2, *bare.event), torch.tensor(2.0)
    with pytest.raises(InvalidInput, match="needs a control image"):
        bare.denoiser(PROMPTS)
    one, other = (bare.denoiser(PROMPTS, control_image=control()[k : k + 1])(x, sigma) for k in range(2))
    assert float((one - other).abs().max()) > 1e-3
    both = bare.denoiser(PROMPTS, control_image=control())(x, sigma)
    assert_close(both[0], one[0], rtol=1e-4, atol=1e-5)
    assert_close(both[1], other[1], rtol=1e-4, atol=1e-5)
    off = bare.with_settings(control_image=control(), control_scale=0.0).denoiser(PROMPTS)(x, sigma)
    assert_close(off, load_prior(pipeline_folder("sd1")).denoiser(PROMPTS)(x, sigma), rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="2 control images for 1 prompts"):
        bare.denoiser(PROMPTS[:1], control_image=control())
    with pytest.raises(InvalidInput, match=r"\(batch, 3, height, width\).*got \(1, 1, 16, 16\)"):
        bare.denoiser(PROMPTS, control_image=torch.rand(1, 1, 16, 16))
    with pytest.raises(InvalidInput, match="control image is 8 x 8, the images of this prior are 16 x 16"):
        bare.denoiser(PROMPTS, control_image=torch.rand(1, 3, 8, 8))(x, sigma)
    with pytest.raises(InvalidInput, match="has no condition control_image"):
        load_prior(pipeline_folder("sd1")).denoiser(PROMPTS, control_image=control())
