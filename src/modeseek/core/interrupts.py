"""Handling of SIGTERM: finish the current step, save and exit.

Schedulers send SIGTERM before they reclaim a machine. `terminable` turns the signal into `Terminated`. A loop that can save its state
runs its steps inside `deferred` and checks `requested` after each one; there the signal only sets a flag. Everywhere else
`Terminated` is raised at once. A second SIGTERM is never deferred. Ctrl-C (SIGINT) keeps Python's meaning: `KeyboardInterrupt`, at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 143  # 128 + SIGTERM, what a shell reports


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM. Not an `Exception`: code that isolates failures lets it pass, as it does Ctrl-C."""


class _State:
    depth = 0
    pending = False


def on_signal(number: int, frame: object) -> None:
    """The handler: raise `Terminated`, or wait for `requested` inside `deferred`."""
    if _State.depth and not _State.pending:
        _State.pending = True
        return
    _State.pending = False
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Handle SIGTERM inside this block; does nothing outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        _State.pending = False
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside this block the first SIGTERM only sets `requested`; `Terminated` is raised at the end of the block at the latest."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if not _State.depth:
        leave_if_requested()


def requested() -> bool:
    """Return whether a SIGTERM is pending."""
    return _State.pending


def leave_if_requested() -> None:
    """Raise `Terminated` if a SIGTERM is pending; call it after saving the state."""
    if _State.pending:
        _State.pending = False
        raise Terminated
