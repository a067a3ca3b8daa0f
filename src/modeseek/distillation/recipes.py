r"""Settings of each gradient on an image prior: as published, and the best ones found for this package.

A recipe states everything but the prior and the prompt: the gradient with its numbers, the space of the residual, how many steps
one estimate serves, the optimiser. Noise levels are stated in Stable Diffusion's timesteps t of 1000 (sigma from 0.029 to 14.6), as in
all published settings, whatever the prior. `modeseek.distillation.published` gives the source of each number of a published recipe.

    name              what                                                                    denoiser calls per step
    sds               DreamFusion as threestudio codes it: t ~ U[20, 980], w = 1 - alphabar    1
    sjc               score Jacobian chaining: t ~ U[10, 970], w = 1                           1
    vsd               ProlificDreamer: a LoRA of the prior, t <= 500 after a fifth of the run  2, and a training step of the LoRA
    sdi               inversion under the negative scale every 100 t, as coded, t 980 to 250   5 to 12
    msd-published     split step around the inverted centre, kernel in a limited interval      2 sampler_steps - 1
    msd-persistent    one chain per object, advanced by one call per step                         1
    msd               wide kernel, fixed noise, cached targets in image space                  sampler_steps / refresh

Not part of a recipe: images are resized with antialiasing before the encoder (threestudio: without), and latents are the posterior's mean
(all published codes: a draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from modeseek.core.checks import check_choice, check_integer, check_number
from modeseek.core.errors import InvalidInput
from modeseek.core.guidance import EVERYWHERE
from modeseek.core.schedules import AdaptiveBandwidth, ExponentialBandwidth, stable_diffusion_levels
from modeseek.distillation.literature import CALLS, LiteratureMethod, build_literature, falling_bandwidth
from modeseek.distillation.published import at_timestep
from modeseek.distillation.settings import changed
from modeseek.gradients import MSD, SDI, SDS, SJC, VSD, Gradient, NoiseLevels, PersistentMSD
from modeseek.gradients.base import NoisePolicy
from modeseek.gradients.cached import Space
from modeseek.gradients.sdi import inversion_steps
from modeseek.priors.base import ImagePrior
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import ProximalSampler, SplitSampler

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("sds", "sjc", "vsd", "sdi", "msd-split", "msd-proximal", "msd-reverse", "msd-persistent", *CALLS),
    "optimiser": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "cosine"),
    "noise": get_args(NoisePolicy),
    "space": get_args(Space),
    "scaling": ("text", "verbatim", "none"),
}
"""Settings of a recipe that are one of a few names."""
SINGLE = ("sdi", "msd-persistent", "ism", "consistent3d", "cfd", "dsd", "mean-shift", "hd-ode")  # methods without Monte-Carlo samples
SPREAD = 10.0  # bandwidths above x at which a local draw starts
STABLE_DIFFUSION_SCALE = 7.5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A gradient on an image prior with all its settings; `dataclasses.replace` varies one.

    Args:
        method: the gradient, and for MSD its sampler of the product density ("reverse": `modeseek.product.reverse`).
        steps: optimiser steps.
        optimiser, lr, schedule, warmup: of the representation's parameters (`modeseek.distillation.loop.optimise`).
        guidance: scale s; None: the prior's own.
        noise: "fresh", "fixed" for each object, or "shared" by all.
        space: of the residual: "latent" goes through the encoder, "image" compares images with the decoded target, "difference"
            moves the image by what the gradient changes in decoded images (`modeseek.gradients.cached`).
        corrections: fixed-point corrections of each encoding (`modeseek.priors.consistent`), without which local steps drift; each costs a
            decoder and an encoder pass per estimate and no denoiser call.
        refresh: number of steps that use one estimate.
        samples: Monte-Carlo samples per estimate; 1 for the methods in `SINGLE`.
        timesteps: highest and lowest t: of the distribution of SDS, SJC and VSD, of SDI's schedule, of the levels of MSD's samplers.
        sampler_steps: sampler steps of a draw; inversion steps of SDI.
        bandwidth: first and last bandwidth of MSD, mean shift and HD-ODE, and level of annealed SDS; falling exponentially; standard
            deviations per coordinate in units of the data's (`ImagePrior.data_std`), of "msd-split" in timesteps.
        first: bandwidth of MSD's first draw, if it differs.
        interval: t between which guidance and kernel of "msd-split" act; (999, 0): everywhere.
        scaling: of the noise of the centre of "msd-split", by inversion: "text": to the level of the current state, as section 4.3 of
            the paper says; "verbatim": one level above, as Algorithm 2 prints it; "none".
        inversion: SDI inverts at this multiple of the guidance scale (a network with its guidance distilled into it: at the same scale).
        eta: noise of SDI's inversion.
        as_published: SDI as its public code has it (`gradients.sdi`); False: the state is at the level at which the network is called.
        lora_lr: learning rate of VSD's LoRA.
        published_guidance: the authors' scale s on Stable Diffusion, in this package's convention D_u + s (D_c - D_u); None: none stated.
    """

    method: Literal["sds", "sjc", "vsd", "sdi", "msd-split", "msd-proximal", "msd-reverse", "msd-persistent"] | LiteratureMethod
    steps: int = 400
    optimiser: str = "adamw"
    lr: float = 1e-2
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    guidance: float | None = None
    noise: NoisePolicy = "fresh"
    space: Space = "latent"
    corrections: int = 0
    refresh: int = 1
    samples: int = 1
    timesteps: tuple[int, int] = (980, 20)
    sampler_steps: int = 10
    bandwidth: tuple[float, float] = (8.0, 0.3)
    first: float | None = None
    interval: tuple[int, int] = (800, 200)
    scaling: Literal["text", "verbatim", "none"] = "text"
    inversion: float = -1.0
    eta: float = 0.0
    as_published: bool = False
    lora_lr: float = 1e-4
    published_guidance: float | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidInput` for a value outside its range."""
        for name in ("steps", "refresh", "samples", "sampler_steps"):
            check_integer(name, getattr(self, name))
        for name in ("lr", "lora_lr"):
            check_number(name, getattr(self, name), above=0)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("guidance", "first", "inversion"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        for name in ("bandwidth", "timesteps", "interval"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InvalidInput(f"{name} must be two numbers, got {pair!r}")
            for value in pair:
                (check_number if name == "bandwidth" else check_integer)(name, value, low=0)
        if self.samples > 1 and self.method in SINGLE:
            raise InvalidInput(f"{self.method} has one sample per estimate, got samples={self.samples}: leave it out, or accumulate passes")
        check_number("warmup", self.warmup, low=0, high=1)

    @property
    def calls(self) -> float:
        """Denoiser calls per object of a complete run."""
        if self.method == "sdi":
            high, low = self.timesteps
            shares = (index / max(self.steps - 1, 1) for index in range(0, self.steps, self.refresh))
            more = 2 if self.as_published else 1
            return sum(inversion_steps(high + (low - high) * share, self.sampler_steps) + more for share in shares)
        if self.method in CALLS:
            return CALLS[self.method] * self.samples * -(-self.steps // self.refresh)
        each = {
            **dict.fromkeys(("sds", "sjc"), self.samples),
            "vsd": 2 * self.samples + 1,
            "msd-split": self.samples * (self.sampler_steps if self.scaling == "none" else 2 * self.sampler_steps - 1),
            **dict.fromkeys(("msd-proximal", "msd-reverse"), self.samples * self.sampler_steps),
            "msd-persistent": 1,
        }[self.method]
        return each * -(-self.steps // self.refresh)


RECIPES: dict[str, Recipe] = {
    "sds": Recipe(method="sds", published_guidance=101.0),
    "sjc": Recipe(method="sjc", timesteps=(970, 10), published_guidance=100.0),
    "vsd": Recipe(method="vsd", published_guidance=7.5),
    "sdi": Recipe(method="sdi", timesteps=(980, 250), eta=0.3, as_published=True, published_guidance=7.5),
    "msd-published": Recipe(method="msd-split", bandwidth=(1e3, 1e-2)),
    "msd-persistent": Recipe(
        method="msd-persistent", noise="fixed", space="image", sampler_steps=25, bandwidth=(80.0, 8.0), schedule="cosine"
    ),
    "msd": Recipe(
        method="msd-proximal", noise="fixed", space="image", sampler_steps=25, refresh=25, bandwidth=(80.0, 8.0), schedule="cosine"
    ),
}
"""By name; `modeseek image --method NAME`. How "msd" was found is in docs/provenance.md."""
METHOD_RECIPES: dict[str, Recipe] = {
    "csd": Recipe(method="csd"),
    "nfsd": Recipe(method="nfsd", published_guidance=7.5),
    "sds-bridge": Recipe(method="sds-bridge", published_guidance=40.0),
    "ism": Recipe(method="ism", published_guidance=7.5),
    "consistent3d": Recipe(method="consistent3d", published_guidance=101.0),
    "cfd": Recipe(method="cfd", noise="fixed"),
    "dsd": Recipe(method="dsd", noise="fixed", published_guidance=7.5),
    "rfds": Recipe(method="rfds"),
    "rfds-rev": Recipe(method="rfds-rev"),
    "sds-hifa": Recipe(method="sds-hifa", timesteps=(980, 300)),
    "sds-dreamtime": Recipe(method="sds-dreamtime"),
    "sds-annealed": Recipe(method="sds-annealed", space="image", corrections=3, bandwidth=(8.0, 0.3), schedule="cosine"),
    "mean-shift": Recipe(method="mean-shift", space="image", corrections=3, bandwidth=(8.0, 0.3), schedule="cosine"),
    "hd-ode": Recipe(method="hd-ode", space="image", corrections=3, bandwidth=(8.0, 0.1), schedule="cosine"),
}
"""The methods of `modeseek.distillation.literature` by name; untuned."""
ALL_RECIPES = RECIPES | METHOD_RECIPES


def get_recipe(name: str, *, recipes: dict[str, Recipe] = ALL_RECIPES, **changes: Any) -> Recipe:
    """Return the recipe called `name` with the changes that are not None.

    Raises:
        InvalidInput: no recipe of that name, or a change of a setting that its method does not read.
    """
    if name not in recipes:
        raise InvalidInput(f"method {name!r} is unknown: choose {', '.join(recipes)}")
    return changed(recipes[name], {key: value for key, value in changes.items() if value is not None}, name=name)


def scale_of(recipe: Recipe, prior: ImagePrior, guidance: float | None = None) -> float:
    """Return the guidance scale: the recipe's, else the given one, else the published one, else the prior's default.

    Published scales are stated for Stable Diffusion. They are used only if the prior's default is that of Stable Diffusion, 7.5.
    """
    if recipe.guidance is not None or guidance is not None:
        return recipe.guidance if recipe.guidance is not None else float(guidance or 0.0)
    default = prior.default_guidance
    return default if recipe.published_guidance is None or default != STABLE_DIFFUSION_SCALE else recipe.published_guidance


def build_gradient(
    recipe: Recipe, prior: ImagePrior, prompts: Sequence[str], *, guidance: float | None = None, negative: str = "", seed: int = 0
) -> Gradient:
    """The recipe's gradient on `prior`, for one prompt per object.

    Args:
        recipe: what to build.
        prior: the model.
        prompts: one per object.
        guidance: scale s where the recipe states none; None: the prior's own.
        negative: prompt to guide away from.
        seed: of fixed noise and of VSD's LoRA.

    Raises:
        InvalidInput: timesteps or an interval that do not descend within 999 to 0; an interval for a guidance-distilled model.
    """
    own = getattr(prior, "timesteps", None)
    timesteps = own if own is not None and len(own.sigmas) == 1000 else stable_diffusion_levels()
    table, unit = timesteps.sigmas, prior.data_std
    for name, (highest_t, lowest_t) in (("timesteps", recipe.timesteps), ("interval", recipe.interval)):
        if not 999 >= highest_t > lowest_t >= 0:
            raise InvalidInput(f"{name} must descend within 999 to 0, got {(highest_t, lowest_t)}")
    high, low = (unit * float(table[t]) for t in recipe.timesteps)
    low, high = max(low, prior.sigmas[0]), min(high, prior.sigmas[1])
    if not low < high:
        lowest, highest = prior.sigmas
        raise InvalidInput(f"timesteps {recipe.timesteps} lie outside the noise levels of this prior, {lowest:g} to {highest:g}")
    scale, opposite = scale_of(recipe, prior, guidance), negative or None
    denoiser = prior.denoiser(prompts, guidance=scale, negative=opposite)
    stochastic: dict[str, Any] = {"samples": recipe.samples, "noise": recipe.noise, "seed": seed}
    top = min(prior.sigmas[1], 80.0)
    start, end = recipe.bandwidth
    weight: Literal["eps", "dreamfusion"] = "eps" if recipe.method == "sjc" else "dreamfusion"
    levels = NoiseLevels(low=low, high=high, distribution="timestep", weight=weight, table=timesteps)
    if recipe.method in CALLS:
        return build_literature(recipe, prior, prompts, levels, scale=scale, negative=opposite, seed=seed)
    if recipe.method in ("sds", "sjc"):
        return (SDS if recipe.method == "sds" else SJC)(denoiser=denoiser, levels=levels, **stochastic)
    if recipe.method == "vsd":
        late = min(high, unit * float(table[500]))
        return VSD(
            denoiser=denoiser,
            auxiliary=prior.auxiliary(prompts, seed=seed),
            levels=levels,
            late_levels=replace(levels, high=late) if late > low else None,
            auxiliary_levels=replace(levels, low=prior.sigmas[0], high=min(prior.sigmas[1], unit * float(table[999]))),
            learning_rate=recipe.lora_lr,
            prediction="v" if getattr(prior, "prediction", None) == "v" else "eps",
            **stochastic,
        )
    if recipe.method == "sdi":
        negative_scale = scale if prior.distilled else recipe.inversion * scale
        ahead = at_timestep(prior, 1 - 1000 // recipe.sampler_steps) if recipe.as_published else None
        return SDI(
            denoiser=denoiser,
            inversion=denoiser if prior.distilled else prior.denoiser(prompts, guidance=negative_scale, negative=opposite),
            first=None if ahead is None else ahead.denoiser(prompts, guidance=negative_scale, negative=opposite),
            start=high,
            end=low,
            spacing="timestep",
            grid="timestep",
            steps=recipe.sampler_steps,
            eta=recipe.eta,
            as_published=recipe.as_published,
            table=timesteps,
        )
    if recipe.method == "msd-split":
        limited = recipe.interval != (999, 0)
        if limited and prior.distilled:
            words = "this model has its guidance distilled into it, which cannot be limited to an interval of noise levels"
            raise InvalidInput(f"{words}: give interval=(999, 0), or --interval 999 0")
        interval = (unit * float(table[recipe.interval[1]]), unit * float(table[recipe.interval[0]])) if limited else EVERYWHERE
        guided = prior.denoiser(prompts, guidance=scale, negative=opposite, interval=interval)
        split = SplitSampler(
            steps=recipe.sampler_steps,
            sigma_min=low,
            sigma_max=high,
            centre="point" if recipe.scaling == "none" else "inverted",
            interval=interval,
            timesteps=timesteps,
            verbatim=recipe.scaling == "verbatim",
        )
        return MSD(denoiser=guided, bandwidth=ExponentialBandwidth(start=start, end=end), sampler=split, **stochastic)
    if recipe.method == "msd-reverse":
        falling = falling_bandwidth(recipe.bandwidth, prior)
        reverse = ReverseSampler(steps=recipe.sampler_steps, sigma_min=falling.start)  # its last level: a tenth of l
        return MSD(denoiser=denoiser, bandwidth=falling, sampler=reverse, **stochastic)
    draw = ProximalSampler(steps=recipe.sampler_steps, sigma_min=low, sigma_max=top, data_std=prior.data_std, spread=SPREAD)
    bandwidth = AdaptiveBandwidth(first=unit * (recipe.first or start), start=unit * start, end=unit * end, reach=0.0)
    if recipe.method == "msd-proximal":
        return MSD(denoiser=denoiser, bandwidth=bandwidth, sampler=draw, **stochastic)
    first_draw = (recipe.sampler_steps - 1) / max(recipe.steps - 1, 1)
    chain = replace(bandwidth, until=first_draw)
    return PersistentMSD(denoiser=denoiser, bandwidth=chain, sampler=draw, target="drawn", noise=recipe.noise, seed=seed)
