"""Locks that give one process exclusive use of a run's folder.

`locked` holds an exclusive lock of the operating system on the file `.lock` in the folder. The system releases the lock when the process
ends for any reason, so no timeout is needed. The file names the holder. Such locks also work across machines on an NFSv4 mount.
When the lock is acquired, temporary files of killed writers are removed, which is safe because no other process writes to the folder.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modeseek.core.errors import FolderInUse, OutputError

POLL = 0.2  # seconds between two attempts


@contextmanager
def locked(folder: Path, name: str = "", *, wait: float = 0.0, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the folder's lock inside this block; create the folder if needed and remove the lock file at the end.

    Args:
        folder: of a run.
        name: of a part of the folder; "" is all of it. Parts with different names can be held at once.
        wait: seconds to wait for another holder; 0 refuses at once.
        waiting: called once with the holder's description before waiting.

    Raises:
        FolderInUse: another process holds the lock; the message names it.
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".{name}{'.' if name else ''}lock"
        handle = _take(path, wait, waiting)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another folder with --out") from error
    try:
        remove_leftovers(folder, name)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before it is dropped: `_take` notices a lock on a file that is gone
        os.close(handle)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove temporary files that killed writers left in a folder of which this process holds the lock."""
    for path in (*folder.glob(f".{name}.*.part" if name else ".*.part"), *folder.glob("frames/.*.part")):
        with suppress(OSError):
            path.unlink()


def holder(path: Path) -> str:
    """Describe the process that holds, or last held, the lock: "process 12 on host a since ..."."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _take(path: Path, wait: float, waiting: Callable[[str], None] | None) -> int:
    """The locked file's handle."""
    import fcntl  # POSIX only

    deadline = time.monotonic() + wait
    announced = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(handle, path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode(), 0)
                return handle
        except BlockingIOError:
            words = f"{path.parent} is in use by {holder(path)}"
            if time.monotonic() >= deadline:
                os.close(handle)
                raise FolderInUse(f"{words}; wait until it has finished, or choose another --out") from None
            if waiting is not None and not announced:
                waiting(f"{words}; waiting")
                announced = True
            time.sleep(POLL)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: a former holder may have removed it in between."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
