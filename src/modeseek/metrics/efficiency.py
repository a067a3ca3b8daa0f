r"""Quality of a gradient estimator: efficiency (the paper's Eq. 17), and bias against a known truth.

    efficiency(g_hat) = |g|^2 / (MSE(g_hat) cost(g_hat)),   cost = denoiser calls, reported as a natural logarithm

Two readings of g. In the paper's, g is the estimator's own mean: only variance counts, and a deterministic estimator has infinite
efficiency, even a wrong one. In the other, g is the oracle, and the estimate is first multiplied by the one factor that fits it best (the
paper: "different estimators may converge to gradients of different magnitude"), so bias counts. Numerator and MSE are averaged over x
before the division, as the paper says ("accumulated ... and averaged over many values of x").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


def log_efficiency(estimates: Tensor, calls: float, *, oracle: Tensor | None = None) -> float:
    """Natural logarithm of the efficiency; `inf` if the MSE is 0 up to rounding.

    Args:
        estimates: (samples, batch, *event) independent estimates at each x.
        calls: cost of one of them, in denoiser calls.
        oracle: (batch, *event), the true gradient, for the second reading; None: the estimates' own mean, with the unbiased variance.

    Raises:
        InvalidInput: fewer than two samples, or estimates of another shape.

    Example:
        >>> log_efficiency(torch.tensor([[[1.0]], [[3.0]]]), calls=2.0)  # |mean|^2 = 4, variance 2: log(4 / 2 / 2)
        0.0
    """
    if estimates.ndim < 3 or len(estimates) < 2:
        raise InvalidInput(f"efficiency needs (samples >= 2, batch, *event) estimates, got {tuple(estimates.shape)}")
    estimates = estimates.double().flatten(2)
    if oracle is None:
        truth = estimates.mean(0)
        error = float(estimates.var(0).sum(1).mean())
    else:
        truth = oracle.double().flatten(1)
        mean = estimates.mean(0)
        scale = (mean * truth).sum() / (mean**2).sum().clamp_min(1e-300)
        error = float(((scale * estimates - truth) ** 2).sum(2).mean())
    size = float((truth**2).sum(1).mean())
    return math.inf if error <= 1e-10 * size else math.log(size / error / calls)


def against_oracle(estimates: Tensor, oracle: Tensor) -> dict[str, float]:
    """Compare an estimator with the true gradient: medians over x, and its bias in standard errors.

    Args:
        estimates: (samples, batch, *event).
        oracle: (batch, *event).

    Returns:
        `slope`, the estimate's mean projected on the oracle over all x, 1 if unbiased, and `slope_z`, its distance from 1 in standard
        errors; `cosine` and `relative_error` of the estimates' mean (medians over x); `spread`, the standard deviation of one estimate
        over |oracle| (median); `bias_z`, the root mean square over all entries of (mean - oracle) / standard error, 1 for an
        unbiased estimator; `beyond_3`, the share of entries more than 3 standard errors off (0.0027 if unbiased). The last
        two are `inf` and 1 for a biased estimator without variance.
    """
    estimates, oracle = estimates.double().flatten(2), oracle.double().flatten(1)
    mean, error = estimates.mean(0), estimates.std(0) / len(estimates) ** 0.5
    norm = oracle.norm(dim=1)
    along = (estimates * oracle).sum((1, 2)) / (oracle**2).sum()  # one slope per draw
    slope_error = along.std() / len(along) ** 0.5
    z = ((mean - oracle).abs() / error).nan_to_num(nan=0.0, posinf=math.inf)
    return {
        "slope": float(along.mean()),
        "slope_z": float(((along.mean() - 1) / slope_error).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)),
        "cosine": float(torch.cosine_similarity(mean, oracle).median()),
        "relative_error": float(((mean - oracle).norm(dim=1) / norm).median()),
        "spread": float((estimates.var(0).sum(1).sqrt() / norm).median()),
        "bias_z": float((z**2).mean().sqrt()),
        "beyond_3": float((z > 3).double().mean()),
    }
