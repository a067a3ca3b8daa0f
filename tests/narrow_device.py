"""A stand-in for a device without float64, as Apple's mps: tensors that say they are there, compute on the CPU, and refuse float64.

Inside `with NarrowDevice():` a tensor moved `.to(DEVICE)` is a `Narrow`. An operation whose result would be float64 there, or that mixes it
with a CPU tensor of at least one dimension, raises the error that the device raises.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = "meta"  # of the kinds that torch lets through without hardware; the tests count it among those without float64
FROM_CPU = ("_to_copy", "copy_", "index", "index_put_", "index_put")  # take CPU tensors


class Narrow(torch.Tensor):
    """A CPU tensor that says it is on mps."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Narrow({self.inner})"

    def new_tensor(self, data, **settings):  # made below the dispatcher, where torch would build an empty tensor
        return torch.tensor(data, **({"dtype": self.dtype} | settings)).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class NarrowDevice(TorchDispatchMode):
    """The device; operations inside go through it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """One operation."""
    seen = []
    tree_map(lambda value: seen.append(value) if isinstance(value, torch.Tensor) else None, (args, kwargs))
    narrow = any(isinstance(value, Narrow) for value in seen)
    name = func.overloadpacket.__name__
    if narrow and name not in FROM_CPU and any(not isinstance(value, Narrow) and value.ndim for value in seen):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found mps and cpu")
    if kwargs.get("device") is not None:
        narrow = torch.device(kwargs["device"]).type == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrappers = {id(value.inner): value for value in seen if isinstance(value, Narrow)}
    inner = tree_map(lambda value: value.inner if isinstance(value, Narrow) else value, (args, kwargs))
    found = func(*inner[0], **inner[1])

    def wrapped(value):
        if not isinstance(value, torch.Tensor) or not narrow:
            return value
        if value.dtype == torch.float64:
            raise TypeError(f"{name}: cannot convert an MPS tensor to float64, which the MPS framework does not support")
        known = wrappers.get(id(value))  # of an operation in place
        return Narrow(value) if known is None else known

    return tree_map(wrapped, found)
