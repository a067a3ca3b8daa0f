"""`modeseek image` and `modeseek sample`: from a prompt to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modeseek.cli.options import Prompted, prior_choice, progress_bar, run_folder


@dataclass(frozen=True, kw_only=True)
class Image(Prompted):
    """Distil images from a prompt into OUT: images, a contact sheet over time, an animation, curves, run.json. Resumes after a kill."""

    method: str = "msd"
    """sds, sjc, vsd, sdi, msd, msd-published or msd-persistent."""
    seeds: int = 1
    """Number of images, optimised as one batch."""
    steps: int | None = None
    """Optimiser steps; the method's own by default, 400."""
    representation: Literal["mlp", "pixels", "latents"] = "mlp"
    """What is optimised: the paper's coordinate network, free pixels, or free latents."""
    noise: Literal["fresh", "fixed"] | None = None
    """Fresh noise at each step, or fixed noise for each image."""
    space: Literal["latent", "image"] | None = None
    """Space of the residual."""
    refresh: int | None = None
    """Steps that use one estimate."""
    samples: int | None = None
    """Monte-Carlo samples per estimate."""
    sampler_steps: int | None = None
    """Sampler steps per draw; inversion steps of SDI."""
    interval: tuple[int, int] | None = None
    """Timesteps between which guidance and kernel of msd-published act; 999 0 is everywhere."""
    lr: float | None = None
    """Learning rate of the optimiser, 0.01 by default."""
    seed: int = 0
    """Seed of the gradient's randomness."""
    image_size: str | None = None
    """Image in pixels: the side of a square, or HEIGHTxWIDTH; the model's own by default."""


@dataclass(frozen=True, kw_only=True)
class Sample(Prompted):
    """Sample images of a prompt with DDIM, the reference that every gradient is compared with."""

    seeds: int = 8
    """Number of images."""
    steps: int = 32
    """DDIM steps, each one denoiser call."""
    image_size: str | None = None
    """Image in pixels: the side of a square, or HEIGHTxWIDTH; the model's own by default."""


def image(command: Image) -> None:
    """Run `modeseek image`."""
    from modeseek.distillation.recipes import get_recipe
    from modeseek.scaling.ranks import started
    from modeseek.tasks.text_to_image import ImageRun, distill_images

    names = ("steps", "guidance", "noise", "space", "refresh", "samples", "sampler_steps", "interval", "lr")
    recipe = get_recipe(command.method, **{name: getattr(command, name) for name in names})
    chosen: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": prior_choice(command), "recipe": recipe}
    chosen |= {"seeds": tuple(range(command.seeds)), "representation": command.representation, "seed": command.seed}
    out = run_folder(command.out, "image", command.prompt, command.method)
    with started(command.device) as ranks, progress_bar(shown=ranks.leads) as progress:
        task = progress.add_task(f"{command.method}: loading {command.prior}", total=recipe.steps)
        for step in distill_images(ImageRun(**chosen), out, ranks=ranks):
            progress.update(task, completed=step.index + 1, description=f"{command.method}: {step.calls:g} denoiser calls")
    if ranks.leads:
        print(*(str(out / name) for name in ("run.json", "sheet.png", "animation.gif", "curves.png")), sep="\n")


def sample(command: Sample) -> None:
    """Run `modeseek sample`."""
    from modeseek.tasks.text_to_image import SampleRun
    from modeseek.tasks.text_to_image import sample as draw

    out = run_folder(command.out, "sample", command.prompt)
    seeds = tuple(range(command.seeds))
    choice: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": prior_choice(command), "seeds": seeds}
    draw(SampleRun(**choice, steps=command.steps, guidance=command.guidance), out)
    print(out / "sheet.png")
