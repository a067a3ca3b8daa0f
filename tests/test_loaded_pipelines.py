"""Pipelines in memory: D is their own sampler's with everything their owner put on them, now and later, and nothing of them changes."""

import dataclasses

import diffusers
import pytest
import tiny
import tiny_families
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.testing import assert_close

from modeseek import VSD, InvalidInput, NoiseLevels
from modeseek.core.denoiser import eps
from modeseek.priors import PromptEmbeds, load_prior

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers' schedulers
PROMPTS = ["a red cube", "photo of a blue <new>"]
NEGATIVE = ["blue", "a red sphere"]


@dataclasses.dataclass
class Case:
    """How a family's own sampler is run, and how its latents become x.

    Attributes:
        prompts, settings: of the pipeline's call.
        guided: the pipeline's name of the guidance scale; None: it takes none.
        part: the denoising network.
        inversion: whether a textual inversion is added.
        scheduler: replaces the pipeline's.
        unpack: (pipeline, latents) -> (batch, channels, height, width).
        pipeline_class: another class around the same parts, whose sampler takes that scheduler.
        call: of the pipeline with the prompts.
    """

    prompts: list = dataclasses.field(default_factory=lambda: PROMPTS)
    negative: list | None = dataclasses.field(default_factory=lambda: NEGATIVE)
    settings: dict = dataclasses.field(default_factory=dict)
    guided: str | None = "guidance_scale"
    part: str = "unet"
    inversion: bool = True
    scheduler: object = lambda old: diffusers.EulerDiscreteScheduler.from_config(old.config, timestep_spacing="trailing")
    unpack: object = lambda pipe, latents: latents
    pipeline_class: type | None = None
    call: object = lambda pipe, prompts, **settings: pipe(prompts, **settings)


def flow(**settings):
    return Case(
        part="transformer",
        scheduler=lambda old: diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0),
        **{"settings": {"height": 16, "width": 16, "output_type": "latent"}} | settings,
    )


def unpacked(pipe, latents):
    return pipe._unpack_latents(latents, 16, 16, pipe.vae_scale_factor)


LATENT = {"output_type": "latent"}
FLUX = {"height": 16, "width": 16, "output_type": "latent"}
CASES = {
    "sd1": Case(settings=LATENT),
    "sd2-v": Case(settings=LATENT, scheduler=lambda old: diffusers.DDIMScheduler.from_config(old.config, timestep_spacing="trailing")),
    "sd2-zero-snr": Case(
        settings=LATENT,
        scheduler=lambda old: diffusers.DDIMScheduler.from_config(old.config, timestep_spacing="leading", rescale_betas_zero_snr=True),
    ),
    "lcm": Case(
        settings=LATENT,
        negative=None,
        scheduler=lambda old: diffusers.DDIMScheduler.from_config(old.config),
        pipeline_class=diffusers.StableDiffusionPipeline,
    ),
    "edm": Case(settings=LATENT, scheduler=lambda old: diffusers.EDMEulerScheduler.from_config(old.config, sigma_max=20.0)),
    "edm-v": Case(settings=LATENT, scheduler=lambda old: diffusers.EDMEulerScheduler.from_config(old.config, sigma_schedule="exponential")),
    "sdxl": Case(settings=LATENT),
    "sd3": flow(),
    "sd3-t5": flow(),
    "flux": flow(unpack=unpacked, negative=None, settings=FLUX),
    "flux-schnell": flow(unpack=unpacked, guided="true_cfg_scale", settings=FLUX | {"max_sequence_length": 256}),
    "dit": Case(
        prompts=[1, 4],
        negative=None,
        part="transformer",
        inversion=False,
        scheduler=lambda old: diffusers.DDIMScheduler.from_config(old.config, timestep_spacing="trailing"),
    ),
}
CASES["pixels"] = Case(
    prompts=["", ""],
    negative=None,
    guided=None,
    inversion=False,
    scheduler=lambda old: diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, prediction_type="v_prediction"),
    call=lambda pipe, prompts, **settings: pipe(batch_size=len(prompts), **settings),
)
QUICK = ("sd1", "lcm", "flux")  # in `make test`; all of them in `make check`


def marked(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def add_lora(network, seed=0, scale=1.0, name="style"):
    """A LoRA with random weights on the attention of a network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False, lora_alpha=scale * 2)
        if hasattr(network, "add_adapter"):
            network.add_adapter(config, adapter_name=name)
        else:
            inject_adapter_in_model(config, network, name)


def invert_text(pipe, token="<new>", seed=0):
    """A textual inversion of one token on every text encoder, as `load_textual_inversion` adds it."""
    rng = torch.Generator().manual_seed(seed)
    for suffix in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipe, f"{part}{suffix}", None) for part in ("tokenizer", "text_encoder"))
        if encoder is None:
            continue
        tokenizer.add_tokens(token)
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        weight = encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[-1] = weight[:-1].std() * torch.randn(weight.shape[1], generator=rng)


def recorded(pipe, case, scale, steps=4):
    """What goes in and comes out of each step of the pipeline's own sampler: (state before, state after)."""
    states, step = [], pipe.scheduler.step

    def recording(output, t, sample, **settings):
        found = step(output, t, sample, **settings)
        states.append((case.unpack(pipe, sample).clone(), case.unpack(pipe, found[0]).clone()))
        return found

    pipe.scheduler.step = recording
    settings = dict(case.settings, num_inference_steps=steps, generator=torch.Generator().manual_seed(3))
    if case.guided is not None:
        settings[case.guided] = scale
    if case.negative is not None:
        settings["negative_prompt"] = case.negative
    case.call(pipe, case.prompts, **settings)
    del pipe.scheduler.step
    return states


def levels_and_scales(scheduler):
    """sigma, and the factor a of z = a x, at each step and at the end."""
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.double()
        if "FlowMatch" in type(scheduler).__name__:
            return sigmas / (1 - sigmas), 1 - sigmas
        return sigmas, torch.ones_like(sigmas)
    alphas = [scheduler.alphas_cumprod[t].double() for t in scheduler.timesteps] + [scheduler.final_alpha_cumprod.double()]
    a = torch.stack(alphas)
    return ((1 - a) / a).sqrt(), a.sqrt()


@pytest.mark.parametrize("family", marked(CASES, QUICK))
def test_every_step_is_the_samplers_own(family, record_property):
    """LoRA, textual inversion and another scheduler are put on the pipeline; each of the sampler's steps follows from D to 1e-4."""
    case, pipe = CASES[family], tiny.build(family)
    if case.pipeline_class is not None:
        pipe = case.pipeline_class(**pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
    size = {"image_size": (16, 16)} if case.settings.get("height") else {}
    found = load_prior(pipe, **size)
    bare = found.denoiser([str(prompt) for prompt in case.prompts], guidance=3.5)  # made before the changes, used after them
    x = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1))
    before = bare(x, torch.tensor(1.0))
    add_lora(getattr(pipe, case.part))
    assert float((bare(x, torch.tensor(1.0)) - before).abs().max()) > 1e-5
    if case.inversion:
        invert_text(pipe)
    pipe.scheduler = case.scheduler(pipe.scheduler)
    scale = 3.0
    states = recorded(pipe, case, scale)
    prompts = [str(prompt) for prompt in case.prompts]
    denoiser = found.denoiser(prompts, guidance=scale, negative=case.negative)
    sigmas, scales = levels_and_scales(pipe.scheduler)
    worst = 0.0
    for index, (state, after) in enumerate(states):
        state, after = state[:2], after[:2]  # DiT's sampler doubles the batch
        sigma, below = sigmas[index], sigmas[index + 1]
        if not bool(sigma.isfinite()) or float(scales[index]) == 0:
            continue  # pure noise has no x
        x = state / float(scales[index])
        ours = (x + float(below - sigma) * eps(denoiser, x, sigma.float())) * float(scales[index + 1])
        worst = max(worst, float((ours - after).abs().max() / max(1.0, float(after.abs().max()))))
    assert worst < 1e-4
    assert len(states) == 4
    record_property("supports", f"{family}: object, LoRA, scheduler" + (", textual inversion" if case.inversion else ""))


# ---------------------------------------------------------------- nothing of a pipeline changes
def facts(pipe):
    """Everything of a pipeline's networks that a caller could find changed."""
    found = {}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            found |= {
                f"{name}/{path}": (id(p), p.dtype, p.device, p.requires_grad, p.grad, p._version) for path, p in part.named_parameters()
            }
            if not name.startswith("text_encoder"):  # transformers puts hooks of its own on these
                found |= {f"{name}:{path}": (m.training, len(m._forward_hooks)) for path, m in part.named_modules()}
        else:
            found[name] = id(part)
    return found


@pytest.mark.parametrize("family", marked(["sd1", "sdxl", "flux", "dit"], ["sd1"]))
def test_nothing_of_a_pipeline_changes(family):
    """Weights that learn go on learning, none gets a gradient, and random numbers are the caller's."""
    pipe = tiny.build(family)
    network = getattr(pipe, "unet", None) or pipe.transformer
    if family != "dit":  # which drops labels at random in training
        network.train()
    for weight in list(network.parameters())[:5]:
        weight.requires_grad_(False)
    before, state = facts(pipe), torch.get_rng_state()
    found = load_prior(pipe, **({"image_size": (16, 16)} if family == "flux" else {}))
    prompts = ["1", "4"] if family == "dit" else PROMPTS
    x = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1))
    denoiser = found.denoiser(prompts, guidance=2.0)
    denoiser(x.requires_grad_(), torch.tensor(1.0))
    vsd = VSD(denoiser=found.denoiser(prompts, guidance=1.0), auxiliary=found.auxiliary(prompts), levels=NoiseLevels(low=0.2, high=2.0))
    vsd.adapt(x.detach(), torch.Generator().manual_seed(0))
    found.encode(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()).sum()
    found.decode(x).sum()
    assert facts(pipe) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert found.pipeline is pipe


def test_settings_that_would_change_a_pipeline_are_refused():
    pipe = tiny.build("sd1")
    for name, value in {"device": "cpu", "dtype": "bfloat16", "vae_dtype": "float32", "variant": "fp16", "t5": False}.items():
        with pytest.raises(InvalidInput, match=f"leave {name} out"):
            load_prior(pipe, **{name: value})
    for other in (pipe.unet, pipe.scheduler, None, 3, {"unet": pipe.unet}):
        with pytest.raises(InvalidInput, match=f"got a {type(other).__name__}"):
            load_prior(other)


def test_a_subclass_is_its_family():
    class Mine(diffusers.StableDiffusionPipeline):
        pass

    pipe = tiny.build("sd1")
    found = load_prior(Mine(**pipe.components, requires_safety_checker=False))
    x = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.denoiser(PROMPTS)(x, torch.tensor(1.0)), load_prior(pipe).denoiser(PROMPTS)(x, torch.tensor(1.0)))


# ---------------------------------------------------------------- later changes are honoured, or refused with a reason
@pytest.fixture
def loaded():
    """(pipeline, prior, D, x, sigma) of Stable Diffusion."""
    pipe = tiny.build("sd1")
    found = load_prior(pipe)
    x = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1))
    return pipe, found, found.denoiser(PROMPTS, guidance=3.0, negative=NEGATIVE), x, torch.tensor([0.5, 2.0])


def fresh(pipe, x, sigma, **settings):
    """D of a prior that is made after every change."""
    return load_prior(pipe).denoiser(PROMPTS, guidance=3.0, negative=NEGATIVE, **settings)(x, sigma)


@pytest.mark.parametrize("auxiliary_first", [True, False])
def test_a_lora_acts_whatever_came_first(loaded, auxiliary_first, tmp_path):
    """`load_lora_weights` after VSD's auxiliary network was made, with adapter weights, fusing and unloading; D_aux follows as well."""
    pipe, found, denoiser, x, sigma = loaded
    donor = tiny.build("sd1")
    add_lora(donor.unet)
    donor.save_lora_weights(tmp_path, unet_lora_layers=peft_state(donor.unet))
    bare = denoiser(x, sigma)
    if auxiliary_first:
        auxiliary = found.auxiliary(PROMPTS)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    if not auxiliary_first:
        auxiliary = found.auxiliary(PROMPTS)
    expected = load_prior(donor).denoiser(PROMPTS, guidance=3.0, negative=NEGATIVE)(x, sigma)
    assert_close(denoiser(x, sigma), expected)
    assert float((expected - bare).abs().max()) > 1e-4
    conditional = found.denoiser(PROMPTS, guidance=1.0)
    assert_close(auxiliary(x, sigma), conditional(x, sigma))
    whole = denoiser(x, sigma)
    pipe.set_adapters("style", 0.5)
    half = denoiser(x, sigma)
    assert float((half - whole).abs().max()) > 1e-5
    pipe.disable_lora()
    assert_close(denoiser(x, sigma), bare)
    pipe.enable_lora()
    pipe.fuse_lora(components=["unet"], adapter_names=["style"])
    assert_close(denoiser(x, sigma), half, rtol=1e-4, atol=1e-5)
    assert_close(auxiliary(x, sigma), conditional(x, sigma), rtol=1e-4, atol=1e-5)
    pipe.unfuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    assert_close(denoiser(x, sigma), bare, rtol=1e-4, atol=1e-5)


def peft_state(network):
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(network, adapter_name="style")


@pytest.mark.parametrize("change", marked(["replaced", "reconfigured", "table"], ["replaced"]))
def test_a_scheduler_acts_at_the_next_call(loaded, change):
    pipe, found, denoiser, x, sigma = loaded
    bare, low = denoiser(x, sigma), found.sigmas
    if change == "reconfigured":
        pipe.scheduler.register_to_config(prediction_type="v_prediction")
    elif change == "table":
        pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod**1.5
    else:
        settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **settings)
        assert found.sigmas[1] > 1000 > low[1]
    assert torch.equal(denoiser(x, sigma), fresh(pipe, x, sigma))
    assert float((denoiser(x, sigma) - bare).abs().max()) > 1e-2


def test_a_scheduler_that_is_not_understood_is_refused_at_the_next_call(loaded):
    pipe, _, denoiser, x, sigma = loaded
    pipe.scheduler = diffusers.CMStochasticIterativeScheduler()
    with pytest.raises(InvalidInput, match="CMStochasticIterativeScheduler"):
        denoiser(x, sigma)


@pytest.mark.parametrize("change", marked(["inversion", "trained", "lora", "lora off", "replaced"], ["inversion", "lora off"]))
def test_text_encoders_act_at_the_next_call(loaded, change):
    """Prompts of a denoiser that exists are encoded again where what encodes them has changed, and only then."""
    pipe, _, denoiser, x, sigma = loaded
    encodings = []
    pipe.text_encoder.register_forward_pre_hook(lambda *args: encodings.append(1))
    bare = denoiser(x, sigma)
    assert not encodings
    if change == "inversion":
        invert_text(pipe)
    elif change == "trained":
        with torch.no_grad():
            next(pipe.text_encoder.parameters()).mul_(1.5)
    elif change == "replaced":
        other = tiny.build("sd1").text_encoder
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        pipe.text_encoder = other
    else:
        add_lora_to_text(pipe.text_encoder)
        if change == "lora off":
            denoiser(x, sigma)
            for module in pipe.text_encoder.modules():
                if hasattr(module, "lora_A"):
                    module.enable_adapters(False)
            assert_close(denoiser(x, sigma), bare)
            return
    assert torch.equal(denoiser(x, sigma), fresh(pipe, x, sigma))
    assert float((denoiser(x, sigma) - bare).abs().max()) > 1e-5


def add_lora_to_text(encoder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False), encoder, "text")


def test_encoders_may_be_removed_once_the_prompts_are_encoded(loaded):
    pipe, found, denoiser, x, sigma = loaded
    bare = denoiser(x, sigma)
    pipe.text_encoder = None
    assert torch.equal(denoiser(x, sigma), bare)
    with pytest.raises(InvalidInput, match="PromptEmbeds"):
        found.denoiser(PROMPTS)
    with pytest.raises(InvalidInput, match="no text encoder"):
        load_prior(pipe)
    without = load_prior(pipe, check=False)
    tokens = PromptEmbeds(tokens=torch.zeros(1, 12, 16))
    without.denoiser(tokens, negative=PromptEmbeds(tokens=torch.ones(1, 12, 16)))
    with pytest.raises(InvalidInput, match=r"tokens of the prompt .*\(12, 16\) and \(9, 16\): embed both at one length"):
        without.denoiser(tokens, guidance=2.0, negative=PromptEmbeds(tokens=torch.ones(1, 9, 16)))(x[:1], sigma[:1])


def test_networks_may_be_cast_and_replaced(loaded):
    pipe, _, denoiser, x, sigma = loaded
    plain = denoiser(x, sigma)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert_close(denoiser(x, sigma), plain, rtol=0.02, atol=0.02)
    other = tiny.build("sd1").unet
    with torch.no_grad():
        other.conv_in.weight.mul_(2.0)
    pipe.unet = other
    assert torch.equal(denoiser(x, sigma), fresh(pipe, x, sigma))


@pytest.mark.slow
def test_a_compiled_network_has_the_adapter_of_its_auxiliary(loaded):
    """Compiled code ignores hooks that come after it: an auxiliary network that ran it would be the prior itself."""
    pipe, found, denoiser, x, sigma = loaded
    auxiliary = found.auxiliary(PROMPTS, rank=2)
    with torch.no_grad():
        for name, weight in auxiliary.weights.items():
            if name.endswith("B"):
                weight.normal_(generator=torch.Generator().manual_seed(5))
    plain, adapted = denoiser(x, sigma), auxiliary(x, sigma).detach()
    assert float((adapted - found.denoiser(PROMPTS, guidance=1.0)(x, sigma)).abs().max()) > 1e-3
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert_close(denoiser(x, sigma), plain)
    assert_close(auxiliary(x, sigma).detach(), adapted)
    assert_close(denoiser(x, sigma), plain)


def test_fused_projections_are_refused_under_an_auxiliary(loaded):
    """`fuse_qkv_projections` bypasses the layers that VSD's LoRA adapts: an adapter that no longer acts must not pass for one that does."""
    pipe, found, denoiser, x, sigma = loaded
    auxiliary = found.auxiliary(PROMPTS)
    auxiliary(x, sigma)
    plain = denoiser(x, sigma)
    pipe.fuse_qkv_projections(vae=False)
    assert_close(denoiser(x, sigma), plain, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="not called any more"):
        auxiliary(x, sigma)


def test_dropout_is_refused(loaded):
    pipe, _, denoiser, x, sigma = loaded
    pipe.unet.train()
    denoiser(x, sigma)  # nothing is dropped in this one
    pipe.unet.mid_block.resnets[0].dropout.p = 0.5
    with pytest.raises(InvalidInput, match="denoising network is in training mode"):
        denoiser(x, sigma)
    pipe = tiny.build("sd3-t5")
    pipe.text_encoder_3.train()
    with pytest.raises(InvalidInput, match="text_encoder_3 is in training mode"):
        load_prior(pipe)
    pipe = tiny.build("dit")
    pipe.transformer.train()
    with pytest.raises(InvalidInput, match="labels at random"):
        load_prior(pipe)


# ---------------------------------------------------------------- VSD on what users do to save memory
def trained(found, steps=2):
    x = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1))
    vsd = VSD(denoiser=found.denoiser(PROMPTS, guidance=1.0), auxiliary=found.auxiliary(PROMPTS, rank=2), learning_rate=1e-2)
    rng = torch.Generator().manual_seed(0)
    losses = [vsd.adapt(x, rng) for _ in range(steps)]
    return losses, vsd.auxiliary.state_dict()


@pytest.mark.parametrize("family", marked(["sd1", "sdxl", "sd3", "flux"], ["sd1"]))
def test_vsd_with_gradient_checkpointing(family):
    """The recomputed blocks have the adapter again: training is the same, step by step."""
    size = {"image_size": (16, 16)} if family == "flux" else {}
    losses, weights = trained(load_prior(tiny.build(family), **size))
    pipe = tiny.build(family)
    (getattr(pipe, "unet", None) or pipe.transformer).enable_gradient_checkpointing()
    saved_losses, saved = trained(load_prior(pipe, **size))
    assert saved_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        assert_close(saved[name], weight, rtol=1e-4, atol=1e-6)


def test_vsd_with_layerwise_casting():
    pipe = tiny.build("sd1")
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    losses, weights = trained(load_prior(pipe))
    reference, _ = trained(load_prior(tiny.build("sd1")))
    assert losses == pytest.approx(reference, rel=0.2)
    assert losses[1] < losses[0] or float(max(weight.abs().max() for name, weight in weights.items() if name.endswith("B"))) > 0


class Quantised(torch.nn.Module):
    """A linear layer of another package's class, whose weight is int8 with one scale per row and learns nothing."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        scale = layer.weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (layer.weight.detach() / scale).round().to(torch.int8))
        self.bias = layer.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x) * self.scale.to(x), self.bias)


def quantise(network):
    """Replace the linear layers of the attention and of the networks after it; others may be read for their dtype."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and name in ("to_q", "to_k", "to_v", "0", "2", "add_q_proj", "add_k_proj", "add_v_proj"):
                setattr(module, name, Quantised(child))


EVERY = [*tiny.FAMILIES, *tiny_families.FAMILIES]


@pytest.mark.parametrize("family", marked(EVERY, ["sd1"]))
def test_quantised_networks(family, record_property):
    """D is the original's to the digits of int8, and VSD's LoRA learns on the layers."""
    size = {} if family in ("dit", "sd1", "lcm", "sd3") else {"image_size": (16, 16)}
    settings = {"control_image": torch.full((1, 3, 16, 16), 0.5)} if family == "sd1-controlnet" else {}
    plain = ["", ""] if family.startswith("pixels") else ["a red cube", "a sphere"]
    prompts = {"dit": ["1", "4"], "pixel-classes": ["1", "4"]}.get(family, plain)
    pipe = tiny.build(family)
    found = load_prior(pipe, **size).with_settings(**settings)
    x, sigma = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 2.0])
    expected = found.denoiser(prompts, guidance=1.0)(x, sigma)
    network = found.family.network
    quantise(network)
    assert any(isinstance(module, Quantised) for module in network.modules())
    prior = load_prior(pipe, **size).with_settings(**settings)
    denoiser, auxiliary = prior.denoiser(prompts, guidance=1.0), prior.auxiliary(prompts, rank=2)
    assert float((denoiser(x, sigma) - expected).norm() / expected.norm()) < 0.05
    assert torch.equal(auxiliary(x, sigma), denoiser(x, sigma))
    VSD(denoiser=denoiser, auxiliary=auxiliary, learning_rate=1e-2).adapt(x, torch.Generator().manual_seed(0))
    assert any(bool(weight.any()) for name, weight in auxiliary.weights.items() if name.endswith("B"))
    record_property("supports", f"{family}: quantised")
