"""`modeseek image` and `modeseek sample`: generate images from a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modeseek.cli.options import Logged, Prompted, Reported, command_line, first_seeds, follow, prior_choice, progress_bar, run_folder
from modeseek.cli.progress import report_files

if TYPE_CHECKING:
    from modeseek.tasks.text_to_image import ImageRun


@dataclass(frozen=True, kw_only=True)
class Image(Prompted, Logged):
    """Distil images from a prompt into OUT: images, a page, a contact sheet over time, an animation, curves. Resumes after a kill."""

    method: str = "msd"
    """sds, sjc, vsd, sdi, msd, msd-published, msd-persistent; csd, nfsd, sds-bridge, ism, consistent3d, cfd, dsd, rfds, rfds-rev, sds-hifa,
    sds-dreamtime, sds-annealed, mean-shift, hd-ode."""
    seeds: int = 1
    """Number of images, optimised as one batch."""
    steps: int | None = None
    """Optimiser steps; the method's own by default, 400."""
    representation: Literal["mlp", "pixels", "latents"] = "mlp"
    """What is optimised: the paper's coordinate network, free pixels, or free latents."""
    noise: Literal["fresh", "fixed"] | None = None
    """Fresh noise at each step, or fixed noise for each image."""
    space: Literal["latent", "image", "difference"] | None = None
    """Space of the residual."""
    refresh: int | None = None
    """Steps that use one estimate."""
    samples: int | None = None
    """Monte-Carlo samples per estimate."""
    sampler_steps: int | None = None
    """Sampler steps per draw; inversion steps of SDI."""
    interval: tuple[int, int] | None = None
    """Timesteps between which guidance and kernel of msd-published are active; 999 0 is the full range."""
    lr: float | None = None
    """Learning rate of the optimiser, 0.01 by default."""
    seed: int = 0
    """Seed of the gradient's randomness."""
    image_size: str | None = None
    """Image in pixels: the side of a square, or HEIGHTxWIDTH; the model's own by default."""


@dataclass(frozen=True, kw_only=True)
class Sample(Prompted, Reported):
    """Sample images of a prompt with DDIM, the reference for every gradient method."""

    seeds: int = 8
    """Number of images."""
    steps: int = 32
    """DDIM steps, each one denoiser call."""
    image_size: str | None = None
    """Image in pixels: the side of a square, or HEIGHTxWIDTH; the model's own by default."""


def image_run(command: Image) -> tuple[ImageRun, Path]:
    """Return the run that the options describe, and its folder.

    Raises:
        InvalidInput: an unknown method.
    """
    from modeseek.distillation.recipes import get_recipe
    from modeseek.tasks.text_to_image import ImageRun

    names = ("steps", "guidance", "noise", "space", "refresh", "samples", "sampler_steps", "interval", "lr")
    recipe = get_recipe(command.method, **{name: getattr(command, name) for name in names})
    chosen: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": prior_choice(command), "recipe": recipe}
    chosen |= {"seeds": first_seeds(command.seeds), "representation": command.representation, "seed": command.seed}
    return ImageRun(**chosen), run_folder(command.out, "image", command.prompt, command.method)


def image(command: Image) -> None:
    """Run `modeseek image`."""
    from modeseek.scaling.ranks import process_group
    from modeseek.tasks.text_to_image import distill_images

    run, out = image_run(command)
    with process_group(command.device) as ranks:
        steps = distill_images(run, out, ranks=ranks, command=command_line("image", command))
        follow(command, command.method, steps, out, total=run.recipe.steps, shown=ranks.is_main)
    if ranks.is_main:
        names = (*(f"image-{seed}.png" for seed in run.seeds), "index.html", "run.json", "sheet.png", "animation.gif", "curves.png")
        report_files([out / name for name in names], json_lines=command.json)


def sample(command: Sample) -> None:
    """Run `modeseek sample`."""
    from modeseek.tasks.sampling import SampleRun
    from modeseek.tasks.sampling import sample as draw

    out = run_folder(command.out, "sample", command.prompt)
    seeds = first_seeds(command.seeds)
    choice: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": prior_choice(command), "seeds": seeds}
    run = SampleRun(**choice, steps=command.steps, guidance=command.guidance)
    with progress_bar(json_lines=command.json) as progress:
        task = progress.add_task(f"ddim: loading {command.prior}", total=command.steps)

        def report(calls: int) -> None:
            progress.update(task, completed=calls, description=f"ddim: {calls} denoiser calls")

        draw(run, out, command=command_line("sample", command), report=report)
    report_files([out / "index.html", out / "sheet.png"], json_lines=command.json)
