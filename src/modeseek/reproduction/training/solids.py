r"""Training of the embedded prior, stage by stage, every one resumable: what is finished is on disk and not done again.

    bank      geometries traced once (`modeseek.reproduction.training.data`)
    classifier     cross-entropy of the attributes on fresh colourings, held-out combinations included: it has to classifier them
    clip      contrastive image-text loss (Radford et al. 2021), trained combinations only
    vae       L1 + L2 + edges + a small KL; then each latent channel is normalised to mean 0 and standard deviation 1 over the data,
              folded into the 1 x 1 quantisation convolutions, so that the autoencoder stays stock and `scaling_factor` is 1
    unet      v-prediction of the latents (Salimans & Ho 2022) with zero terminal SNR, a tenth of the captions dropped for guidance,
              clauses left out now and then, averaged weights; the text tower learns on with it, from the contrastive one: that had told
              a cube from a sphere as the base of another solid by a third of what it made of colours, and so did the images

Batch i of a stage is seeded by (seed, stage, i), so that a run killed and started again ends at the same weights.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.errors import WeightsError
from modeseek.core.files import read_state, read_tensors, write_state, write_tensors
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.data import Bank, build_bank, read_bank
from modeseek.reproduction.training.losses import Loss, autocast, classifier_loss, clip_loss, place, unet_loss, vae_loss
from modeseek.solids.attributes import AttributeClassifier
from modeseek.solids.tokenizer import tokenizer

CHECKPOINT_KIND, WEIGHTS_KIND = "solids-training", "solids-weights"


@dataclass(frozen=True, kw_only=True)
class SolidsConfig:
    """Sizes of one training run. How the shipped UNet came by its steps, in five runs, is on its card.

    Args:
        per_view: cameras a structure and view in the bank.
        classifier, clip, vae, unet: optimiser steps of each stage.
        latents: images encoded once for the UNet.
        seed: of everything.
    """

    per_view: int = 96
    classifier: int = 3000
    clip: int = 1000
    vae: int = 2000
    unet: int = 17_600
    latents: int = 64_000
    seed: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """What the caller shows: the stage, steps done of all, and the loss (NaN where there is none)."""

    stage: str
    done: int
    total: int
    loss: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network's training.

    Args:
        name: of the stage and its files.
        network: what is trained.
        loss: what is minimised.
        steps, rate, average: optimiser steps, top learning rate, decay of the averaged weights.
    """

    name: str
    network: nn.Module
    loss: Loss
    steps: int
    lr: float
    average: float = 0.998

    def run(self, folder: Path, config: SolidsConfig, *, every: int = 200) -> Iterator[TrainingStep]:
        """Train, resuming from `folder`; leaves the averaged weights in `folder/NAME.safetensors`."""
        finished, checkpoint = folder / f"{self.name}.safetensors", folder / f"{self.name}.checkpoint.safetensors"
        if finished.exists():
            yield TrainingStep(self.name, self.steps, self.steps)
            return
        average = copy.deepcopy(self.network).eval()
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
        identity, start = f"{self.name} {config!r}", 0
        if checkpoint.exists():
            state = read_state(checkpoint, kind=CHECKPOINT_KIND)
            if state["identity"] != identity:
                raise WeightsError(f"{checkpoint} was written with other settings ({state['identity']}); remove it to start again")
            self.network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            start = state["done"]
        self.network.train()
        smooth = math.nan
        for step in range(start, self.steps):
            seed = zlib.crc32(f"{config.seed} {self.name} {step}".encode())
            for group in optimiser.param_groups:
                group["lr"] = self.lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            loss = self.loss(self.network, torch.Generator().manual_seed(seed), seed)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimiser.step()
            keep = min(self.average, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(self.network.parameters()), 1 - keep)
            value = float(loss.detach())
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            if (step + 1) % every == 0 and step + 1 < self.steps:
                kept = {"identity": identity, "done": step + 1, "network": self.network.state_dict()}
                kept |= {"average": average.state_dict(), "optimiser": optimiser.state_dict()}
                write_state(checkpoint, kept, kind=CHECKPOINT_KIND)
            yield TrainingStep(self.name, step + 1, self.steps, smooth)
        write_tensors(finished, average.state_dict(), {"modeseek": WEIGHTS_KIND})
        checkpoint.unlink(missing_ok=True)


def train_solids(
    folder: Path, config: SolidsConfig, *, start: Path | None = None, device: str | torch.device = "cpu"
) -> Iterator[TrainingStep]:
    """Every stage in turn; yields as it goes. Weights and checkpoints are in `folder`; `export` makes the pipeline of them.

    Args:
        folder: for the bank, the checkpoints and the weights.
        config: sizes.
        start: folder of a finished training whose autoencoder, text model and classifier are taken as they are and whose UNet goes on,
            at a quarter of the rate.
        device: where networks are trained; images are coloured on the CPU.
    """
    from diffusers.models.attention_processor import AttnProcessor

    for done, total in build_bank(folder / "bank", per_view=config.per_view, seed=config.seed):
        yield TrainingStep("bank", done, total)
    bank = read_bank(folder / "bank", per_view=config.per_view)
    if start is not None:
        for name in ("classifier", "clip", "vae"):
            weights, _ = read_tensors(start / f"{name}.safetensors", kind=WEIGHTS_KIND)
            write_tensors(folder / f"{name}.safetensors", weights, {"modeseek": WEIGHTS_KIND})
    torch.manual_seed(config.seed)
    for name, make, loss, steps, lr in (
        ("classifier", AttributeClassifier, classifier_loss(bank), config.classifier, 2e-3),
        ("clip", networks.clip, clip_loss(bank), config.clip, 1e-3),
        ("vae", networks.autoencoder, vae_loss(bank), config.vae, 1e-3),
    ):
        yield from Stage(name=name, network=make().to(device), loss=loss, steps=steps, lr=lr).run(folder, config)
    yield from _encode(bank, folder, config, device)
    network = networks.Conditioned()
    network.unet.set_attn_processor(AttnProcessor())  # of so few positions the fused attention's backward takes longer than the plain one
    network.take_text(load(networks.clip(), folder, "clip").text_model)
    if start is not None:
        network.load_state_dict(read_tensors(start / "unet.safetensors", kind=WEIGHTS_KIND)[0])
    data = read_tensors(folder / "latents.safetensors", kind=WEIGHTS_KIND)[0]
    loss = unet_loss(data["latents"], data["ids"])
    lr = 8e-4 if start is None else 2e-4  # the full rate undoes within 50 steps what the last decay won: loss 0.115 to 0.137
    stage = Stage(name="unet", network=network.to(device), loss=loss, steps=config.unet, lr=lr, average=0.999)
    yield from stage.run(folder, config)


def load(network: Any, folder: Path, name: str) -> Any:
    """`network` with the weights a stage left in `folder`, frozen."""
    network.load_state_dict(read_tensors(folder / f"{name}.safetensors", kind=WEIGHTS_KIND)[0])
    return network.eval().requires_grad_(False)


# ---------------------------------------------------------------- latents of the UNet's data
@torch.no_grad()
def _encode(bank: Bank, folder: Path, config: SolidsConfig, device: str | torch.device) -> Iterator[TrainingStep]:
    """Normalise the autoencoder's channels over the data and encode the UNet's images and captions, once."""
    path, total = folder / "latents.safetensors", config.latents
    if path.exists():
        yield TrainingStep("latents", total, total)
        return
    autoencoder = load(networks.autoencoder(), folder, "vae").to(device)
    tokens, latents, ids = tokenizer(), [], []
    for done in range(0, total, 100):
        seed = zlib.crc32(f"{config.seed} latents {done}".encode())
        batch = bank.batch(min(100, total - done), seed=seed)
        captions = batch.captions(rng=torch.Generator().manual_seed(seed), silent=0.1)
        with autocast(place(autoencoder)):
            latents.append(autoencoder.encode(2 * batch.images.to(device) - 1).latent_dist.mean.float().cpu())
        ids.append(tokens(captions, padding="max_length", return_tensors="pt").input_ids.short())
        yield TrainingStep("latents", done, total)
    ids.append(tokens([""], padding="max_length", return_tensors="pt").input_ids.short())
    every = torch.cat(latents)
    mean, std = every.mean((0, 2, 3)), every.std((0, 2, 3))
    normalise(autoencoder.cpu(), mean, std)
    write_tensors(folder / "vae-normalised.safetensors", autoencoder.state_dict(), {"modeseek": WEIGHTS_KIND})
    scaled = ((every - mean[:, None, None]) / std[:, None, None]).half()
    write_tensors(path, {"latents": scaled, "ids": torch.cat(ids)}, {"modeseek": WEIGHTS_KIND})
    yield TrainingStep("latents", total, total)


@torch.no_grad()
def normalise(autoencoder: Any, mean: Tensor, std: Tensor) -> None:
    """Fold y -> (y - mean)/std of each latent channel into the convolutions around the latent: same images, unit latents.

    The encoder's last convolution gives means and log-variances; the decoder's first takes latents.
    """
    channels = len(mean)
    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]
