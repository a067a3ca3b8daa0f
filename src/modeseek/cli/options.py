"""Options and helpers that several commands share. Importing a command does not import torch, so `--help` is fast."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from modeseek.cli.progress import progress_bar as progress_bar

if TYPE_CHECKING:
    from modeseek.distillation import Step
    from modeseek.tasks.prior_choice import PriorChoice


@dataclass(frozen=True, kw_only=True)
class Model:
    """Options of every command that loads a prior."""

    prior: str = "solids"
    """solids, a folder in diffusers' layout, a .safetensors checkpoint, or a hub id."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the prior's networks."""
    download: bool = False
    """Download the model from the hub if it is not on disk."""
    variant: str | None = None
    """Weight files to prefer, such as fp16."""
    subfolder: str | None = None
    """Folder inside PRIOR that holds the pipeline."""
    config: str | None = None
    """For a checkpoint file: a folder with its configuration and tokenizers."""
    prediction: Literal["eps", "v", "x0", "flow"] | None = None
    """Parametrisation of the network; overrides the model's files."""
    check: bool = True
    """Evaluate the model once when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class Prompted(Model):
    """Options of every command that takes a prompt."""

    prompt: tyro.conf.Positional[str]
    """Text prompt; `3d` appends the name of each view."""
    guidance: float | None = None
    """Guidance scale s of D_u + s (D_c - D_u); by default the prior's own (3 for solids, 1 if distilled), or
    the scale its authors published for Stable Diffusion."""
    negative: str = ""
    """Negative prompt."""
    out: Path | None = None
    """Output folder; runs/COMMAND/PROMPT-METHOD by default."""


def prior_choice(command: Model) -> PriorChoice:
    """Return the prior that the options select."""
    from modeseek.tasks.prior_choice import PriorChoice

    checked_guidance(getattr(command, "guidance", None))
    names = ("device", "dtype", "variant", "subfolder", "config", "prediction", "check", "download")
    size = image_size_of(getattr(command, "image_size", None))
    return PriorChoice(name=command.prior, image_size=size, **{name: getattr(command, name) for name in names})


def checked_guidance(scale: float | None) -> float | None:
    """Check the guidance scale before anything is written, and return it.

    Raises:
        InvalidInput: it is not finite.
    """
    from modeseek.core.errors import InvalidInput

    if scale is not None and not math.isfinite(scale):
        raise InvalidInput(f"guidance needs a finite scale, got {scale}")
    return scale


def image_size_of(text: str | None) -> int | tuple[int, int] | None:
    """Parse an image size: "512", or "512x768" (height x width).

    Raises:
        InvalidInput: anything else.

    Example:
        >>> image_size_of("512x768"), image_size_of("64"), image_size_of(None)
        ((512, 768), 64, None)
    """
    from modeseek.core.errors import InvalidInput

    if text is None:
        return None
    sides = [int(part) for part in text.lower().split("x") if part.isdecimal() and int(part) > 0]
    if len(sides) != text.lower().count("x") + 1 or len(sides) > 2:
        raise InvalidInput(f"--image-size is a side or HEIGHTxWIDTH in pixels, such as 512 or 512x768, got {text!r}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def run_folder(out: Path | None, kind: str, *words: str) -> Path:
    """Return the output folder: `out` if given, else a folder whose name is derived from the command and `words`."""
    from modeseek.core.files import safe_name

    return out or Path("runs") / kind / safe_name(*words)


def first_seeds(count: int) -> tuple[int, ...]:
    """Return the seeds 0 to count - 1."""
    from modeseek.core.errors import InvalidInput

    if not 1 <= count <= 4096:
        raise InvalidInput(f"--seeds is the number of images, from 1 to 4096, got {count}")
    return tuple(range(count))


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Options of every command that reports its progress."""

    json: bool = False
    """Print one JSON object per line on stdout instead of a progress bar."""


@dataclass(frozen=True, kw_only=True)
class Logged(Reported):
    """Options of every command that yields steps."""

    log: Literal["tensorboard", "wandb"] | None = None
    """Send curves and frames to TensorBoard (OUT/tensorboard) or Weights & Biases as well."""


def follow(
    command: Any, method: str, steps: Iterator[Step], out: Path, *, total: int, calls: str = "denoiser calls", shown: bool = True
) -> None:
    """Take the steps of a run, with the progress bar and the logger that the options select.

    Args:
        command: a `Logged` command with a prior.
        method: name of the method.
        steps: the steps of the run.
        out: folder of the run.
        total: number of steps.
        calls: unit of the cost.
        shown: False in processes that report nothing.
    """
    from modeseek.tasks.loggers import logged, logger

    with progress_bar(shown=shown, json_lines=command.json) as progress:
        log = logger(command.log, out) if command.log and shown else None
        task = progress.add_task(f"{method}: loading {command.prior}", total=total)
        for step in steps if log is None else logged(steps, out, log):
            progress.update(task, completed=step.index + 1, description=f"{method}: {step.calls:g} {calls}")


def command_line(name: str, command: Any) -> str:
    """Return the command line that reproduces `command`, without default values, the output folder and logging options.

    Example:
        >>> command_line("image", Prompted(prompt="a red cube", guidance=2.0, out=Path("x")))
        "modeseek image 'a red cube' --guidance 2.0"
    """
    words, given = [], []
    for field in fields(command):
        value = getattr(command, field.name)
        if field.name in ("out", "json", "log") or value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.default is MISSING and "Positional" in str(field.type):
            given.append(str(value))
        elif isinstance(value, bool):
            words.append(flag if value else "--no-" + field.name.replace("_", "-"))
        else:
            words += [flag, *(str(v) for v in (value if isinstance(value, tuple) else (value,)))]
    guarded = ["--", *given] if any(word.startswith("-") for word in given) else []
    return shlex.join(["modeseek", name, *([] if guarded else given), *words, *guarded])
