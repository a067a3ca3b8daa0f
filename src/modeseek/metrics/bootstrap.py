"""Standard errors of any statistic by resampling its data with replacement (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


def bootstrap_error(statistic: Callable[..., float], *samples: Tensor, draws: int = 100, seed: int = 0) -> float:
    """Standard error of `statistic(*samples)`: each sample (n_i, ...) is resampled along its first axis, independently of the others.

    A distance between distributions (Frechet's) is biased by the size of its samples, and more so resampled: take the error, not
    the mean, of the
    resampled values.

    Example:
        >>> x = torch.arange(100.0)
        >>> abs(bootstrap_error(lambda x: float(x.mean()), x, draws=400) - 2.87) < 0.3  # 28.7 / sqrt(100), within 3 of its own errors
        True
    """
    if draws < 2 or not samples or min(len(sample) for sample in samples) < 2:
        raise InvalidInput("a bootstrap needs at least two draws and samples of at least two items")
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        values.append(statistic(*(sample[torch.randint(len(sample), (len(sample),), generator=rng)] for sample in samples)))
    return float(torch.tensor(values, dtype=torch.float64).std())
