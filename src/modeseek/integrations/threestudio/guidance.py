r"""The guidance: from a render and its cameras to one loss whose gradient is a recipe's, averaged over the batch as threestudio's are.

    loss_NAME = |g|^2 / (2 B) in value,   d loss_NAME / d place = g / B,   place = the latent, or the image (`space`)

The denoiser is made of the text embeddings that the prompt utilities return for the current cameras, so prompts for views, Perp-Neg,
negative prompts and the cache on disk are threestudio's. Latents are the posterior's mean, where threestudio draws them. Renders are
resized to the model's size without antialiasing, as threestudio does. Cost: the recipe's denoiser calls per step, each one network pass on
2 B items (4 B with Perp-Neg).

Cameras are sampled anew in every step, so estimates serve one step (`refresh` 1) and noise is fresh. A cached target or a chain belongs to
its views: when the cameras move, it is dropped and started again. All randomness is a function of seed, step and process, so a resumed run
draws the same numbers. Under distributed data parallelism the gradients of VSD's LoRA are averaged over the processes, so that all LoRAs
stay equal.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from modeseek.core.errors import InvalidInput, NonFiniteError
from modeseek.distillation.recipes import build_gradient, scale_of
from modeseek.gradients.cached import CachedTarget
from modeseek.integrations.prompt_embeddings import Moment, PromptEmbeddingPrior, resized
from modeseek.integrations.threestudio.config import Config, recipe_of, scheduled, steps_of, timesteps_at
from modeseek.integrations.threestudio.levels import sdi_at, with_stepped_levels
from modeseek.integrations.threestudio.previews import decoded, sampled, test_images
from modeseek.integrations.threestudio.state import Kept, average_over_processes, same_view
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.loading import Dtype, load_prior
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion


class Guidance:
    """The guidance itself; `register` puts it on threestudio's `BaseModule`. It has no parameters of its own."""

    Config = Config
    cfg: Any
    device: torch.device

    def configure(self) -> None:
        """Load the model and build the recipe's gradient.

        Raises:
            InvalidInput: see `recipe_of`; or a model that is not Stable Diffusion 1.x or 2.x.
        """
        cfg = self.cfg
        recipe = recipe_of(cfg)
        if (cfg.guidance_scale or 0) > 30 and recipe.method not in ("sds", "sjc"):
            text = f"guidance_scale {cfg.guidance_scale:g} is one for SDS; recipe {recipe.method} is meant for about 7.5"
            warnings.warn(text, stacklevel=2)
        self.prior, self.recipe, self.moment = self._load(cfg.pretrained_model_name_or_path), recipe, Moment()
        other = cfg.pretrained_model_name_or_path_lora
        lora = None if other in (None, cfg.pretrained_model_name_or_path) else self._load(other)
        self.epoch, self.step, self.passes = 0, 0, 0
        self.views: list[Tensor] | None = None
        shifted = cfg.scale_convention == "threestudio" and recipe.method in ("sds", "sjc", "sdi")
        shifted = shifted and not (recipe.method == "sds" and cfg.guidance_scale is None)  # 101 is in this package's
        prompted = PromptEmbeddingPrior(prior=self.prior, moment=self.moment, extra=float(shifted), lora=lora)
        if cfg.inversion_guidance_scale is not None:
            scale = scale_of(recipe, self.prior, cfg.guidance_scale)
            if not scale:
                raise InvalidInput("inversion_guidance_scale is a multiple of guidance_scale, which is 0: give another one")
            recipe = replace(recipe, inversion=cfg.inversion_guidance_scale / scale)
        self.gradient: Any = build_gradient(recipe, prompted, ["the current prompt"], guidance=cfg.guidance_scale, seed=cfg.seed)
        self._follow_block()
        self.cached = CachedTarget(self.gradient, space=recipe.space, refresh=recipe.refresh, encode=self._encode, decode=self._decode)
        if cfg.keep_state:
            learner = {"gradient": self.gradient} if hasattr(self.gradient, "adapt") else {}
            self.kept = Kept({"cached": self.cached} | learner)

    def _load(self, name: str) -> PipelinePrior:
        dtype: Dtype = "float16" if self.cfg.half_precision_weights else "float32"
        prior = load_prior(name, device=self.device, dtype=dtype, download=self.cfg.download)
        if type(prior.family) is not StableDiffusion or prior.distilled:
            kind = f"{type(prior.pipeline).__name__}{' with its guidance distilled into it' if prior.distilled else ''}"
            raise InvalidInput(f"threestudio's prompts are made for Stable Diffusion 1.x and 2.x, this is a {kind}")
        pipeline = prior.pipeline
        pipeline.text_encoder = None  # the prompt processor has encoded the prompt
        if self.cfg.enable_attention_slicing:
            pipeline.enable_attention_slicing(1)
        if self.cfg.enable_channels_last_format:
            pipeline.unet.to(memory_format=torch.channels_last)
        if self.cfg.enable_sequential_cpu_offload:
            pipeline.enable_sequential_cpu_offload()
        return prior

    def _follow_block(self) -> None:
        """What a block says beyond a recipe's numbers."""
        cfg, method = self.cfg, self.recipe.method
        if method == "sjc" and cfg.var_red is not None:
            self.gradient = replace(self.gradient, variance_reduced=cfg.var_red)
        if method == "sds" and cfg.weighting_strategy == "uniform":
            self.gradient = replace(self.gradient, levels=replace(self.gradient.levels, weight="eps"))
        named = cfg.min_step_percent is not None or cfg.max_step_percent is not None or cfg.sqrt_anneal
        if named:
            self.gradient = with_stepped_levels(self.gradient, self._timesteps)
        if method == "vsd" and dist.is_available():
            object.__setattr__(self.gradient, "average", average_over_processes)

    def _timesteps(self) -> tuple[int, int]:
        """(highest, lowest) timestep of the current step."""
        cfg = self.cfg
        high, low = timesteps_at(cfg, self.recipe, self.epoch, self.step)
        annealed = cfg.sqrt_anneal or (self.recipe.method == "sdi" and cfg.t_anneal is not False)
        if annealed:
            part = min(self.step / steps_of(cfg), 1.0)  # a trainer may run longer
            top = self.recipe.timesteps[0] / 1000 if cfg.max_step_percent is None else cfg.max_step_percent
            top = top if isinstance(top, int | float) else top[1]  # threestudio takes a schedule's first value
            bottom = low / 1000 if cfg.min_step_percent is None else scheduled(cfg.min_step_percent, self.epoch, self.step)
            percent = (top - bottom) * (1 - (part**0.5 if cfg.sqrt_anneal else part)) + bottom
            high = low = int(1000 * percent)
        return max(high, low), low

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Called by the system before each step."""
        del on_load_weights
        self.epoch = epoch
        if global_step != self.step:
            self.step, self.passes = global_step, 0

    def forward(
        self,
        rgb: Tensor,
        prompt_utils: Any,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        test_info: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """The loss at a render, and what to log.

        Args:
            rgb: (B, H, W, 3) in [0, 1]; (B, H, W, 4) with `rgb_as_latents`.
            prompt_utils: a prompt processor's output.
            elevation, azimuth: (B,) degrees.
            camera_distances: (B,).
            rgb_as_latents: whether the render is a latent.
            guidance_eval: must be False.
            test_info: return images of the gradient in place of the loss; nothing is trained, cached or counted.
            batch: the rest of the batch; of it `c2w` and `fovy` tell whether cameras stayed, and `c2w` or `mvp_mtx` is the LoRA's camera.

        Returns:
            `loss_NAME`, `grad_norm`, `min_step` and `max_step` as threestudio's guidances do, and of the estimate the denoiser `calls` and
            the means of `residual`, `bandwidth` and `sigma` where there are such. With `test_info`, "target", "noisy_img" and "noise_img"
            of the first item, (H, W, 3), and latents "target_latent" and "noise_pred".

        Raises:
            InvalidInput: embeddings of another model, latents compared as images, a camera that the LoRA needs and the batch lacks.
            NonFiniteError: the render or the gradient has NaN or infinite entries.
        """
        if guidance_eval:
            raise InvalidInput("modeseek-guidance makes no evaluation images: set freq.guidance_eval: 0")
        if rgb_as_latents and self.recipe.space != "latent":
            raise InvalidInput(f"recipe {self.cfg.recipe} compares images, but latents were rendered: give space: latent")
        cameras = (elevation, azimuth, camera_distances)
        with torch.autocast(self.device.type, enabled=False):
            self._read(prompt_utils, cameras, batch)
            image = rgb.float().permute(0, 3, 1, 2)
            self.moment.size, self.moment.latents = (image.shape[2], image.shape[3]), rgb_as_latents
            rng, progress = self._generator(counted=not test_info), min(self.step / max(steps_of(self.cfg) - 1, 1), 1.0)
            high, low = self._timesteps()
            if self.recipe.method == "sdi":
                span = float(torch.rand((), generator=rng))
                self.cached.gradient = sdi_at(self.gradient, low + int(span * (high - low + 1)))
            if test_info:
                return self._test_info(image, progress, rng)
            self._drop_moved([*cameras, *(batch[name] for name in ("c2w", "fovy") if name in batch)])
            found = self.cached(image, slot=0, progress=progress, rng=rng)
            gradient = found.estimate.gradient.to(found.place)
            if not bool(gradient.isfinite().all()):
                raise NonFiniteError(f"step {self.step}: the gradient is not finite; try half_precision_weights: false")
            if self.cfg.grad_clip is not None:
                limit = scheduled(self.cfg.grad_clip, self.epoch, self.step)
                gradient = gradient.clamp(-limit, limit)
            if found.evaluated_at is not None and hasattr(self.gradient, "adapt"):
                self._adapt(found.evaluated_at, rng)
            # equal to g in value and to the place in gradient: exact, where place - (place - g) rounds
            loss = 0.5 * (found.place - found.place.detach() + gradient).square().sum() / len(image)
        info = {name: float(torch.as_tensor(value).mean()) for name, value in found.estimate.info.items()}
        return {f"loss_{self.cfg.loss_name}": loss, "grad_norm": gradient.norm(), "min_step": low, "max_step": high} | info

    def sample(
        self, prompt_utils: Any, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, seed: int = 0, **batch: Any
    ) -> Tensor:
        """Images (B, H, W, 3) sampled from the guided prior at the prompts of the cameras, for `visualize_samples`; 25 denoiser calls."""
        self._read(prompt_utils, (elevation, azimuth, camera_distances), batch)
        return sampled(self.prior, self.gradient.denoiser, len(elevation), seed)

    def sample_lora(
        self, prompt_utils: Any, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, seed: int = 0, **batch: Any
    ) -> Tensor:
        """Images sampled from VSD's LoRA at the prompt without its view; from the guided prior where the recipe has no LoRA."""
        self._read(prompt_utils, (elevation, azimuth, camera_distances), batch)
        auxiliary = getattr(self.gradient, "auxiliary", self.gradient.denoiser)
        return sampled(self.prior, auxiliary, len(elevation), seed)

    def decode_latents(self, latents: Tensor, latent_height: int | None = None, latent_width: int | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of rendered latents (B, 4, h, w), for sjc-system and latentnerf-system."""
        height, width = self.prior.event[1:]
        return decoded(self.prior, latents, (latent_height or height, latent_width or width))

    # ------------------------------------------------------------ parts of a step
    def _adapt(self, x: Tensor, rng: torch.Generator) -> None:
        many = self.cfg.lora_n_timestamp_samples or 1
        dropped = self.cfg.lora_cfg_training is not False and float(torch.rand((), generator=rng)) < 0.1
        self.moment.without_cameras = dropped
        try:
            with torch.enable_grad():
                self.gradient.adapt(x if self.recipe.method != "vsd" else x.repeat(many, *[1] * (x.ndim - 1)), rng)
        finally:
            self.moment.without_cameras = False

    @torch.no_grad()
    def _test_info(self, image: Tensor, progress: float, rng: torch.Generator) -> dict[str, Any]:
        latents = test_images(self.cached.gradient, self._encode(image).detach(), progress=progress, rng=rng)
        shown = {name: self._decode(latents[name]).clamp(0, 1)[0].permute(1, 2, 0) for name in ("target", "noisy_img", "noise_img")}
        return shown | {"target_latent": latents["target"], "noise_pred": latents["noise_pred"]}

    def _encode(self, image: Tensor) -> Tensor:
        if self.moment.latents:
            return resized(image, (self.prior.event[1], self.prior.event[2]), antialias=False)
        return self.prior.encode(resized(image, self.prior.image_size, antialias=False))

    def _decode(self, x: Tensor) -> Tensor:
        return resized(self.prior.decode(x), self.moment.size, antialias=True)

    def _generator(self, *, counted: bool) -> torch.Generator:
        """Randomness of this call: of the seed, the process, the step, and the passes made in it."""
        distributed = dist.is_available() and dist.is_initialized()
        rank = dist.get_rank() if distributed else 0
        words = np.random.SeedSequence([self.cfg.seed, rank, self.step, self.passes]).generate_state(1, np.uint64)
        self.passes += counted
        return torch.Generator().manual_seed(int(words[0]))

    def _drop_moved(self, views: list[Tensor]) -> None:
        """Drop what belongs to other views than these: a cached target that has not served its steps, and a chain."""
        views = [view.detach().clone() for view in views]
        before, self.views = self.views, views
        if before is None or (len(before) == len(views) and all(map(same_view, before, views))):
            return
        target = self.cached.slots.get(0)
        waiting = target is not None and target["age"] < self.recipe.refresh
        chained = self.recipe.method == "msd-persistent"
        if waiting or chained:
            text = "the cameras moved, so the cached target or the chain was dropped and starts anew; "
            warnings.warn(text + "with cameras that move in every step give refresh: 1 and recipe: msd", stacklevel=3)
        self.cached.slots.pop(0, None)
        if chained:
            self.gradient.load_state_dict({})

    def _read(self, prompt_utils: Any, cameras: tuple[Tensor, Tensor, Tensor], batch: dict[str, Any]) -> None:
        now, count, views = self.moment, len(cameras[0]), self.cfg.view_dependent_prompting
        now.negatives, now.weights = None, None
        if prompt_utils.use_perp_neg and self.recipe.method != "vsd":  # published VSD has no Perp-Neg
            embeddings, now.weights = prompt_utils.get_text_embeddings_perp_neg(*cameras, views)
            further = embeddings[2 * count :]
            now.negatives = further.reshape(count, -1, *further.shape[1:]).to(self.device)
        else:
            embeddings = prompt_utils.get_text_embeddings(*cameras, views)
        embeddings = embeddings.to(self.device)
        width = self.prior.pipeline.unet.config.cross_attention_dim
        if embeddings.shape[-1] != width:
            words = f"the prompt processor's embeddings have {embeddings.shape[-1]} numbers per token, this model takes {width}"
            raise InvalidInput(f"{words}: give both the same pretrained_model_name_or_path")
        now.tokens, now.opposite = embeddings[:count], embeddings[count : 2 * count]
        if self.recipe.method == "vsd":
            now.plain = prompt_utils.get_text_embeddings(*cameras, False)[:count].to(self.device)
            now.cameras = self._lora_cameras(batch, count)

    def _lora_cameras(self, batch: dict[str, Any], count: int) -> Tensor | None:
        kind = self.cfg.camera_condition_type
        if kind is None:
            return None
        key = {"extrinsics": "c2w", "mvp": "mvp_mtx"}[kind]
        if key not in batch:
            raise InvalidInput(f"camera_condition_type: {kind} needs {key} in the batch: remove the key, or take a data module that has it")
        return batch[key].detach().reshape(count, 16).to(self.device)
