r"""Tests of a posterior sampler against the truth: rank statistics and a classifier two-sample test.

A joint draw (y, x) with y ~ p and x ~ p(x | y) makes y an exact draw of the posterior p(y | x). So

    ranks        the rank of f(y) among f of L draws of the sampler at x is uniform on 0..L: simulation-based calibration, Talts et al. 2018
                 (arXiv:1804.06788)
    classifier   no classifier separates (x, y) from (x, sampler's draw) better than chance: Lopez-Paz & Oquab 2017 (arXiv:1610.06545)

The rank test detects errors of location and spread along f and needs L draws per x. The classifier detects what its features express and
needs one. Both return p-values: under an exact sampler they are uniform, so a test at level 0.05 rejects one run in twenty. The test
statistics are discrete, and the chi-square and normal approximations of their distributions make the rates approximate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput

FEATURES = 128  # random cosines of the classifier
RIDGE = 1e-3  # of its fit, per item


def rank_test(truth: Tensor, draws: Tensor) -> Tensor:
    """p-value of uniform ranks for each test function.

    Args:
        truth: (items, functions), each function at the exact draws.
        draws: (L, items, functions), at L draws of the sampler for each item. Ties count half.

    Returns:
        (functions,) p-values of a chi-square test over L + 1 ranks.

    Raises:
        InvalidInput: shapes that do not fit, or fewer than 5 items per rank.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> y, draws = torch.randn(800, 1, generator=rng), torch.randn(7, 800, 1, generator=rng)
        >>> bool(rank_test(y, draws) > 0.01), bool(rank_test(y, 0.5 * draws) < 1e-6)
        (True, True)
    """
    if draws.ndim != 3 or draws.shape[1:] != truth.shape:
        raise InvalidInput(f"draws must be (L, *truth), got {tuple(draws.shape)} and {tuple(truth.shape)}")
    count, bins = len(truth), len(draws) + 1
    if count < 5 * bins:
        raise InvalidInput(f"a chi-square test over {bins} ranks needs at least {5 * bins} items, got {count}")
    ranks = (draws < truth).sum(0) + (draws == truth).sum(0) // 2  # (items, functions)
    expected = count / bins
    observed = torch.stack([(ranks == rank).sum(0) for rank in range(bins)]).double()
    return chi_square_tail(((observed - expected) ** 2 / expected).sum(0), bins - 1)


def classifier_test(first: Tensor, second: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Accuracy of a classifier between two samples, on items that it was not trained on, and the p-value of that accuracy.

    The classifier is a ridge regression on the coordinates, their squares and random cosines of the standardised items; it is trained on
    half of each sample.

    Args:
        first, second: (items, features), as many in each.
        seed: of the split and of the cosines.

    Returns:
        Accuracy, 0.5 for equal distributions, and the one-sided p-value of it (normal approximation of the binomial distribution).

    Raises:
        InvalidInput: samples of different shapes, or fewer than 40 items.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(2, 1000, 3, generator=rng)
        >>> classifier_test(a, b)[1] > 0.01, classifier_test(a, 1.5 * b)[1] < 1e-6
        (True, True)
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 40:
        raise InvalidInput(f"two samples (at least 40, features) of one shape are needed, got {tuple(first.shape)}, {tuple(second.shape)}")
    rng = torch.Generator().manual_seed(seed)
    items = torch.cat([first, second]).double()
    labels = torch.cat([items.new_ones(len(first)), -items.new_ones(len(second))])
    order = torch.randperm(len(items), generator=rng)
    train, test = order[: len(items) // 2], order[len(items) // 2 :]
    items = (items - items[train].mean(0)) / items[train].std(0).clamp_min(1e-12)
    directions = torch.randn(items.shape[1], FEATURES, dtype=torch.float64, generator=rng) * (2 / items.shape[1]) ** 0.5
    phases = 2 * math.pi * torch.rand(FEATURES, dtype=torch.float64, generator=rng)
    features = torch.cat([items.new_ones(len(items), 1), items, items**2, (items @ directions + phases).cos()], 1)
    known = features[train]
    gram = known.T @ known + RIDGE * len(train) * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, known.T @ labels[train])
    right = (features[test] @ weights).sign() == labels[test]
    accuracy = float(right.double().mean())
    z = (accuracy - 0.5) * 2 * len(test) ** 0.5
    return accuracy, 0.5 * math.erfc(z / 2**0.5)


def chi_square_tail(statistic: Tensor, freedom: int) -> Tensor:
    """Probability of a chi-square variable of `freedom` degrees above each value.

    Example:
        >>> round(float(chi_square_tail(torch.tensor(3.841), 1)), 3)
        0.05
    """
    return torch.special.gammaincc(torch.as_tensor(freedom / 2, dtype=torch.float64), statistic.double() / 2)


def smallest(p_values: Tensor) -> float:
    """p-value of several tests together: the smallest times their number, at most 1 (Bonferroni).

    Example:
        >>> smallest(torch.tensor([0.5, 0.125])), smallest(torch.tensor([0.5, 0.9]))
        (0.25, 1.0)
    """
    return min(1.0, float(p_values.min()) * len(p_values))
