"""Leases: files on a shared disk that record which process works on a cell.

A lease is a file `leases/CELL.lease-N`. The highest N is valid. A process takes a free cell by creating generation 0, and the cell of a
dead process by creating generation N + 1: creation is atomic and only one process succeeds. The holder touches its file; a lease that has
not been touched for `ttl` seconds has expired. Ages are measured with the file system's clock, so the machines' clocks need not agree. A
holder on this machine whose process has ended is replaced at once.

In the worst case a holder that was suspended for longer than `ttl` wakes up again. The cell is then computed twice and the same file is
written twice, atomically.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modeseek.core.errors import OutputError

TTL = 60.0  # seconds without a sign of life


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds."""

    path: Path
    generation: int

    @property
    def file(self) -> Path:
        """The file that shows it."""
        return _file(self.path, self.generation)

    def renew(self) -> bool:
        """Show that the holder is alive; False where another process has taken over."""
        try:
            os.utime(self.file)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the disk is away for a moment: the next renewal decides
        return max(_generations(self.path), default=self.generation) == self.generation

    def release(self) -> None:
        """Remove the lease and the expired ones below it."""
        for generation in _generations(self.path):
            if generation <= self.generation:
                with suppress(OSError):
                    _file(self.path, generation).unlink()

    @contextmanager
    def kept(self, ttl: float = TTL) -> Iterator[None]:
        """Renew in the background inside this block; release at its end."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(ttl / 4):
                self.renew()

        thread = threading.Thread(target=beat, daemon=True, name=f"lease of {self.path.name}")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            self.release()


def acquire(path: Path, *, ttl: float = TTL) -> Lease | None:
    """Take the lease of the cell whose row is at `path`; None where a living process holds it.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        held = _generations(path)
        highest = max(held, default=-1)
        before = _content(path, highest)
        if held and not _expired(path, highest, ttl):
            return None
        if not _create(path, highest + 1):
            return None
        lease = Lease(path, highest + 1)
        changed = highest >= 0 and _content(path, highest) not in (before, "") and not _expired(path, highest, ttl)
        if changed or max(_generations(path), default=0) > lease.generation:  # somebody was faster between the two looks
            with suppress(OSError):
                lease.file.unlink()
            return None
        for leftover in _folder(path).glob(f".{path.stem}.*.part"):
            leftover.unlink(missing_ok=True)  # of a killed process
        return lease
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from error


def abandon(path: Path) -> None:
    """Remove this process's own lease of a cell after an interrupt, which may have arrived while the lease was being taken or released."""
    for generation in _generations(path):
        if _parsed(_content(path, generation)) == _own():
            with suppress(OSError):
                _file(path, generation).unlink()


def holder(path: Path) -> str | None:
    """Describe the holder of a cell's lease; None if there is none."""
    highest = max(_generations(path), default=None)
    if highest is None:
        return None
    found = _parsed(_content(path, highest))
    return f"process {found.get('pid', '?')} on {found.get('host', 'an unknown machine')}"


def is_held(path: Path, *, ttl: float = TTL) -> bool:
    """Whether a living process holds the lease of the cell whose row is at `path`."""
    highest = max(_generations(path), default=None)
    return highest is not None and not _expired(path, highest, ttl)


def remove_folder(out: Path) -> None:
    """Remove the folder of the leases where none is left."""
    with suppress(OSError):
        (out / "leases").rmdir()


# ---------------------------------------------------------------- files
def _folder(path: Path) -> Path:
    return path.parent.parent / "leases"  # a folder of their own: it stays small, so listing it is cheap


def _file(path: Path, generation: int) -> Path:
    return _folder(path) / f"{path.stem}.lease-{generation}"


def _generations(path: Path) -> list[int]:
    start = f"{path.stem}.lease-"
    with suppress(FileNotFoundError):
        return [int(name[len(start) :]) for name in os.listdir(_folder(path)) if name.startswith(start) and name[len(start) :].isdigit()]
    return []


def _content(path: Path, generation: int) -> str:
    with suppress(OSError):
        return _file(path, generation).read_text()
    return ""


def _parsed(text: str) -> dict[str, object]:
    with suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _own() -> dict[str, object]:
    """What a lease says of its holder, of this process."""
    return {"machine": machine(), "host": socket.gethostname(), "pid": os.getpid(), "start": _start(os.getpid())}


def _create(path: Path, generation: int) -> bool:
    """Create the file with its content in one atomic step; False where it exists."""
    target = _file(path, generation)
    temporary = _folder(path) / f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part"
    text = json.dumps(_own())
    for attempt in range(5):
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text)
            break
        except (FileExistsError, FileNotFoundError):  # `remove_folder` of another process came between
            if attempt == 4:
                raise
    try:
        os.link(temporary, target)
        return True
    except (FileExistsError, FileNotFoundError):  # taken; or by a process that removed this temporary file with those of dead ones
        return False
    except OSError:  # a file system without hard links
        try:
            handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(temporary.read_text())
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _expired(path: Path, generation: int, ttl: float) -> bool:
    """Whether the holder has not touched its lease for `ttl` seconds, or has ended on this machine."""
    found = _parsed(_content(path, generation))
    pid = found.get("pid")
    if found.get("machine") == machine() and isinstance(pid, int) and _start(pid) != found.get("start"):
        return True
    try:
        touched = _file(path, generation).stat().st_mtime
    except FileNotFoundError:
        return True
    return _file_system_time(_folder(path)) - touched > ttl


def _file_system_time(folder: Path) -> float:
    """The time by the clock that stamps files in this folder."""
    probe = folder / f".clock.{os.getpid()}-{threading.get_ident()}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


@cache
def machine() -> str:
    """A name for this machine, its boot and its process namespace. Process numbers are comparable only within one of them."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _start(pid: int) -> str:
    """When a process started, so that a reused number is not taken for it; "" where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return "" if ") Z " in stat else stat.rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "alive" if not Path("/proc/self/stat").exists() else ""
