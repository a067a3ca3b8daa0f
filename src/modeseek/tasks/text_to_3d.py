"""Text to 3-D: distil a NeRF from a prompt with an image prior, and write the results to a folder.

    index.html                     the run's page
    run.json                       the settings, their sources, and whether the run has finished
    preview.png, frames/           the object from four sides: the latest preview, and all of them by step
    turntable.gif, turntable.png   24 views around the object; depth.png and normals.png from four sides
    mesh.glb, .obj, .ply           its surface; `modeseek export RUN` extracts them again at another resolution
    curves.jsonl                   one line per step
    checkpoint.safetensors         the state from which an interrupted run resumes to the same object

The name of each view is appended to the prompt ("..., side view"). Cameras change from step to step, and so do the prompts of the denoiser
(`ViewDependentPrior`). With Perp-Neg, each view is guided away from the names of the other views. A cached target needs the cameras it
was computed for, so the NeRF keeps them for as many steps (`Views.refresh`). A run stops with its state on disk if the object is empty or
its density is diffuse everywhere (`degenerate`) at three previews in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.checks import check_choice, check_integer, check_prompt, check_seed
from modeseek.core.errors import Degenerate, InvalidInput, MissingPackage, OutputError, WeightsError
from modeseek.core.files import read_object, read_state
from modeseek.core.identity import digest
from modeseek.distillation import Step
from modeseek.distillation.interface import optimise_recipe
from modeseek.distillation.recipes import Recipe, scale_of
from modeseek.distillation.recommend import PAPER_VIEW_RECIPES, VIEW_RECIPES
from modeseek.pages import write_run_page
from modeseek.plots.images import save_animation, save_image, save_sheet, tiled
from modeseek.priors.base import ImagePrior
from modeseek.representations.nerf import Cameras, NeRF, NeRFSettings, Ranges, baked, degenerate, extract_mesh
from modeseek.scaling.ranks import ALONE, Ranks
from modeseek.solids.captions import BACKGROUNDS, without_background
from modeseek.tasks.prior_choice import PriorChoice, has_solids
from modeseek.tasks.provenance import described
from modeseek.tasks.run_folder import CurveLog, claimed, complete, plain_config, write_lines
from modeseek.tasks.sampling import background_of

PREVIEWS = 20
PATIENCE = 3  # a run stops when its object is degenerate at this many previews in a row
TURNTABLE = 24


@dataclass(frozen=True, kw_only=True)
class ObjectRun:
    """The settings of a distillation of an object.

    Args:
        prompt: text prompt, without the name of a view.
        negative: negative prompt.
        prior: the image prior.
        recipe: the gradient and its settings.
        preset: "cpu" (a small volume, for the embedded prior) or "paper".
        views: rendered views per step; None: the preset's.
        size: side of a render in pixels; None: the prior's, or the preset's with "paper".
        low: (side, step): another side until that step; None: one side throughout.
        perp_neg: use Perp-Neg between the names of the views.
        seed: seed of all randomness.
    """

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    recipe: Recipe = VIEW_RECIPES["mean-shift"]
    preset: Literal["cpu", "paper"] = "cpu"
    views: int | None = None
    size: int | None = None
    low: tuple[int, int] | None = None
    perp_neg: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InvalidInput` for a value outside its range."""
        check_prompt("prompt", self.prompt, empty=True)
        check_prompt("negative", self.negative, empty=True)
        check_seed("seed", self.seed)
        check_choice("preset", self.preset, ("cpu", "paper"))
        for name, value, high in (("views", self.views, 1024), ("size", self.size, 8192)):
            if value is not None:
                check_integer(name, value, high=high)


def volume_of(run: ObjectRun, prior: ImagePrior) -> NeRF:
    """The untrained NeRF of a run on the prior's device; a fixed background has the colour that the prior gives it (`background_of`)."""
    nerf = untrained_nerf(run, prior.image_size).to(prior.device)
    if nerf.settings.field.background == "fixed":
        nerf.field.set_background(background_of(prior, f"{run.prompt}, front view", seed=run.seed))
    return nerf


def untrained_nerf(run: ObjectRun, image_size: tuple[int, int] | None) -> NeRF:
    """The untrained NeRF of a run on the CPU, with the same cameras for as long as a target serves.

    Args:
        run: the run.
        image_size: (height, width) of its prior's images; None: those of the preset, which matter for rendering alone.
    """
    settings = NeRFSettings.cpu() if run.preset == "cpu" else NeRFSettings.paper()
    own = image_size or settings.views.size if run.preset == "cpu" else settings.views.size
    size = (run.size, run.size) if run.size is not None else own
    solids = has_solids(run.prior.name)
    distributions = Ranges.solids_views() if solids else settings.views.distributions
    low = None if run.low is None else (run.low[0], run.low[0], run.low[1])
    views = replace(
        settings.views, count=run.views or settings.views.count, size=size, low=low, distributions=distributions, refresh=run.recipe.refresh
    )
    if run.preset == "cpu":
        settings = replace(settings, field=replace(settings.field, background="fixed"), background_first=0)
        views = replace(views, backgrounds=tuple(BACKGROUNDS.items()) if solids and not run.perp_neg else ())
    return NeRF(replace(settings, views=views).shortened(run.recipe.steps), seed=run.seed)


def prompt_of(run: ObjectRun, nerf: NeRF) -> str:
    """The prompt to which the names of views are appended: without its background where those have backgrounds of their own."""
    return without_background(run.prompt) if nerf.settings.views.backgrounds else run.prompt


def steps_of(
    run: ObjectRun, prior: ImagePrior, nerf: NeRF, *, checkpoint: Path | None = None, identity: str | None = None, ranks: Ranks = ALONE
) -> Iterator[Step]:
    """Return the iterator that optimises the NeRF of a run; `ranks` share the views of a step.

    Raises:
        InvalidInput: Perp-Neg for a model without classifier-free guidance.
    """
    nerf.ranks = ranks
    return optimise_recipe(
        nerf,
        prior,
        [prompt_of(run, nerf)] * nerf.settings.views.count,
        run.recipe,
        negative=run.negative,
        views=lambda: nerf.view_names,
        azimuths=(lambda: nerf.cameras.azimuth) if run.perp_neg else None,
        optimiser=partial(_optimiser, nerf),
        seed=run.seed,
        checkpoint=checkpoint,
        identity=identity,
        ranks=ranks,
    )


def _optimiser(nerf: NeRF, parameters: Any, lr: float) -> torch.optim.Optimizer:
    del parameters  # the NeRF's own groups: a background has a rate of its own
    return torch.optim.AdamW(nerf.groups(lr), betas=(0.9, 0.99), eps=1e-15)


def distill_object(
    run: ObjectRun, out: Path, *, prior: ImagePrior | None = None, ranks: Ranks = ALONE, command: str = ""
) -> Iterator[Step]:
    """Distil the object of a run into a folder and yield each step. A finished run yields nothing and is not changed.

    Args:
        run: the settings.
        out: the folder; an interrupted run in it resumes.
        prior: used instead of loading the run's.
        ranks: processes that share the views. Each calls this with the same run; only the first writes.
        command: the command line, for the run's page.

    Raises:
        RankLost: another process died or stopped responding.
        Degenerate: the object is empty or diffuse at three previews in a row; its state, its previews and its page are kept.
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the prior cannot be loaded, or it does not accept the prompt.
    """
    weights, paper = run.prior.digest(), run.preset == "paper"
    named: dict[str, Any] = {"recipes": PAPER_VIEW_RECIPES if paper else VIEW_RECIPES, "command": command}
    named["recipes_name"] = "PAPER_VIEW_RECIPES" if paper else "VIEW_RECIPES"
    with claimed(out, run, weights=weights, ranks=ranks, facts=described(run, "3d", **named)) as state:
        if state == "finished":
            return
        prior = prior or replace(run.prior, device=ranks.device(run.prior.device)).open()
        nerf = volume_of(run, prior)
        shown = preview_steps(run.recipe.steps)
        curve = CurveLog(out, writes=ranks.is_main)
        checkpoint, identity = out / "checkpoint.safetensors", digest(f"{weights} {plain_config(run)}")
        for step in steps_of(run, prior, nerf, checkpoint=checkpoint, identity=identity, ranks=ranks):
            lost: dict[str, float] = {}
            if step.index in shown - {0} and run.recipe.steps >= 2 * PREVIEWS:
                wrong = degenerate(nerf.field)
                lost["degenerate"] = curve.last("degenerate", step.index) + 1 if wrong else 0
            curve.add(step, **lost)  # the count of previews too, so that a resumed run stops at the same step
            if ranks.is_main and step.index in shown:
                save_preview(out, step.index, nerf)
            if lost.get("degenerate", 0) >= PATIENCE:
                ranks.on_main(lambda: write_run_page(out))
                words = f"the object is {wrong} and has been for {PATIENCE} previews"
                raise Degenerate(
                    f"step {step.index}: {words}; its last state is in {out}: try another --seed, or a lower --lr, in another --out"
                )
            yield step
        scale, views = scale_of(run.recipe, prior), nerf.settings.views.count
        decided = {"guidance": scale, "image_size": list(prior.image_size), "views": views, "size": list(nerf.size)}
        facts = described(run, "3d", **named, from_prior=decided) | {"guidance": scale}
        ranks.on_main(lambda: finish(out, run, weights, curve.lines, nerf, facts))


def preview_steps(steps: int) -> set[int]:
    """The steps of a run after which a preview is written: about 20, the first and the last."""
    stride = max(1, steps // PREVIEWS)
    return {0, *range(stride - 1, steps, stride), steps - 1}


def save_preview(out: Path, index: int, nerf: NeRF) -> None:
    """Write the object from four sides, as the frame of a step and as the latest preview."""
    preview = tiled(around(nerf, 4), 4)
    save_image(out / "frames" / f"{index:06d}.png", preview)
    save_image(out / "preview.png", preview)


def finish(out: Path, run: ObjectRun, weights: str, lines: list[dict[str, float]], nerf: NeRF, facts: dict[str, Any]) -> None:
    """Write the results; run.json and the page last."""
    write_lines(out, lines)
    calls = lines[-1]["calls"] if lines else 0.0
    show(nerf, out)
    complete(out, run, weights, facts | {"calls": calls, "image_size": nerf.settings.views.size} | export_mesh(nerf, out))


@torch.no_grad()
def around(nerf: NeRF, count: int, *, elevation: float = 20.0, size: int | None = None) -> Tensor:
    """Render views at equal angles around the object, the front first: (count, 3, h, w)."""
    side = (size, size) if size is not None else None
    cameras = [Cameras.orbit([360.0 * k / count], elevation) for k in range(count)]
    return torch.cat([nerf.render(camera, side).image for camera in cameras])


@torch.no_grad()
def show(nerf: NeRF, out: Path, *, size: int = 128) -> None:
    """Write the turntable, and depth and normals from four sides."""
    images = around(nerf, TURNTABLE, size=size)
    save_animation(out / "turntable.gif", list(images))
    save_sheet(out / "turntable.png", list(images.split(8)))
    rendered = [nerf.render(Cameras.orbit([90.0 * k], 20.0), (size, size), normals=True) for k in range(4)]
    opacity = torch.cat([r.opacity for r in rendered]).reshape(4, 1, size, size)
    depth = torch.cat([r.depth for r in rendered]).reshape(4, 1, size, size)
    near, far = 2.1, 4.3
    save_image(out / "depth.png", tiled((opacity * (far - depth) / (far - near)).clamp(0, 1).expand(-1, 3, -1, -1), 4))
    if rendered[0].normals is not None:
        normals = torch.cat([torch.as_tensor(r.normals) for r in rendered]).reshape(4, 3, size, size)
        save_image(out / "normals.png", tiled((normals / 2 + 0.5).clamp(0, 1), 4))


def export_mesh(
    nerf: NeRF, out: Path, *, resolution: int = 96, threshold: float | None = None, texture: int | None = 512
) -> dict[str, Any]:
    """Write mesh.glb and .obj with a texture and .ply with vertex colours; return their facts, or why there is no mesh."""
    try:
        mesh = extract_mesh(nerf.field, resolution=resolution, threshold=threshold)
        watertight = bool(mesh.trimesh().is_watertight)
        textured = baked(mesh, nerf.field, texture) if texture else mesh
        mesh.save(out / "mesh.ply")
        textured.save(out / "mesh.glb")
        textured.save(out / "mesh.obj")
    except (InvalidInput, MissingPackage) as error:
        return {"mesh": None, "why": str(error)}
    return {"mesh": {"threshold": mesh.threshold, "faces": len(mesh.faces), "watertight": watertight, "resolution": resolution}}


def reopened(folder: Path) -> tuple[ObjectRun, NeRF]:
    """Load the run of a folder and its NeRF as it was last saved, on the CPU. Neither the prior nor the device of the run is needed.

    Raises:
        OutputError: there is no run in the folder, or none with a checkpoint.
        InvalidInput: the folder holds a run of another task.
        WeightsError: its checkpoint does not fit the NeRF of this version.
    """
    path = folder / "run.json"
    if not path.exists():
        raise OutputError(f"{folder} holds no run: there is no run.json")
    facts = read_object(path, "config")
    config = facts["config"]
    if not isinstance(config, dict) or "recipe" not in config or "preset" not in config:
        raise InvalidInput(f"{folder} holds no 3-D run: give the folder of a `modeseek 3d` run")
    try:
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config["recipe"].items()}
        recipe = Recipe(**settings)
        low = tuple(config["low"]) if config.get("low") else None
        run = ObjectRun(**{**config, "low": low, "prior": PriorChoice(**config["prior"]), "recipe": recipe})
        image_size = (int(facts["image_size"][0]), int(facts["image_size"][1])) if facts.get("image_size") else None
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise OutputError(f"{path} does not fit this version ({error})") from error
    nerf = untrained_nerf(run, image_size)
    try:
        nerf.load_state_dict(read_state(folder / "checkpoint.safetensors", kind="distillation")["representation"])
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder / 'checkpoint.safetensors'} does not fit this version's NeRF: {str(error).splitlines()[0]}") from error
    return run, nerf
