"""From a prompt to images: one run of a recipe on an image prior, with everything it leaves on disk.

run.json            what was run, and how it ended
image-K.png       the result of seed K, pixel for pixel
frames/             the seeds side by side, every so many steps
sheet.png           the frames as a contact sheet over time, a row a seed
animation.gif       the frames as a film
curves.jsonl        a line a step: calls, bandwidth, residual, noise level; curves.png shows them
checkpoint.safetensors   from which a killed run goes on to the same pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput, NonFiniteError
from modeseek.core.files import write_json
from modeseek.core.identity import digest, folder_digest
from modeseek.core.sampling import ddim
from modeseek.core.schedules import sampling_levels
from modeseek.distillation import Step
from modeseek.distillation.interface import optimise_recipe
from modeseek.distillation.recipes import RECIPES, Recipe, scale_of
from modeseek.plots import Curve, save_curves
from modeseek.plots.images import save_animation, save_image, save_sheet, tiled
from modeseek.priors.base import ImagePrior
from modeseek.priors.pipelines import load_prior
from modeseek.priors.solids import ASSETS, solids_prior
from modeseek.representations import CoordinateMLP, Latents, Pixels
from modeseek.scaling.ranks import ALONE, Ranks
from modeseek.tasks.run_folder import CurveLog, claimed, header, plain_config, write_lines

RepresentationName = Literal["mlp", "pixels", "latents"]
FRAMES = 24


@dataclass(frozen=True, kw_only=True)
class PriorChoice:
    """Which prior, and where it runs.

    Args:
        name: "solids", a folder in diffusers' layout, or a hub id.
        device: "cpu", "cuda", ...
        dtype: of its networks.
        image_size: (height, width) in pixels, or the side of a square; None: the model's own.
        variant: weight files to prefer, such as "fp16".
        subfolder: of the folder or hub id, where the pipeline lies in one.
        config: for a checkpoint file: a folder with its configuration.
        prediction: what the network predicts, where its scheduler's configuration is wrong.
        check: evaluate the model once at load.
        download: whether a hub id that is not on disk may be fetched.
    """

    name: str = "solids"
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    image_size: int | tuple[int, int] | None = None
    variant: str | None = None
    subfolder: str | None = None
    config: str | None = None
    prediction: Literal["eps", "v", "x0", "flow"] | None = None
    check: bool = True
    download: bool = False

    def open(self) -> ImagePrior:
        """The prior, loaded and frozen."""
        if self.name == "solids":
            return solids_prior(device=self.device, dtype=self.dtype)
        size = self.image_size
        size = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        names = ("device", "dtype", "variant", "subfolder", "config", "prediction", "check", "download")
        return load_prior(self.name, image_size=size, **{name: getattr(self, name) for name in names})

    def digest(self) -> str:
        """A digest of the prior's weights: of the package's networks, of a folder's files, or the name of a model of the hub."""
        return _digest(self.name)


@cache
def _digest(name: str) -> str:
    path = ASSETS if name == "solids" else Path(name).expanduser()
    return folder_digest(path) if path.is_dir() else name


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """One distillation of images from a prompt.

    Args:
        prompt: what to draw.
        negative: what to guide away from.
        prior: which model.
        recipe: the gradient and its settings.
        seeds: one image each.
        representation: "mlp" (the paper's coordinate network), "pixels" or "latents".
        seed: of the gradient's randomness.
    """

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    recipe: Recipe = RECIPES["msd"]
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    representation: RepresentationName = "mlp"
    seed: int = 0


def canvas(kind: RepresentationName, prior: ImagePrior, seeds: Sequence[int]) -> nn.Module:
    """What is optimised: a batch of one image (or latent) a seed."""
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
    """The canvas and the loop that paints on it, one image for each of `prompts` and `seeds` side by side; `ranks` share their work.

    Raises:
        InvalidInput: a recipe in image space on free latents.
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
    """What the canvas shows now: (n, 3, h, w) in [0, 1]."""
    shown = made()
    return (prior.decode(shown) if isinstance(made, Latents) else shown).clamp(0, 1)


@torch.no_grad()
def sampled(
    prior: ImagePrior, prompts: Sequence[str], *, guidance: float | None = None, steps: int, seeds: Sequence[int], negative: str = ""
) -> Tensor:
    """DDIM images, one for each prompt and seed side by side: (n, 3, h, w) in [0, 1]. `steps` denoiser calls."""
    noise = torch.stack([torch.randn(prior.event, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(prior.device)
    levels = sampling_levels(steps, prior.sigmas)
    x = ddim(prior.denoiser(prompts, guidance=guidance, negative=negative or None), levels[0] * noise, levels)
    return prior.decode(x).clamp(0, 1)


# ---------------------------------------------------------------- runs on disk
def distill_images(run: ImageRun, out: Path, *, ranks: Ranks = ALONE) -> Iterator[Step]:
    """Distil the run's images into `out`, yielding each step; a finished run yields nothing and is left as it is.

    With several `ranks` every process calls this with the same run; the first alone writes.

    Raises:
        RankLost: another process died or froze.
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the prior cannot be opened, or the prompt means nothing to it.
    """
    weights = run.prior.digest()
    with claimed(out, run, weights=weights, ranks=ranks) as state:
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
        stride = max(1, run.recipe.steps // FRAMES)
        curve = CurveLog(out, writes=ranks.leads)
        last: Step | None = None
        for step in steps:
            curve.add(step)
            if ranks.leads and (step.index % stride == 0 or step.index + 1 == run.recipe.steps):
                _save_frame(out, step.index, images_of(made, prior))
            last = step
            yield step
        ranks.first(lambda: _finish(out, run, weights, curve.lines, images_of(made, prior), last, scale_of(run.recipe, prior)))


def _save_frame(out: Path, index: int, images: Tensor) -> None:
    save_image(out / "frames" / f"{index:06d}.png", tiled(images, len(images)))


def _frames(out: Path, count: int) -> tuple[list[int], list[Tensor]]:
    """Steps of the frames on disk, and each as (count, 3, h, w)."""
    found: dict[int, Tensor] = {}
    for path in sorted((out / "frames").glob("*.png")):
        with Image.open(path) as file:
            image = torch.frombuffer(bytearray(file.convert("RGB").tobytes()), dtype=torch.uint8).reshape(file.height, file.width, 3)
        found[int(path.stem)] = torch.stack((image.permute(2, 0, 1).float() / 255).chunk(count, 2))
    return list(found), list(found.values())


def _finish(out: Path, run: ImageRun, weights: str, lines: list[dict[str, float]], images: Tensor, last: Step | None, scale: float) -> None:
    """Everything that is written once, at the end; run.json last."""
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
    calls = lines[-1]["calls"] if lines else 0.0
    converged = bool(last.converged.all()) if last is not None else False
    facts = {"guidance": scale, "calls": calls, "steps_done": int(lines[-1]["step"]) + 1 if lines else 0, "converged": converged}
    write_json(out / "run.json", header(plain_config(run), weights, finished=True) | facts)


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """DDIM images of a prompt, the reference that every gradient is held against."""

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    steps: int = 32
    guidance: float | None = None


def sample(run: SampleRun, out: Path) -> Tensor:
    """Draw the run's images into `out`: image-K.png, sheet.png and run.json. Returns them."""
    weights = run.prior.digest()
    with claimed(out, run, weights=weights):
        prior = run.prior.open()
        guidance = prior.default_guidance if run.guidance is None else run.guidance
        prompts = [run.prompt] * len(run.seeds)
        images = sampled(prior, prompts, guidance=guidance, steps=run.steps, seeds=run.seeds, negative=run.negative)
        if not bool(images.isfinite().all()):
            raise NonFiniteError("the sampled images hold NaN or infinite values; is the dtype too narrow, or the prior damaged?")
        for seed, image in zip(run.seeds, images, strict=True):
            save_image(out / f"image-{seed}.png", image)
        save_sheet(out / "sheet.png", list(images.split(8)), rows_named=[run.prompt] if len(images) <= 8 else ())
        facts = {"guidance": guidance, "calls": run.steps}
        write_json(out / "run.json", header(plain_config(run), weights, finished=True) | facts)
        return images
