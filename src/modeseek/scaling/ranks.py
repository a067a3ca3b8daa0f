r"""One run on several processes: the shard of a batch that each process computes, and how shards are gathered.

Every rank runs the whole program with the same seeds, so that random numbers, decisions and states agree. The expensive work is
sharded over the items of a batch: network calls, maps between images and x, rendering.

    values       y_k = f(x_k) for the items k of the local shard, then all-gathered                                 `Ranks.map_shards`
    gradients    y is differentiable with respect to the local shard; gradients of parameters are all-reduced       `Ranks.sum_gradients`

                 sum over ranks of  sum_{k in shard} J_k^T g_k  =  J^T g

The result matches a single-process run up to rounding: sums are taken in another order, and network batches are smaller. If there are more
ranks than items, the extra ranks compute an item redundantly and discard the result.

`process_group` reads torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and communicates over gloo on
CPUs, over NCCL on CUDA. `ALONE` stands for a run on one process; everything here is then the identity.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput, ModeseekError, OutputError, RankLost

T = TypeVar("T")
TIMEOUT = 1800.0  # seconds; the first rank writes meshes meanwhile. A rank that dies is noticed at once, a frozen one after this
AGAIN = "the last checkpoint is complete: run the same command again to resume"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run, and the rank of this one. Every rank must call the methods that communicate, in the same order.

    Attributes:
        rank: this process's number.
        world: number of processes.
        local: index of this process on its machine, and of its GPU.
        timeout: seconds after which an unresponsive rank counts as lost.

    Raises:
        RankLost: from any method that communicates: another rank died, or did not respond in time.

    Example:
        >>> Ranks(rank=1, world=2).shard(5), Ranks(rank=1, world=2).shard(1), ALONE.shard(5)
        (slice(3, 5, None), slice(1, 1, None), slice(0, 5, None))
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    timeout: float = TIMEOUT

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This rank's items of a batch of `count`: contiguous, sizes at most one apart, empty where ranks outnumber items."""
        return _share(count, self.rank, self.world)

    def device(self, name: str) -> str:
        """The device of this rank; "cuda" is the GPU with its local index.

        Raises:
            InvalidInput: several ranks on anything but "cpu" and "cuda".
        """
        if self.world == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise InvalidInput(f"{self.world} processes run on cpu, or on cuda with a GPU each, got device {name!r}")
        return f"cuda:{self.local}"

    # ------------------------------------------------------------ tensors
    def map_shards(self, count: int, work: Callable[[slice], Tensor]) -> Tensor:
        """Apply `work` to all items, each on one rank, and gather: (count, ...), the same on every rank.

        Args:
            count: number of items.
            work: maps a slice of the items to their rows: the local shard, or one row that is discarded if the shard is empty.

        The result is differentiable with respect to the local rows only.
        """
        if self.world == 1:
            return work(slice(0, count))
        own = self.shard(count)
        size = own.stop - own.start
        return _Gathered.apply(work(own if size else slice(0, 1))[:size], self, count)

    def local_gradient(self, rows: Tensor) -> Tensor:
        """The same values, differentiable with respect to the local rows only. Does not communicate."""
        if self.world == 1:
            return rows
        share = self.shard(len(rows))
        return torch.cat([rows[: share.start].detach(), rows[share], rows[share.stop :].detach()])

    def shard_gradient(self, module: nn.Module) -> None:
        """Make the output of a module that every rank computes in full differentiable through the local shard only."""
        if self.world > 1:
            module.register_forward_hook(lambda module, arguments, shown: self.local_gradient(shown))

    def sum_gradients(self, optimiser: torch.optim.Optimizer | None) -> None:
        """Install a hook that all-reduces the gradients of an optimiser's parameters before each of its steps."""
        if self.world > 1 and optimiser is not None:
            optimiser.register_step_pre_hook(lambda optimiser, arguments, options: self._sum_gradients(optimiser))

    def sum(self, value: Tensor, count: int) -> Tensor:
        """The sum of `value` over the ranks with a non-empty shard of `count` items; not differentiable."""
        if self.world == 1:
            return value
        share = self.shard(count)
        summed = value.detach().clone() if share.stop > share.start else torch.zeros_like(value)
        with self._communicating():
            dist.all_reduce(summed)
        return summed

    @torch.no_grad()
    def _sum_gradients(self, optimiser: torch.optim.Optimizer) -> None:
        """All-reduce all gradients in one message, with a flag for each parameter; one without a gradient on any rank keeps none."""
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        given = [p.grad for p in parameters]
        flags = parameters[0].new_tensor([float(gradient is not None) for gradient in given])
        whole = torch.cat([flags, *((torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, given, strict=True))])
        with self._communicating():
            dist.all_reduce(whole)
        known, *parts = whole.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, part, ranks in zip(parameters, parts, known.tolist(), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter) if ranks else None

    # ------------------------------------------------------------ the program
    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on the main rank and broadcast its result; a `ModeseekError` is raised on every rank."""
        if self.world == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = work()
            except ModeseekError as error:
                answer[1] = error
        with self._communicating():
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def check_equal(self, value: Any, what: str) -> None:
        """Raise `OutputError` unless all ranks hold the same value."""
        if self.world == 1:
            return
        found: list[Any] = [None] * self.world
        with self._communicating():
            dist.all_gather_object(found, value)
        if any(other != found[0] for other in found):
            raise OutputError(f"ranks differ in {what} ({found}): choose an --out that all of them can read")

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        try:
            yield
        except RankLost:
            raise
        except RuntimeError as error:
            who = f"rank {self.rank} of {self.world} lost another rank, which died or did not respond within {self.timeout:g} s"
            raise RankLost(f"{who}; {AGAIN}") from error


ALONE = Ranks()
"""A run on one process."""


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, count: int) -> Tensor:
        ctx.share = ranks.shard(count)
        padded = part.new_zeros(-(-count // ranks.world), *part.shape[1:])  # messages are of one size
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(ranks.world)]
        with ranks._communicating():
            dist.all_gather(parts, padded)
        shares = [_share(count, rank, ranks.world) for rank in range(ranks.world)]
        return torch.cat([rows[: share.stop - share.start] for rows, share in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient[ctx.share], None, None


def _share(count: int, rank: int, world: int) -> slice:
    size, more = divmod(count, world)
    start = rank * size + min(rank, more)
    return slice(start, start + size + (rank < more))


def world_size() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return _number("WORLD_SIZE", 1, int)


def _number(name: str, default: Any, kind: Callable[[str], Any]) -> Any:
    """A positive number from the environment."""
    text = os.environ.get(name)
    try:
        value = default if text is None else kind(text)
        if not 0 <= value < float("inf") or (value == 0 and name not in ("RANK", "LOCAL_RANK")):
            raise ValueError
    except ValueError:
        raise InvalidInput(f"the environment variable {name} must be a positive number, got {text!r}") from None
    return value


@contextmanager
def process_group(device: str = "cpu", *, timeout: float | None = None) -> Iterator[Ranks]:
    """Connect the ranks that torchrun started; yield `ALONE` without torchrun.

    Args:
        device: "cpu", or "cuda" for one GPU per rank.
        timeout: seconds that a rank may take to respond; None: MODESEEK_TIMEOUT from the environment, else 1800.

    Raises:
        InvalidInput: an environment that torchrun did not set up, a device that ranks cannot use, or more ranks than GPUs.
        RankLost: the ranks cannot connect; later: SIGTERM, which torchrun sends to the other ranks when one fails.
    """
    if world_size() == 1:
        yield ALONE
        return
    seconds = _number("MODESEEK_TIMEOUT", TIMEOUT, float) if timeout is None else timeout
    try:
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
        rank, local = _number("RANK", 0, int), _number("LOCAL_RANK", 0, int)
    except KeyError as error:
        raise InvalidInput(f"WORLD_SIZE is {world_size()} and {error} is not set: start several processes with torchrun") from None
    ranks = Ranks(rank=rank, world=world_size(), local=local, timeout=seconds)
    on_cuda = ranks.device(device) != "cpu"
    if on_cuda:
        if local >= torch.cuda.device_count():
            raise InvalidInput(f"process {local} of this machine needs its own GPU; this machine has {torch.cuda.device_count()}")
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a lost rank is then an error here, and no abort
        torch.cuda.set_device(local)
    with _terminated(ranks):
        try:
            with ranks._communicating():
                dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=timedelta(seconds=seconds))
            yield ranks
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _terminated(ranks: Ranks) -> Iterator[None]:
    """Raise `RankLost` on SIGTERM; ignore SIGTERM after an error, so that this rank can still report its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankLost(f"rank {ranks.rank} of {ranks.world} was stopped by torchrun because another rank failed; {AGAIN}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)
