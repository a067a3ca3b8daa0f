"""From a prompt to an object: a NeRF distilled from views of a prior, and everything a run leaves on disk.

    run.json             what was run, and how it ended
    preview.png          the object from four sides, refreshed as it goes
    turntable.gif, turntable.png   images all around it, as a film and as a sheet; depth.png and normals.png beside them
    mesh.glb, .obj, .ply           its surface; `modeseek export RUN` makes them again, at another resolution
    curves.jsonl         a line a step
    checkpoint.safetensors         from which a killed run goes on to the same object

A prompt is extended by the word for each view ("..., side view"): cameras move, so which prompts a denoiser is asked for changes from step
to step (`ViewDependentPrior`); with Perp-Neg each view is pushed off the words for the others, the more the further it is turned
from them. A
target that serves several steps needs the same cameras for as long, so the NeRF keeps them (`Views.refresh`). An object that is empty or
fog (`degenerate`) at three previews in a row stops its run, with its state on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.errors import Degenerate, InvalidInput, OutputError, WeightsError
from modeseek.core.files import read_object, read_state, write_json
from modeseek.core.identity import digest
from modeseek.distillation import Step
from modeseek.distillation.interface import optimise_recipe
from modeseek.distillation.recipes import Recipe, scale_of
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.plots.images import save_animation, save_image, save_sheet, tiled
from modeseek.priors.base import ImagePrior
from modeseek.representations.nerf import Cameras, NeRF, NeRFSettings, Ranges, degenerate, extract_mesh
from modeseek.scaling.ranks import ALONE, Ranks
from modeseek.tasks.run_folder import CurveLog, claimed, header, plain_config, write_lines
from modeseek.tasks.text_to_image import PriorChoice

PREVIEWS = 20
PATIENCE = 3  # previews in a row at which an object may be empty or fog before its run is stopped
TURNTABLE = 24


@dataclass(frozen=True, kw_only=True)
class ObjectRun:
    """One distillation of an object.

    Args:
        prompt: what to make, without a view.
        negative: what to guide away from.
        prior: which model.
        recipe: the gradient and its settings.
        preset: "cpu" (small, for the embedded prior) or "paper".
        views: images a step; None: the preset's.
        size: side of a rendered image; None: the prior's, or the preset's where that is larger.
        low: (side, step): another size until that step; None: one size throughout.
        perp_neg: push each view off the words for the others.
        seed: of everything random.
    """

    prompt: str
    negative: str = ""
    prior: PriorChoice = field(default_factory=PriorChoice)
    recipe: Recipe = VIEW_RECIPES["msd"]
    preset: Literal["cpu", "paper"] = "cpu"
    views: int | None = None
    size: int | None = None
    low: tuple[int, int] | None = None
    perp_neg: bool = False
    seed: int = 0


def volume_of(run: ObjectRun, prior: ImagePrior) -> NeRF:
    """The untrained NeRF of a run on the prior's device."""
    return untrained_nerf(run, prior.image_size).to(prior.device)


def untrained_nerf(run: ObjectRun, image_size: tuple[int, int] | None) -> NeRF:
    """The untrained NeRF of a run on the CPU, with the same cameras for as long as a target serves.

    Args:
        run: the run.
        image_size: (height, width) of its prior's images; None: those of the preset, which matter for rendering alone.
    """
    if run.preset not in ("cpu", "paper"):
        raise InvalidInput(f"preset {run.preset!r} is unknown: choose cpu or paper")
    settings = NeRFSettings.cpu() if run.preset == "cpu" else NeRFSettings.paper()
    size = (
        (run.size, run.size)
        if run.size is not None
        else (image_size or settings.views.size)
        if run.preset == "cpu"
        else settings.views.size
    )
    distributions = Ranges.solids_views() if run.prior.name == "solids" else settings.views.distributions
    low = None if run.low is None else (run.low[0], run.low[0], run.low[1])
    views = replace(
        settings.views, count=run.views or settings.views.count, size=size, low=low, distributions=distributions, refresh=run.recipe.refresh
    )
    return NeRF(replace(settings, views=views).shortened(run.recipe.steps), seed=run.seed)


def steps_of(
    run: ObjectRun, prior: ImagePrior, nerf: NeRF, *, checkpoint: Path | None = None, identity: str | None = None, ranks: Ranks = ALONE
) -> Iterator[Step]:
    """The optimisation loop of a run on its NeRF; `ranks` share the views of a step."""
    if run.perp_neg and getattr(getattr(prior, "family", None), "guidance", "classifier-free") != "classifier-free":
        raise InvalidInput("Perp-Neg needs a model with classifier-free guidance; this one has its guidance built in or none")
    nerf.ranks = ranks
    return optimise_recipe(
        nerf,
        prior,
        [run.prompt] * nerf.settings.views.count,
        run.recipe,
        negative=run.negative,
        views=lambda: nerf.cameras.names,
        azimuths=(lambda: nerf.cameras.azimuth) if run.perp_neg else None,
        optimiser=partial(_optimiser, nerf),
        seed=run.seed,
        checkpoint=checkpoint,
        identity=identity,
        ranks=ranks,
    )


def _optimiser(nerf: NeRF, parameters: Any, lr: float) -> torch.optim.Optimizer:
    del parameters  # the NeRF's own groups: the background has a rate of its own
    return torch.optim.AdamW(nerf.groups(lr), betas=(0.9, 0.99), eps=1e-15)


def distill_object(run: ObjectRun, out: Path, *, prior: ImagePrior | None = None, ranks: Ranks = ALONE) -> Iterator[Step]:
    """Distil the run's object into `out`, yielding each step; a finished run yields nothing and is left as it is.

    With several `ranks` every process calls this with the same run; the first alone writes. A `prior` that is given is used instead of
    opening the run's.

    Raises:
        RankLost: another process died or froze.
        Degenerate: the object is empty or fog at three previews in a row; its state and its previews stay.
        OutputError: the folder holds another run, or cannot be written.
        InvalidInput, WeightsError: the prior cannot be opened, or the prompt means nothing to it.
    """
    weights = run.prior.digest()
    with claimed(out, run, weights=weights, ranks=ranks) as state:
        if state == "finished":
            return
        prior = prior or replace(run.prior, device=ranks.device(run.prior.device)).open()
        nerf = volume_of(run, prior)
        stride = max(1, run.recipe.steps // PREVIEWS)
        curve = CurveLog(out, writes=ranks.leads)
        lost: list[str] = []
        checkpoint, identity = out / "checkpoint.safetensors", digest(f"{weights} {plain_config(run)}")
        for step in steps_of(run, prior, nerf, checkpoint=checkpoint, identity=identity, ranks=ranks):
            curve.add(step)
            if ranks.leads and ((step.index + 1) % stride == 0 or step.index == 0):
                save_image(out / "preview.png", tiled(around(nerf, 4), 4))
            if (step.index + 1) % stride == 0 and stride > 1:
                wrong = degenerate(nerf.field)
                lost = [*lost, wrong] if wrong else []
                if len(lost) >= PATIENCE:
                    words = f"the object is {wrong} and has been for {PATIENCE} previews"
                    raise Degenerate(
                        f"step {step.index}: {words}; its last state is in {out}: try another --seed, or a lower --lr, in another --out"
                    )
            yield step
        ranks.first(lambda: _finish(out, run, weights, curve.lines, nerf, scale_of(run.recipe, prior)))


def _finish(out: Path, run: ObjectRun, weights: str, lines: list[dict[str, float]], nerf: NeRF, scale: float) -> None:
    """Everything that is written once, at the end; run.json last."""
    write_lines(out, lines)
    calls = lines[-1]["calls"] if lines else 0.0
    show(nerf, out)
    facts = {"guidance": scale, "calls": calls, "image_size": nerf.settings.views.size} | export_mesh(nerf, out)
    write_json(out / "run.json", header(plain_config(run), weights, finished=True) | facts)


@torch.no_grad()
def around(nerf: NeRF, count: int, *, elevation: float = 20.0, size: int | None = None) -> Tensor:
    """Images from all around, the front first: (count, 3, h, w)."""
    side = (size, size) if size is not None else None
    cameras = [Cameras.orbit([360.0 * k / count], elevation) for k in range(count)]
    return torch.cat([nerf.render(camera, side).image for camera in cameras])


@torch.no_grad()
def show(nerf: NeRF, out: Path, *, size: int = 128) -> None:
    """The turntable, and depth and normals from four sides."""
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
    """mesh.glb and .obj with a texture, .ply with vertex colours; what they are, or why there is none."""
    try:
        mesh = extract_mesh(nerf.field, resolution=resolution, threshold=threshold)
    except InvalidInput as error:
        return {"mesh": None, "why": str(error)}
    mesh.save(out / "mesh.ply")
    watertight = bool(mesh.trimesh().is_watertight)
    textured = extract_mesh(nerf.field, resolution=resolution, threshold=mesh.threshold, texture=texture) if texture else mesh
    textured.save(out / "mesh.glb")
    textured.save(out / "mesh.obj")
    return {"mesh": {"threshold": mesh.threshold, "faces": len(mesh.faces), "watertight": watertight, "resolution": resolution}}


def reopened(folder: Path) -> tuple[ObjectRun, NeRF]:
    """Load the run of a folder and its NeRF as it was last saved, on the CPU. Neither the prior nor the device of the run is needed.

    Raises:
        OutputError: there is no run in the folder, or none with a checkpoint.
    """
    path = folder / "run.json"
    if not path.exists():
        raise OutputError(f"{folder} holds no run: there is no run.json")
    facts = read_object(path, "config")
    config = facts["config"]
    if not isinstance(config, dict) or "recipe" not in config or "representation" in config:
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
