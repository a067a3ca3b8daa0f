"""The `modeseek` command: parse, call, show progress. Everything it does is one call of the library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from modeseek.distributed import processes, started
from modeseek.errors import InvalidInput, ModeseekError
from modeseek.options import Export, Image, Model, Object, Run, Sample, Train

if TYPE_CHECKING:
    from rich.progress import Progress

    from modeseek.generate import PriorChoice


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 a user's error (one line on stderr), 130 interrupted."""
    command = tyro.cli(
        Annotated[Image, tyro.conf.subcommand("image")]  # type: ignore[arg-type]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Object, tyro.conf.subcommand("3d")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Train, tyro.conf.subcommand("train")],
        prog="modeseek",
        description="Gradients out of diffusion models: mean-shift distillation and its peers.",
        args=arguments,
    )
    try:
        if processes() > 1 and not isinstance(command, Image | Object):
            raise InvalidInput("several processes share the work of `image` and `3d` alone: start this command without torchrun")
        commands: dict[type, Callable[[Any], None]] = {Run: run, Image: image, Sample: sample, Object: sculpt, Export: export, Train: train}
        commands[type(command)](command)
    except ModeseekError as error:
        print(f"modeseek: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("modeseek: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _progress(*, shown: bool = True) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, disable=not shown)


def run(command: Run) -> None:
    """`modeseek run`."""
    from modeseek.experiments import EXPERIMENTS, Settings

    unknown = [name for name in command.names if name not in EXPERIMENTS]
    if unknown or not command.names:
        listing = "; ".join(f"{name}: {experiment.summary}" for name, experiment in EXPERIMENTS.items())
        raise InvalidInput(f"no experiment is called {', '.join(unknown) or '(nothing)'}. There are {listing}")
    if not 1 <= command.pictures <= 32:
        raise InvalidInput(f"Table 4 takes 1 to 32 pictures of each prompt, got --pictures {command.pictures}")
    settings = Settings(quick=command.quick, seed=command.seed, pictures=command.pictures, prior=_prior(command))
    with _progress() as progress:
        for name in command.names:
            task = progress.add_task(name, total=None)
            for cell, done, total in EXPERIMENTS[name].run(command.out, settings, workers=command.workers):
                progress.update(task, completed=done, total=total, description=f"{name}: {cell.title}")
            progress.update(task, description=name)
    for name in command.names:
        folder = EXPERIMENTS[name].folder(command.out, settings)
        print(f"{name}: {folder / 'results.md'}", *(str(p) for p in sorted(folder.glob("*.png"))), sep="\n  ")


def _prior(command: Model) -> PriorChoice:
    from modeseek.generate import PriorChoice

    size = getattr(command, "image_size", None)
    return PriorChoice(name=command.prior, device=command.device, dtype=command.dtype, image_size=size, download=command.download)


def _folder(out: Path | None, kind: str, *words: str) -> Path:
    slug = "-".join("".join(c if c.isalnum() else "-" for c in word.lower()) for word in words)
    return out or Path("runs") / kind / slug[:80]


def image(command: Image) -> None:
    """`modeseek image`."""
    from modeseek.generate import ImageRun, generate
    from modeseek.recipes import varied

    names = ("steps", "guidance", "noise", "space", "refresh", "samples", "draw_steps", "interval", "rate")
    changes = {name: getattr(command, name) for name in names}
    recipe = varied(command.method, **changes)
    chosen: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": _prior(command), "recipe": recipe}
    chosen |= {"seeds": tuple(range(command.seeds)), "representation": command.representation, "seed": command.seed}
    out = _folder(command.out, "image", command.prompt, command.method)
    with started(command.device) as ranks, _progress(shown=ranks.leads) as progress:
        task = progress.add_task(f"{command.method}: loading {command.prior}", total=recipe.steps)
        for step in generate(ImageRun(**chosen), out, ranks=ranks):
            words = f"{command.method}: {step.calls:g} denoiser calls"
            progress.update(task, completed=step.index + 1, description=words)
    if ranks.leads:
        print(*(str(out / name) for name in ("run.json", "sheet.png", "animation.gif", "curves.png")), sep="\n")


def sample(command: Sample) -> None:
    """`modeseek sample`."""
    from modeseek.generate import SampleRun
    from modeseek.generate import sample as draw

    out = _folder(command.out, "sample", command.prompt)
    seeds = tuple(range(command.seeds))
    choice: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": _prior(command), "seeds": seeds}
    draw(SampleRun(**choice, steps=command.steps, guidance=command.guidance), out)
    print(out / "sheet.png")


def sculpt(command: Object) -> None:
    """`modeseek 3d`."""
    from modeseek.recipes import varied
    from modeseek.sculpt import OBJECT_RECIPES, PAPER_RECIPES, ObjectRun
    from modeseek.sculpt import sculpt as distilled

    names = ("steps", "guidance", "draw_steps", "refresh", "rate")
    recipes = PAPER_RECIPES if command.preset == "paper" else OBJECT_RECIPES
    recipe = varied(command.method, recipes=recipes, **{name: getattr(command, name) for name in names})
    chosen: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": _prior(command), "recipe": recipe}
    chosen |= {"preset": command.preset, "views": command.views, "perp_neg": command.perp_neg, "seed": command.seed}
    chosen |= {"size": command.size, "low": command.low}
    out = _folder(command.out, "3d", command.prompt, command.method)
    with started(command.device) as ranks, _progress(shown=ranks.leads) as progress:
        task = progress.add_task(f"{command.method}: loading {command.prior}", total=recipe.steps)
        for step in distilled(ObjectRun(**chosen), out, ranks=ranks):
            progress.update(task, completed=step.index + 1, description=f"{command.method}: {step.calls:g} denoiser calls a view")
    if ranks.leads:
        print(*sorted(str(path) for path in out.iterdir() if path.suffix in (".gif", ".glb", ".json", ".png")), sep="\n")


def export(command: Export) -> None:
    """`modeseek export`."""
    from modeseek.sculpt import export_mesh, reopened

    _, nerf = reopened(command.run)
    texture = command.texture or None
    found = export_mesh(nerf, command.run, resolution=command.resolution, threshold=command.threshold, texture=texture)
    if found["mesh"] is None:
        raise InvalidInput(f"{command.run} has no mesh: {found['why']}")
    print(*sorted(str(path) for path in command.run.glob("mesh.*")), sep="\n")


def train(command: Train) -> None:
    """`modeseek train`."""
    if command.name == "solids":
        train_prior(command)
        return
    from dataclasses import replace

    from modeseek.priors import recipe, save_energy_net
    from modeseek.priors import train as train_network

    chosen = recipe(command.name)
    config = chosen.config if command.iterations is None else replace(chosen.config, iterations=command.iterations)
    path = command.out / f"{command.name}.safetensors"
    average = None
    with _progress() as progress:
        task = progress.add_task(command.name, total=config.iterations)
        for step in train_network(chosen.density(), config, checkpoint=command.out / f"{command.name}.checkpoint.safetensors"):
            progress.update(task, completed=step.iteration, description=f"{command.name}: loss {step.loss:.4f}")
            average = step.average
    assert average is not None
    save_energy_net(average, path, density=command.name, iterations=str(config.iterations), seed=str(config.seed))
    print(path)


def train_prior(command: Train) -> None:
    """`modeseek train solids`: every stage, then the pipeline in OUT/solids/pipeline with its card."""
    from modeseek.files import write_text
    from modeseek.priors.pipelines.loading import checked_device
    from modeseek.solids.export import export, model_card, restore
    from modeseek.solids.quality import measure
    from modeseek.solids.training import SolidsConfig, train_solids

    device, folder, start = checked_device(command.device), command.out / "solids", command.start
    config = SolidsConfig() if command.iterations is None else SolidsConfig(unet=command.iterations)
    stages = None if start is None else folder / "start"
    if start is not None and stages is not None and not stages.exists():
        restore(start, stages)
    with _progress() as progress:
        tasks: dict[str, Any] = {}
        for step in train_solids(folder, config, start=stages, device=device):
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(step.stage, total=step.total)
            progress.update(tasks[step.stage], completed=step.done, description=f"{step.stage}: loss {step.loss:.4f}")
    export(folder, folder / "pipeline", card=model_card(config, {}))
    rows = {}
    for what, found in measure(folder / "pipeline"):
        rows[what] = ", ".join(f"{name} {value:.1f} dB" if name == "PSNR" else f"{name} {value:.3f}" for name, value in found.items())
    write_text(folder / "pipeline" / "README.md", model_card(config, rows))
    print(folder / "pipeline")


if __name__ == "__main__":
    sys.exit(main())
