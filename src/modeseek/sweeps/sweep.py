"""Sweeps: prompts x methods x seeds on one or several priors, each combination one cell.

A sweep's folder:

    sweep.json              prompts, methods, seeds and priors of the last command
    cells/                  one result per cell, with its folder (image or 3-D run), see `modeseek.sweeps.cells`
    table.csv, .parquet     a row for each cell, in the order prompts, methods, seeds
    index.html              a grid of the results with filters

A later sweep with more prompts, methods or seeds in the same folder runs the missing cells. One with fewer shows fewer and deletes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.core.files import read_object, write_json
from modeseek.core.identity import digest
from modeseek.distillation.recipes import ALL_RECIPES, Recipe, scale_of
from modeseek.distillation.recommend import PAPER_VIEW_RECIPES, VIEW_RECIPES
from modeseek.distillation.settings import changed, ignored
from modeseek.plots.images import save_image
from modeseek.sweeps.cells import AnyCell, Result, cell_path, load
from modeseek.sweeps.frugal import FrugalPrior
from modeseek.sweeps.worker import opened
from modeseek.tasks.run_folder import CurveLog, lines_before
from modeseek.tasks.text_to_3d import ObjectRun, distill_object
from modeseek.tasks.text_to_image import PriorChoice, RepresentationName, distilled, images_of

Task = Literal["image", "3d"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A recipe with the name it has in the table."""

    name: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class ImageCell:
    """One image of one prompt.

    Args:
        prompt, negative: what to draw, and what to guide away from.
        method: gradient and settings.
        prior: which model.
        representation: what is optimised.
        seed: of the start and of the gradient's randomness.
    """

    prompt: str
    negative: str = ""
    method: Method
    prior: PriorChoice = field(default_factory=PriorChoice)
    representation: RepresentationName = "mlp"
    seed: int = 0

    @property
    def title(self) -> str:
        return f"{self.prompt} {self.method.name} seed {self.seed}"

    def run_in(self, folder: Path, *, low_memory: bool) -> Result:
        """Distil the image; the folder keeps image.png, curves.jsonl and, until it is finished, a checkpoint."""
        prior = opened(self.prior)
        checkpoint = folder / "checkpoint.safetensors"
        recipe = self.method.recipe
        made, steps = distilled(
            FrugalPrior(prior=prior) if low_memory else prior,
            [self.prompt],
            recipe,
            seeds=[self.seed],
            representation=self.representation,
            negative=self.negative,
            seed=self.seed,
            checkpoint=checkpoint,
            identity=digest(f"{self.prior.digest()} {self!r}"),
        )
        curve = CurveLog(folder)
        for step in steps:
            curve.add(step)
        save_image(folder / "image.png", images_of(made, prior)[0])
        checkpoint.unlink(missing_ok=True)
        last = curve.lines[-1] if curve.lines else {}
        return Result(_row(self, scale_of(recipe, prior), calls=last.get("calls", 0.0), image="image.png", last=last))


@dataclass(frozen=True, kw_only=True)
class ObjectCell:
    """One 3-D object of one prompt; its folder is that of `modeseek 3d`, so `modeseek export` works on it.

    Args:
        spec: prompt, prior, recipe and seed.
        method: its name in the table.
    """

    spec: ObjectRun
    method: Method

    @property
    def title(self) -> str:
        return f"{self.spec.prompt} {self.method.name} seed {self.spec.seed}"

    @property
    def prior(self) -> PriorChoice:
        return self.spec.prior

    def run_in(self, folder: Path, *, low_memory: bool) -> Result:
        """Distil the object."""
        prior = opened(self.spec.prior)
        for _ in distill_object(self.spec, folder, prior=FrugalPrior(prior=prior) if low_memory else prior):
            pass
        facts = read_object(folder / "run.json", "calls")
        last = (lines_before(folder, float("inf")) or [{}])[-1]
        row = _row(self, scale_of(self.method.recipe, prior), calls=facts["calls"], image="preview.png", last=last)
        mesh = facts.get("mesh") or {}
        return Result(row | {"mesh_faces": mesh.get("faces"), "watertight": mesh.get("watertight")})


def described(cell: ImageCell | ObjectCell) -> dict[str, Any]:
    """The values that identify a cell in its sweep: prompt, method, seed and prior."""
    spec: Any = cell if isinstance(cell, ImageCell) else cell.spec
    return {"prompt": spec.prompt, "method": cell.method.name, "seed": spec.seed, "prior": spec.prior.name}


def _row(cell: ImageCell | ObjectCell, guidance: float, *, calls: float, image: str, last: dict[str, float]) -> dict[str, Any]:
    recipe = cell.method.recipe
    return {
        **described(cell),
        "task": "image" if isinstance(cell, ImageCell) else "3d",
        "guidance": guidance,
        "steps": recipe.steps,
        "calls": calls,
        **{name: last.get(name) for name in ("residual", "bandwidth")},
        "image": image,
    }


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run; `modeseek sweep` and `read_sweep` make one.

    Args:
        prompts, methods, seeds: every combination is a cell.
        task: "image" or "3d".
        priors: models, each with all of the above.
        negative: prompt to guide away from.
        representation: of images.
        views, size, perp_neg: of 3-D runs, as in `ObjectRun`.
    """

    prompts: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    task: Task = "image"
    priors: tuple[PriorChoice, ...] = (PriorChoice(),)
    negative: str = ""
    representation: RepresentationName = "mlp"
    preset: Literal["cpu", "paper"] = "cpu"
    views: int | None = None
    size: int | None = None
    perp_neg: bool = False

    def __post_init__(self) -> None:
        for name, values in (("prompt", self.prompts), ("method", self.methods), ("seed", self.seeds), ("prior", self.priors)):
            if not values:
                raise InvalidInput(f"a sweep needs at least one {name}")
            if len(set(values)) < len(values):
                twice = next(value for value in values if values.count(value) > 1)  # type: ignore[arg-type]
                raise InvalidInput(f"a {name} is given twice: {getattr(twice, 'name', twice)!r}")
        other = {"representation": "mlp"} if self.task == "3d" else {"preset": "cpu", "views": None, "size": None, "perp_neg": False}
        unread = [name for name, default in other.items() if getattr(self, name) != default]
        if unread:
            raise InvalidInput(f"a sweep of the task {self.task} does not read {', '.join(unread)}: leave it out")
        if len({method.name for method in self.methods}) < len(self.methods):
            raise InvalidInput("two methods have the same name: give each a name of its own")

    def cells(self) -> list[ImageCell | ObjectCell]:
        """Every cell, prompts outermost, then methods, then seeds; priors outside of all."""
        return [
            self._cell(prior, prompt, method, seed)
            for prior in self.priors
            for prompt in self.prompts
            for method in self.methods
            for seed in self.seeds
        ]

    def _cell(self, prior: PriorChoice, prompt: str, method: Method, seed: int) -> ImageCell | ObjectCell:
        common: dict[str, Any] = {"prompt": prompt, "negative": self.negative, "prior": prior, "seed": seed}
        if self.task == "image":
            return ImageCell(method=method, representation=self.representation, **common)
        shape: dict[str, Any] = {"preset": self.preset, "views": self.views, "size": self.size, "perp_neg": self.perp_neg}
        return ObjectCell(spec=ObjectRun(recipe=method.recipe, **shape, **common), method=method)


def methods_of(names: Sequence[str], task: Task, *, preset: str = "cpu", **changes: Any) -> tuple[Method, ...]:
    """The task's recipes called `names`, with the changes that are not None; each takes those that it reads.

    Raises:
        InvalidInput: an unknown method, a setting that recipes do not have, or one that none of the methods reads.
    """
    recipes = ALL_RECIPES if task == "image" else PAPER_VIEW_RECIPES if preset == "paper" else VIEW_RECIPES
    for name in names:
        if name not in recipes:
            raise InvalidInput(f"method {name!r} is unknown for {task}: choose {', '.join(recipes)}")
    changes = {key: value for key, value in changes.items() if value is not None}
    return applied([Method(name=name, recipe=recipes[name]) for name in names], changes)


def applied(methods: Sequence[Method], changes: Mapping[str, Any]) -> tuple[Method, ...]:
    """The methods with the changes, each with those that it reads.

    Raises:
        InvalidInput: a setting that recipes do not have, or that none of the methods reads.
    """
    unread = [name for name in changes if methods and all(ignored(method.recipe.method, [name]) for method in methods)]
    if unread:
        names = ", ".join(method.name for method in methods)
        raise InvalidInput(f"method {names} does not read {', '.join(unread)}: leave it out")
    found = []
    for method in methods:
        unread = ignored(method.recipe.method, changes)
        try:
            found.append(replace(method, recipe=changed(method.recipe, {k: v for k, v in changes.items() if k not in unread})))
        except TypeError as error:
            raise InvalidInput(f"a recipe has no such setting ({error})") from None
    return tuple(found)


# ---------------------------------------------------------------- folders
def begin(sweep: Sweep, out: Path) -> None:
    """Write `sweep.json` into `out`.

    Raises:
        OutputError: the folder holds something other than a sweep, or a sweep of the other task, or cannot be written.
    """
    path = out / "sweep.json"
    if path.exists():
        task = read_object(path, "task")["task"]
        if task != sweep.task:
            raise OutputError(f"{out} holds a sweep of the task {task!r}; choose another --out")
    elif (out / "run.json").exists():
        raise OutputError(f"{out} holds a single run; choose another --out")
    names = [method.name for method in sweep.methods]
    settings = {"prompts": list(sweep.prompts), "methods": names, "seeds": list(sweep.seeds), "priors": [p.name for p in sweep.priors]}
    write_json(path, {"task": sweep.task, **settings})


def rows_of(cells: Sequence[AnyCell], out: Path) -> Iterator[dict[str, Any]]:
    """The rows of the finished cells in order; paths of images are relative to `out`."""
    for cell in cells:
        result = load(cell, out)
        if result is not None:
            folder = cell_path(cell, out).with_suffix("")
            yield {**result.row, "image": (folder / result.row["image"]).relative_to(out).as_posix()}
