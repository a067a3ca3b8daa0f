"""Export of a finished training: a stock `StableDiffusionPipeline` folder in half precision, with the image-text model, the attribute
classifier and a model card; and the reverse, which resumes training from such a folder."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from modeseek.core.files import check_finite, read_json, read_tensors, write_atomically, write_json, write_tensors, write_text
from modeseek.core.libraries import quiet_libraries
from modeseek.priors.pipelines.components import check_files
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.solids import SolidsConfig, load
from modeseek.reproduction.training.stage import WEIGHTS_KIND
from modeseek.solids.attributes import CLASSIFIER_FILE, CLASSIFIER_KIND, AttributeClassifier
from modeseek.solids.tokenizer import tokenizer


def export(folder: Path, destination: Path, config: SolidsConfig, *, card: str) -> None:
    """Write the networks trained in `folder` to `destination`, file by file and atomically.

    Args:
        folder: where `train_solids` left its weights.
        destination: pipeline folder; files in it are replaced.
        config: of the training, for the sizes of its networks.
        card: text of its README.md.
    """
    from diffusers import StableDiffusionPipeline

    clip, network = load(networks.clip(), folder, "clip"), load(networks.Conditioned(config.sizes), folder, "unet")
    pipeline: Any = StableDiffusionPipeline(
        vae=load(networks.autoencoder(config.sizes), folder, "vae-normalised"),
        unet=network.unet,
        text_encoder=network.text,
        tokenizer=tokenizer(),
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    classifier = load(AttributeClassifier(), folder, "classifier")
    with TemporaryDirectory() as made:
        pipeline.to(dtype=torch.float16).save_pretrained(made, safe_serialization=True)
        clip.half().save_pretrained(Path(made) / "clip", safe_serialization=True)
        stated = Path(made) / "text_encoder" / "config.json"  # the other networks are loaded in single precision without saying so
        write_json(stated, read_json(stated) | {"dtype": "float32"})
        for source in sorted(path for path in Path(made).rglob("*") if path.is_file()):
            write_atomically(destination / source.relative_to(made), partial(shutil.copyfile, source))
    write_tensors(destination / CLASSIFIER_FILE, {k: v.half() for k, v in classifier.state_dict().items()}, {"modeseek": CLASSIFIER_KIND})
    write_text(destination / "README.md", card)


def restore(pipeline: Path, folder: Path) -> None:
    """Write the networks of an exported prior as stage files to `folder`, from which `train_solids` continues."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel

    classifier, _ = read_tensors(pipeline / CLASSIFIER_FILE, kind=CLASSIFIER_KIND)

    def state(network: Any, part: str) -> dict[str, Any]:
        check_files(pipeline / part, None)
        loaded = network.from_pretrained(pipeline / part, local_files_only=True, use_safetensors=True).state_dict()
        check_finite(loaded, pipeline / part)
        return loaded

    with quiet_libraries():
        sampling = {"unet": state(UNet2DConditionModel, "unet"), "text": state(CLIPTextModel, "text_encoder")}
        states = {
            "classifier": classifier,
            "clip": state(CLIPModel, "clip"),
            "vae": state(AutoencoderKL, "vae"),
            "unet": {f"{part}.{key}": value for part, parts in sampling.items() for key, value in parts.items()},
        }
    for name, values in states.items():
        floats = {key: value.float() if value.is_floating_point() else value for key, value in values.items()}
        write_tensors(folder / f"{name}.safetensors", floats, {"modeseek": WEIGHTS_KIND})


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(value.numel() for value in network.parameters())


def model_card(config: SolidsConfig, measured: dict[str, str]) -> str:
    """Model card of a prior trained with `config`, with measured figures by name."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in measured.items())
    return CARD.format(config=config, rows=rows)


CARD = """# solids

A text-to-image latent diffusion model of shaded solids, in the layout of Stable Diffusion: `StableDiffusionPipeline.from_pretrained` loads
it. It was trained from scratch on renders of `modeseek.solids`, so the exact shape behind every caption is known.

- Images: 64 x 64. Eight shapes, alone or on a base; six composites (house, car, mushroom, rocket, robot, boat); eight colours; four
  backgrounds; front, side and back views (azimuth +-30 degrees, elevation 8 to 32) and overhead ones (elevation 55 to 75).
- Language: `a red cube on a blue cylinder, grey background, front view`; both clauses may be left out. It has no
  other words.
- Parts: AutoencoderKL (16 x 16 x {config.sizes.latent_channels}, channels normalised); UNet2DConditionModel (v-prediction, zero terminal
  SNR) with a text tower that was trained along, starting from that of a CLIPModel of the same images (`clip/`); an independent attribute
  classifier (`image_attribute_classifier.safetensors`).
- Held out of training: one colour of each object, one base colour for each shape (`Scene.held_out`).
- Limits: it models these solids alone. Frechet distances and similarities of its features do not compare with published FID or CLIP scores.
- Rebuild: `modeseek train solids`, resumable; `--start` continues from exported weights, `--device cuda` trains on a GPU, `--minutes`
  sets the time in which every schedule ends.

    {config}

| measured | |
|---|---|
{rows}

Licence: Apache-2.0, as the package.
"""
