"""DDIM samples of a prompt, the reference for every gradient method, in memory and as a run folder.

index.html     the run's page
run.json       the settings and their sources
image-K.png    the sample of seed K
sheet.png      all of them
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from modeseek.core.checks import check_integer, check_number, check_prompt, check_seeds
from modeseek.core.errors import NonFiniteError
from modeseek.core.sampling import ddim
from modeseek.core.schedules import sampling_levels
from modeseek.plots.images import save_image, save_sheet
from modeseek.priors.base import ImagePrior
from modeseek.tasks.prior_choice import PriorChoice
from modeseek.tasks.provenance import described
from modeseek.tasks.run_folder import claimed, complete


@torch.no_grad()
def sampled(
    prior: ImagePrior,
    prompts: Sequence[str],
    *,
    guidance: float | None = None,
    steps: int,
    seeds: Sequence[int],
    negative: str = "",
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample with DDIM, one image for each pair of prompt and seed: (n, 3, h, w) in [0, 1]. Costs `steps` denoiser calls.

    `report` is called with the number of finished denoiser calls after each.
    """
    noise = torch.stack([torch.randn(prior.event, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(prior.device)
    levels = sampling_levels(steps, prior.sigmas)
    denoiser, done = prior.denoiser(prompts, guidance=guidance, negative=negative or None), itertools.count(1)

    def reported(x: Tensor, sigma: Tensor) -> Tensor:
        found = denoiser(x, sigma)
        if report is not None:
            report(next(done))
        return found

    x = ddim(reported, levels[0] * noise, levels)
    return prior.decode(x).clamp(0, 1)


def background_of(prior: ImagePrior, prompt: str, *, seed: int = 0) -> Tensor:
    """The background that a prior gives a prompt, the median colour at the border of one DDIM sample without guidance: (3,) in [0, 1].

    A learned colour ends wrong where its gradient is: classifier-free guidance moves the mean image beyond the data at high levels, local
    kernels climb to the background nearest to the first one, and an autoencoder hides differences from the backgrounds of its training.
    Costs 8 denoiser calls on one item.

    Example:
        >>> from modeseek import load_prior
        >>> background_of(load_prior("solids"), "a green cone, navy background, front view").mul(10).round()
        tensor([1., 1., 3.])
    """
    image = sampled(prior, [prompt], guidance=None if prior.distilled else 1.0, steps=8, seeds=[seed])[0]
    border = torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    border[2:-2, 2:-2] = False
    return image[:, border].median(1).values


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """The settings of DDIM samples of a prompt, the reference for every gradient.

    Args:
        prompt: text prompt.
        negative: negative prompt.
        prior: the image prior.
        seeds: one image for each.
        steps: DDIM steps, each one denoiser call.
        guidance: guidance scale; None: the prior's default.
    """

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    steps: int = 32
    guidance: float | None = None

    def __post_init__(self) -> None:
        check_prompt("prompt", self.prompt, empty=True)
        check_prompt("negative", self.negative, empty=True)
        check_seeds(self.seeds)
        check_integer("steps", self.steps, high=100_000)
        if self.guidance is not None:
            check_number("guidance", self.guidance)


def sample(run: SampleRun, out: Path, *, command: str = "", report: Callable[[int], None] | None = None) -> Tensor:
    """Sample the images of a run into a folder and return them: (n, 3, h, w) in [0, 1].

    Args:
        run: the settings.
        out: the folder: image-K.png, sheet.png, run.json, index.html.
        command: the command line, for the run's page.
        report: called with the number of finished denoiser calls after each.

    Raises:
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the prior cannot be loaded, or it does not accept the prompt.
        NonFiniteError: the samples hold NaN or infinite values.
    """
    weights = run.prior.digest()
    with claimed(out, run, weights=weights, facts=described(run, "sample", command=command)):
        prior = run.prior.open()
        guidance = prior.default_guidance if run.guidance is None else run.guidance
        prompts = [run.prompt] * len(run.seeds)
        images = sampled(prior, prompts, guidance=guidance, steps=run.steps, seeds=run.seeds, negative=run.negative, report=report)
        if not bool(images.isfinite().all()):
            raise NonFiniteError("the sampled images hold NaN or infinite values; is the dtype too narrow, or the prior damaged?")
        for seed, image in zip(run.seeds, images, strict=True):
            save_image(out / f"image-{seed}.png", image)
        save_sheet(out / "sheet.png", list(images.split(8)), rows_named=[run.prompt] if len(images) <= 8 else ())
        decided = {"guidance": guidance, "image_size": list(prior.image_size)}
        facts = described(run, "sample", command=command, from_prior=decided)
        complete(out, run, weights, facts | {"guidance": guidance, "calls": run.steps})
        return images
