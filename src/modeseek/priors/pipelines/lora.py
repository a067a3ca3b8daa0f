r"""D_aux of a large network: a low-rank adapter (Hu et al. 2022) on a network that stays shared and unchanged.

    W x + B A x,   A (rank, in) random, B (out, rank) zero at first

So a fresh D_aux is D itself. The adapter is added by forward hooks that exist during the auxiliary's own calls only: no layer is wrapped,
so adapters, quantised layers, fused layers and compiled networks of the pipeline's owner stay as they are, and a LoRA that the owner loads
later acts on D and on D_aux. Its weights are float32 next to a network of lower precision. Gradient checkpointing of the network works: a
recomputed block has the adapter again. A compiled network runs uncompiled inside the auxiliary, since compiled code ignores hooks. With
layerwise casting (fp8 weights) the backward pass keeps the weights that the forward pass used, in the compute dtype; gradient
checkpointing limits what that needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from modeseek.core.denoiser import Denoiser
from modeseek.core.errors import InvalidInput


class LowRankAuxiliary(nn.Module):
    """A denoiser of a network under a fresh LoRA; its parameters and state are the LoRA's alone.

    Args:
        denoiser: a denoiser that calls the network and lets gradients through.
        network: returns the shared network.
        targets: ends of the names of the layers to adapt.
        rank: of the adapter.
        seed: of its random half.
        device: of the adapter.

    Raises:
        InvalidInput: the rank is below 1, or the network has no such layer.
    """

    def __init__(
        self, denoiser: Denoiser, network: Callable[[], nn.Module], *, targets: tuple[str, ...], rank: int, seed: int, device: torch.device
    ) -> None:
        super().__init__()
        if rank < 1:
            raise InvalidInput(f"the rank of a LoRA must be at least 1, got {rank}")
        self._denoiser, self._network = denoiser, network
        self._depth = 0
        self._called: set[str] = set()
        self._expected: set[str] | None = None
        rng = torch.Generator().manual_seed(seed)
        shared = uncompiled(network())
        self._paths = [path for path, _ in shared.named_modules() if f".{path}".endswith(_dotted(targets))]
        if not self._paths:
            raise InvalidInput(f"the network has no layer called {', '.join(targets)}: a LoRA has nothing to adapt")
        self.weights = nn.ParameterDict()
        for path in self._paths:
            down, up = factors(shared.get_submodule(path), rank, rng)
            self.weights[f"{path.replace('.', '/')}/A"] = nn.Parameter(down.to(device))
            self.weights[f"{path.replace('.', '/')}/B"] = nn.Parameter(up.to(device))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D_aux at x; one network call.

        Raises:
            InvalidInput: layers that are adapted are not called any more, since the owner fused or replaced them.
        """
        self._called.clear()
        with self._acting():
            found = self._denoiser(x, sigma)
        self._expected = self._expected or set(self._called)
        lost = sorted(self._expected - self._called) or ([] if self._called else self._paths)
        if lost:
            raise InvalidInput(f"{len(lost)} layers under VSD's LoRA are not called any more, such as {lost[0]}: were they fused? Undo it")
        return found

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """The adapter on the network as it is now, whose own weights get no gradients; afterwards all as before."""
        if self._depth:
            yield
            return
        shared = self._network()
        bare = uncompiled(shared)
        frozen = [weight for weight in bare.parameters() if weight.requires_grad]
        saving: list[Any] = [module for module in bare.modules() if getattr(module, "gradient_checkpointing", False)]
        functions = [module._gradient_checkpointing_func for module in saving]
        with ExitStack() as stack:
            self._depth += 1
            stack.callback(self._restore, frozen, saving, functions)
            if is_compiled(shared):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if any(hasattr(module, "_diffusers_hook") for module in bare.modules()):
                stack.enter_context(torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda saved: saved))
            for weight in frozen:
                weight.requires_grad_(False)
            for module, function in zip(saving, functions, strict=True):
                module._gradient_checkpointing_func = self._recomputing(function)
            for path in self._paths:
                try:
                    layer = bare.get_submodule(path)
                except AttributeError as error:
                    raise InvalidInput(f"VSD's LoRA adapts the layer {path}, which the network does not have any more") from error
                stack.callback(layer.register_forward_hook(self._hook(path)).remove)
            yield

    def _restore(self, frozen: list[nn.Parameter], saving: list[Any], functions: list[Any]) -> None:
        self._depth -= 1
        for weight in frozen:
            weight.requires_grad_(True)
        for module, function in zip(saving, functions, strict=True):
            module._gradient_checkpointing_func = function

    def _recomputing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpointing function whose recomputation in the backward pass has the adapter as well."""

        def checkpointed(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def adapted(*inner: Any, **settings: Any) -> Any:
                with self._acting():
                    return block(*inner, **settings)

            return function(adapted, *args, **kwargs)

        return checkpointed

    def _hook(self, path: str) -> Callable[..., Tensor]:
        down, up = (self.weights[f"{path.replace('.', '/')}/{part}"] for part in "AB")

        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            self._called.add(path)
            x = args[0].to(down.dtype)
            if down.ndim == 2:
                added = linear(linear(x, down), up)
            else:
                base: Any = base_layer(layer)
                added = conv2d(conv2d(x, down, stride=base.stride, padding=base.padding, dilation=base.dilation), up)
            return output + added.to(output.dtype)

        return hook


def _dotted(targets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f".{target}" for target in targets)


def factors(layer: Any, rank: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A, uniform as a linear layer's default weights, and B, zero, for a linear layer or a convolution; quantised ones as well.

    Raises:
        InvalidInput: a layer of another kind.
    """
    base = base_layer(layer)
    shape: tuple[int, ...]
    out: tuple[int, ...]
    if isinstance(base, nn.Conv2d) and base.groups == 1:
        shape, out = (rank, base.in_channels, *base.kernel_size), (base.out_channels, rank, 1, 1)
    elif hasattr(base, "in_features") and hasattr(base, "out_features"):
        shape, out = (rank, int(base.in_features)), (int(base.out_features), rank)
    else:
        raise InvalidInput(f"a LoRA cannot adapt a {type(base).__name__}: only linear layers and convolutions without groups")
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (2 * torch.rand(shape, generator=rng) - 1) * bound, torch.zeros(out)


def base_layer(layer: Any) -> Any:
    """The layer inside the wrappers of other adapters."""
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer
    return layer


def uncompiled(network: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s wrapper; itself where there is none."""
    return getattr(network, "_orig_mod", network)


def is_compiled(network: nn.Module) -> bool:
    """Whether a network or a block of it runs compiled code."""
    return hasattr(network, "_orig_mod") or any(module._compiled_call_impl is not None for module in network.modules())
