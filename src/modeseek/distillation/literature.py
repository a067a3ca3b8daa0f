"""Recipes of the score distillation methods beyond the paper's baselines, on image priors.

    name                what                                                                            calls per step
    csd                 classifier score distillation, normalised                                       2
    nfsd                noise-free score distillation, s 7.5; `negative` is its negative prompt         3
    sds-bridge          SDS, then from a source text to a target text, s 40                             2
    ism                 interval score matching, s 7.5                                                  2 to 7
    consistent3d        two levels of one trajectory, one noise for all images                          2
    cfd                 fixed noise per image, levels falling linearly in t                             1
    dsd                 follows the trajectory of each image's noise, s 7.5                             3 to 10
    rfds, rfds-rev      weight of a rectified flow; with one inversion step                             1, 2
    sds-hifa            SDS with t from 980 to 300 by the square root of the progress                   1
    sds-dreamtime       SDS with DreamTime's schedule                                                   1
    sds-annealed        SDS in image space with corrected encodings, sigma falling as the bandwidth         1
                        of mean shift does, gradient x - D
    mean-shift          one-call mean shift in image space with corrected encodings                     1
    hd-ode              one step of the high-density ODE per optimiser step                              1

Settings are the authors' where they are stated for Stable Diffusion, otherwise the defaults of the estimators (`modeseek.gradients`). The
optimiser and the number of steps were chosen for this package. None of these recipes was tuned but mean shift for views of an object
(`modeseek.distillation.recommend`), whose levels annealed SDS shares. The null prompt is D_u, the guided denoiser at scale 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import ExponentialBandwidth, stable_diffusion_levels
from modeseek.gradients import CFD, CSD, DSD, HDODE, ISM, NFSD, RFDS, SDS, Consistent3D, Gradient, MeanShift, NoiseLevels, SDSBridge
from modeseek.gradients.linear import BRIDGE_SOURCE, BRIDGE_TARGET
from modeseek.priors.base import ImagePrior

LiteratureMethod = Literal[
    "csd",
    "nfsd",
    "sds-bridge",
    "ism",
    "consistent3d",
    "cfd",
    "dsd",
    "rfds",
    "rfds-rev",
    "sds-hifa",
    "sds-dreamtime",
    "sds-annealed",
    "mean-shift",
    "hd-ode",
]
CALLS: dict[str, float] = {
    "csd": 2,
    "nfsd": 3,
    "sds-bridge": 2,
    "ism": 4.5,
    "consistent3d": 2,
    "cfd": 1,
    "dsd": 7.5,
    "rfds": 1,
    "rfds-rev": 2,
    "sds-hifa": 1,
    "sds-dreamtime": 1,
    "sds-annealed": 1,
    "mean-shift": 1,
    "hd-ode": 1,
}
"""Denoiser calls per estimate and sample; ISM and DSD vary, and have their averages over a run."""


def calls_of_negative(recipe: Any) -> int:
    """Further denoiser calls per object of a run with a negative prompt: CSD evaluates it in every estimate but the first.

    Example:
        >>> from modeseek import Recipe
        >>> calls_of_negative(Recipe(method="csd", steps=400)), calls_of_negative(Recipe(method="sds", steps=400))
        (399, 0)
    """
    return recipe.samples * (-(-recipe.steps // recipe.refresh) - 1) if recipe.method == "csd" else 0


FALLING = ("sds-annealed", "mean-shift", "hd-ode")
"""Methods whose levels are `Recipe.bandwidth`, in units of the data's standard deviation."""


def falling_bandwidth(bandwidth: tuple[float, float], prior: ImagePrior) -> ExponentialBandwidth:
    """The schedule l = start (end/start)^progress per coordinate of x, within the levels of the prior's network.

    Args:
        bandwidth: first and last l in units of the data's standard deviation (`Recipe.bandwidth`).
        prior: the model, with `data_std` and `sigmas`.
    """
    start, end = (prior.data_std * value for value in bandwidth)
    return ExponentialBandwidth(start=min(start, prior.sigmas[1]), end=max(end, prior.sigmas[0]))


def build_literature(
    recipe: Any, prior: ImagePrior, prompts: Sequence[str], levels: NoiseLevels, *, scale: float, negative: str | None, seed: int
) -> Gradient:
    """The gradient of a recipe of this file.

    Args:
        recipe: a `Recipe` whose method is one of `CALLS`.
        prior: the model.
        prompts: one per object.
        levels: timesteps of the recipe on the prior.
        scale: guidance scale in force.
        negative: negative prompt, or None.
        seed: of noise that is not fresh.

    Raises:
        InvalidInput: a method that compares prompts on a model whose guidance is distilled into it; SDS-Bridge's suffixes on a prior that
            does not have their words.
    """
    method = recipe.method
    if prior.distilled and method in ("csd", "nfsd", "sds-bridge", "ism"):
        raise InvalidInput(f"{method} compares predictions of several prompts, and this model has its guidance distilled into it")
    if method in ("csd", "nfsd", "sds-bridge") and getattr(getattr(prior, "family", None), "guidance", "") == "none":
        raise InvalidInput(f"{method} compares predictions with and without a prompt, and this model has no prompt: choose another method")
    stochastic: dict[str, Any] = {"samples": recipe.samples, "noise": recipe.noise, "seed": seed}
    fixed = {"noise": "fixed" if recipe.noise == "fresh" else recipe.noise, "seed": seed}
    axis = replace(levels, low=prior.sigmas[0], high=min(prior.sigmas[1], prior.data_std * 14.6), weight="eps")

    def at(guidance: float) -> Any:
        return prior.denoiser(prompts, guidance=guidance)

    guided = prior.denoiser(prompts, guidance=scale, negative=negative)
    if method in ("sds-hifa", "sds-dreamtime"):
        return SDS(denoiser=guided, levels=replace(levels, anneal="sqrt" if method == "sds-hifa" else "dreamtime"), **stochastic)
    if method == "cfd":
        return CFD(denoiser=guided, levels=replace(levels, anneal="linear", weight="x0"), **fixed)  # type: ignore[arg-type]
    if method in ("rfds", "rfds-rev"):
        flow = replace(levels, distribution="flow", weight="flow")
        return RFDS(denoiser=guided, inversion=at(1.0) if method == "rfds-rev" else None, levels=flow, **stochastic)
    if method == "consistent3d":
        return Consistent3D(denoiser=guided, levels=axis, noise="shared", seed=seed)
    if method == "dsd":
        return DSD(denoiser=guided, unguided=at(1.0), levels=replace(axis, weight="dreamfusion"), **fixed)  # type: ignore[arg-type]
    if method in FALLING:
        bandwidth = falling_bandwidth(recipe.bandwidth, prior)
        if method == "sds-annealed":
            falling = NoiseLevels(low=bandwidth.end, high=bandwidth.start, distribution="loguniform", weight="x0", anneal="linear")
            return SDS(denoiser=guided, levels=falling, **stochastic)
        if method == "mean-shift":
            return MeanShift(denoiser=guided, bandwidth=bandwidth)
        return HDODE(denoiser=guided, bandwidth=bandwidth, steps=max(recipe.steps, 2))
    null = prior.denoiser(prompts, guidance=0.0)
    if method == "ism":
        return ISM(denoiser=guided, null=null, levels=replace(axis, weight="x0"), noise=recipe.noise, seed=seed)
    opposite = None if negative is None else prior.denoiser(prompts, guidance=0.0, negative=negative)
    if method == "csd":
        return CSD(conditional=at(1.0), null=null, negative=opposite, levels=replace(levels, weight="eps"), **stochastic)
    if method == "nfsd":
        threshold = max(prior.data_std * float(stable_diffusion_levels().sigmas[200]), prior.sigmas[0])
        settings = {"scale": scale, "threshold": threshold, "levels": levels, **stochastic}
        return NFSD(conditional=at(1.0), null=null, negative=opposite or null, **settings)
    if opposite is not None:
        return SDSBridge(conditional=at(1.0), null=null, target=at(1.0), source=opposite, scale=scale, levels=levels, **stochastic)
    try:
        target, source = (prior.denoiser([prompt + words for prompt in prompts], guidance=1.0) for words in (BRIDGE_TARGET, BRIDGE_SOURCE))
    except InvalidInput as error:
        raise InvalidInput(
            f"SDS-Bridge appends words to the prompt that this prior's vocabulary lacks ({error}): give a negative prompt"
        ) from error
    return SDSBridge(conditional=at(1.0), null=null, target=target, source=source, scale=scale, levels=levels, **stochastic)
