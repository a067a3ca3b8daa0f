"""Families of pipelines with one text encoder, ControlNet and DeepFloyd IF: D is that of the pipeline's own sampler."""

from functools import cache

import pytest
import torch
from tiny import diffusers
from torch.testing import assert_close

from modeseek import VSD, InvalidInput, NoiseLevels
from modeseek.core.sampling import ddim
from modeseek.priors import load_prior

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
        config = {**found.pipeline.scheduler.config, **settings}
        found.pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)


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
    if family == "qwen-image" and guided:
        pytest.skip("its sampler rescales the guided prediction: test_guidance_of_qwen_image")
    theirs = as_x(found, family, run(found, family, z, guided=guided))
    ours = sample(found, family, z, guided=guided)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4, check_dtype=False)
    if not guided and family != "deepfloyd-if":
        images = run(found, family, z, guided=False, output="pt")
        assert_close(found.decode(theirs).clamp(0, 1), images, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_guidance_of_qwen_image(prior):
    """Plain classifier-free guidance, whose sides have different numbers of tokens."""
    found = prior("qwen-image")
    x, sigma = noise(2, *found.event), torch.tensor([0.5, 3.0])
    strong, weak = (found.denoiser(prompts, guidance=1.0)(x, sigma) for prompts in (PROMPTS, [NEGATIVE] * 2))
    guided = found.denoiser(PROMPTS, guidance=4.0, negative=NEGATIVE)(x, sigma)
    assert_close(guided, weak + 4 * (strong - weak), rtol=1e-4, atol=1e-4)


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


# ---------------------------------------------------------------- VSD's auxiliary network
@each_family
def test_auxiliary_starts_as_the_prior_and_learns(pipeline_folder, family):
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
