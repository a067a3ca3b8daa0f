"""Edit an image towards another prompt with DDS or PDS; one run on disk.

The optimised variable is the latent x, started at the encoded source. The result is the source plus what the edit changed,
image + decode(x) - decode(encode(image)), so the reconstruction error of the autoencoder cancels where nothing was edited. Changes that are
small next to the edit are removed (`modeseek.tasks.edit_mask`).

index.html          the run's page
run.json            the settings, their sources, and whether the run has finished
source.png          the source image at the prior's size
image-0.png         the edited image
frames/             the edited image at about 24 steps
sheet.png           source and edited image next to each other
curves.jsonl        one line per step
checkpoint.safetensors   from which a killed run resumes to the same pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from modeseek.core.checks import check_choice, check_integer, check_number, check_prompt, check_seed
from modeseek.core.errors import InvalidInput, OutputError
from modeseek.core.files import read_object
from modeseek.core.identity import digest
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.distillation import Step
from modeseek.distillation.loop import optimise
from modeseek.gradients import DDS, PDS, Estimate, Gradient, NoiseLevels
from modeseek.plots.images import save_image, save_sheet
from modeseek.priors.base import ImagePrior
from modeseek.representations import Points
from modeseek.tasks.edit_mask import check_thresholds, keep_local
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.provenance import described
from modeseek.tasks.run_folder import CurveLog, claimed, complete, plain_config

FRAMES = 24


@dataclass(frozen=True, kw_only=True)
class EditRecipe:
    """A gradient of editing with its settings; `dataclasses.replace` varies one.

    Args:
        method: "dds", "pds" with the coefficients of the released code, or "pds-posterior" with DDPM's (`modeseek.gradients.pds`).
        steps: steps of gradient descent on the latent.
        lr: learning rate of the gradient; with "pds" of x - target, because its weights span two orders of magnitude over the levels.
        guidance: scale s of both prompts; None: the prior's default.
        samples: Monte-Carlo samples per estimate.
        timesteps: highest and lowest t of Stable Diffusion's 1000.
        local: (low, high), fractions of the largest change of a pixel: smaller changes than low are removed, larger ones than high kept;
            (0, 0) keeps every change, as the papers do.
    """

    method: Literal["dds", "pds", "pds-posterior"]
    steps: int = 100
    lr: float = 0.05
    guidance: float | None = None
    samples: int = 1
    timesteps: tuple[int, int] = (948, 50)
    local: tuple[float, float] = (0.1, 0.2)

    def __post_init__(self) -> None:
        check_choice("method", self.method, ("dds", "pds", "pds-posterior"))
        for t in self.timesteps:
            check_integer("timesteps", t, low=0)
        if self.guidance is not None:
            check_number("guidance", self.guidance)
        check_integer("steps", self.steps)
        check_integer("samples", self.samples)
        check_number("lr", self.lr, above=0)
        if not 999 >= self.timesteps[0] > self.timesteps[1] >= 2:
            raise InvalidInput(f"timesteps must descend within 999 to 2, got {self.timesteps}")
        check_thresholds(*self.local)


EDIT_RECIPES: dict[str, EditRecipe] = {
    "dds": EditRecipe(method="dds"),
    "pds": EditRecipe(method="pds", lr=0.02, guidance=6.0, timesteps=(979, 21)),
    "pds-posterior": EditRecipe(method="pds-posterior", lr=0.5, timesteps=(979, 21)),
}
"""By name; `modeseek edit --method NAME`. Found on edits of solids that are not among the ten that `modeseek run edit` scores."""


@dataclass(frozen=True, kw_only=True)
class EditRun:
    """The settings of an edit of an image.

    Args:
        image: path of the image; resized to the prior's size.
        source: prompt that describes the image.
        prompt: prompt that describes the edited image.
        prior: the image prior.
        recipe: the gradient and its settings.
        seed: seed of the gradient's randomness.
    """

    image: str
    source: str
    prompt: str
    prior: PriorChoice = field(default_factory=PriorChoice)
    recipe: EditRecipe = EDIT_RECIPES["dds"]
    seed: int = 0

    def __post_init__(self) -> None:
        check_prompt("source", self.source)
        check_prompt("prompt", self.prompt)
        check_seed("seed", self.seed)


def get_edit_recipe(name: str, **changes: object) -> EditRecipe:
    """The recipe called `name` with the changes that are not None.

    Raises:
        InvalidInput: no recipe has that name.
    """
    if name not in EDIT_RECIPES:
        raise InvalidInput(f"method {name!r} is unknown: choose {', '.join(EDIT_RECIPES)}")
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(EDIT_RECIPES[name], **given)  # type: ignore[arg-type]


class ToTarget:
    """A gradient divided by its weight, x - target, so that the learning rate is the fraction of the distance to the target per step."""

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        found = self.gradient(x, progress=progress, rng=rng)
        return Estimate(x - found.target, found.target, found.info)


def build_edit(recipe: EditRecipe, prior: ImagePrior, sources: Sequence[str], prompts: Sequence[str], latents: Tensor) -> Gradient:
    """Build the gradient that edits latents (n, *event) of `sources` towards `prompts`, one per object."""
    scale = prior.default_guidance if recipe.guidance is None else recipe.guidance
    denoisers = {
        "denoiser": prior.denoiser(prompts, guidance=scale),
        "source_denoiser": prior.denoiser(sources, guidance=scale),
        "source": latents,
    }
    high, low = recipe.timesteps
    if recipe.method == "dds":
        table = stable_diffusion_levels().sigmas
        ends = (max(float(table[low]), prior.sigmas[0]), min(float(table[high]), prior.sigmas[1]))
        levels = NoiseLevels(low=ends[0], high=ends[1], distribution="timestep")
        return DDS(**denoisers, levels=levels, samples=recipe.samples)  # type: ignore[arg-type]
    coefficients: Literal["released", "posterior"] = "released" if recipe.method == "pds" else "posterior"
    pds = PDS(**denoisers, timesteps=(low, high), coefficients=coefficients, samples=recipe.samples)  # type: ignore[arg-type]
    return ToTarget(pds) if recipe.method == "pds" else pds


class Edit:
    """An edit in progress: iterate over it for its steps, then read `images`.

    Args:
        prior: the image prior.
        images: (n, 3, height, width) in [0, 1], at the prior's size.
        sources: prompts of the images.
        prompts: prompts of the edited images.
        recipe: the gradient and its settings.
        seed: of the gradient's randomness.
        checkpoint: file to save to and to resume from.
        identity: of the run, which its checkpoint must have.

    Raises:
        InvalidInput: images of another size than the prior's.
    """

    def __init__(
        self,
        prior: ImagePrior,
        images: Tensor,
        sources: Sequence[str],
        prompts: Sequence[str],
        recipe: EditRecipe,
        *,
        seed: int = 0,
        checkpoint: Path | None = None,
        identity: str | None = None,
    ) -> None:
        if images.shape[1:] != (3, *prior.image_size):
            raise InvalidInput(f"images must be (n, 3, {prior.image_size[0]}, {prior.image_size[1]}), got {tuple(images.shape)}")
        self.prior, self.source = prior, images.to(prior.device)
        with torch.no_grad():
            latents = prior.encode(self.source)
            self._decoded = prior.decode(latents)
        self.latents, self._local = Points(latents), recipe.local
        gradient = build_edit(recipe, prior, sources, prompts, latents)
        self._steps = optimise(
            self.latents,
            gradient,
            steps=recipe.steps,
            optimiser="sgd",
            lr=recipe.lr,
            seed=seed,
            checkpoint=checkpoint,
            identity=identity,
        )

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    @property
    def images(self) -> Tensor:
        """The edited images: (n, 3, height, width) in [0, 1]."""
        return self.with_thresholds(*self._local)

    @torch.no_grad()
    def with_thresholds(self, low: float, high: float) -> Tensor:
        """The edited images with other thresholds of small changes than the recipe's; (0, 0) keeps every change."""
        change = self.prior.decode(self.latents()) - self._decoded
        return (self.source + keep_local(change, low, high)).clamp(0, 1)


def edit_image(run: EditRun, out: Path, *, command: str = "") -> Iterator[Step]:
    """Edit the run's image into a folder and yield each step. A finished run yields nothing and is not changed.

    Args:
        run: the settings.
        out: the folder; an interrupted run in it resumes.
        command: the command line, for the run's page.

    Raises:
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the image or the prior cannot be loaded, or the prior does not accept a prompt.
    """
    weights, image = run.prior.digest(), _digest_of(run.image)
    facts = described(run, "edit", recipes=EDIT_RECIPES, recipes_name="EDIT_RECIPES", command=command) | {"image_digest": image}
    with claimed(out, run, weights=weights, facts=facts) as state:
        if image and read_object(out / "run.json").get("image_digest", image) != image:
            raise OutputError(f"{out} holds an edit of another image that was at {run.image}; choose another --out")
        if state == "finished":
            return
        prior = run.prior.open()
        source = read_image(run.image, prior.image_size)
        save_image(out / "source.png", source)
        identity = digest(f"{weights} {plain_config(run)} {source.numpy().tobytes().hex()}")
        kept = {"seed": run.seed, "checkpoint": out / "checkpoint.safetensors", "identity": identity}
        edit = Edit(prior, source[None], [run.source], [run.prompt], run.recipe, **kept)  # type: ignore[arg-type]
        curve = CurveLog(out)
        stride = max(1, run.recipe.steps // FRAMES)
        for step in edit:
            curve.add(step)
            if step.index % stride == 0 or step.index + 1 == run.recipe.steps:
                save_image(out / "frames" / f"{step.index:06d}.png", edit.images[0].cpu())
            yield step
        edited = edit.images[0].cpu()
        save_image(out / "image-0.png", edited)
        save_sheet(out / "sheet.png", [torch.stack([source, edited])], columns_named=[run.source, run.prompt])
        scale = prior.default_guidance if run.recipe.guidance is None else run.recipe.guidance
        done = {"guidance": scale, "calls": curve.lines[-1]["calls"], "steps_done": run.recipe.steps, "converged": False}
        complete(out, run, weights, facts | done)


def _digest_of(path: str) -> str:
    """A digest of a file's content; "" where it cannot be read."""
    try:
        return digest(Path(path).read_bytes().hex())
    except OSError:
        return ""


def read_image(path: str | Path, size: tuple[int, int]) -> Tensor:
    """Read an image file as (3, height, width) in [0, 1], upright, on white where it is transparent, resized (bicubic) if its size differs.

    Raises:
        InvalidInput: the file is missing, no image, or too large.
    """
    try:
        with Image.open(path) as file:
            image = _eight_bits(ImageOps.exif_transpose(file))
            if image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    except (OSError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{path} cannot be read as an image: {error}; give a PNG or JPEG file") from error
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(size[0], size[1], 3).permute(2, 0, 1).float() / 255


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image in RGB: grey of 16 bits is scaled, transparency is put on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
