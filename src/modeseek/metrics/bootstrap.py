"""Standard errors and intervals of a statistic by resampling its data with replacement (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


def bootstrap_error(statistic: Callable[..., float], *samples: Tensor, draws: int = 100, seed: int = 0) -> float:
    """Standard error of `statistic(*samples)`, the standard deviation of its values on resampled data.

    A distance between distributions, such as Frechet's, is biased in finite samples, and more so in resampled ones: use the spread of the
    resampled values, not their mean.

    Args:
        statistic: maps tensors like the samples to a number.
        samples: tensors (n_i, ...), each resampled along its first axis, independently of the others.
        draws: resamples.
        seed: of the resampling.

    Raises:
        InvalidInput: fewer than two draws, no sample, or a sample of fewer than two items.

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


def bootstrap_interval(groups: Sequence[Sequence[float]], *, level: float = 0.95, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of grouped values; whole groups are resampled, since values within one are not independent.

    Args:
        groups: values of each group (the seeds of a prompt, say).
        level: probability that the interval covers.
        draws: resamples.
        seed: of the resampling.

    Raises:
        InvalidInput: fewer than two groups.

    Example:
        >>> low, high = bootstrap_interval([[0.9, 1.1], [1.0], [1.2, 0.8], [1.1]])
        >>> low > 0.9, high < 1.2
        (True, True)
    """
    if len(groups) < 2 or min(map(len, groups)) < 1:
        raise InvalidInput(f"an interval needs at least two groups with values, got {len(groups)}")
    rng = torch.Generator().manual_seed(seed)
    sums = torch.tensor([float(sum(group)) for group in groups], dtype=torch.float64)
    counts = torch.tensor([float(len(group)) for group in groups], dtype=torch.float64)
    chosen = torch.randint(len(groups), (draws, len(groups)), generator=rng)
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    tail = (1 - level) / 2
    return float(means.quantile(tail)), float(means.quantile(1 - tail))
