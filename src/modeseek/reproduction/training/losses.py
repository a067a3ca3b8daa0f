"""What each network of the embedded prior minimises: one batch per call, on the device of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from modeseek.priors.pipelines.loading import has_bfloat16
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.data import Bank, empty_ids

Loss = Callable[[Any, torch.Generator, int], Tensor]
"""(network, the step's generator, the step's seed) -> scalar."""

Latents = Callable[[int, torch.Generator, int], tuple[Tensor, Tensor]]
"""(count, the step's generator, the step's seed) -> latents (count, channels, h, w) and token ids (count, tokens)."""

UNCONDITIONAL = 0.1  # share of captions replaced by the empty one, for guidance
SILENT = 0.1  # probability that a clause is left out of a caption
LOG_SIGMA = (0.5, 1.2)  # mean and standard deviation of log sigma at four in five of the UNet's noise levels
UNIFORM = 0.2  # share of levels with uniform timesteps instead


def place(network: nn.Module) -> torch.device:
    """Device of a network; random numbers are drawn on the CPU wherever that is."""
    return next(network.parameters()).device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def classifier_loss(bank: Bank, *, count: int = 128) -> Loss:
    """Cross-entropy over all attributes, on images with a little noise and, three times in ten, blur."""

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        device = place(network)
        batch = bank.batch(count, seed=seed, held_out=None)
        noise = torch.randn(batch.images.shape, generator=rng).to(batch.images)
        images = batch.images + 0.03 * torch.rand(count, 1, 1, 1, generator=rng).to(noise) * noise
        if float(torch.rand((), generator=rng)) < 0.3:
            images = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
        with autocast(device):
            logits = network(images.to(device))
        wanted = batch.labels().T.to(device)
        return torch.stack([cross_entropy(o.float(), t) for o, t in zip(logits, wanted, strict=True)]).sum()

    return loss


def clip_loss(bank: Bank, *, count: int = 128) -> Loss:
    """Symmetric contrastive loss within a batch; captions are full, since without clauses several images would match one."""

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        batch, device = bank.batch(count, seed=seed), place(network)
        with autocast(device):
            return network(input_ids=batch.ids().to(device), pixel_values=2 * batch.images.to(device) - 1, return_loss=True).loss.float()

    return loss


def vae_loss(bank: Bank, *, count: int = 16, idempotence: float = 0.5) -> Loss:
    r"""Reconstruction, edges, a small KL of the posterior, and idempotence.

        mean |r - I| + 4 mean (r - I)^2 + mean |finite differences of (r - I)| + 3e-4 KL + idempotence mean (E(D(z)) - z)^2

    with r = D(z) and z the sampled latent. The last term makes the encoder an inverse of the decoder, so that round trips do not drift; it
    costs one more encoder pass.

    Args:
        bank: of the images.
        count: images per batch.
        idempotence: weight of the last term; 0 leaves it out.
    """

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        device = place(network)
        images = 2 * bank.batch(count, seed=seed).images.to(device) - 1
        with autocast(device):
            posterior = network.encode(images).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            latents = mean + std * torch.randn(mean.shape, generator=rng).to(device)
            decoded = network.decode(latents).sample
            again = network.encode(decoded).latent_dist.mean.float() if idempotence else latents
        error = decoded.float() - images
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * std.clamp_min(1e-6).log()).mean()
        total = error.abs().mean() + 4 * (error**2).mean() + edges + 3e-4 * divergence
        return total + idempotence * ((again - latents) ** 2).mean()

    return loss


def stored_latents(latents: Tensor, ids: Tensor) -> Latents:
    """Latents encoded beforehand, picked at random: (n, channels, h, w) with the token ids (n, tokens) of their captions."""

    def pick(count: int, rng: torch.Generator, seed: int) -> tuple[Tensor, Tensor]:
        del seed
        chosen = torch.randint(len(latents), (count,), generator=rng)
        return latents[chosen].float(), ids[chosen].long()

    return pick


def fresh_latents(bank: Bank, autoencoder: Any) -> Latents:
    """Latents of new images for every batch, encoded by a frozen, normalised autoencoder where it lies."""

    @torch.no_grad()
    def encode(count: int, rng: torch.Generator, seed: int) -> tuple[Tensor, Tensor]:
        batch, device = bank.batch(count, seed=seed), place(autoencoder)
        with autocast(device):
            mean = autoencoder.encode(2 * batch.images.to(device) - 1).latent_dist.mean
        return mean.float(), batch.ids(rng=rng, silent=SILENT)

    return encode


@cache
def _log_sigma() -> Tensor:
    """log sigma of every timestep but the last, where it is infinite: (999,), rising."""
    alphas = networks.scheduler().alphas_cumprod.double()
    return 0.5 * (1 / alphas[:-1] - 1).log().float()


def noise_timesteps(count: int, rng: torch.Generator) -> Tensor:
    r"""Timesteps of a batch: (count,) in 0 ... 999.

    Four in five have log sigma ~ N(0.5, 1.2^2), as in Karras et al. 2022 (arXiv:2206.00364, table 1) with a higher mean, because the UNet
    is furthest from the ideal denoiser at sigma 0.5 to 5, where edges and orientation are decided. The others are uniform, so that every
    level is trained, the one without signal included.
    """
    log_sigma, (mean, std) = _log_sigma(), LOG_SIGMA
    last = len(log_sigma)
    near = torch.searchsorted(log_sigma, mean + std * torch.randn(count, generator=rng)).clamp_max(last - 1)
    uniform = ((last + 1) * torch.rand(count, generator=rng)).long().clamp_max(last)
    return torch.where(torch.rand(count, generator=rng) < UNIFORM, uniform, near)


def unet_loss(source: Latents, *, count: int = 64) -> Loss:
    """Mean squared error of v = a n - b y at z = a y + b n (Salimans & Ho 2022), at `noise_timesteps`.

    Args:
        source: of latents and captions.
        count: per batch.
    """
    alphas = networks.scheduler().alphas_cumprod.double()
    a, b = alphas.sqrt().float(), (1 - alphas).sqrt().float()

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        device = place(network)
        clean, ids = source(count, rng, seed)
        clean = clean.to(device)
        dropped = torch.rand(count, generator=rng) < UNCONDITIONAL
        text = torch.where(dropped[:, None], empty_ids()[: ids.shape[1]].long(), ids)
        t = noise_timesteps(count, rng)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        at, bt = a[t, None, None, None].to(device), b[t, None, None, None].to(device)
        with autocast(device):
            predicted = network(at * clean + bt * noise, t.to(device), text.to(device)).float()
        return ((predicted - (at * noise - bt * clean)) ** 2).mean()

    return loss
