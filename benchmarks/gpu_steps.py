"""Steps of SDS and MSD on a UNet of Stable Diffusion's size with random weights, against bare calls of the same networks.

Part of `gpu.py`. A step is compared with the bare calls it consists of: its denoiser calls, and the encoder forward and backward.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from modeseek import Pixels, load_prior
from modeseek.distillation.recipes import RECIPES, build_gradient

Report = dict[str, Any]


def random_pipeline(device: str, dtype: torch.dtype, *, tiny: bool) -> Any:
    """A Stable Diffusion 1 pipeline with random weights: 860 million parameters in its UNet, or a small one."""
    import diffusers
    import transformers

    from modeseek.solids.tokenizer import tokenizer

    blocks = (32, 64) if tiny else (320, 640, 1280, 1280)
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    width = 64 if tiny else 768
    unet = diffusers.UNet2DConditionModel(
        sample_size=8 if tiny else 64,
        block_out_channels=blocks,
        down_block_types=(*[cross] * (len(blocks) - 1), plain),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * (len(blocks) - 1)),
        cross_attention_dim=width,
        attention_head_dim=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32) if tiny else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * (2 if tiny else 4),
        up_block_types=("UpDecoderBlock2D",) * (2 if tiny else 4),
        layers_per_block=1 if tiny else 2,
        sample_size=16 if tiny else 512,
        latent_channels=4,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2 if tiny else 12, num_attention_heads=8
        )
    )
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    parts = {name: part.to(device, dtype).eval().requires_grad_(False) for name, part in parts.items()}
    return diffusers.StableDiffusionPipeline(
        **parts, tokenizer=tokenizer(), scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def seconds(call: Callable[[], Any], repeats: int, wait: Callable[[], None]) -> float:
    """Median seconds of a call after a warm-up."""
    call()
    found = []
    for _ in range(repeats):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def large_steps(device: str, *, tiny: bool, repeats: int) -> Report:
    """SDS and MSD steps and bare calls, by data type."""
    found: Report = {}
    cuda = device.startswith("cuda")
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    for name, dtype, compiled in (
        ("float32", torch.float32, False),
        ("bfloat16", torch.bfloat16, False),
        ("bfloat16 compiled", torch.bfloat16, True),
    ):
        if compiled and not cuda:
            continue
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        pipeline = random_pipeline(device, dtype, tiny=tiny)
        if compiled:
            pipeline.unet = torch.compile(pipeline.unet)
        prior = load_prior(pipeline, check=False)
        found |= {f"{what}, {name}": value for what, value in steps_of(prior, pipeline, repeats, wait).items()}
        if cuda:
            found[f"peak memory, GB, {name}"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        del pipeline, prior
    return found


def steps_of(prior: Any, pipeline: Any, repeats: int, wait: Callable[[], None]) -> Report:
    """A step of SDS and of MSD in latent space, and the bare calls of the same network."""
    height, width = prior.image_size
    pixels = Pixels([0], size=(height, width)).to(prior.device)
    rng = torch.Generator().manual_seed(0)
    draws = 4
    recipes = {"SDS": RECIPES["sds"], "MSD": replace(RECIPES["msd"], sampler_steps=draws, space="latent", refresh=1)}
    z = torch.randn(2, *prior.event, device=prior.device, dtype=pipeline.unet.dtype)
    states = torch.randn(2, 77, pipeline.unet.config.cross_attention_dim, device=prior.device, dtype=pipeline.unet.dtype)

    @torch.no_grad()
    def bare() -> None:
        pipeline.unet(z, torch.tensor(500, device=prior.device), states)

    def coded() -> None:
        x = prior.encode(pixels())
        x.backward(torch.zeros_like(x))

    found: Report = {"bare guided UNet call, s": seconds(bare, repeats, wait), "encoder, both ways, s": seconds(coded, repeats, wait)}
    for name, recipe in recipes.items():
        gradient = build_gradient(recipe, prior, ["a red cube"])

        def step(gradient: Any = gradient) -> None:
            x = prior.encode(pixels())
            estimate = gradient(x, progress=0.5, rng=rng)
            x.backward(estimate.gradient.to(x))

        found[f"{name} step, s"] = seconds(step, repeats, wait)
        calls = draws if name == "MSD" else 1
        expected = calls * found["bare guided UNet call, s"] + found["encoder, both ways, s"]
        found[f"{name} step / its {calls} calls and encoder"] = round(found[f"{name} step, s"] / expected, 3)
    return {name: round(value, 5) for name, value in found.items()}
