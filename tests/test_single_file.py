"""Checkpoints of one file in the original layout: the same D as the folder's, nothing fetched, and one line for what does not fit."""

import json
import re
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from modeseek import InvalidInput, WeightsError
from modeseek.cli import main
from modeseek.priors import load_prior

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}
VAE = {
    r"down_blocks\.(\d)\.resnets\.(\d)": r"down.\1.block.\2",
    r"down_blocks\.(\d)\.downsamplers\.0\.conv": r"down.\1.downsample.conv",
    r"up_blocks\.0\.resnets\.(\d)": r"up.1.block.\1",
    r"up_blocks\.1\.resnets\.(\d)": r"up.0.block.\1",
    r"up_blocks\.0\.upsamplers\.0\.conv": r"up.1.upsample.conv",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
}


def original(pipe):
    """The pipeline's weights under the names of the original Stable Diffusion checkpoints."""
    found = {}
    for name, weight in pipe.unet.state_dict().items():
        prefix = max((key for key in UNET if name.startswith(f"{key}.")), key=len)
        rest = name.removeprefix(f"{prefix}.")
        part = rest.split(".")[0]
        rest = rest.replace(part, RESNET.get(part, part), 1) if "resnets" in prefix else rest
        found[f"model.diffusion_model.{UNET[prefix]}.{rest}"] = weight
    for name, weight in pipe.vae.state_dict().items():
        renamed = name
        for pattern, to in VAE.items():
            renamed = re.sub(pattern, to, renamed)
        linear = "attn_1" in renamed and "norm" not in renamed and weight.ndim == 2
        found[f"first_stage_model.{renamed}"] = weight[:, :, None, None] if linear else weight
    found |= {f"cond_stage_model.transformer.text_model.{name}": weight for name, weight in pipe.text_encoder.state_dict().items()}
    return {name: weight.clone().contiguous() for name, weight in found.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(file, folder of its configuration without weights, the pipeline)."""
    place, pipe = tmp_path_factory.mktemp("checkpoint"), tiny.build("sd1")
    save_file(original(pipe), place / "model.safetensors")
    tiny.write("sd1", place / "config")
    for path in (place / "config").rglob("*.safetensors"):
        path.unlink()
    return place / "model.safetensors", place / "config", pipe


def test_a_checkpoint_is_its_folder(checkpoint, tmp_path):
    file, config, pipe = checkpoint
    found, expected = load_prior(file, config=config), load_prior(pipe)
    x, image = torch.randn(2, *found.event, generator=torch.Generator().manual_seed(0)), torch.full((1, 3, 16, 16), 0.3)
    prompts, sigma = ["a red cube", "a blue sphere"], torch.tensor([0.5, 3.0])
    assert_close(found.denoiser(prompts)(x, sigma), expected.denoiser(prompts)(x, sigma), rtol=1e-4, atol=1e-5)
    assert_close(found.encode(image), expected.encode(image), rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in found.pipeline.unet.parameters())
    arguments = ["sample", "a red cube", "--prior", str(file), "--config", str(config), "--steps", "1", "--seeds", "1"]
    assert main([*arguments, "--image-size", "16x24", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["guidance"] == 7.5


def test_no_configuration_on_disk(checkpoint, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"stable-diffusion-v1-5 is not on disk: give config=FOLDER"):
        load_prior(checkpoint[0])


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    file, config, _ = checkpoint
    tensors = load_file(file)
    lacking = tmp_path / "lacking.safetensors"
    for words, error in (("first_stage_model", WeightsError), ("middle_block", WeightsError), ("cond_stage_model", WeightsError)):
        save_file({name: value for name, value in tensors.items() if words not in name}, lacking)
        with pytest.raises(error, match=r"lacks weights|does not make") as caught:
            load_prior(lacking, config=config)
        assert "\n" not in str(caught.value)
    short = tmp_path / "short.safetensors"
    short.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(WeightsError, match="does not make"):
        load_prior(short, config=config)
    with pytest.raises(InvalidInput, match="neither a variant nor a subfolder"):
        load_prior(file, config=config, variant="fp16")
    with pytest.raises(InvalidInput, match="t5=False reads a folder"):
        load_prior(file, config=config, t5=False)
    with pytest.raises(InvalidInput, match=r"no model_index\.json"):
        load_prior(file, config=tmp_path)
    shutil.copy(file, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="can run code"):
        load_prior(tmp_path / "model.ckpt", config=config)
