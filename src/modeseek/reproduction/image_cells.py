"""Cells of experiments on an image prior: prompts, sampled and distilled images, and their scores.

A cell holds all seeds of all prompts in one batch; its images are bytes (n, 3, h, w), ordered by prompt. Scores are computed from the
images when a table is written: Frechet distance of features to a DDIM set, image-text similarity, and for `solids` the attribute
classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.distillation.recipes import RECIPES, Recipe, scale_of
from modeseek.distillation.settings import DRAWS, ignored
from modeseek.priors.base import ImagePrior
from modeseek.reproduction.image_scores import scores
from modeseek.reproduction.published_numbers import TEXT_TO_IMAGE
from modeseek.sweeps.cells import Result
from modeseek.sweeps.worker import opened
from modeseek.tasks.prior_choice import has_solids
from modeseek.tasks.sampling import sampled
from modeseek.tasks.text_to_image import PriorChoice, canvas, distilled, images_of

PAPER_PROMPTS = (
    "A DSLR photo of a hamburger",
    "A blue jay standing on a large basket of rainbow macarons",
    "A DSLR photo of a squirrel dressed as a samurai weighing a katana",
    "A DSLR photo of a knight in silver armor",
    "Line drawing of a Lizard dressed up like a victorian woman, lineal color",
    "A photo of a car made out of sushi",
    "A DSLR photo of a tulip",
    "A DSLR photo of a Pumpkin head zombie, skinny, highly detailed, photorealistic",
    "A watercolor painting of a sparrow, trending on artstation",
    "Michelangelo style statue of man sitting on a chair",
)
"""The paper's, from its appendix D."""

HELD_OUT_PROMPTS = (
    "a red sphere on a green cube, white background, front view",
    "an orange cube on a blue cylinder, grey background, front view",
    "a yellow cylinder, navy background, side view",
    "a green cone on a red torus, grey background, front view",
    "a cyan torus on a pink sphere, black background, overhead view",
    "a purple pyramid on a yellow cube, white background, back view",
    "a red house, grey background, front view",
    "an orange car, white background, side view",
    "a green rocket, navy background, front view",
    "a blue boat, grey background, side view",
)
"""Captions held out of the training of `solids`."""

REFERENCE_SEED = 10_000  # seeds of the reference set start here, far from those of the cells
DDIM_STEPS = 32
AT_ONCE = 8  # images fitted or encoded side by side
MARKS = (25, 50, 100, 150, 200, 300, 400)  # steps at which a cell keeps its images


def prompts_of(prior: str) -> tuple[str, ...]:
    """The paper's ten prompts, or ten held-out ones for the embedded prior."""
    return HELD_OUT_PROMPTS if has_solids(prior) else PAPER_PROMPTS


@dataclass(frozen=True, kw_only=True)
class SampledImages:
    """DDIM images of every prompt.

    Args:
        prior: which model.
        prompts: captions of the images.
        seeds: images per prompt.
        first: seed of the first image; each image has its own.
        steps: DDIM steps.
        guidance: scale; None: the prior's.
    """

    prior: PriorChoice
    prompts: tuple[str, ...]
    seeds: int
    first: int = 0
    steps: int = DDIM_STEPS
    guidance: float | None = None

    @property
    def title(self) -> str:
        return f"DDIM {self.prior.name} {len(self.prompts)}x{self.seeds} from {self.first}"

    def run(self) -> Result:
        everything = [prompt for prompt in self.prompts for _ in range(self.seeds)]
        prior = opened(self.prior)
        guidance = prior.default_guidance if self.guidance is None else self.guidance
        found = []
        for start in range(0, len(everything), 64):
            group = everything[start : start + 64]
            seeds = range(self.first + start, self.first + start + len(group))
            found.append(sampled(prior, group, guidance=guidance, steps=self.steps, seeds=seeds))
        row = {
            "method": "DDIM",
            "row": "reference" if self.first >= REFERENCE_SEED else "another set",
            "sampler": f"DDIM, {self.steps} steps",
        }
        return Result(_row(self.prior, guidance, row, float(self.steps)), {"images": to_stored(torch.cat(found))})


@dataclass(frozen=True, kw_only=True)
class DistilledImages:
    """Images of every prompt, distilled under one recipe.

    Args:
        prior: which model.
        prompts: captions of the images.
        seeds: images per prompt.
        recipe: the gradient and its settings.
        method, row: names for the table.
        seed: of the gradient's randomness.
    """

    prior: PriorChoice
    prompts: tuple[str, ...]
    seeds: int
    recipe: Recipe
    method: str
    row: str
    seed: int = 0

    @property
    def title(self) -> str:
        return f"{self.method} {self.row} {self.prior.name} {self.recipe.steps} steps {len(self.prompts)}x{self.seeds}"

    def run(self) -> Result:
        everything = [prompt for prompt in self.prompts for _ in range(self.seeds)]
        prior = opened(self.prior)
        guidance = scale_of(self.recipe, prior)
        numbers = range(self.seed * 1000, self.seed * 1000 + len(everything))
        made, steps = distilled(prior, everything, self.recipe, guidance=guidance, seeds=list(numbers), seed=self.seed)
        arrays: dict[str, Tensor] = {}
        calls: dict[str, float] = {}
        total = 0.0
        for step in steps:
            total = step.calls
            if step.index + 1 in MARKS or step.index + 1 == self.recipe.steps:
                arrays[f"at {step.index + 1}"] = to_stored(images_of(made, prior))
                calls[str(step.index + 1)] = total
        arrays["images"] = to_stored(images_of(made, prior))
        row = {"method": self.method, "row": self.row, "sampler": described(self.recipe), "calls_at": calls}
        return Result(_row(self.prior, guidance, row, total), arrays)


@dataclass(frozen=True, kw_only=True)
class ReconstructedImages:
    """DDIM images encoded and decoded, or fitted by a representation: what the autoencoder and the representation lose.

    Args:
        drawn: the images.
        way: "autoencoder", or "network": fitted under the squared error, with the optimiser of the recipe `msd`.
        steps: of the fit.
    """

    drawn: SampledImages
    way: Literal["autoencoder", "network"]
    steps: int = RECIPES["msd"].steps

    @property
    def title(self) -> str:
        return f"{self.way} {self.drawn.title}"

    def run(self) -> Result:
        result = self.drawn.run()
        prior = opened(self.drawn.prior)
        images = shown(result.arrays["images"]).to(prior.device)
        reconstruct = self._encoded if self.way == "autoencoder" else self._fitted
        found = torch.cat([reconstruct(group, prior) for group in images.split(AT_ONCE)])
        row = {**result.row, "method": "DDIM, reconstructed", "row": f"through the {self.way}"}
        return Result(row, {"images": to_stored(found)})

    @torch.no_grad()
    def _encoded(self, images: Tensor, prior: ImagePrior) -> Tensor:
        return prior.decode(prior.encode(images))

    def _fitted(self, images: Tensor, prior: ImagePrior) -> Tensor:
        made = canvas("mlp", prior, range(len(images)))
        optimiser = torch.optim.AdamW(made.parameters(), lr=RECIPES["msd"].lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            optimiser.zero_grad()
            ((made() - images) ** 2).sum().div(2).backward()
            optimiser.step()
            falling.step()
        return images_of(made, prior)


def _row(prior: PriorChoice, guidance: float, row: dict[str, Any], calls: float) -> dict[str, Any]:
    return {"density": prior.name, "denoiser": "learned", "guidance": f"CFG {guidance:g}", **row, "metrics": {}, "calls": calls}


def described(recipe: Recipe) -> str:
    """The settings that a recipe's method reads, in words, for a table."""
    high, low = recipe.timesteps
    first = f"{recipe.first:g}, then " if recipe.first else ""
    said = {
        "noise": f"{recipe.noise} noise",
        "space": f"{recipe.space} space",
        "corrections": f"encoding corrected {recipe.corrections} times" if recipe.corrections else "",
        "refresh": f"each target used for {recipe.refresh} steps" if recipe.refresh > 1 else "",
        "sampler_steps": f"{recipe.method[4:]}, {recipe.sampler_steps} steps per draw" if recipe.method in DRAWS else "",
        "bandwidth": f"l {first}{recipe.bandwidth[0]:g} to {recipe.bandwidth[1]:g}",
        "timesteps": f"t {high} to {low}" if recipe.method == "sdi" else "" if recipe.method in DRAWS else f"t in [{low}, {high}]",
    }
    unread = ignored(recipe.method, said)
    return ", ".join(words for name, words in said.items() if words and name not in unread)


def to_stored(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] as bytes."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().cpu()


def shown(stored: Tensor) -> Tensor:
    """Images in [0, 1] from bytes."""
    return stored.float() / 255


# ---------------------------------------------------------------- scores
def score_rows(
    results: Sequence[Result], prompts: Sequence[str], prior: PriorChoice, *, reference: Tensor, arrays: str = "images"
) -> list[dict[str, Any]]:
    """Rows of results with the scores of their stored images, ordered by prompt, and the paper's numbers."""
    rows = []
    for result in results:
        images = shown(result.arrays[arrays])
        each = [prompt for prompt in prompts for _ in range(len(images) // len(prompts))]
        metrics = scores(prior.name, images, each, shown(reference))
        rows.append({**result.row, "metrics": metrics, "paper": TEXT_TO_IMAGE.get(result.row["method"])})
    return rows


def baseline_row(result: Result, prompts: Sequence[str], prior: PriorChoice, *, reference: Tensor, seeds: int) -> dict[str, Any]:
    """Scores of DDIM images against other DDIM images: the mean over disjoint sets of `seeds` images per prompt, +- the spread of one set.

    The Frechet distance between two small sets of one distribution is far from 0. This row gives its value at the size of every other row.
    """
    images = shown(result.arrays["images"]).unflatten(0, (len(prompts), -1))
    each = [prompt for prompt in prompts for _ in range(seeds)]
    whole = images.shape[1] // seeds * seeds
    sets = [scores(prior.name, part.flatten(0, 1), each, shown(reference)) for part in images[:, :whole].split(seeds, 1)]
    metrics: dict[str, float] = {}
    for name in (name for name in sets[0] if not name.endswith(" error")):
        values = torch.tensor([found[name] for found in sets])
        metrics[name] = float(values.mean())
        if len(values) > 1:
            metrics[f"{name} error"] = float(values.std())
    row = {**result.row, "row": f"another set, mean of {len(sets)}"}
    return {**row, "metrics": metrics, "paper": TEXT_TO_IMAGE.get(result.row["method"])}
