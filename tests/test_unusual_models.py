"""Malformed and unusual models and inputs at the command line: one line that says what is wrong, or the very images of the model.

Each case changes a tiny model on disk, or the arguments, and says what must follow: `fails` with a message, or `works`, where D must equal
the unchanged model's. A traceback or a silently different value fails the test.
"""

import json
import math
import re
import shutil
import warnings
from dataclasses import dataclass, field

import diffusers
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from modeseek.cli import main
from modeseek.priors.load import load_prior

UNET, VAE, TEXT = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
PROMPT = "a red cube"


# ---------------------------------------------------------------- what is done to a model
def edited(file, **changes):
    """Set entries of a JSON file; None deletes one."""

    def change(folder):
        path = folder / file
        found = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not DELETED}))

    return change


DELETED = object()


def index(**changes):
    return edited("model_index.json", **changes)


def written(file, text):
    return lambda folder: (folder / file).write_text(text)


def removed(name):
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def tensors(file, change):
    def apply(folder):
        found = load_file(folder / file)
        save_file({name: change(name, value).contiguous() for name, value in found.items()}, folder / file, metadata={"format": "pt"})

    return apply


def without(file, words):
    def apply(folder):
        found = load_file(folder / file)
        save_file({name: value for name, value in found.items() if words not in name}, folder / file, metadata={"format": "pt"})

    return apply


def rebuilt(part, make):
    """Another network in place of one, saved with its own configuration."""

    def change(folder):
        shutil.rmtree(folder / part)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            make().save_pretrained(folder / part)

    return change


def rescheduled(make):
    def change(folder):
        shutil.rmtree(folder / "scheduler")
        scheduler = make()
        scheduler.save_pretrained(folder / "scheduler")
        index(scheduler=["diffusers", type(scheduler).__name__])(folder)

    return change


def renamed(pattern, to):
    def change(folder):
        for path in list(folder.rglob(pattern)):
            path.rename(path.with_name(to(path.name)))

    return change


def sharded(folder):
    """The UNet in shards, as large models are saved."""
    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2


def a_shard_lost(folder):
    sharded(folder)
    min((folder / "unet").glob("*-of-*.safetensors")).unlink()


def inside(folder):
    """The pipeline in a subfolder."""
    items = list(folder.iterdir())
    (folder / "pipe").mkdir()
    for item in items:
        item.rename(folder / "pipe" / item.name)


def extra_tensors(folder):
    found = load_file(folder / UNET)
    save_file(found | {"ema.decay": torch.ones(1)}, folder / UNET, metadata={"format": "pt"})


def quantised(method):
    return edited("unet/config.json", quantization_config={"quant_method": method, "load_in_8bit": True})


def several(*changes):
    def change(folder):
        for one in changes:
            one(folder)

    return change


# ---------------------------------------------------------------- cases
@dataclass
class Case:
    """A change, the arguments of the command, and what must follow.

    Attributes:
        change: of the model's folder.
        fails: regular expression of the one line; None: it works, and D is the unchanged model's.
        arguments: further ones of the command; FOLDER stands for the model's folder.
        family: of the tiny model.
        prompt: text prompt.
        prior: what is given as --prior, FOLDER by default.
        settings: of `load_prior`, for a model that works.
        same: whether D must be the unchanged model's.
        tolerance: of that comparison.
    """

    change: object = None
    fails: str | None = None
    arguments: list = field(default_factory=list)
    family: str = "sd1"
    prompt: str = PROMPT
    prior: str = "FOLDER"
    settings: dict = field(default_factory=dict)
    same: bool = True
    tolerance: float = 1e-5


def unet(**settings):
    return rebuilt("unet", lambda: tiny.text_unet(**settings))


def autoencoder(**settings):
    return rebuilt("vae", lambda: tiny.vae(**settings))


CASES = {
    # the index
    "no index": Case(removed("model_index.json"), r"no model_index\.json"),
    "index is no JSON": Case(written("model_index.json", "{"), "not readable"),
    "index is a list": Case(written("model_index.json", "[1, 2]"), "not readable"),
    "index is empty": Case(written("model_index.json", ""), "not readable"),
    "index without a class": Case(index(_class_name=DELETED), "not readable"),
    "index of an unknown class": Case(index(_class_name="WuerstchenPipeline"), "WuerstchenPipeline, which is not supported"),
    "index whose class is a number": Case(index(_class_name=3), "holds a 3, which is not supported"),
    "index of a video model": Case(index(_class_name="TextToVideoSDPipeline"), "not supported"),
    "index of an upscaler": Case(index(_class_name="StableDiffusionUpscalePipeline"), "not supported"),
    "foreign code": Case(index(unet=["their_library", "TheirUNet"]), "code of others is not run"),
    "entry of the index is a text": Case(index(unet="UNet2DConditionModel"), "unet"),
    "entry of the index is short": Case(index(unet=["diffusers"]), "unet"),
    "network without a folder": Case(removed("unet"), "unet"),
    "no UNet": Case(index(unet=[None, None]), "lacks a part|UNet"),
    "no scheduler": Case(index(scheduler=[None, None]), "scheduler"),
    "no text encoder": Case(index(text_encoder=[None, None]), "no text encoder"),
    "no tokenizer": Case(index(tokenizer=[None, None]), "tokenizer|NoneType"),
    "no autoencoder": Case(index(vae=[None, None]), "no autoencoder", arguments=["--image-size", "16"]),
    "a safety checker that is not there": Case(index(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])),
    "an image encoder that is not there": Case(index(image_encoder=["transformers", "CLIPVisionModelWithProjection"])),
    # configurations
    "no configuration": Case(removed("unet/config.json"), r"no config\.json"),
    "configuration is no JSON": Case(written("unet/config.json", "{"), "not readable|do not load"),
    "configuration is a list": Case(written("unet/config.json", "[]"), "not readable"),
    "configuration with unknown keys": Case(edited("unet/config.json", a_key_of_tomorrow=3)),
    "no sample size": Case(edited("unet/config.json", sample_size=None), "states no sample_size: give image_size"),
    "no sample size, and one given": Case(
        edited("unet/config.json", sample_size=None), arguments=["--image-size", "16"], settings={"image_size": (16, 16)}
    ),
    "sample size is a text": Case(edited("unet/config.json", sample_size="8"), "lacks a part or a setting|sample_size"),
    "sample size of two sides": Case(edited("unet/config.json", sample_size=[8, 8])),
    "widths that the weights do not have": Case(edited("unet/config.json", block_out_channels=[8, 32]), "do not load"),
    "no layers": Case(edited("unet/config.json", layers_per_block=0), "do not load|does not work|lack"),
    "class of another network": Case(index(unet=["diffusers", "UNet2DModel"]), "do not load|does not make|lacks|lack"),
    # networks that a prompt alone cannot run
    "inpainting": Case(unet(in_channels=9), "9 channels .* an inpainting model"),
    "InstructPix2Pix": Case(unet(in_channels=8), r"8 channels .* edits a given image \(InstructPix2Pix\)"),
    "depth": Case(unet(in_channels=5), "5 channels .* a depth model"),
    "upscaler": Case(unet(in_channels=7), "7 channels .* an upscaler"),
    "UNet of SDXL": Case(
        unet(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=40), "text_time inputs"
    ),
    "UNet with classes": Case(unet(class_embed_type="timestep"), "does not work: ValueError, class_labels"),
    "UNet of another text encoder": Case(unet(cross_attention_dim=24), "does not work: RuntimeError"),
    "UNet that also predicts a variance": Case(unet(out_channels=8), "returns 8 channels for latents of 4"),
    "UNet that ignores the prompt": Case(tensors(UNET, lambda name, w: w * 0 if "attn2.to_out" in name else w), "prompt has no effect"),
    "autoencoder of another model": Case(autoencoder(latent_channels=8), "its autoencoder's latents have 8"),
    "autoencoder without a scale": Case(edited("vae/config.json", scaling_factor=None), "scaling_factor"),
    "autoencoder with scale zero": Case(edited("vae/config.json", scaling_factor=0.0), "scaling_factor"),
    "SDXL's refiner": Case(index(requires_aesthetics_score=True, _class_name="StableDiffusionXLImg2ImgPipeline"), "refiner", family="sdxl"),
    "SDXL's refiner under the base's name": Case(
        several(
            index(text_encoder=[None, None], tokenizer=[None, None]),
            unet(
                cross_attention_dim=16,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=5 * 4 + 16,
            ),
        ),
        "refiner",
        family="sdxl",
    ),
    "SDXL without its second encoder": Case(
        index(text_encoder_2=[None, None], tokenizer_2=[None, None]), "does not work|lacks", family="sdxl"
    ),
    "SDXL's UNet without size inputs": Case(unet(cross_attention_dim=32), "addition_embed_type", family="sdxl"),
    "Flux Fill": Case(edited("transformer/config.json", in_channels=32, out_channels=16), "do not load|channels", family="flux"),
    "Flux without T5": Case(
        index(text_encoder_2=[None, None], tokenizer_2=[None, None]), "does not work|lacks", family="flux", arguments=["--image-size", "16"]
    ),
    "classes as vectors": Case(edited("unet/config.json", class_embed_type="identity"), "are not supported|lack", family="pixel-classes"),
    "pixels of two channels": Case(
        rebuilt("unet", lambda: tiny.pixel_unet(in_channels=2, out_channels=2)), "1 or 3 channels", family="pixels", prompt=""
    ),
    # weights
    "NaN in the UNet": Case(tensors(UNET, lambda name, w: w * math.nan if name == "conv_out.bias" else w), "NaN or infinite"),
    "infinity in the UNet": Case(tensors(UNET, lambda name, w: w * math.inf if name == "conv_out.weight" else w), "NaN or infinite"),
    "NaN in the text encoder": Case(tensors(TEXT, lambda name, w: w * math.nan if "final_layer_norm" in name else w), "NaN or infinite"),
    "NaN in the autoencoder": Case(tensors(VAE, lambda name, w: w * math.nan if name == "decoder.conv_out.bias" else w), "NaN or infinite"),
    "a tensor lost": Case(without(UNET, "mid_block.resnets.0.conv1.bias"), "lack 1 tensors"),
    "a block lost": Case(without(UNET, "mid_block"), r"lack \d+ tensors"),
    "extra tensors": Case(extra_tensors),
    "weights in float64": Case(tensors(UNET, lambda name, w: w.double())),
    "weights in bfloat16": Case(tensors(UNET, lambda name, w: w.bfloat16()), tolerance=0.1),
    "weights cut short": Case(lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-900]), "do not load"),
    "weights of zero bytes": Case(lambda folder: (folder / UNET).write_bytes(b""), "do not load"),
    "a pointer in place of weights": Case(
        written(UNET, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "do not load"
    ),
    "pickled weights alone": Case(
        renamed("diffusion_pytorch_model.safetensors", lambda name: name.replace("safetensors", "bin")), "pickled"
    ),
    "no weights": Case(removed(UNET), "no weights"),
    "fp16 files alone": Case(renamed("*.safetensors", lambda name: name.replace(".safe", ".fp16.safe")), r"variant.*--variant fp16"),
    "fp16 files, named": Case(
        renamed("*.safetensors", lambda name: name.replace(".safe", ".fp16.safe")),
        arguments=["--variant", "fp16"],
        settings={"variant": "fp16"},
    ),
    "a variant that is not there": Case(arguments=["--variant", "ema"], settings={"variant": "ema"}),
    "shards": Case(sharded),
    "a shard lost": Case(a_shard_lost, "do not load"),
    "the map of the shards broken": Case(
        several(sharded, written("unet/diffusion_pytorch_model.safetensors.index.json", "{")), "index of weights|do not load"
    ),
    "quantised by bitsandbytes": Case(quantised("bitsandbytes"), "needs bitsandbytes: pip install bitsandbytes"),
    "quantised by torchao": Case(quantised("torchao"), "needs torchao: pip install torchao"),
    "quantised by quanto": Case(quantised("quanto"), "needs optimum-quanto: pip install optimum-quanto"),
    "quantised in some other way": Case(quantised("secret_sauce"), "secret_sauce"),
    "quantised, without a method": Case(edited("unet/config.json", quantization_config=[3]), "not readable|quantis|do not load"),
    # tokenizers and schedulers
    "no vocabulary": Case(lambda folder: [path.unlink() for path in (folder / "tokenizer").glob("*.json")], "holds no vocabulary"),
    "vocabulary is no JSON": Case(written("tokenizer/tokenizer.json", "{"), "does not make a StableDiffusionPipeline"),
    "scheduler is no JSON": Case(written("scheduler/scheduler_config.json", "{"), "does not make a StableDiffusionPipeline"),
    "scheduler of an unknown class": Case(index(scheduler=["diffusers", "MagicScheduler"]), "does not make|code of others"),
    "scheduler of a foreign library": Case(index(scheduler=["their_library", "TheirScheduler"]), "does not make|code of others"),
    "unknown prediction": Case(
        edited("scheduler/scheduler_config.json", prediction_type="score"), "prediction_type 'score' is not understood"
    ),
    "unknown prediction, told": Case(
        edited("scheduler/scheduler_config.json", prediction_type="score"),
        arguments=["--prediction", "eps"],
        settings={"prediction": "eps"},
    ),
    "wrong prediction, told": Case(
        edited("scheduler/scheduler_config.json", prediction_type="sample"),
        arguments=["--prediction", "eps"],
        settings={"prediction": "eps"},
    ),
    "unknown betas": Case(edited("scheduler/scheduler_config.json", beta_schedule="magic"), "does not make"),
    "betas above one": Case(edited("scheduler/scheduler_config.json", beta_start=1.5, beta_end=2.0), "noise levels of DDIMScheduler"),
    "falling betas below zero": Case(
        edited("scheduler/scheduler_config.json", trained_betas=[0.1, -0.2, 0.3]), "noise levels of DDIMScheduler"
    ),
    "one timestep": Case(edited("scheduler/scheduler_config.json", num_train_timesteps=1), "noise levels of DDIMScheduler|does not"),
    "a consistency model's scheduler": Case(rescheduled(diffusers.CMStochasticIterativeScheduler), "CMStochasticIterativeScheduler"),
    "another scheduler of the same levels": Case(
        rescheduled(lambda: diffusers.UniPCMultistepScheduler(**tiny_betas(), steps_offset=1)), same=True
    ),
    "alphas in Stable Diffusion 3": Case(rescheduled(lambda: tiny.ddim_scheduler()), "states discrete noise levels", family="sd3"),
    "a flow that runs backwards": Case(edited("scheduler/scheduler_config.json", invert_sigmas=True), "invert_sigmas", family="sd3"),
    # where a model lies
    "nowhere": Case(prior="/nowhere/at/all", fails="there is no folder"),
    "an empty name": Case(prior="", fails="model|folder|index"),
    "a misspelt name": Case(prior="solid", fails="there is no folder solid"),
    "an id that is not on disk": Case(prior="someone/model", fails=r"not on disk.*--download"),
    "the index itself": Case(prior="FOLDER/model_index.json", fails="is a file"),
    "one network": Case(prior="FOLDER/unet", fails="single network: give the folder above"),
    "a checkpoint of one network": Case(prior=f"FOLDER/{UNET}", fails="is not on disk|not readable|does not make"),
    "a file that is no checkpoint": Case(
        written("x.safetensors", "hello"), prior="FOLDER/x.safetensors", fails="not readable|does not make"
    ),
    "a pickled checkpoint": Case(written("x.ckpt", "hello"), prior="FOLDER/x.ckpt", fails="can run code"),
    "a subfolder": Case(inside, arguments=["--subfolder", "pipe"], settings={"subfolder": "pipe"}),
    "a subfolder, not named": Case(inside, "give --subfolder pipe|give subfolder='pipe'"),
    "a subfolder that is not there": Case(arguments=["--subfolder", "pipe"], fails="no folder pipe"),
    "a configuration for a folder": Case(arguments=["--config", "FOLDER"], fails="config= is for a checkpoint file"),
    # inputs
    "an empty prompt": Case(prompt="", fails="not empty"),
    "a blank prompt": Case(prompt="  \n", fails="not empty"),
    "a prompt of other letters": Case(prompt="ein rötes Würfelchen 🎲", same=True),
    "a prompt of one letter": Case(prompt="a"),
    "a class by a name it does not have": Case(prompt="elephant", family="dit", fails="names no class"),
    "a class beyond the last": Case(prompt="1000", family="dit", fails="from 0 to 999"),
    "a negative class": Case(prompt="-1", family="dit", fails="names no class"),
    "a prompt for an unconditional model": Case(prompt="a cube", family="pixels", fails="unconditional"),
    "guidance of NaN": Case(arguments=["--guidance", "nan"], fails="finite scale"),
    "guidance of infinity": Case(arguments=["--guidance", "inf"], fails="finite scale"),
    "a negative prompt for Flux dev": Case(
        family="flux", arguments=["--negative", "blue", "--image-size", "16"], fails="distilled into it"
    ),
    "a size of zero": Case(arguments=["--image-size", "0"], fails="512 or 512x768"),
    "a size of words": Case(arguments=["--image-size", "big"], fails="512 or 512x768"),
    "a size of three sides": Case(arguments=["--image-size", "8x8x8"], fails="512 or 512x768"),
    "a size of no multiple": Case(arguments=["--image-size", "15"], fails="multiples of 2"),
    "a size for DiT": Case(family="dit", prompt="1", arguments=["--image-size", "32"], fails="one size"),
    "a device that is not there": Case(arguments=["--device", "cuda:9"], fails="give device='cpu'"),
    "a device of no kind": Case(arguments=["--device", "gpu"], fails="is unknown"),
}
# In `make test`; all of them in `make check`.
QUICK = {"inpainting", "fp16 files alone", "quantised by torchao", "wrong prediction, told", "a size of words"}


def tiny_betas():
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_unusual(pipeline_folder, tmp_path, capsys, monkeypatch, name):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    case = CASES[name]
    source = pipeline_folder(case.family)
    folder = shutil.copytree(source, tmp_path / "model") if case.change is not None else source
    if case.change is not None:
        case.change(folder)
    prior = case.prior.replace("FOLDER", str(folder))
    arguments = [argument.replace("FOLDER", str(folder)) for argument in case.arguments]
    capsys.readouterr()
    status = main(["sample", case.prompt, "--prior", prior, "--steps", "1", "--seeds", "1", "--out", str(tmp_path / "out"), *arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeseek:") or "Traceback" in line]
    if case.fails is not None:
        assert status == 1
        assert len(lines) == 1, lines

        assert re.search(case.fails, lines[0]), lines[0]
        return
    assert status == 0, lines
    ours, theirs = (load_prior(place, **settings) for place, settings in ((folder, case.settings), (source, {})))
    x = torch.randn(1, *ours.event, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(1.5)
    expected = theirs.denoiser([case.prompt], guidance=3.0)(x, sigma)
    assert_close(ours.denoiser([case.prompt], guidance=3.0)(x, sigma), expected, rtol=case.tolerance, atol=case.tolerance)


def test_there_are_enough_cases():
    assert len(CASES) >= 60
