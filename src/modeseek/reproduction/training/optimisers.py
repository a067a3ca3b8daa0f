r"""Muon for small convolutional networks, and a guard that a compiled network has the gradient of the plain one.

Muon (Jordan et al. 2024) replaces the momentum matrix M of each weight by its nearest semi-orthogonal matrix, so that all its directions
move equally. Newton-Schulz iterations with the published coefficients take the place of a singular value decomposition. The update is
scaled to the root mean square of an AdamW update, 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv:2502.16982), so that learning rates
carry over. `torch.optim.Muon` does the same for matrices alone; here convolution kernels are matrices of (out, in x kernel), and matrices
of one shape are iterated as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate nearest semi-orthogonal matrices: (n, rows, columns) -> the same shape, singular values between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for weights of two and more dimensions.

    Args:
        params: weights; of more than two dimensions, all but the first are flattened.
        lr: learning rate, on the scale of AdamW's.
        momentum: decay of the averaged gradient.
        weight_decay: share of a weight removed per step and unit of learning rate.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        del closure
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                matrix = weight.grad.lerp(average, group["momentum"]).reshape(len(weight), -1)
                shapes.setdefault((matrix.shape[0], matrix.shape[1]), []).append((weight, matrix))
            for (rows, columns), pairs in shapes.items():
                updates = orthogonalised(torch.stack([matrix for _, matrix in pairs]))
                size = 0.2 * math.sqrt(max(rows, columns)) * group["lr"]
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(weight.shape), alpha=-size)


SMALLEST = 16  # rows and columns below which a weight is left to AdamW


def muon_and_adamw(network: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices and kernels of a network; AdamW for embeddings, first and last layers, norms and biases."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in network.named_parameters():
        outer = any(part in name for part in ("embedding.", "conv_in", "conv_out"))
        wide = weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= SMALLEST
        (matrices if wide and not outer else others).append(weight)
    return [Muon(matrices, lr=lr), adamw(others, lr)]


def adamw(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """AdamW as all stages have it."""
    return torch.optim.AdamW(list(parameters), lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)


def gradient_agreement(network: nn.Module, other: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
    """Smallest cosine, over the weights, between their gradients through a network and through another callable on the same weights.

    The loss is the output's product with fixed noise. A weight that gets no gradient from `other` has cosine 0. Weights whose gradient is
    below a hundredth of the largest are left out: in bfloat16 theirs is rounding.
    """

    def gradients(forward: Callable[..., Tensor]) -> list[Tensor]:
        network.zero_grad()
        output = forward(*inputs)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        (output * noise).sum().backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]
        network.zero_grad()
        return found

    pairs = list(zip(gradients(network), gradients(other), strict=True))
    largest = max(float(plain.norm()) for plain, _ in pairs)
    kept = [(plain, found) for plain, found in pairs if float(plain.norm()) > 0.01 * largest]
    return min(float(nn.functional.cosine_similarity(a.flatten().float(), b.flatten().float(), dim=0)) for a, b in kept)


def compiled_if_right(
    network: nn.Module, inputs: tuple[Tensor, ...], *, compiler: Callable[[nn.Module], Any] | None = None, least: float = 0.95
) -> tuple[Callable[..., Tensor], str]:
    """The compiled network where its gradient is right, else the network itself, with a sentence on which it is and why.

    Args:
        network: what is trained.
        inputs: one batch of its arguments, of the size that training uses.
        compiler: network -> callable; None: `torch.compile`.
        least: cosine that every parameter's gradient must reach.
    """
    try:
        fast = (compiler or torch.compile)(network)
        cosine = gradient_agreement(network, fast, inputs)
    except Exception as error:  # compilers fail in many ways, and training goes on without one
        return network, f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    if not cosine >= least:
        return network, f"not compiled: the compiled backward pass has cosine {cosine:.3f} with the plain one for some weight"
    return fast, f"compiled: every weight's gradient has cosine {cosine:.4f} or more with the plain one's"
