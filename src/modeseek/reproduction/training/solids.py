r"""Training of the embedded prior, stage by stage. Every stage is resumable; finished stages are not run again.

    bank         geometries traced once (`modeseek.reproduction.training.data`)
    classifier   cross-entropy of the attributes on fresh colourings, held-out combinations included, since it has to classify them
    clip         contrastive image-text loss (Radford et al. 2021), trained combinations only
    vae          reconstruction, edges, a small KL and idempotence; then each latent channel is normalised to mean 0 and standard deviation
                 1 over the data, folded into the 1 x 1 quantisation convolutions, so that the autoencoder stays a stock class and
                 `scaling_factor` is 1
    unet         v-prediction of the latents (Salimans & Ho 2022) with zero terminal SNR, a tenth of the captions dropped for guidance,
                 clauses left out now and then, averaged weights. The text tower starts from the contrastive one and is trained along: that
                 one separates colours three times as well as shapes of a base

Two scales. On a CPU the UNet's latents are encoded beforehand and reused. On a GPU batches are large, images are coloured and encoded anew
for every batch, the UNet has 22 million parameters and is compiled, if the compiled gradient is right, and Muon trains it.
`minutes` makes every schedule end in time, so that ten minutes of a GPU give a finished prior.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.core.files import read_tensors, write_tensors
from modeseek.reproduction.training import losses, networks
from modeseek.reproduction.training.data import Bank, build_bank, read_bank
from modeseek.reproduction.training.losses import autocast, place
from modeseek.reproduction.training.networks import LARGE, SHIPPED, Sizes
from modeseek.reproduction.training.stage import WEIGHTS_KIND, Stage, TrainingStep
from modeseek.solids.attributes import AttributeClassifier

SHARES = {"classifier": 0.05, "clip": 0.05, "vae": 0.30, "unet": 0.60}
"""Of the time that is left after the bank."""
RESERVE = 0.05  # share of the time kept for the export and its measurement
NORMALISED_OVER = 6400  # images over which the latent channels are normalised, where none are stored


@dataclass(frozen=True, kw_only=True)
class SolidsConfig:
    """Sizes of one training run. The shipped UNet was trained in six runs, see its model card.

    Args:
        per_view: cameras per structure and view in the bank.
        classifier, clip, vae, unet: optimiser steps of each stage.
        batch: images per step of the classifier and the image-text model.
        vae_batch, unet_batch: images or latents per step.
        latents: number of latents encoded beforehand for the UNet; None: new images for every batch.
        optimiser: of the UNet: "adamw" or "muon".
        unet_lr: highest learning rate of the UNet.
        compiled: compile the UNet, if that leaves its gradients as they are.
        sizes: widths of the autoencoder and the UNet.
        seed: of all randomness.
    """

    per_view: int = 128
    classifier: int = 3000
    clip: int = 1000
    vae: int = 2000
    unet: int = 12_000
    batch: int = 128
    vae_batch: int = 16
    unet_batch: int = 128
    latents: int | None = 94_208
    optimiser: str = "muon"
    unet_lr: float = 8e-4
    compiled: bool = False
    sizes: Sizes = field(default_factory=lambda: SHIPPED)
    seed: int = 0

    @classmethod
    def on(cls, device: str | torch.device) -> SolidsConfig:
        """The settings for a kind of device: on a GPU 94 208 geometries, 431 000 images for the autoencoder, 4.0 million latents."""
        if torch.device(device).type == "cpu":
            return cls()
        large = {"per_view": 512, "vae": 2246, "unet": 5194, "batch": 256, "vae_batch": 192, "unet_batch": 768}
        return cls(**large, latents=None, optimiser="muon", unet_lr=2e-3, compiled=True, sizes=LARGE)


class Clock:
    """Minutes left of a budget, shared among the stages that are still to run.

    Args:
        minutes: of the whole training; None: no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.start = minutes, time.monotonic()

    def share(self, name: str) -> float | None:
        """Minutes for a stage, if the stages before it are done."""
        if self.minutes is None:
            return None
        names = list(SHARES)
        rest = sum(SHARES[later] for later in names[names.index(name) :])
        left = self.minutes * (1 - RESERVE) - (time.monotonic() - self.start) / 60
        return max(0.0, left) * SHARES[name] / rest


def train_solids(
    folder: Path,
    config: SolidsConfig,
    *,
    start: Path | None = None,
    device: str | torch.device = "cpu",
    minutes: float | None = None,
) -> Iterator[TrainingStep]:
    """Run every stage in turn; yields as it goes. Weights and checkpoints are in `folder`; `export` makes a pipeline of them.

    Args:
        folder: for the bank, the checkpoints and the weights.
        config: sizes.
        start: folder of a finished training whose autoencoder, text model and classifier are kept and whose UNet is trained further.
        device: where networks are trained, images coloured and geometries traced.
        minutes: wall-clock time for everything; every schedule is shortened to end in it. None: the steps of `config`.

    Raises:
        InvalidInput: minutes that are not positive.
        WeightsError: a checkpoint in `folder` was written with other settings.
    """
    if minutes is not None and not minutes > 0:
        raise InvalidInput(f"the minutes of a training must be positive, got {minutes:g}")
    clock, identity = Clock(minutes), repr(config)
    for done, total in build_bank(folder / "bank", per_view=config.per_view, seed=config.seed, device=device):
        yield TrainingStep("bank", done, total)
    bank = read_bank(folder / "bank", per_view=config.per_view).to(device)
    if start is not None:
        for name in ("classifier", "clip", "vae"):
            weights, _ = read_tensors(start / f"{name}.safetensors", kind=WEIGHTS_KIND)
            write_tensors(folder / f"{name}.safetensors", weights, {"modeseek": WEIGHTS_KIND})
    torch.manual_seed(config.seed)
    for name, network, loss, steps, lr in (
        ("classifier", AttributeClassifier(), losses.classifier_loss(bank, count=config.batch), config.classifier, 2e-3),
        ("clip", networks.clip(), losses.clip_loss(bank, count=config.batch), config.clip, 1e-3),
        ("vae", networks.autoencoder(config.sizes), losses.vae_loss(bank, count=config.vae_batch), config.vae, 1e-3),
    ):
        stage = Stage(name=name, network=_placed(network, device), loss=loss, steps=steps, lr=lr, minutes=clock.share(name))
        yield from stage.run(folder, identity, seed=config.seed)
    yield from _latents(bank, folder, config, device)
    yield from _unet(bank, folder, config, start, device, clock.share("unet")).run(folder, identity, seed=config.seed)


def _unet(bank: Bank, folder: Path, config: SolidsConfig, start: Path | None, device: str | torch.device, minutes: float | None) -> Stage:
    """The stage of the UNet with its text tower."""
    from diffusers.models.attention_processor import AttnProcessor

    network = networks.Conditioned(config.sizes)
    network.unet.set_attn_processor(AttnProcessor())  # with so few positions, fused attention's backward pass is slower than the plain one
    network.take_text(load(networks.clip(), folder, "clip").text_model)
    if start is not None:
        network.load_state_dict(read_tensors(start / "unet.safetensors", kind=WEIGHTS_KIND)[0])
    if config.latents is None:
        autoencoder = load(networks.autoencoder(config.sizes), folder, "vae-normalised")
        source = losses.fresh_latents(bank, _placed(autoencoder, device))
    else:
        data = read_tensors(folder / "latents.safetensors", kind=WEIGHTS_KIND)[0]
        source = losses.stored_latents(data["latents"], data["ids"])
    example = None
    if config.compiled:
        latents, ids = source(config.unet_batch, torch.Generator().manual_seed(0), 0)
        times = torch.randint(1000, (config.unet_batch,), generator=torch.Generator().manual_seed(0))
        example = (latents.to(device), times.to(device), ids.to(device))
    return Stage(
        name="unet",
        network=_placed(network, device),
        loss=losses.unet_loss(source, count=config.unet_batch),
        steps=config.unet,
        lr=config.unet_lr,
        average=0.999,
        optimiser=config.optimiser,
        minutes=minutes,
        example=example,
    )


def _placed(network: Any, device: str | torch.device) -> Any:
    """The network on its device, in channels-last memory format, the fast one for bfloat16 convolutions."""
    return network.to(device).to(memory_format=torch.channels_last)


def load(network: Any, folder: Path, name: str) -> Any:
    """`network` with the weights a stage left in `folder`, frozen."""
    network.load_state_dict(read_tensors(folder / f"{name}.safetensors", kind=WEIGHTS_KIND)[0])
    return network.eval().requires_grad_(False)


# ---------------------------------------------------------------- latents of the UNet's data
@torch.no_grad()
def _latents(bank: Bank, folder: Path, config: SolidsConfig, device: str | torch.device) -> Iterator[TrainingStep]:
    """Normalise the autoencoder's channels over the data; store latents and captions for the UNet if `config.latents` is set."""
    path, normalised = folder / "latents.safetensors", folder / "vae-normalised.safetensors"
    total = config.latents or NORMALISED_OVER
    if normalised.exists() and (config.latents is None or path.exists()):
        yield TrainingStep("latents", total, total)
        return
    autoencoder = _placed(load(networks.autoencoder(config.sizes), folder, "vae"), device)
    latents, ids = [], []
    for done in range(0, total, 100):
        seed = zlib.crc32(f"{config.seed} latents {done}".encode())
        batch = bank.batch(min(100, total - done), seed=seed)
        with autocast(place(autoencoder)):
            latents.append(autoencoder.encode(2 * batch.images.to(device) - 1).latent_dist.mean.float().cpu())
        ids.append(batch.ids(rng=torch.Generator().manual_seed(seed), silent=losses.SILENT).short())
        yield TrainingStep("latents", done, total)
    every = torch.cat(latents)
    mean, std = every.mean((0, 2, 3)), every.std((0, 2, 3))
    normalise(autoencoder.cpu(), mean, std)
    if config.latents is not None:
        scaled = ((every - mean[:, None, None]) / std[:, None, None]).half()
        write_tensors(path, {"latents": scaled, "ids": torch.cat(ids)}, {"modeseek": WEIGHTS_KIND})
    write_tensors(normalised, autoencoder.state_dict(), {"modeseek": WEIGHTS_KIND})
    yield TrainingStep("latents", total, total)


@torch.no_grad()
def normalise(autoencoder: Any, mean: Tensor, std: Tensor) -> None:
    """Fold y -> (y - mean)/std of each latent channel into the convolutions around the latent: same images, unit latents.

    The encoder's last convolution gives means and log-variances; the decoder's first takes latents.
    """
    channels = len(mean)
    inward, outward = autoencoder.quant_conv, autoencoder.post_quant_conv
    inward.weight[:channels] /= std[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - mean) / std
    inward.bias[channels:] -= 2 * std.log()
    outward.bias += (outward.weight[:, :, 0, 0] * mean).sum(1)
    outward.weight *= std[None, :, None, None]
