"""Loggers of a run: the curves and frames of its folder, sent to TensorBoard or Weights & Biases as well.

    steps = logged(distill_images(run, out), out, TensorBoard(out / "tensorboard"))

A logger has two methods and `close`; any object with them can be used. Both libraries are optional and imported when a logger is made.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from modeseek.core.errors import InvalidInput, MissingPackage
from modeseek.core.files import read_json
from modeseek.distillation.loop import Step
from modeseek.pages.encoding import opened
from modeseek.tasks.run_folder import line_of


class Logger(Protocol):
    """A destination for the numbers and images of a run."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record the named numbers of a step."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Record an image (h, w, 3) of bytes."""

    def close(self) -> None:
        """Write what is left."""


def optional(name: str, package: str) -> ModuleType:
    """An optional module.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"--log {package} needs {package} ({error}): pip install 'modeseek[log]'") from None


class TensorBoard:
    """Event files in `folder`; `tensorboard --logdir` of it or any folder above shows them.

    Raises:
        MissingPackage: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._library, self._folder = optional("torch.utils.tensorboard", "tensorboard"), folder

    @cached_property
    def _writer(self) -> Any:
        """The event files, made at the first step: the run holds its folder by then."""
        return self._library.SummaryWriter(str(self._folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class WandB:
    """A run of Weights & Biases with the settings of run.json as its config.

    The run's id is made from the folder, so a resumed run continues its curves. `WANDB_MODE=offline` keeps everything on disk.

    Args:
        folder: of the run; wandb's own files go to `folder/wandb`.
        project: on the server.

    Raises:
        MissingPackage: wandb is not installed.
    """

    def __init__(self, folder: Path, *, project: str = "modeseek") -> None:
        self._wandb: Any = optional("wandb", "wandb")
        self._folder, self._project = folder, project

    @cached_property
    def _run(self) -> Any:
        """The run on the server, opened at the first step: run.json exists by then."""
        path = self._folder / "run.json"
        config = read_json(path).get("config", {}) if path.is_file() else {}
        identity = hashlib.sha256(str(self._folder.resolve()).encode()).hexdigest()[:16]
        settings = {"project": self._project, "name": self._folder.name, "id": identity, "resume": "allow", "dir": str(self._folder)}
        return self._wandb.init(**settings, config=config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        if "_run" in self.__dict__:
            self._run.finish()


def logger(name: str, folder: Path) -> Logger:
    """The logger called `name` ("tensorboard" or "wandb") for the run in `folder`.

    Raises:
        InvalidInput: another name.
        MissingPackage: its library is not installed.
    """
    if name == "tensorboard":
        return TensorBoard(folder / "tensorboard")
    if name == "wandb":
        return WandB(folder)
    raise InvalidInput(f"logger {name!r} is unknown: choose tensorboard or wandb")


def logged(steps: Iterator[Step], folder: Path, log: Logger) -> Iterator[Step]:
    """Yield the steps of a run and record each: its numbers, and its frame where one was saved.

    Args:
        steps: of `distill_images`, `distill_object` or `edit_image`.
        folder: of that run.
        log: where to.
    """
    try:
        for step in steps:
            log.scalars(step.index, {name: value for name, value in line_of(step).items() if name != "step"})
            frame = folder / "frames" / f"{step.index:06d}.png"
            if frame.is_file():
                log.image(step.index, "frame", np.asarray(opened(frame).convert("RGB")))
            yield step
    finally:
        log.close()
