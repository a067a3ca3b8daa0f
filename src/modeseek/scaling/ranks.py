r"""One run on several processes: what is each one's share of a batch, and how shares are put together again.

Every rank runs the whole program with the same seeds, so that draws, decisions and states are the same everywhere. What costs is divided:
calls of a network, maps between images and x, rendering; each item of a batch is some rank's.

    values       y_k = f(x_k) for the items k of the own share, then gathered: every rank holds all of y                `Ranks.divided`
    gradients    y leads back through the own share alone, and those of the parameters are summed before an update      `Ranks.summed`

                 sum over ranks of  sum_{k in share} J_k^T g_k  =  J^T g

The result is that of one process up to rounding: sums are taken in another order, and a network sees smaller batches. A rank without a
share (more ranks than items) works on an item that is not its own and throws the answer away, while the others are busy anyway.

`started` reads torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and talks over gloo on CPUs, over NCCL on
CUDA. `ALONE` stands for a run on one process, and everything here is then an identity.
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
AGAIN = "what was saved is whole: start the same command again to go on"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run, and which of them this one is. All methods that talk must be called by every rank, in the same order.

    Attributes:
        rank: this process's number.
        world: how many there are.
        local: this process's number on its machine, and that of its GPU.
        timeout: seconds after which a rank that does not answer counts as lost.

    Raises:
        RankLost: from any method that talks: another rank died, or did not answer in time.

    Example:
        >>> Ranks(rank=1, world=2).share(5), Ranks(rank=1, world=2).share(1), ALONE.share(5)
        (slice(3, 5, None), slice(1, 1, None), slice(0, 5, None))
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    timeout: float = TIMEOUT

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's items of a batch of `count`: contiguous, sizes at most one apart, empty where ranks outnumber items."""
        return _share(count, self.rank, self.world)

    def device(self, name: str) -> str:
        """The device of this rank: "cuda" is its own GPU.

        Raises:
            InvalidInput: several ranks on anything but "cpu" and "cuda".
        """
        if self.world == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise InvalidInput(f"{self.world} processes run on cpu, or on cuda with a GPU each, got device {name!r}")
        return f"cuda:{self.local}"

    # ------------------------------------------------------------ tensors
    def divided(self, count: int, work: Callable[[slice], Tensor]) -> Tensor:
        """`work` of all items, each done by one rank: (count, ...), the same on every rank.

        Args:
            count: items.
            work: gives the rows of a slice of them: the own share, or one row that is thrown away where there is none.

        Backwards a rank takes the gradient of its own rows alone.
        """
        if self.world == 1:
            return work(slice(0, count))
        own = self.share(count)
        size = own.stop - own.start
        return _Gathered.apply(work(own if size else slice(0, 1))[:size], self, count)

    def own(self, rows: Tensor) -> Tensor:
        """The same values, leading back through this rank's share of the rows alone. Talks to nobody."""
        if self.world == 1:
            return rows
        share = self.share(len(rows))
        return torch.cat([rows[: share.start].detach(), rows[share], rows[share.stop :].detach()])

    def spread(self, module: nn.Module) -> None:
        """Let a representation that every rank computes whole lead back through this rank's share of its batch alone."""
        if self.world > 1:
            module.register_forward_hook(lambda module, arguments, shown: self.own(shown))

    def summed(self, optimiser: torch.optim.Optimizer | None) -> None:
        """Sum the gradients of an optimiser's parameters over the ranks before each of its steps, once and for all; None has none."""
        if self.world > 1 and optimiser is not None:
            optimiser.register_step_pre_hook(lambda optimiser, arguments, options: self._sum_gradients(optimiser))

    def total(self, value: Tensor, count: int) -> Tensor:
        """The sum of `value` over the ranks that have a share of `count` items; no gradient goes through it."""
        if self.world == 1:
            return value
        share = self.share(count)
        summed = value.detach().clone() if share.stop > share.start else torch.zeros_like(value)
        with self._talking():
            dist.all_reduce(summed)
        return summed

    @torch.no_grad()
    def _sum_gradients(self, optimiser: torch.optim.Optimizer) -> None:
        """One message: all gradients, and for each parameter whether it has one; a parameter that has none anywhere is left without."""
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        given = [p.grad for p in parameters]
        flags = parameters[0].new_tensor([float(gradient is not None) for gradient in given])
        whole = torch.cat([flags, *((torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, given, strict=True))])
        with self._talking():
            dist.all_reduce(whole)
        known, *parts = whole.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, part, ranks in zip(parameters, parts, known.tolist(), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter) if ranks else None

    # ------------------------------------------------------------ the program
    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, which alone does it; an error it raises on purpose is raised on every rank."""
        if self.world == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.leads:
            try:
                answer[0] = work()
            except ModeseekError as error:
                answer[1] = error
        with self._talking():
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def same(self, value: Any, what: str) -> None:
        """Raise `OutputError` unless all ranks have the same value, as they do who read the same files."""
        if self.world == 1:
            return
        found: list[Any] = [None] * self.world
        with self._talking():
            dist.all_gather_object(found, value)
        if any(other != found[0] for other in found):
            raise OutputError(f"ranks differ in {what} ({found}): choose an --out that all of them see")

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RankLost:
            raise
        except RuntimeError as error:
            who = f"rank {self.rank} of {self.world} lost another rank, which died or did not answer within {self.timeout:g} s"
            raise RankLost(f"{who}; {AGAIN}") from error


ALONE = Ranks()
"""A run on one process."""


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, count: int) -> Tensor:
        ctx.share = ranks.share(count)
        padded = part.new_zeros(-(-count // ranks.world), *part.shape[1:])  # messages are of one size
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(ranks.world)]
        with ranks._talking():
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


def processes() -> int:
    """How many processes torchrun has started; 1 without it."""
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
def started(device: str = "cpu", *, timeout: float | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun has started, connected; `ALONE` where it has not.

    Args:
        device: "cpu", or "cuda" for a GPU each.
        timeout: seconds that a rank may take to answer; None: the environment's MODESEEK_TIMEOUT, else 1800.

    Raises:
        InvalidInput: an environment that is not torchrun's, a device that ranks cannot share, or more ranks than GPUs.
        RankLost: the ranks do not find each other, or, later, SIGTERM, with which torchrun stops the ranks beside one that failed.
    """
    if processes() == 1:
        yield ALONE
        return
    seconds = _number("MODESEEK_TIMEOUT", TIMEOUT, float) if timeout is None else timeout
    try:
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
        rank, local = _number("RANK", 0, int), _number("LOCAL_RANK", 0, int)
    except KeyError as error:
        raise InvalidInput(f"WORLD_SIZE is {processes()} and {error} is not set: start several processes with torchrun") from None
    ranks = Ranks(rank=rank, world=processes(), local=local, timeout=seconds)
    on_cuda = ranks.device(device) != "cpu"
    if on_cuda:
        if local >= torch.cuda.device_count():
            raise InvalidInput(f"process {local} of this machine needs a GPU of its own and there are {torch.cuda.device_count()}")
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a lost rank is then an error here, and no abort
        torch.cuda.set_device(local)
    with _terminated(ranks):
        try:
            with ranks._talking():
                dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=timedelta(seconds=seconds))
            yield ranks
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _terminated(ranks: Ranks) -> Iterator[None]:
    """SIGTERM as an error with a line. After an error it is ignored, so that this rank can still say its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankLost(f"rank {ranks.rank} of {ranks.world} was told to stop, as torchrun does when another rank fails; {AGAIN}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)
