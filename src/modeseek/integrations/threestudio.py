r"""A guidance for threestudio (Guo et al. 2023): every recipe of `modeseek.distillation.recipes` in its YAML files, as `modeseek-guidance`.

    guidance_type: "modeseek-guidance"      in place of "stable-diffusion-guidance"; its `recipe` is "msd" unless another is named

A guidance gets the render, the prompt utilities and the cameras, and returns losses; the system adds up each `loss_NAME` times its
`lambda_NAME`. Ours is one loss with the gradient of the recipe, averaged over the batch as threestudio's are:

    loss_sds = |g|^2 / (2 B),   d loss_sds / d place = g / B,   place = the latent, or the image (`space`)

The denoiser is made of the text embeddings that the prompt utilities give for the cameras of the moment, so prompts for views, Perp-Neg,
negative prompts and the cache on disk are theirs. Guidance is D_u + s (D_c - D_u); threestudio's SDS, SJC and SDI write s for our s - 1,
unless Perp-Neg is on. Latents are the posterior's mean, where threestudio draws them. Cost: the recipe's denoiser calls a step, each one
network pass on 2 B items (4 B with Perp-Neg).

Cameras are drawn anew in every step. So estimates serve one step (`refresh` 1), noise is fresh, and a chain, which belongs to the views it
was started in, is refused as soon as they move. Noise is a function of seed, step and process: a resumed run meets the same.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput, MissingPackage, NonFiniteError
from modeseek.distillation.recipes import RECIPES, Recipe, build_gradient
from modeseek.gradients.cached import CachedTarget
from modeseek.integrations.prompt_embeddings import Moment, PromptEmbeddingPrior, resized
from modeseek.priors.pipelines.loading import Dtype, load_prior
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion

NAME = "modeseek-guidance"
WIDE = {"sampler_steps": 10, "bandwidth": (3.0, 0.3)}  # of MSD's own recipes on objects: wide enough to change one, local at the end


@dataclass
class Config:
    """The YAML block `system.guidance`. None: the recipe's own. Names of threestudio's Stable Diffusion guidance mean the same here.

    Args:
        recipe: sds, sjc, vsd, sdi, msd-published, msd-persistent or msd.
        pretrained_model_name_or_path: Stable Diffusion 1.x or 2.x, the one that the prompt processor names.
        half_precision_weights: networks in float16; x stays float32.
        download: whether a model that is not on disk may be fetched.
        guidance_scale: s, in the convention of `modeseek.core.guidance`; None: the model's own default.
        max_steps: of the trainer, for the schedules.
        space: "latent" or "image".
        refresh: steps that one estimate serves; above 1 the cameras must stay as long.
        samples, sampler_steps, bandwidth, lora_lr: as in `Recipe`.
        min_step_percent, max_step_percent: lowest and highest timestep over 1000.
        weighting_strategy: "sds" alone, so that threestudio's block may stay; weights belong to recipes.
        view_dependent_prompting: whether prompts follow the cameras.
        seed: of everything random.
        loss_name: NAME of `loss_NAME`: "sds" for dreamfusion-system, "vsd" for prolificdreamer-system.
        keep_state: put the LoRA of VSD, a chain and held targets into the system's state_dict: where the system makes its guidance before
            a checkpoint is read, as prolificdreamer-system does. dreamfusion-system makes it after, and could not load such a checkpoint.
        weights: as of every module of threestudio.
    """

    recipe: str = "msd"
    pretrained_model_name_or_path: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    half_precision_weights: bool = True
    download: bool = False
    guidance_scale: float | None = None
    max_steps: int = 10000
    space: str | None = None
    refresh: int = 1
    samples: int | None = None
    sampler_steps: int | None = None
    bandwidth: list[float] | None = None
    lora_lr: float | None = None
    min_step_percent: float | None = None
    max_step_percent: float | None = None
    weighting_strategy: str = "sds"
    view_dependent_prompting: bool = True
    seed: int = 0
    loss_name: str = "sds"
    keep_state: bool = False
    weights: str | None = None


def recipe_of(config: Any) -> Recipe:
    """The recipe that a configuration asks for.

    Raises:
        InvalidInput: an unknown recipe, a weighting other than "sds", max_steps below 1, or a bandwidth that is no pair.

    Example:
        >>> recipe_of(Config()).refresh, recipe_of(Config()).sampler_steps, recipe_of(Config(recipe="sjc")).timesteps
        (1, 10, (970, 10))
    """
    if config.recipe not in RECIPES:
        raise InvalidInput(f"recipe {config.recipe!r} is unknown: choose {', '.join(RECIPES)}")
    if config.weighting_strategy != "sds":
        words = f"weighting_strategy {config.weighting_strategy!r} is not offered: weights belong to recipes"
        raise InvalidInput(f"{words}; for w = 1 take recipe: sjc")
    if config.max_steps < 1:
        raise InvalidInput(f"max_steps must be at least 1, got {config.max_steps}: give max_steps: ${{trainer.max_steps}}")
    recipe = RECIPES[config.recipe]
    wide: dict[str, Any] = WIDE if recipe.method in ("msd-proximal", "msd-persistent") else {}
    recipe = replace(recipe, steps=config.max_steps, refresh=config.refresh, noise="fresh", **wide)
    given = {name: getattr(config, name) for name in ("space", "samples", "sampler_steps", "bandwidth", "lora_lr")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "bandwidth" in changes:
        changes["bandwidth"] = tuple(changes["bandwidth"])
        if len(changes["bandwidth"]) != 2:
            raise InvalidInput(f"bandwidth is [first, last], got {list(changes['bandwidth'])}")
    percents = (config.max_step_percent, config.min_step_percent)
    high, low = (own if share is None else int(1000 * share) for own, share in zip(recipe.timesteps, percents, strict=True))
    return replace(recipe, **changes, timesteps=(high, low))


class Kept(nn.Module):
    """State of parts that are no modules, as one entry of a state_dict."""

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__()
        self._parts = parts

    def get_extra_state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


class Guidance:
    """The guidance itself; `register` puts it on threestudio's `BaseModule`. It has no parameters of its own."""

    Config = Config
    cfg: Any
    device: torch.device

    def configure(self) -> None:
        """Load the model and build the recipe's gradient.

        Raises:
            InvalidInput: see `recipe_of`; or a model that is no Stable Diffusion 1.x or 2.x.
        """
        recipe = recipe_of(self.cfg)
        if (self.cfg.guidance_scale or 0) > 30 and recipe.method not in ("sds", "sjc"):
            text = f"guidance_scale {self.cfg.guidance_scale:g} is one for SDS; recipe {self.cfg.recipe} is meant for about 7.5"
            warnings.warn(text, stacklevel=2)
        dtype: Dtype = "float16" if self.cfg.half_precision_weights else "float32"
        prior = load_prior(self.cfg.pretrained_model_name_or_path, device=self.device, dtype=dtype, download=self.cfg.download)
        if type(prior.family) is not StableDiffusion or prior.distilled:
            kind = f"{type(prior.pipeline).__name__}{' with its guidance distilled into it' if prior.distilled else ''}"
            raise InvalidInput(f"threestudio's prompts are made for Stable Diffusion 1.x and 2.x, this is a {kind}")
        prior.pipeline.text_encoder = None  # the prompt processor has read the prompt
        self.prior, self.recipe, self.moment = prior, recipe, Moment()
        self.step, self.passes = 0, 0
        self.views: list[Tensor] | None = None
        prompted = PromptEmbeddingPrior(prior=prior, moment=self.moment)
        self.gradient: Any = build_gradient(
            recipe, prompted, ["the prompt of the moment"], guidance=self.cfg.guidance_scale, seed=self.cfg.seed
        )
        self.cached = CachedTarget(self.gradient, space=recipe.space, refresh=recipe.refresh, encode=self._encode, decode=self._decode)
        if self.cfg.keep_state:
            learner = {"gradient": self.gradient} if hasattr(self.gradient, "adapt") else {}
            self.kept = Kept({"cached": self.cached} | learner)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Called by the system before each step."""
        del epoch, on_load_weights
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
            batch: the rest of the batch; of it `c2w` and `fovy` tell whether cameras stayed.

        Returns:
            `loss_NAME`, `grad_norm`, `min_step` and `max_step` as threestudio's guidances do, and of the estimate the denoiser `calls` and
            the means of `residual`, `bandwidth` and `sigma` where there are such.

        Raises:
            InvalidInput: embeddings of another model, latents compared as images, cameras that moved under a held target or a chain.
            NonFiniteError: the render or the gradient has NaN or infinite entries.
        """
        if guidance_eval:
            raise InvalidInput(f"{NAME} makes no evaluation images: set freq.guidance_eval: 0")
        if rgb_as_latents and self.recipe.space == "image":
            raise InvalidInput(f"recipe {self.cfg.recipe} compares images, but latents were rendered: give space: latent")
        cameras = (elevation, azimuth, camera_distances)
        self._check_views([*cameras, *(batch[name] for name in ("c2w", "fovy") if name in batch)])
        with torch.autocast(self.device.type, enabled=False):
            self._read(prompt_utils, cameras)
            image = rgb.float().permute(0, 3, 1, 2)
            self.moment.size, self.moment.latents = (image.shape[2], image.shape[3]), rgb_as_latents
            rng, progress = self._generator(), min(self.step / max(self.cfg.max_steps - 1, 1), 1.0)
            found = self.cached(image, slot=0, progress=progress, rng=rng)
            gradient = found.estimate.gradient.to(found.place)
            if not bool(gradient.isfinite().all()):
                raise NonFiniteError(f"step {self.step}: the gradient is not finite; try half_precision_weights: false")
            if found.asked is not None and hasattr(self.gradient, "adapt"):
                with torch.enable_grad():
                    self.gradient.adapt(found.asked, rng)
            # equal to g in value and to the place in gradient: exact, where place - (place - g) rounds
            loss = 0.5 * (found.place - found.place.detach() + gradient).square().sum() / len(image)
        high, low = self.recipe.timesteps
        info = {name: float(torch.as_tensor(value).mean()) for name, value in found.estimate.info.items()}
        return {f"loss_{self.cfg.loss_name}": loss, "grad_norm": gradient.norm(), "min_step": low, "max_step": high} | info

    def _encode(self, image: Tensor) -> Tensor:
        height, width = self.prior.event[1:]
        return resized(image, (height, width)) if self.moment.latents else self.prior.encode(resized(image, self.prior.image_size))

    def _decode(self, x: Tensor) -> Tensor:
        return resized(self.prior.decode(x), self.moment.size)

    def _generator(self) -> torch.Generator:
        """Randomness of this call: of the seed, the process, the step, and the passes made in it."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        words = np.random.SeedSequence([self.cfg.seed, rank, self.step, self.passes]).generate_state(1, np.uint64)
        self.passes += 1
        return torch.Generator().manual_seed(int(words[0]))

    def _check_views(self, views: list[Tensor]) -> None:
        views = [view.detach().clone() for view in views]
        before, self.views = self.views, views
        if before is None or (len(before) == len(views) and all(map(torch.equal, before, views))):
            return
        if self.recipe.method == "msd-persistent":
            self.views = before
            raise InvalidInput("recipe msd-persistent keeps one chain for views that stay, but the cameras moved: take recipe: msd")
        target = self.cached.slots.get(0)
        if target is not None and target["age"] < self.recipe.refresh:
            self.views = before
            raise InvalidInput(f"refresh: {self.recipe.refresh} holds a target while views stay, but the cameras moved: give refresh: 1")

    def _read(self, prompt_utils: Any, cameras: tuple[Tensor, Tensor, Tensor]) -> None:
        now, count, views = self.moment, len(cameras[0]), self.cfg.view_dependent_prompting
        now.negatives, now.weights = None, None
        if prompt_utils.use_perp_neg:
            embeddings, now.weights = prompt_utils.get_text_embeddings_perp_neg(*cameras, views)
            further = embeddings[2 * count :]
            now.negatives = further.reshape(count, -1, *further.shape[1:]).to(self.device)
        else:
            embeddings = prompt_utils.get_text_embeddings(*cameras, views)
        embeddings = embeddings.to(self.device)
        width = self.prior.pipeline.unet.config.cross_attention_dim
        if embeddings.shape[-1] != width:
            words = f"the prompt processor's embeddings have {embeddings.shape[-1]} numbers a token, this model takes {width}"
            raise InvalidInput(f"{words}: give both the same pretrained_model_name_or_path")
        now.tokens, now.opposite = embeddings[:count], embeddings[count : 2 * count]
        if self.recipe.method == "vsd":
            now.plain = prompt_utils.get_text_embeddings(*cameras, False)[:count].to(self.device)


def register() -> type:
    """Make `modeseek-guidance` known to threestudio; called again it returns the same class.

    Raises:
        MissingPackage: threestudio cannot be imported.
    """
    try:
        import threestudio
        from threestudio.utils.base import BaseModule
    except ImportError as error:
        words = "it is installed from https://github.com/threestudio-project/threestudio, and its folder must be the working one"
        raise MissingPackage(f"threestudio cannot be imported ({error}); {words}") from error
    if NAME not in threestudio.__modules__:
        threestudio.register(NAME)(type("ModeseekGuidance", (Guidance, BaseModule), {"__doc__": Guidance.__doc__}))
    return threestudio.__modules__[NAME]
