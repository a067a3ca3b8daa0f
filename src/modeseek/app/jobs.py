"""One run at a time in a thread of its own: its progress, its latest frame, stopping and resuming. Independent of the browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modeseek.core.errors import ModeseekError
from modeseek.core.interrupts import Terminated

State = Literal["waiting", "running", "stopping", "stopped", "finished", "failed"]


class Busy(ModeseekError, RuntimeError):
    """Another run is under way; the message says which, and how long it will take."""


@dataclass
class Job:
    """A run and how far it is.

    Args:
        title: what it makes, for people.
        folder: where it writes.
        total: its steps.
        steps: begins or resumes the run; each value has `index` and `calls`. Closing the iterator ends the run; its folder resumes.
    """

    title: str
    folder: Path
    total: int
    steps: Callable[[], Iterator[Any]]
    state: State = "waiting"
    done: int = 0
    calls: float = 0.0
    error: str = ""
    seconds: float = 0.0
    _first: int | None = field(default=None, repr=False)
    _began: float = field(default=0.0, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def active(self) -> bool:
        """Whether its thread is at work."""
        return self.state in ("running", "stopping")

    @property
    def left(self) -> float | None:
        """Seconds until it ends, from the steps made since it began or resumed; None before the second of them."""
        if self._first is None or self.done <= self._first or not self.active:
            return None
        return (time.monotonic() - self._began) * (self.total - self.done) / (self.done - self._first)

    def frame(self) -> Path | None:
        """The latest frame on disk."""
        frames = sorted((self.folder / "frames").glob("[0-9]*.png"))
        preview = self.folder / "preview.png"
        return frames[-1] if frames else preview if preview.is_file() else None

    def page(self) -> Path | None:
        """The run's page, once it is written."""
        path = self.folder / "index.html"
        return path if path.is_file() else None

    def work(self) -> None:
        """Run to the end, to a stop or to an error. Errors become `error`, worded as on the command line."""
        started = time.monotonic()
        try:
            iterator = self.steps()
            for step in iterator:
                if self._first is None:
                    self._first, self._began = step.index + 1, time.monotonic()
                self.done, self.calls = step.index + 1, float(step.calls)
                if self._stop.is_set() and self.done < self.total:
                    close = getattr(iterator, "close", None)
                    if close is not None:
                        close()
                    self._end("stopped")
                    return
            self.done = self.total
            self._end("finished")
        except Terminated:
            self._end("stopped")
        except ModeseekError as error:
            self._end("failed", f"modeseek: {error}")
        except Exception as error:  # a defect: show it and keep the app running
            self._end("failed", f"{type(error).__name__}: {error}")
        finally:
            self.seconds += time.monotonic() - started

    def stop(self) -> None:
        """Let a running job end after its current step."""
        with self._lock:
            if self.state == "running":
                self.state = "stopping"
                self._stop.set()

    def _end(self, state: State, error: str = "") -> None:
        with self._lock:  # after it, `stop` finds the job ended
            self.error, self.state = error, state


class Worker:
    """Runs one job at a time.

    Attributes:
        job: the current or the last one, or None.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, job: Job) -> Job:
        """Start a job and return it at once.

        Raises:
            Busy: another job is at work.
        """
        with self._lock:
            if self.job is not None and self.job.active:
                raise Busy(busy_text(self.job))
            job._stop.clear()
            job._first, job.error, job.state = None, "", "running"
            self.job = job
            self._thread = threading.Thread(target=job.work, name="modeseek run", daemon=True)
            self._thread.start()
        return job

    def stop(self) -> None:
        """Let the current job end after its current step."""
        with self._lock:
            if self.job is not None:
                self.job.stop()

    def resume(self) -> Job:
        """Start the stopped or failed job again; it resumes from its last saved step.

        Raises:
            Busy: another job is at work.
            NothingToResume: there is no job, or it has finished.
        """
        job = self.job
        if job is None or job.state == "finished":
            raise NothingToResume("there is no stopped run to resume: start one with Run")
        return self.start(job)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the current job's thread has ended."""
        if self._thread is not None:
            self._thread.join(timeout)


class NothingToResume(ModeseekError, RuntimeError):
    """There is no stopped run."""


def busy_text(job: Job) -> str:
    """The message for a second request."""
    left = "" if job.left is None else f", about {duration(job.left)} left"
    return f"busy with {job.title!r} (step {job.done} of {job.total}{left}): wait for it, or stop it first"


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(7.4), duration(92), duration(7300)
        ('7 s', '1 min 32 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
