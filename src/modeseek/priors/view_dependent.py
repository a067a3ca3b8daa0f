"""A prior whose prompts depend on the cameras, and Perp-Neg between views.

The name of a camera's view is appended to the prompt ("PROMPT, side view"). Perp-Neg (Armandpour et al. 2023,
https://arxiv.org/abs/2304.04968) removes from each view's prediction the component along the prompts of other views, weighted by the
camera's azimuth; it reduces the multi-face (Janus) problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser
from modeseek.core.errors import InvalidInput
from modeseek.core.guidance import EVERYWHERE, Interval, PerpNeg
from modeseek.priors.base import ImagePrior

KEPT = 32
"""Combinations of views whose encoded prompts are kept; eight random views have thousands."""


@dataclass(frozen=True, kw_only=True)
class ViewDependentPrior:
    """A prior that appends the name of each current view to the prompt ("PROMPT, NAME view"); an `ImagePrior`.

    Args:
        prior: the model.
        names: returns the view names of the current batch; called at each evaluation.
        azimuths: for Perp-Neg: azimuths of the cameras in degrees; None: classifier-free guidance only.
    """

    prior: ImagePrior
    names: Callable[[], Sequence[str]]
    azimuths: Callable[[], Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def denoiser(
        self, prompts: Sequence[str], *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE
    ) -> Denoiser:
        """D of the current views; prompts are encoded for each combination of views, of which the last `KEPT` are kept.

        With Perp-Neg a call costs five network passes per item instead of two.

        Raises:
            InvalidInput: Perp-Neg for a model without classifier-free guidance; when D is called, neither one prompt nor one per view.
        """
        kind = getattr(getattr(self.prior, "family", None), "guidance", "classifier-free")
        if self.azimuths is not None and kind != "classifier-free":
            raise InvalidInput(
                "Perp-Neg needs a model with classifier-free guidance; this one has distilled guidance or none: drop perp_neg"
            )

        @lru_cache(maxsize=KEPT)
        def known(names: tuple[str, ...], scale: float | None) -> Denoiser:
            each = list(prompts) * len(names) if len(prompts) == 1 else prompts  # one prompt serves all views
            if len(each) != len(names):
                raise InvalidInput(f"{len(prompts)} prompts for {len(names)} views: give one prompt, or one for each view")
            extended = [f"{prompt}, {name} view" for prompt, name in zip(each, names, strict=True)]
            return self.prior.denoiser(extended, guidance=scale, negative=negative, interval=interval)

        def of(names: Sequence[str], scale: float | None) -> Denoiser:
            return known(tuple(names), scale)

        def viewed(x: Tensor, sigma: Tensor) -> Tensor:
            names = self.names()
            if self.azimuths is None:
                return of(names, guidance)(x, sigma)
            weights = [perp_neg_weights(float(azimuth), name) for azimuth, name in zip(self.azimuths(), names, strict=True)]
            others = [of([side] * len(names), 1.0) for side in ("front", "side")]
            pushed = PerpNeg(
                denoiser=of(names, 1.0),
                weaker=of(names, 0.0),
                others=others,
                weights=torch.tensor(weights),
                scale=self.prior.default_guidance if guidance is None else guidance,
                interval=interval,
            )
            return pushed(x, sigma)

        return viewed

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """D_aux for VSD, conditioned on the prompt without its view, as published."""
        return self.prior.auxiliary(prompts, rank=rank, seed=seed)


def perp_neg_weights(azimuth: float, name: str) -> tuple[float, float]:
    """Perp-Neg's weights of "front view" and "side view" (Armandpour et al. 2023, with threestudio's numbers): 0 at that view.

    Example:
        >>> [tuple(round(w, 2) + 0.0 for w in perp_neg_weights(a, "")) for a in (0.0, 90.0, -180.0)]
        [(0.0, -1.57), (-1.57, 0.0), (-1.97, -0.39)]
    """
    if name == "overhead":
        return 0.0, 0.0
    turned = abs((azimuth + 180) % 360 - 180) / 90

    def decay(a: float, c: float, r: float) -> float:
        return -max(0.0, a * math.exp(-0.5 * r) + c)

    if turned <= 1:  # from the front, 0, to the side, 1
        return decay(4, -2.426, 1 - turned), decay(4, -2.426, turned)
    return decay(1, 0.967, 2 - turned), decay(1, -0.606, 2 - turned)
