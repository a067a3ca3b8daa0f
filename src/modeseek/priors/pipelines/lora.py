r"""D_aux of a large network: a low-rank adapter (Hu et al. 2022) on a network that stays shared and frozen.

    W x + B A x,   A (rank, in) random, B (out, rank) zero at first

So a fresh D_aux is D itself. The adapter is switched on inside the auxiliary's own calls only; asked anywhere else, the network answers
as if it were not there, bit by bit. Adapters that the network's owner has loaded stay as they are. The adapter's weights are float32
beside a network of lower precision. Needs peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser
from modeseek.core.errors import InvalidInput, MissingPackage


class LowRankAuxiliary(nn.Module):
    """A denoiser of `network` under a fresh LoRA; its parameters and state are the LoRA's alone.

    Args:
        denoiser: a denoiser that calls `network` and lets gradients through.
        network: the shared network; layers of it are wrapped in place.
        targets: ends of the names of the layers to adapt.
        rank: of the adapter.
        seed: of its random half.
    """

    def __init__(self, denoiser: Denoiser, network: nn.Module, *, targets: tuple[str, ...], rank: int, seed: int) -> None:
        super().__init__()
        if rank < 1:
            raise InvalidInput(f"the rank of a LoRA must be at least 1, got {rank}")
        self._denoiser = denoiser
        self._shared = (network,)  # in a tuple, so that its weights are not this module's
        self._name = inject(network, targets, rank, seed)
        self.weights = nn.ParameterDict(adapter_weights(network, self._name))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        with switched_on(self._shared[0], self._name):
            return self._denoiser(x, sigma)


def inject(network: nn.Module, targets: tuple[str, ...], rank: int, seed: int) -> str:
    """Add a LoRA to the layers of `network` whose names end in `targets`, switched off; returns its name."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingPackage("VSD's LoRA needs peft, which is not installed: pip install 'modeseek[diffusers]'") from error
    before = {layer: switches(layer) for layer in adapter_layers(network)}
    learning = [(weight, weight.requires_grad) for weight in network.parameters()]
    name = f"modeseek_{len({name for layer in before for name in layer.lora_A})}"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters on one network are meant
        torch.default_generator.manual_seed(seed)  # of the CPU alone, where peft draws; torch.manual_seed would reach every device
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), network, name)
    for layer in adapter_layers(network):
        switch(layer, *before.get(layer, ([name], False)))
    for weight in adapter_weights(network, name).values():
        weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
        weight.requires_grad_(True)
    for weight, flag in learning:
        weight.requires_grad_(flag)
    return name


def adapter_layers(network: nn.Module) -> list[Any]:
    """The wrapped layers of a network."""
    from peft.tuners.lora import LoraLayer

    return [module for module in network.modules() if isinstance(module, LoraLayer)]


def adapter_weights(network: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The two factors at each wrapped layer of the adapter `name`; names of a state hold no dots, so paths are written with slashes."""
    layers = {path: layer for path, layer in network.named_modules() if name in getattr(layer, "lora_A", {})}
    return {
        f"{path.replace('.', '/')}/{part}": getattr(layer, f"lora_{part}")[name].weight for path, layer in layers.items() for part in "AB"
    }


def switches(layer: Any) -> tuple[list[str], bool]:
    """The active adapters of a wrapped layer, and whether they act."""
    return list(layer.active_adapters), not layer.disable_adapters


def switch(layer: Any, active: list[str], act: bool) -> None:
    """Set what `switches` reads. peft ties "active" to "trainable", which the callers put back."""
    layer.set_adapter(active)
    layer.enable_adapters(act)


@contextmanager
def switched_on(network: nn.Module, name: str) -> Iterator[None]:
    """One adapter on, beside those that the owner of the network has switched on; afterwards all as before."""
    layers = [layer for layer in adapter_layers(network) if name in layer.lora_A]
    before = [switches(layer) for layer in layers]
    learning = [(weight, weight.requires_grad) for layer in layers for weight in layer.parameters()]

    def restore_learning() -> None:
        for weight, flag in learning:
            weight.requires_grad_(flag)

    try:
        for layer, (active, act) in zip(layers, before, strict=True):
            switch(layer, [*active, name] if act else [name], True)
        restore_learning()
        yield
    finally:
        for layer, (active, act) in zip(layers, before, strict=True):
            switch(layer, active, act)
        restore_learning()
