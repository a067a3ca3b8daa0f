"""Conditions beyond a string, guidance as a model was made for, codecs, and what schedulers say, against the pipelines' own code."""

import json
import math

import diffusers
import pytest
import tiny
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from modeseek import DiscreteLevels, InvalidInput, Pixels, PromptCut, distill
from modeseek.cli import main
from modeseek.core.denoiser import EDM
from modeseek.distillation.recipes import RECIPES, build_gradient, scale_of
from modeseek.priors import PromptEmbeds, load_prior
from modeseek.priors.pipelines.levels import read_scheduler

PROMPTS = ["a red cube", "photo of a blue sphere"]
slow = pytest.mark.slow
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIGMA = torch.tensor([0.5, 2.0])


def noise(prior, seed=1):
    return torch.randn(2, *prior.event, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def sd1():
    pipe = tiny.build("sd1")
    return pipe, load_prior(pipe)


# ---------------------------------------------------------------- prompts
def embeds_of(pipe, family, prompts):
    """What the pipeline's own encode_prompt returns."""
    if family in ("sd1", "lcm", "edm"):
        return PromptEmbeds(tokens=pipe.encode_prompt(prompts, "cpu", 1, False)[0])
    if family == "sdxl":
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    elif family == "sd3":
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, None, None, device="cpu", do_classifier_free_guidance=False)
    else:
        length = 512 if family == "flux" else 256
        tokens, pooled, _ = pipe.encode_prompt(prompts, None, device="cpu", max_sequence_length=length)
    return PromptEmbeds(tokens=tokens.detach(), pooled=pooled.detach())


@pytest.mark.parametrize(
    "family", ["sd1", *(pytest.param(name, marks=slow) for name in ("lcm", "edm", "sdxl", "sd3", "flux", "flux-schnell"))]
)
def test_embeddings_are_their_prompts(family, record_property):
    pipe = tiny.build(family)
    prior = load_prior(pipe, **({"image_size": (16, 16)} if "flux" in family else {}))
    x, negative = noise(prior), None if family in ("flux", "lcm") else "blue"
    expected = prior.denoiser(PROMPTS, guidance=3.0, negative=negative)(x, SIGMA)
    opposite = None if negative is None else embeds_of(pipe, family, [negative])
    embeds = embeds_of(pipe, family, PROMPTS)
    assert_close(prior.denoiser(embeds, guidance=3.0, negative=opposite)(x, SIGMA), expected)
    assert_close(prior.denoiser(embeds[:1], guidance=3.0, negative=opposite)(x[:1], SIGMA[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    wrong = PromptEmbeds(tokens=embeds.tokens[..., :-1], pooled=embeds.pooled)
    with pytest.raises(InvalidInput, match="width"):
        prior.denoiser(wrong, guidance=1.0)
    swapped = (
        PromptEmbeds(tokens=embeds.tokens) if embeds.pooled is not None else PromptEmbeds(tokens=embeds.tokens, pooled=torch.ones(2, 4))
    )
    with pytest.raises(InvalidInput, match="pooled"):
        prior.denoiser(swapped, guidance=1.0)
    record_property("supports", f"{family}: embeds")


def test_distillation_with_embeddings(sd1):
    pipe, prior = sd1
    found = []
    for prompts in (PROMPTS, embeds_of(pipe, "sd1", PROMPTS)):
        images = Pixels([0, 1], size=prior.image_size)
        steps = list(distill(images, prior, prompts, method="sds", steps=2, guidance=3.0))
        assert len(steps) == 2
        found.append(images().detach())
    assert_close(*found)


def test_embeddings_are_checked():
    tokens = torch.zeros(2, 5, 8)
    for wrong in ({"tokens": tokens[0]}, {"tokens": tokens, "pooled": torch.zeros(3, 8)}, {"tokens": tokens * math.nan}):
        with pytest.raises(InvalidInput, match="embeddings"):
            PromptEmbeds(**wrong)


@pytest.mark.parametrize("family", ["sdxl", *(pytest.param(name, marks=slow) for name in ("sd1", "sd3"))])
def test_a_negative_prompt_for_each_item(family):
    """Each item has its own, None is the pipeline's own choice, and one text serves all."""
    prior = load_prior(tiny.build(family))
    x = noise(prior)
    both = prior.denoiser(PROMPTS, guidance=3.0, negative=["blue", None])(x, SIGMA)
    for item, negative in enumerate(["blue", None]):
        alone = prior.denoiser([PROMPTS[item]], guidance=3.0, negative=negative)(x[item : item + 1], SIGMA[item])
        assert_close(both[item : item + 1], alone, rtol=1e-4, atol=1e-5)
    assert_close(
        prior.denoiser(PROMPTS, guidance=3.0, negative="blue")(x, SIGMA),
        prior.denoiser(PROMPTS, guidance=3.0, negative=["blue"] * 2)(x, SIGMA),
    )
    for wrong in (["blue"], ["blue"] * 3, [3, "blue"], 4):
        with pytest.raises(InvalidInput, match="negative"):
            prior.denoiser(PROMPTS, guidance=3.0, negative=wrong)


def test_no_negative_prompt_is_the_pipelines_own_choice():
    """SDXL takes zeros where none is given and encodes an empty text where one is, as its pipeline does."""
    prior = load_prior(tiny.build("sdxl"))
    none, empty = (prior.family.opposite([value])["tokens"].detach() for value in (None, ""))
    assert float(none.abs().max()) == 0
    assert float(empty.abs().max()) > 0.1


def test_clip_skip_is_the_last_norm_of_an_earlier_layer(sd1):
    """Stable Diffusion: diffusers' own code looks for that norm where this transformers has none."""
    pipe, prior = sd1
    ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt").input_ids
    states = pipe.text_encoder(ids, output_hidden_states=True)
    tokens = prior.family.conditions(PROMPTS, clip_skip=1)["tokens"]
    assert torch.equal(tokens, pipe.text_encoder.final_layer_norm(states.hidden_states[-2]))
    assert_close(prior.family.conditions(PROMPTS, clip_skip=0)["tokens"], states.last_hidden_state)


def test_clip_skip_is_the_pipelines_own():
    pipe = tiny.build("sdxl")
    prior = load_prior(pipe)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    z = noise(prior)
    settings = {"guidance_scale": 3.0, "num_inference_steps": 1, "latents": z, "output_type": "latent", "negative_prompt": ["blue"] * 2}
    theirs = pipe(PROMPTS, clip_skip=1, **settings).images
    a = pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[0])]
    final = pipe.scheduler.final_alpha_cumprod
    sigma, below = ((1 - a) / a).sqrt(), ((1 - final) / final).sqrt()
    x = z / a.sqrt()
    plain = prior.denoiser(PROMPTS, guidance=3.0, negative="blue")
    for denoiser in (
        prior.denoiser(PROMPTS, guidance=3.0, negative="blue", clip_skip=1),
        prior.with_settings(clip_skip=1).denoiser(PROMPTS, guidance=3.0, negative="blue"),
    ):
        d = denoiser(x, sigma)
        assert_close((x + (below - sigma) * (x - d) / sigma) * final.sqrt(), theirs, rtol=1e-4, atol=1e-4)
        assert float((d - plain(x, sigma)).abs().max()) > 1e-3
    with pytest.raises(InvalidInput, match="clip_skip is a number of layers from 0 to 1"):
        prior.denoiser(PROMPTS, clip_skip=2)
    with pytest.raises(InvalidInput, match=r"no condition clip_skips: it takes clip_skip, ip_adapter_image"):
        prior.denoiser(PROMPTS, clip_skips=1)


def test_cuts_are_counted_as_the_pipeline_counts(sd1):
    """A textual inversion of several vectors takes as many tokens."""
    pipe, prior = sd1
    pipe.load_textual_inversion(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), token="<wide>")
    prior.denoiser(["a red cube on a sphere"])
    with pytest.warns(PromptCut, match="reads 12 of the 13 tokens"):
        prior.denoiser(["a red <wide> cube"])


# ---------------------------------------------------------------- image conditions
def add_ip_adapter(pipe, tokens=4, width=16):
    """An IP-Adapter with random weights, and an image encoder for it."""
    rng = torch.Generator().manual_seed(0)
    unet, weights = pipe.unet, {}
    for index, (name, _) in enumerate((name, p) for name, p in unet.attn_processors.items() if name.endswith("attn2.processor")):
        block = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weights[f"{2 * index + 1}.to_{part}_ip.weight"] = torch.randn(block.inner_dim, unet.config.cross_attention_dim, generator=rng)
    out = tokens * unet.config.cross_attention_dim
    projection = {"proj.weight": torch.randn(out, width, generator=rng), "proj.bias": torch.zeros(out)}
    projection |= {"norm.weight": torch.ones(unet.config.cross_attention_dim), "norm.bias": torch.zeros(unet.config.cross_attention_dim)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4, projection_dim=width
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.register_modules(image_encoder=transformers.CLIPVisionModelWithProjection(config).eval())
    return pipe


def images(count=1):
    """As a feature extractor returns them."""
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=slow)])
def test_ip_adapter_is_the_pipelines_own(family):
    pipe = add_ip_adapter(tiny.build(family))
    prior = load_prior(pipe, check=False)
    z = noise(prior)
    settings = {"guidance_scale": 3.0, "num_inference_steps": 1, "latents": z, "output_type": "latent", "negative_prompt": ["blue"] * 2}
    theirs = pipe(PROMPTS, ip_adapter_image=[images(2)], **settings).images
    a = pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[0])]
    final = pipe.scheduler.final_alpha_cumprod
    sigma, below = ((1 - a) / a).sqrt(), ((1 - final) / final).sqrt()
    x = z / a.sqrt()
    bound = prior.with_settings(ip_adapter_image=[images(2)])
    d = bound.denoiser(PROMPTS, guidance=3.0, negative="blue")(x, sigma)
    assert_close((x + (below - sigma) * (x - d) / sigma) * final.sqrt(), theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(InvalidInput, match="each prompt needs an image"):
        prior.denoiser(PROMPTS)
    pipe.set_ip_adapter_scale(0.3)
    assert float((bound.denoiser(PROMPTS, guidance=3.0, negative="blue")(x, sigma) - d).abs().max()) > 1e-4


def test_ip_adapters_that_come_and_go():
    pipe = tiny.build("sd1").to(torch.float64)  # encoders sum a batch of another size in another order
    prior = load_prior(pipe)
    denoiser, x = prior.denoiser(PROMPTS), noise(prior).double()
    with pytest.raises(InvalidInput, match="needs an IP-Adapter"):
        prior.denoiser(PROMPTS, ip_adapter_image=images())
    add_ip_adapter(pipe).to(torch.float64)
    with pytest.raises(InvalidInput, match="an IP-Adapter is loaded"):
        denoiser(x, SIGMA)
    with pytest.raises(InvalidInput, match="an IP-Adapter is loaded"):
        load_prior(pipe)
    with pytest.raises(InvalidInput, match="3 images for 2 prompts"):
        prior.denoiser(PROMPTS, ip_adapter_image_embeds=[torch.zeros(6, 1, 16)])
    one = prior.denoiser(PROMPTS, ip_adapter_image=images())(x, SIGMA)
    both = prior.denoiser(PROMPTS, ip_adapter_image=[images().expand(2, -1, -1, -1)])
    assert_close(both(x, SIGMA), one)
    pipe.unload_ip_adapter()
    with pytest.raises(InvalidInput, match="changed after this denoiser was made"):
        both(x, SIGMA)


# ---------------------------------------------------------------- guidance as a model was made for
def test_guidance_embedded_in_a_unet():
    """A UNet with `time_cond_proj_dim` gets the scale less one as an embedding, at every call."""
    pipe = tiny.build("lcm")
    prior = load_prior(pipe)
    assert prior.distilled
    x = noise(prior)
    a = pipe.scheduler.alphas_cumprod[400]
    sigma = ((1 - a) / a).sqrt()
    tokens = pipe.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    for scale in (1.0, 8.5):
        embedding = pipe.get_guidance_scale_embedding(torch.full((2,), scale - 1), embedding_dim=8)
        output = pipe.unet(a.sqrt() * x, 400, encoder_hidden_states=tokens, timestep_cond=embedding).sample.detach()
        assert_close(prior.denoiser(PROMPTS, guidance=scale)(x, sigma), x - sigma * output, rtol=1e-4, atol=1e-5)
    bare = pipe.unet(a.sqrt() * x, 400, encoder_hidden_states=tokens).sample.detach()
    assert float((bare - output).abs().max()) > 1e-3
    with pytest.raises(InvalidInput, match="distilled"):
        prior.denoiser(PROMPTS, negative="blue")


@pytest.mark.parametrize(
    ("family", "scale"),
    [
        ("sd1", 7.5),
        ("flux-schnell", 1.0),
        *(
            pytest.param(*pair, marks=slow)
            for pair in [("sdxl", 5.0), ("sd3", 7.0), ("flux", 3.5), ("lcm", 8.5), ("dit", 4.0), ("pixels", 1.0)]
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*distilled")
def test_default_guidance(family, scale):
    prior = load_prior(tiny.build(family), check=False, **({"image_size": (16, 16)} if "flux" in family else {}))
    assert prior.default_guidance == scale
    assert scale_of(RECIPES["msd"], prior) == scale
    assert scale_of(RECIPES["msd"], prior, guidance=2.0) == 2.0
    assert load_prior("solids").default_guidance == 3.0


@pytest.mark.filterwarnings("ignore:.*distilled")
def test_distilled_models_default_to_no_guidance(sd1, pipeline_folder, tmp_path):
    pipe, prior = sd1
    x = noise(prior)
    guided = prior.denoiser(PROMPTS)(x, SIGMA)
    assert prior.family.distillation is None
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    assert prior.default_guidance == 1.0
    assert_close(prior.denoiser(PROMPTS)(x, SIGMA), prior.denoiser(PROMPTS, guidance=1.0)(x, SIGMA))
    assert float((prior.denoiser(PROMPTS)(x, SIGMA) - guided).abs().max()) > 1e-3
    folder = tmp_path / "my-sdxl-turbo"
    folder.symlink_to(pipeline_folder("sdxl"))
    assert load_prior(folder).default_guidance == 1.0
    assert load_prior(folder).family.distillation == "its name holds 'turbo'"


def test_distilled_models_say_so():
    prior = load_prior(tiny.build("flux-schnell"), image_size=(16, 16))
    with pytest.warns(UserWarning, match=r"distilled to need no guidance \(its network has no guidance input, as Flux schnell\)"):
        scale_of(RECIPES["msd"], prior)


@pytest.mark.filterwarnings("ignore:.*distilled")
def test_the_command_line_takes_the_models_scale(pipeline_folder, tmp_path):
    arguments = [
        "sample",
        "a red cube",
        "--prior",
        str(pipeline_folder("flux-schnell")),
        "--image-size",
        "16",
        "--seeds",
        "1",
        "--steps",
        "1",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["guidance"] == 1.0


def test_intervals_of_models_without_one():
    """`msd-published` limits guidance to an interval; the error says which option to give."""
    prior = load_prior(tiny.build("lcm"))
    with pytest.raises(InvalidInput, match=r"interval=\(999, 0\), or --interval 999 0"):
        build_gradient(RECIPES["msd-published"], prior, PROMPTS)


# ---------------------------------------------------------------- autoencoders
def test_tiny_autoencoder(sd1):
    """TAESD has no posterior; its latent is scaled by its own factor."""
    pipe, prior = sd1
    channels = (16, 16)  # of 4, all can be off at every pixel
    pipe.vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    ).eval()
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(image, rng=torch.Generator().manual_seed(0))
    assert_close(x, pipe.vae.encode(2 * image - 1).latents)
    assert_close(prior.decode(x), pipe.vae.decode(x).sample / 2 + 0.5)
    x.sum().backward()
    assert float(image.grad.abs().max()) > 0
    assert load_prior(pipe).event == (4, 8, 8)


def test_asymmetric_autoencoder(sd1):
    pipe, prior = sd1
    pipe.vae = diffusers.AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=0.3,
    ).eval()
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = prior.encode(image)
    assert_close(x, pipe.vae.encode(2 * image - 1).latent_dist.mean * 0.3)
    assert_close(prior.decode(x), pipe.vae.decode(x / 0.3).sample / 2 + 0.5)


def test_slicing_and_tiling(sd1):
    pipe, prior = sd1
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = prior.encode(image)
    pipe.vae.enable_slicing()
    assert_close(prior.encode(image), x, rtol=1e-4, atol=1e-5)
    decoded = prior.decode(x)
    pipe.vae.enable_tiling()
    assert_close(prior.decode(x), decoded, rtol=1e-4, atol=1e-5)  # the image is smaller than a tile


def test_latents_with_moments():
    """Playground 2.5: a mean and a standard deviation for each channel."""
    pipe = tiny.build("edm")
    mean, std = [0.1, -0.2, 0.3, 0.4], [1.0, 2.0, 0.5, 1.5]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std, scaling_factor=0.5)
    prior = load_prior(pipe)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    z = pipe.vae.encode(2 * image - 1).latent_dist.mean
    x = (z - torch.tensor(mean).reshape(1, 4, 1, 1)) * 0.5 / torch.tensor(std).reshape(1, 4, 1, 1)
    assert_close(prior.encode(image), x)
    assert_close(prior.decode(x), pipe.vae.decode(z).sample / 2 + 0.5, rtol=1e-4, atol=1e-5)
    assert prior.data_std == 0.5


def test_autoencoders_that_cannot_serve():
    pipe = tiny.build("sdxl")
    pipe.vae.to(torch.float16)
    with pytest.raises(InvalidInput, match=r"overflows in float16.*pipeline\.vae\.to"):
        load_prior(pipe)
    pipe = tiny.build("sd1")
    prior = load_prior(pipe)
    pipe.vae = tiny.vae(latent_channels=8).eval()
    with pytest.raises(InvalidInput, match="replaced by one whose x is"):
        prior.encode(torch.rand(1, 3, 16, 16))


def test_an_autoencoder_that_returns_nan():
    pipe = tiny.build("sd1")
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(InvalidInput, match="autoencoder returns NaN"):
        load_prior(pipe)
    load_prior(pipe, check=False)


def test_no_autoencoder():
    pipe = tiny.build("sd1")
    pipe.vae = None
    prior = load_prior(pipe, image_size=(16, 16))
    assert prior.denoiser(PROMPTS)(noise(prior), SIGMA).shape == (2, *prior.event)
    with pytest.raises(InvalidInput, match="no autoencoder"):
        prior.decode(noise(prior))


# ---------------------------------------------------------------- what schedulers say
def denoised_by(scheduler, output, x, sigma, t):
    """The clean sample that a scheduler of discrete timesteps infers from the network's output at z = a x."""
    a = (1 + sigma**2).rsqrt()
    scheduler.set_timesteps(1000)
    return scheduler.step(output, t, a * x).pred_original_sample


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_discrete_schedulers(prediction, rescaled):
    scheduler = diffusers.DDIMScheduler(**BETAS, prediction_type=prediction, rescale_betas_zero_snr=rescaled, clip_sample=False)
    levels = read_scheduler(scheduler)
    x, output = (torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    for t in (1, 500, 998):
        alpha = scheduler.alphas_cumprod[t]
        sigma = ((1 - alpha) / alpha).sqrt()
        called = []
        d = levels.view(lambda z, time, called=called: (called.append(time), output)[1])(x, sigma)
        assert float(called[0]) == t  # the table's own timestep, not one next to it
        assert_close(d, denoised_by(scheduler, output, x, sigma, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("prediction", "data_std"), [("epsilon", 0.5), ("v_prediction", 1.0)])
def test_edm_schedulers(prediction, data_std):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=data_std, sigma_min=0.01, sigma_max=50.0)
    levels = read_scheduler(scheduler)
    assert levels.sigmas == (0.01, 50.0)
    assert levels.data_std == data_std
    x, output = (torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    sigma = torch.tensor(3.0)
    states = []
    d = levels.view(lambda z, t: (states.append((z, t)), output)[1])(x, sigma)
    assert_close(d, scheduler.precondition_outputs(x, output, sigma))
    assert_close(states[0][0], scheduler.precondition_inputs(x, sigma))
    assert_close(states[0][1], scheduler.precondition_noise(sigma).reshape(1))
    assert isinstance(levels.view(lambda z, t: output), EDM)


def test_continuous_timesteps():
    """CosXL in an EulerDiscreteScheduler: v at ln(sigma)/4, over the levels it names."""
    scheduler = diffusers.EulerDiscreteScheduler(
        **BETAS, prediction_type="v_prediction", timestep_type="continuous", sigma_min=0.002, sigma_max=120.0
    )
    levels = read_scheduler(scheduler)
    assert levels.sigmas == (0.002, 120.0)
    x, output, sigma = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3), torch.tensor(2.0)
    times = []
    d = levels.view(lambda z, t: (times.append(float(t)), output)[1])(x, sigma)
    assert_close(d, output * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1))
    assert times == [pytest.approx(0.25 * math.log(2.0))]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        lambda: diffusers.FlowMatchHeunDiscreteScheduler(),
        lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
)
def test_flow_schedulers(scheduler):
    """A shift moves the sampler's grid, not the levels of the network."""
    levels = read_scheduler(scheduler())
    assert levels.kind == "flow"
    assert levels.sigmas == (1 / 999, 999.0)
    x, output = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    states = []
    d = levels.view(lambda z, t: (states.append((z, float(t))), output)[1])(x, torch.tensor(3.0))
    assert states[0][1] == 0.75
    assert_close(d, states[0][0] - 0.75 * output)


def test_overrides(sd1):
    """Files that say the wrong thing are overridden; the override outlives the scheduler."""
    pipe, prior = sd1
    x = noise(prior)
    right = prior.denoiser(PROMPTS)(x, SIGMA)
    pipe.scheduler.register_to_config(prediction_type="sample")
    assert float((prior.denoiser(PROMPTS)(x, SIGMA) - right).abs().max()) > 1e-2
    told = load_prior(pipe, prediction="eps")
    assert_close(told.denoiser(PROMPTS)(x, SIGMA), right)
    table = DiscreteLevels(alphas_cumprod=pipe.scheduler.alphas_cumprod.double())
    pipe.scheduler = diffusers.DDIMScheduler(beta_schedule="linear", prediction_type="sample")
    assert_close(load_prior(pipe, prediction="eps", levels=table).denoiser(PROMPTS)(x, SIGMA), right)
    flow = load_prior(pipe, prediction="flow")
    assert flow.sigmas == (1 / 999, 999.0)
    tokens = pipe.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    t = SIGMA / (1 + SIGMA)
    z = x * (1 - t.reshape(2, 1, 1, 1))
    expected = z - t.reshape(2, 1, 1, 1) * pipe.unet(z, 1000 * t, encoder_hidden_states=tokens).sample.detach()
    assert_close(flow.denoiser(PROMPTS, guidance=1.0)(x, SIGMA), expected, rtol=1e-4, atol=1e-5)
    for wrong in ({"prediction": "epsilon"}, {"prediction": "flow", "levels": table}):
        with pytest.raises(InvalidInput, match=r"prediction|flow"):
            load_prior(pipe, **wrong)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: diffusers.CMStochasticIterativeScheduler(),
        lambda: diffusers.IPNDMScheduler(),
        lambda: diffusers.SCMScheduler(),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        lambda: diffusers.DDIMScheduler(prediction_type="score"),
        lambda: diffusers.EDMEulerScheduler(prediction_type="sample"),
        lambda: diffusers.DDPMScheduler(trained_betas=[0.1, -0.2, 0.3]),
    ],
)
def test_schedulers_that_are_not_understood(sd1, scheduler):
    pipe, _ = sd1
    pipe.scheduler = scheduler()
    with pytest.raises(InvalidInput, match=r"Scheduler|EDM scheduler|invert_sigmas") as caught:
        load_prior(pipe)
    assert "\n" not in str(caught.value)


def test_half_precision_x_keeps_its_levels(sd1):
    """Levels and gradients of a bfloat16 x are those of the same x in float32, rounded at the end."""
    _, prior = sd1
    for x in (noise(prior).bfloat16(), noise(prior).half()):
        ours = prior.denoiser(PROMPTS)(x, torch.tensor([0.3333, 7.7777]))
        assert ours.dtype == x.dtype
        exact = prior.denoiser(PROMPTS)(x.float(), torch.tensor([0.3333, 7.7777]))
        assert float((ours.float() - exact).norm() / exact.norm()) < 0.004
        for name in ("sds", "sdi", "vsd") if x.dtype == torch.bfloat16 else ("msd",):
            gradients = [
                build_gradient(RECIPES[name], prior, PROMPTS)(start, progress=0.4, rng=torch.Generator().manual_seed(2)).gradient
                for start in (x, x.float())
            ]
            assert gradients[0].dtype == x.dtype
            scale = float(gradients[1].norm())
            assert scale == 0 or float((gradients[0].float() - gradients[1]).norm()) / scale < 0.005, name


def test_images_of_pillow(sd1):
    pipe, prior = sd1
    add_ip_adapter(pipe)
    pipe.register_modules(
        feature_extractor=transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    )
    image = Image.new("RGB", (20, 12), (200, 30, 30))
    assert prior.denoiser(PROMPTS, ip_adapter_image=image)(noise(prior), SIGMA).isfinite().all()
