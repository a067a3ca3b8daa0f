"""The YAML block `system.guidance`: its keys, what each means, and the recipe that they amount to.

The keys of threestudio's own blocks (`stable-diffusion-guidance`, `stable-diffusion-vsd-guidance`, `stable-diffusion-sdi-guidance` at
28d9d80) keep their meaning, so a block may stay as it is when `guidance_type` changes. A key that a recipe cannot honour is refused by
name. A number may be a schedule where threestudio's may: `[start_step, start, end, end_step]`, a float `end_step` counting epochs, or a
longer chain `[start_step, start, value, step, value, step, ...]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from modeseek.core.errors import InvalidInput
from modeseek.distillation.recipes import RECIPES, Recipe
from modeseek.distillation.settings import READ_BY

WIDE = {"sampler_steps": 10, "bandwidth": (3.0, 0.3)}  # of MSD's own recipes on objects: wide enough to change one, local at the end
STOCHASTIC = ("sds", "sjc", "vsd")
KEYS_OF = {
    "use_sjc": ("sjc",),
    "var_red": ("sjc",),
    "sqrt_anneal": STOCHASTIC,
    "pretrained_model_name_or_path_lora": ("vsd",),
    "guidance_scale_lora": ("vsd",),
    "lora_cfg_training": ("vsd",),
    "lora_n_timestamp_samples": ("vsd",),
    "camera_condition_type": ("vsd",),
    "lora_lr": ("vsd",),
    "sampler_steps": READ_BY["sampler_steps"],
    "bandwidth": READ_BY["bandwidth"],
    "enable_sdi": ("sdi",),
    "inversion_guidance_scale": ("sdi",),
    "inversion_n_steps": ("sdi",),
    "inversion_eta": ("sdi",),
    "n_ddim_steps": ("sdi",),
    "t_anneal": ("sdi",),
}
"""Keys that only some methods read, and which."""


@dataclass
class Config:
    """The keys of `system.guidance`. None: the recipe's own.

    Args:
        recipe: sds, sjc, vsd, sdi, msd-published, msd-persistent or msd; None: "sjc" with `use_sjc: true`, "sdi" with `enable_sdi: true`,
            otherwise "msd".
        pretrained_model_name_or_path: Stable Diffusion 1.x or 2.x, the one that the prompt processor names.
        half_precision_weights: networks in float16; x stays float32.
        download: whether a model that is not on disk may be fetched.
        guidance_scale: s; None: what the authors of the recipe published, or the model's own default.
        scale_convention: "modeseek", D_u + s (D_c - D_u); "threestudio", what its SDS, SJC and SDI write: D_c + s (D_c - D_u) without
            Perp-Neg. Its VSD and every method with Perp-Neg write the former.
        max_steps: of the trainer, for the schedules of the method. `trainer_max_steps` is threestudio's name for it.
        space: "latent" or "image".
        refresh: steps that one estimate serves; above 1 the cameras should stay as long, and a target is dropped when they move.
        samples, sampler_steps, bandwidth, lora_lr: as in `Recipe`.
        min_step_percent, max_step_percent: lowest and highest timestep over 1000. Schedules for sds, sjc, vsd and sdi.
        sqrt_anneal: t = max - (max - min) sqrt(step / max_steps) in place of a random t (HiFA).
        weighting_strategy: "sds", or "uniform" for sds (w = 1). SDI has no weight, here and in threestudio.
        grad_clip: limit of each entry of the gradient; a schedule.
        view_dependent_prompting: whether prompts follow the cameras.
        seed: of everything random.
        loss_name: NAME of `loss_NAME`: "sds" for dreamfusion-, sjc- and latentnerf-system, "vsd" for prolificdreamer-system, "sdi" for
            sdi-system.
        keep_state: put the LoRA of VSD, a chain and cached targets into the system's state_dict: where the system makes its guidance before
            a checkpoint is read, as prolificdreamer-, sjc- and latentnerf-system do. dreamfusion- and sdi-system make it after, and could
            not load such a checkpoint. A checkpoint without that state is loaded, with a warning.
        weights: as of every module of threestudio.
        use_sjc, var_red: SJC, and its variance reduction.
        pretrained_model_name_or_path_lora: the model whose network the LoRA of VSD adapts.
        guidance_scale_lora: 1 alone.
        lora_cfg_training: whether the LoRA's camera is zeroed in a tenth of its training steps.
        lora_n_timestamp_samples: noise levels per render in one training step of the LoRA.
        camera_condition_type: the LoRA's camera: "extrinsics", the batch's c2w; "mvp", its mvp_mtx; None: the LoRA is given no camera.
        enable_sdi: True alone; for False take recipe: sds.
        inversion_guidance_scale, inversion_n_steps, inversion_eta: of SDI's inversion.
        t_anneal: whether SDI's t falls linearly from max to min; False: random between them.
        n_ddim_steps, max_items_eval: of threestudio's `guidance_eval`, which is not offered; no effect.
        enable_attention_slicing, enable_sequential_cpu_offload, enable_channels_last_format: diffusers' switches.
        enable_memory_efficient_attention: no effect: PyTorch's attention is memory efficient.
        use_img_loss, token_merging: False alone.
    """

    recipe: str | None = None
    pretrained_model_name_or_path: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    half_precision_weights: bool = True
    download: bool = False
    guidance_scale: float | None = None
    scale_convention: str = "modeseek"
    max_steps: int = 10000
    trainer_max_steps: int | None = None
    space: str | None = None
    refresh: int = 1
    samples: int | None = None
    sampler_steps: int | None = None
    bandwidth: list[float] | None = None
    lora_lr: float | None = None
    min_step_percent: Any = None
    max_step_percent: Any = None
    sqrt_anneal: bool | None = None
    weighting_strategy: str = "sds"
    grad_clip: Any = None
    view_dependent_prompting: bool = True
    seed: int = 0
    loss_name: str = "sds"
    keep_state: bool = False
    weights: str | None = None
    use_sjc: bool | None = None
    var_red: bool | None = None
    pretrained_model_name_or_path_lora: str | None = None
    guidance_scale_lora: float | None = None
    lora_cfg_training: bool | None = None
    lora_n_timestamp_samples: int | None = None
    camera_condition_type: str | None = None
    enable_sdi: bool | None = None
    inversion_guidance_scale: float | None = None
    inversion_n_steps: int | None = None
    inversion_eta: float | None = None
    t_anneal: bool | None = None
    n_ddim_steps: int | None = None
    max_items_eval: int = 4
    enable_attention_slicing: bool = False
    enable_sequential_cpu_offload: bool = False
    enable_channels_last_format: bool = False
    enable_memory_efficient_attention: bool = False
    use_img_loss: bool = False
    token_merging: bool = False
    token_merging_params: dict[str, Any] = field(default_factory=dict)


def recipe_name(config: Any) -> str:
    """The recipe that a block names, in words or by a key of its method.

    Example:
        >>> recipe_name(Config()), recipe_name(Config(use_sjc=True)), recipe_name(Config(recipe="vsd"))
        ('msd', 'sjc', 'vsd')
    """
    implied = "sjc" if config.use_sjc else "sdi" if config.enable_sdi else "msd"
    return config.recipe if config.recipe is not None else implied


def recipe_of(config: Any) -> Recipe:
    """The recipe of a block, with its numbers.

    Raises:
        InvalidInput: an unknown recipe, a key that belongs to another recipe or cannot be honoured, or a value out of range.

    Example:
        >>> recipe_of(Config()).refresh, recipe_of(Config()).sampler_steps, recipe_of(Config(recipe="sjc")).timesteps
        (1, 10, (970, 10))
    """
    name = recipe_name(config)
    if name not in RECIPES:
        raise InvalidInput(f"recipe {name!r} is unknown: choose {', '.join(RECIPES)}")
    check_keys(config, name)
    recipe, steps = RECIPES[name], steps_of(config)
    wide: dict[str, Any] = WIDE if recipe.method in ("msd-proximal", "msd-persistent") else {}
    recipe = replace(recipe, steps=steps, refresh=config.refresh, noise="fresh", **wide)
    given = {key: getattr(config, key) for key in ("space", "samples", "sampler_steps", "bandwidth", "lora_lr")}
    given |= {"eta": config.inversion_eta}
    if config.inversion_n_steps is not None:
        given["sampler_steps"] = config.inversion_n_steps
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if "bandwidth" in changes:
        changes["bandwidth"] = tuple(changes["bandwidth"])
        if len(changes["bandwidth"]) != 2:
            raise InvalidInput(f"bandwidth is [first, last], got {list(changes['bandwidth'])}")
    return replace(recipe, **changes, timesteps=timesteps_at(config, recipe, 0, 0))


def steps_of(config: Any) -> int:
    """Steps of the trainer.

    Raises:
        InvalidInput: below 1.
    """
    steps = config.max_steps if config.trainer_max_steps is None else config.trainer_max_steps
    if steps < 1:
        raise InvalidInput(f"max_steps must be at least 1, got {steps}: give max_steps: ${{trainer.max_steps}}")
    return steps


def check_keys(config: Any, name: str) -> None:
    """Raise `InvalidInput` for a key that the recipe `name` cannot honour; the key is named."""
    method = RECIPES[name].method
    for key, methods in KEYS_OF.items():
        value = getattr(config, key)
        if value is not None and method not in methods and not (key in ("use_sjc", "enable_sdi", "sqrt_anneal") and value is False):
            names = " or ".join(other for other in RECIPES if RECIPES[other].method in methods)
            raise InvalidInput(f"{key} belongs to recipe: {names}, this is {name}: remove it, or give that recipe")
    refused = {
        "use_img_loss": (config.use_img_loss, "for residuals between images give space: image"),
        "token_merging": (config.token_merging, "it is not offered"),
        "enable_sdi": (config.enable_sdi is False, "without the inversion give recipe: sds"),
        "use_sjc": (method == "sjc" and config.use_sjc is False, "without it give recipe: sds"),
        "guidance_scale_lora": (config.guidance_scale_lora not in (None, 1, 1.0), "the LoRA is evaluated without guidance, scale 1"),
        "camera_condition_type": (config.camera_condition_type not in (None, "extrinsics", "mvp"), "choose extrinsics or mvp"),
        "scale_convention": (config.scale_convention not in ("modeseek", "threestudio"), "choose modeseek or threestudio"),
    }
    for key, (wrong, words) in refused.items():
        if wrong:
            raise InvalidInput(f"{key}: {getattr(config, key)} is not offered by recipe {name}: {words}")
    uniform = config.weighting_strategy == "uniform" and method == "sds"
    if config.weighting_strategy != "sds" and not uniform and method != "sdi":
        raise InvalidInput(
            f"weighting_strategy {config.weighting_strategy!r} is not offered by recipe {name}: choose sds, or uniform with sds"
        )
    for key in ("min_step_percent", "max_step_percent"):
        if not isinstance(getattr(config, key), int | float | None) and method not in (*STOCHASTIC, "sdi"):
            raise InvalidInput(f"{key} is a schedule, and recipe {name} takes one number: the levels of its sampler stay")


def timesteps_at(config: Any, recipe: Recipe, epoch: int, step: int) -> tuple[int, int]:
    """(highest, lowest) timestep of the block at a step; the recipe's where it names none."""
    percents = (config.max_step_percent, config.min_step_percent)
    high, low = (
        own if percent is None else int(1000 * scheduled(percent, epoch, step))
        for own, percent in zip(recipe.timesteps, percents, strict=True)
    )
    return high, low


def scheduled(value: Any, epoch: int, step: int) -> float:
    """A number or threestudio's schedule of one, at a step.

    Raises:
        InvalidInput: a list that is not a schedule.

    Example:
        >>> [scheduled([0, 10.0, 1000.0, 5000], 0, step) for step in (0, 2500, 9000)]
        [10.0, 505.0, 1000.0]
        >>> scheduled([1000, 0.0, 1.0, 2.0], 5, 0), scheduled([0.5, 0.1, 100], 0, 50)  # a float end counts epochs; three values start at 0
        (0.996993987975952, 0.3)
    """
    if isinstance(value, int | float):
        return float(value)
    entries = list(value)
    entries = [0, *entries] if len(entries) == 3 else entries
    if len(entries) < 4 or len(entries) % 2 or not all(isinstance(entry, int | float) for entry in entries):
        raise InvalidInput(f"a schedule is a number or [start_step, start, end, end_step, ...], got {list(value)}")
    here, there = (entries[0], entries[1]), (entries[3], entries[2])
    for index in range(4, len(entries), 2):
        now = step if isinstance(there[0], int) else epoch
        if now < there[0]:
            break
        here, there = there, (entries[index + 1], entries[index])
    now = step if isinstance(there[0], int) else epoch
    part = min(max((now - here[0]) / (there[0] - here[0]), 0.0), 1.0) if there[0] != here[0] else 1.0
    return here[1] + (there[1] - here[1]) * part
