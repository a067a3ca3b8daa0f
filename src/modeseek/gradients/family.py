r"""CSD, NFSD and SDS-Bridge: named members of the linear family, with their published weights and rules (`modeseek.gradients.linear`)."""

from __future__ import annotations

from typing import Any

from modeseek.core.denoiser import Denoiser
from modeseek.gradients.linear import Bridge, ClassifierScore, LinearScore, NoiseFree
from modeseek.gradients.noise_levels import NoiseLevels


def CSD(  # noqa: N802 - the field's name, used like the other gradients' classes
    *,
    conditional: Denoiser,
    null: Denoiser,
    negative: Denoiser | None = None,
    negative_weight: tuple[float, float] = (0.0, -1.0),
    levels: NoiseLevels | None = None,
    normalise: bool = True,
    **settings: Any,
) -> LinearScore:
    """Classifier score distillation, eps_c - eps_0; a `Gradient` of 2 denoiser calls per sample, 3 with a negative prompt.

    Only the prompt contributes: the gradient vanishes wherever the conditional and the unconditional prediction agree. The published weight
    is uniform and there is no guidance scale, since Adam removes it.

    Args:
        conditional: D of the prompt, unguided.
        null: D of the empty prompt.
        negative: D of a negative prompt, whose weight runs over the progress from `negative_weight[0]` to `negative_weight[1]` while that
            of the null prompt runs from -1 to 0.
        negative_weight: first and last weight; only with `negative`.
        levels: uniform weight over all levels by default.
        normalise: divide each object's gradient by its norm.
        settings: `samples`, `noise` and `seed` of `LinearScore`.

    Example:
        >>> CSD(conditional=lambda x, s: x, null=lambda x, s: x).rule
        ClassifierScore(negative=(0.0, 0.0))
    """
    rule = ClassifierScore((0.0, 0.0) if negative is None else negative_weight)
    denoisers = (conditional, null, null if negative is None else negative)
    return LinearScore(denoisers=denoisers, rule=rule, levels=levels or NoiseLevels(), normalise=normalise, **settings)


def NFSD(  # noqa: N802
    *,
    conditional: Denoiser,
    null: Denoiser,
    negative: Denoiser,
    scale: float = 7.5,
    threshold: float | None = None,
    levels: NoiseLevels | None = None,
    **settings: Any,
) -> LinearScore:
    """Noise-free score distillation; a `Gradient` of 3 denoiser calls per sample.

    Args:
        conditional: D of the prompt, unguided.
        null: D of the empty prompt.
        negative: D of a prompt for images off the data ("unrealistic, blurry, low quality, ...").
        scale: s of the condition.
        threshold: sigma below which the null prediction counts as noise-free; None: that of timestep 200.
        levels: weight 1 - alpha_bar by default.
        settings: `samples`, `noise` and `seed` of `LinearScore`.
    """
    levels = levels or NoiseLevels(weight="dreamfusion")
    return LinearScore(denoisers=(conditional, null, negative), rule=NoiseFree(scale, threshold), levels=levels, **settings)


def SDSBridge(  # noqa: N802
    *,
    conditional: Denoiser,
    null: Denoiser,
    target: Denoiser,
    source: Denoiser,
    scale: float = 40.0,
    switch: float = 0.5,
    levels: NoiseLevels | None = None,
    **settings: Any,
) -> LinearScore:
    """Score distillation as a bridge; a `Gradient` of 2 denoiser calls per sample.

    The second stage estimates the step from the distribution of the current renders, described by a source text, to that of the target.

    Args:
        conditional: D of the prompt, for the first stage.
        null: D of the empty prompt.
        target: D of the prompt with `BRIDGE_TARGET` appended.
        source: D of the prompt with `BRIDGE_SOURCE` appended.
        scale: s of both stages.
        switch: progress at which the second stage begins.
        levels: weight 1 - alpha_bar by default.
        settings: `samples`, `noise` and `seed` of `LinearScore`.
    """
    levels = levels or NoiseLevels(weight="dreamfusion")
    return LinearScore(denoisers=(conditional, null, target, source), rule=Bridge(scale, switch), levels=levels, **settings)
