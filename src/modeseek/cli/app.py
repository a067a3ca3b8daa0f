"""`modeseek app`: the app in a browser. Its forms are the options of `image`, `3d` and `edit`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeseek.cli.editing import Edit, edit_run
from modeseek.cli.images import Image, image_run
from modeseek.cli.objects import Object, object_run
from modeseek.cli.options import command_line

if TYPE_CHECKING:
    from modeseek.app import Job, Tab


@dataclass(frozen=True, kw_only=True)
class App:
    """Type prompts in a browser: images, 3-D objects, edits, comparisons. The server listens on the loopback interface only."""

    out: Path = Path("runs/app")
    """Folder for the runs."""
    port: int = 7860
    """Port of the server; 0: any free port."""


def app(command: App) -> None:
    """Run `modeseek app`."""
    from modeseek.app import launch

    launch(tabs(command.out), command.out, port=command.port)


def tabs(root: Path) -> list[Tab]:
    """The app's tabs; their runs go to folders below `root`."""
    from modeseek.app import Tab
    from modeseek.distillation.recipes import ALL_RECIPES
    from modeseek.distillation.recommend import VIEW_RECIPES
    from modeseek.tasks.editing import EDIT_RECIPES

    image = Tab("Image", _first(ALL_RECIPES, "msd"), partial(image_job, root), representations=("mlp", "pixels", "latents"))
    edit = Tab("Edit", tuple(EDIT_RECIPES), partial(edit_job, root), many=False, image=True)
    return [image, Tab("3-D", _first(VIEW_RECIPES, "mean-shift"), partial(object_job, root), many=False), edit]


def _first(recipes: dict[str, Any], default: str) -> tuple[str, ...]:
    return tuple(sorted(recipes, key=lambda name: name != default))


def _shared(form: dict[str, Any]) -> dict[str, Any]:
    """The values that every form has; empty fields keep their defaults."""
    chosen = {"prompt": form["prompt"], "method": form["method"], "prior": form["prior"].strip() or "solids", "device": form["device"]}
    chosen["negative"] = form["negative"]
    numbers = {"seed": int, "steps": int, "guidance": float, "lr": float}
    return chosen | {name: number(name, form[name], kind) for name, kind in numbers.items() if form[name].strip()}


def number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    """The number in a field of a form.

    Raises:
        InvalidInput: the text is not a number of that type.

    Example:
        >>> number("steps", " 40 ", int)
        40
    """
    from modeseek.core.errors import InvalidInput

    try:
        return kind(text)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise InvalidInput(f"{name} must be {words} or empty, got {text!r}") from None


def _folder(root: Path, kind: str, command: Any, prompt: str) -> Path:
    """The output folder of a command. It depends on the settings only, so a stopped run resumes."""
    digest = hashlib.sha256(repr(replace(command, out=None)).encode()).hexdigest()[:8]
    from modeseek.core.files import slug

    return root / kind / f"{slug(f'{prompt} {command.method}')}-{digest}"


def image_job(root: Path, form: dict[str, Any]) -> Job:
    """Return the job that the form of the image tab describes."""
    from modeseek.app import Job
    from modeseek.tasks.text_to_image import distill_images

    command = Image(**_shared(form), seeds=int(form["seeds"]), representation=form["representation"])
    command = replace(command, out=_folder(root, "image", command, command.prompt))
    run, out = image_run(command)
    words = command_line("image", command)
    return Job(title=run.prompt, folder=out, total=run.recipe.steps, steps=lambda: distill_images(run, out, command=words))


def object_job(root: Path, form: dict[str, Any]) -> Job:
    """Return the job that the form of the 3-D tab describes."""
    from modeseek.app import Job
    from modeseek.tasks.text_to_3d import distill_object

    command = Object(**_shared(form))
    command = replace(command, out=_folder(root, "3d", command, command.prompt))
    run, out = object_run(command)
    words = command_line("3d", command)
    return Job(title=run.prompt, folder=out, total=run.recipe.steps, steps=lambda: distill_object(run, out, command=words))


def edit_job(root: Path, form: dict[str, Any]) -> Job:
    """The form of the edit tab as a job. The uploaded image is kept in `root`/sources under a name made of its content.

    Raises:
        InvalidInput: no image, or a negative prompt, which edits do not take.
    """
    from modeseek.app import Job
    from modeseek.core.errors import InvalidInput
    from modeseek.core.files import write_atomically
    from modeseek.tasks.editing import edit_image

    if not form["image"]:
        raise InvalidInput("there is no source image: upload a PNG or JPEG file")
    chosen = _shared(form)
    if chosen.pop("negative"):
        raise InvalidInput("an edit takes no negative prompt: leave the field empty")
    target, data = chosen.pop("prompt"), Path(form["image"]).read_bytes()
    kept = root / "sources" / f"{hashlib.sha256(data).hexdigest()[:16]}{Path(form['image']).suffix.lower()}"
    write_atomically(kept, lambda temporary: temporary.write_bytes(data))
    command = Edit(**chosen, image=kept, source=form["source"], target=target)
    command = replace(command, out=_folder(root, "edit", command, command.target))
    run, out = edit_run(command)
    words = command_line("edit", command)
    return Job(title=run.prompt, folder=out, total=run.recipe.steps, steps=lambda: edit_image(run, out, command=words))
