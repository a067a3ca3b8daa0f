"""What each network of the embedded prior minimises, a batch a call, on the device of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from modeseek.priors.pipelines.loading import has_bfloat16
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.data import Bank
from modeseek.solids.tokenizer import tokenizer

Loss = Callable[[Any, torch.Generator, int], Tensor]
"""(network, the step's generator, the step's seed) -> scalar."""


def place(network: nn.Module) -> torch.device:
    """Where a network is; chance is drawn on the CPU wherever that is."""
    return next(network.parameters()).device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def classifier_loss(bank: Bank) -> Loss:
    """Cross-entropy over all attributes, on images slightly noised and now and then blurred."""

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        batch = bank.batch(128, seed=seed, held_out=None)
        images = batch.images + 0.03 * torch.rand(len(batch.images), 1, 1, 1, generator=rng) * torch.randn(
            batch.images.shape, generator=rng
        )
        if float(torch.rand((), generator=rng)) < 0.3:
            images = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
        device = place(network)
        with autocast(device):
            logits = network(images.to(device))
        wanted = batch.labels().T.to(device)
        return torch.stack([cross_entropy(o.float(), t) for o, t in zip(logits, wanted, strict=True)]).sum()

    return loss


def clip_loss(bank: Bank) -> Loss:
    """Symmetric contrastive loss in a batch; captions without clauses would have several right images, so all are full."""
    tokens = tokenizer()

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        batch = bank.batch(128, seed=seed)
        device = place(network)
        ids = tokens(batch.captions(), padding="max_length", return_tensors="pt").input_ids.to(device)
        with autocast(device):
            return network(input_ids=ids, pixel_values=2 * batch.images.to(device) - 1, return_loss=True).loss.float()

    return loss


def vae_loss(bank: Bank) -> Loss:
    """Reconstruction by L1, L2 and the L1 of differences between neighbours (edges), and the KL of the posterior."""

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        device = place(network)
        images = 2 * bank.batch(16, seed=seed).images.to(device) - 1
        with autocast(device):
            posterior = network.encode(images).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            latents = mean + std * torch.randn(mean.shape, generator=rng).to(device)
            error = network.decode(latents).sample.float() - images
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * std.clamp_min(1e-6).log()).mean()
        return error.abs().mean() + 4 * (error**2).mean() + edges + 3e-4 * divergence

    return loss


def unet_loss(latents: Tensor, ids: Tensor) -> Loss:
    """Mean squared error of v = a n - b y at z = a y + b n, at times drawn with a density in proportion to t, since shape is decided at
    high noise.

    Args:
        latents: (n, channels, h, w), one a image.
        ids: (n + 1, tokens), the token ids of each caption and, last, of the empty one.
    """
    alphas = networks.scheduler().alphas_cumprod.double()
    a, b = alphas.sqrt().float(), (1 - alphas).sqrt().float()

    def loss(network: Any, rng: torch.Generator, seed: int) -> Tensor:
        chosen = torch.randint(len(latents), (64,), generator=rng)
        clean, dropped = latents[chosen].float(), torch.rand(64, generator=rng) < 0.1
        text = torch.where(dropped[:, None], ids[-1], ids[chosen]).long()
        t = (len(a) * torch.rand(64, generator=rng).sqrt()).long().clamp_max(len(a) - 1)
        noise = torch.randn(clean.shape, generator=rng)
        at, bt, device = a[t, None, None, None], b[t, None, None, None], place(network)
        with autocast(device):
            predicted = network((at * clean + bt * noise).to(device), t.to(device), text.to(device)).float()
        return ((predicted - (at * noise - bt * clean).to(device)) ** 2).mean()

    return loss
