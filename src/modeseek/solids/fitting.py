"""A NeRF fitted to true renders of a solid: what no distillation of the same NeRF can exceed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf import NeRF, NeRFSettings, Ranges
from modeseek.representations.nerf.cameras import draw
from modeseek.solids.captions import parse
from modeseek.solids.evaluation import true_images, true_weights


def fit_to_truth(
    prompt: str,
    settings: NeRFSettings | None = None,
    *,
    steps: int = 1000,
    lr: float = 0.05,
    seed: int = 0,
    bank: int = 120,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> NeRF:
    """A NeRF fitted to true renders by their mean squared error, an upper bound for any distillation of the same NeRF.

    Args:
        prompt: the caption; without a background in it, grey.
        settings: of the NeRF; None: the small one, with the views of the prior.
        steps: of AdamW.
        lr: learning rate, falling to 0 along a cosine.
        seed: of the NeRF, the cameras and their order.
        bank: true renders, traced once.
        device: of the NeRF.
        progress: called with the number of a step and its mean squared error.

    Raises:
        InvalidInput: the prompt names no scene, or no steps.
    """
    if min(steps, bank) < 1:
        raise InvalidInput(f"a fit needs at least one step and one image, got {steps} and {bank}")
    scene, _ = parse(prompt)
    settings = (settings if settings is not None else NeRFSettings.cpu()).shortened(steps)
    (height, width), rng = settings.views.size, torch.Generator().manual_seed(seed)
    if height != width:
        raise InvalidInput(f"true images are square, got views of {height} x {width}")
    drawn = draw(Ranges.solids_views(), bank, rng=rng)
    truth = true_images(scene, true_weights(scene, drawn, size=height)).to(device)
    nerf = NeRF(settings, seed=seed).to(device)
    optimiser = torch.optim.AdamW(nerf.groups(lr), betas=(0.9, 0.99), eps=1e-15)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        chosen = torch.randint(bank, (settings.views.count,), generator=rng)
        error = ((nerf(drawn[chosen]) - truth[chosen]) ** 2).sum() / 2  # as distillation weighs it against the regularisers
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        falling.step()
        if progress is not None:
            progress(step, 2 * error.item() / truth[chosen].numel())
    return nerf
