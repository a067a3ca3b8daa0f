"""Text to image: distil images of a prompt with a recipe and an image prior, and write the results to a folder.

index.html          the run's page
run.json            the settings, their sources, and whether the run has finished
image-K.png         the result of seed K
frames/             the images of all seeds next to each other, at about 24 steps
sheet.png           the frames as a contact sheet, one row per seed
animation.gif       the frames as an animation
curves.jsonl        one line per step: denoiser calls, bandwidth, residual, noise level; curves.png plots them
checkpoint.safetensors   the state from which an interrupted run resumes to the same pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from modeseek.core.checks import check_choice, check_prompt, check_seed, check_seeds
from modeseek.core.errors import InvalidInput
from modeseek.core.identity import digest
from modeseek.distillation import Step
from modeseek.distillation.interface import optimise_recipe
from modeseek.distillation.recipes import ALL_RECIPES, RECIPES, Recipe, scale_of
from modeseek.plots import Curve, save_curves
from modeseek.plots.images import save_animation, save_image, save_sheet, tiled
from modeseek.priors.base import ImagePrior
from modeseek.representations import CoordinateMLP, Latents, Pixels
from modeseek.scaling.ranks import ALONE, Ranks
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.provenance import described
from modeseek.tasks.run_folder import CurveLog, claimed, complete, plain_config, write_lines

RepresentationName = Literal["mlp", "pixels", "latents"]
FRAMES = 24


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """The settings of a distillation of images.

    Args:
        prompt: text prompt.
        negative: negative prompt.
        prior: the image prior.
        recipe: the gradient and its settings.
        seeds: one image for each, its initial parameters drawn with that seed.
        representation: "mlp" (the paper's coordinate network), "pixels" or "latents".
        seed: seed of the gradient's randomness.
    """

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    recipe: Recipe = RECIPES["msd"]
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    representation: RepresentationName = "mlp"
    seed: int = 0

    def __post_init__(self) -> None:
        check_prompt("prompt", self.prompt, empty=True)
        check_prompt("negative", self.negative, empty=True)
        check_seeds(self.seeds)
        check_seed("seed", self.seed)
        check_choice("representation", self.representation, ("mlp", "pixels", "latents"))


def canvas(kind: RepresentationName, prior: ImagePrior, seeds: Sequence[int]) -> nn.Module:
    """The representation to optimise: a batch of one image, or latent, per seed.

    Raises:
        InvalidInput: an unknown representation.
    """
    if kind == "latents":
        return Latents(seeds, event=prior.event, std=prior.data_std).to(prior.device)
    if kind not in ("mlp", "pixels"):
        raise InvalidInput(f"representation {kind!r} is unknown: choose mlp, pixels or latents")
    made = CoordinateMLP(seeds, size=prior.image_size) if kind == "mlp" else Pixels(seeds, size=prior.image_size)
    return made.to(prior.device)


def distilled(
    prior: ImagePrior,
    prompts: Sequence[str],
    recipe: Recipe,
    *,
    guidance: float | None = None,
    seeds: Sequence[int],
    representation: RepresentationName = "mlp",
    negative: str = "",
    seed: int = 0,
    checkpoint: Path | None = None,
    identity: str | None = None,
    ranks: Ranks = ALONE,
) -> tuple[nn.Module, Iterator[Step]]:
    """Return the representation and the iterator that optimises it: one image for each pair of `prompts` and `seeds`.

    Args:
        prior: the image prior.
        prompts: one per image.
        recipe: the gradient and its settings.
        guidance: guidance scale where the recipe has none; None: the prior's default.
        seeds: one per image.
        representation: "mlp", "pixels" or "latents".
        negative: negative prompt.
        seed: seed of the gradient's randomness.
        checkpoint: file to save to and to resume from.
        identity: of the run, which its checkpoint must have.
        ranks: processes that share the batch.

    Raises:
        InvalidInput: a recipe in image space with free latents.
    """
    made = canvas(representation, prior, seeds)
    steps = optimise_recipe(
        made,
        prior,
        prompts,
        recipe,
        guidance=guidance,
        negative=negative,
        latents=representation == "latents",
        seed=seed,
        checkpoint=checkpoint,
        identity=identity,
        ranks=ranks,
    )
    return made, steps


@torch.no_grad()
def images_of(made: nn.Module, prior: ImagePrior) -> Tensor:
    """The current images of a representation: (n, 3, h, w) in [0, 1]."""
    shown = made()
    return (prior.decode(shown) if isinstance(made, Latents) else shown).clamp(0, 1)


# ---------------------------------------------------------------- runs on disk
def distill_images(run: ImageRun, out: Path, *, ranks: Ranks = ALONE, command: str = "") -> Iterator[Step]:
    """Distil the images of a run into a folder and yield each step. A finished run yields nothing and is not changed.

    Args:
        run: the settings.
        out: the folder; an interrupted run in it resumes.
        ranks: processes that share the work. Each calls this with the same run; only the first writes.
        command: the command line, for the run's page.

    Raises:
        RankLost: another process died or stopped responding.
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the prior cannot be loaded, or it does not accept the prompt.
    """
    weights = run.prior.digest()
    named: dict[str, Any] = {"recipes": ALL_RECIPES, "recipes_name": "ALL_RECIPES", "command": command}
    with claimed(out, run, weights=weights, ranks=ranks, facts=described(run, "image", **named)) as state:
        if state == "finished":
            return
        prior = replace(run.prior, device=ranks.device(run.prior.device)).open()
        made, steps = distilled(
            prior,
            [run.prompt] * len(run.seeds),
            run.recipe,
            seeds=run.seeds,
            representation=run.representation,
            negative=run.negative,
            seed=run.seed,
            checkpoint=out / "checkpoint.safetensors",
            identity=digest(f"{weights} {plain_config(run)}"),
            ranks=ranks,
        )
        shown = frame_steps(run.recipe.steps)
        curve = CurveLog(out, writes=ranks.is_main)
        last: Step | None = None
        for step in steps:
            curve.add(step)
            if ranks.is_main and step.index in shown:
                save_frame(out, step.index, images_of(made, prior))
            last = step
            yield step
        scale, converged = scale_of(run.recipe, prior), bool(last.converged.all()) if last is not None else False
        facts = described(run, "image", **named, from_prior={"guidance": scale, "image_size": list(prior.image_size)})
        facts |= {"guidance": scale, "converged": converged}
        ranks.on_main(lambda: finish(out, run, weights, curve.lines, images_of(made, prior), facts))


def frame_steps(steps: int) -> set[int]:
    """The steps of a run after which a frame is written: about 24, and the last."""
    return {*range(0, steps, max(1, steps // FRAMES)), steps - 1}


def save_frame(out: Path, index: int, images: Tensor) -> None:
    """Write the images next to each other as the frame of a step."""
    save_image(out / "frames" / f"{index:06d}.png", tiled(images, len(images)))


def _frames(out: Path, count: int) -> tuple[list[int], list[Tensor]]:
    """The steps of the frames on disk, and each frame as (count, 3, h, w)."""
    found: dict[int, Tensor] = {}
    for path in sorted((out / "frames").glob("*.png")):
        with Image.open(path) as file:
            image = torch.frombuffer(bytearray(file.convert("RGB").tobytes()), dtype=torch.uint8).reshape(file.height, file.width, 3)
        found[int(path.stem)] = torch.stack((image.permute(2, 0, 1).float() / 255).chunk(count, 2))
    return list(found), list(found.values())


def finish(out: Path, run: ImageRun, weights: str, lines: list[dict[str, float]], images: Tensor, facts: dict[str, Any]) -> None:
    """Write the results; run.json and the page last."""
    write_lines(out, lines)
    for seed, image in zip(run.seeds, images, strict=True):
        save_image(out / f"image-{seed}.png", image)
    indices, frames = _frames(out, len(run.seeds))
    shown = sorted({round(i * (len(frames) - 1) / 7) for i in range(8)})
    rows = [torch.stack([frames[i][seed] for i in shown]) for seed in range(len(run.seeds))]
    names = [f"seed {seed}" for seed in run.seeds]
    save_sheet(out / "sheet.png", rows, rows_named=names, columns_named=[f"step {indices[i] + 1}" for i in shown])
    save_animation(out / "animation.gif", [tiled(frame, len(frame)) for frame in frames])
    panels = []
    for name in ("calls", "bandwidth", "residual", "sigma"):
        with_value = [line for line in lines if name in line]
        if with_value:
            panels.append((name, "step", name, [Curve(name, [line["step"] for line in with_value], [line[name] for line in with_value])]))
    save_curves(out / "curves.png", panels)
    counts = {"calls": lines[-1]["calls"], "steps_done": int(lines[-1]["step"]) + 1} if lines else {"calls": 0.0, "steps_done": 0}
    complete(out, run, weights, facts | counts)
