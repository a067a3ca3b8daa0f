r"""Keep an edit local: remove the part of a decoded change that is small next to the edit itself.

A gradient of a latent changes every pixel a little: its Monte-Carlo noise and the difference of two guided predictions are not exactly zero
where both prompts agree. The change of an attribute is large. So the change c = decode(x) - decode(x_src) is multiplied by

    m = clamp((a/A - low) / (high - low), 0, 1)

a is the magnitude of the change at a pixel (maximum over channels, averaged over 3 x 3 pixels), A its largest values in the image: a firm
threshold (Gao & Bruce 1997), relative to the edit. DiffEdit (Couairon et al. 2022, arXiv:2210.11427) finds its mask from the difference of
the two prompts' predictions in the same way, before the edit.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from modeseek.core.errors import InvalidInput

TOP = 0.99  # quantile of the pixels that stands for the largest change


def keep_local(change: Tensor, low: float, high: float) -> Tensor:
    """Set a change to 0 where it is below `low` times its largest magnitude, keep it above `high` times that, and blend in between.

    Args:
        change: (n, channels, height, width).
        low, high: 0 <= low < high <= 1; (0, 0) keeps everything.

    Returns:
        The change of the edit alone, shaped alike.

    Raises:
        InvalidInput: thresholds out of order.

    Example:
        >>> import torch
        >>> change = torch.full((1, 1, 8, 8), 0.01)
        >>> change[..., :4] = 1.0
        >>> kept = keep_local(change, 0.1, 0.2)
        >>> kept[0, 0, 0, 0].item(), kept[0, 0, 0, 7].item()
        (1.0, 0.0)
    """
    check_thresholds(low, high)
    if (low, high) == (0, 0):
        return change
    magnitude = change.abs().amax(1, keepdim=True)
    largest = magnitude.float().flatten(1).quantile(TOP, 1).to(change).reshape(-1, 1, 1, 1)
    around = avg_pool2d(pad(magnitude, (1, 1, 1, 1), mode="replicate"), 3, 1)
    relative = around / largest.clamp_min(1e-12)
    return change * ((relative - low) / (high - low)).clamp(0, 1)


def check_thresholds(low: float, high: float) -> None:
    """Raise `InvalidInput` unless 0 <= low < high <= 1 or both are 0."""
    if (low, high) != (0, 0) and not 0 <= low < high <= 1:
        raise InvalidInput(f"an edit needs thresholds 0 <= low < high <= 1, or (0, 0) to keep every change; got ({low}, {high})")
