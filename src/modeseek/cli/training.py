"""`modeseek train`: train the embedded networks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from modeseek.cli.options import Reported, progress_bar
from modeseek.cli.progress import report_files


@dataclass(frozen=True, kw_only=True)
class Train(Reported):
    """Train an embedded network: fractal-a, fractal-a-weak, fractal-ab-weak, spiral, pinwheel or solids. Resumes after a kill."""

    name: tyro.conf.Positional[str]
    """Name of the network."""
    out: Path = Path("runs/train")
    """Folder for the weights and the checkpoint."""
    iterations: int | None = None
    """Number of iterations, the recipe's by default; for solids, steps of its UNet."""
    start: Path | None = None
    """For solids: folder of a trained prior whose UNet is trained further; its other networks are kept."""
    device: str = "cpu"
    """For solids: cpu, cuda, mps. On a GPU, batches and networks are larger and the UNet is compiled if its gradient is unaffected."""
    minutes: float | None = None
    """For solids: time limit of the training in minutes; schedules are scaled to it. By default the number of steps decides."""


def train(command: Train) -> None:
    """Run `modeseek train`."""
    from modeseek.core.checks import check_integer
    from modeseek.core.locks import locked

    if command.iterations is not None:
        check_integer("iterations", command.iterations)
    with locked(command.out, command.name.replace("/", "-")):
        if command.name == "solids":
            train_prior(command)
        else:
            train_network(command)


def train_network(command: Train) -> None:
    """Train one of the networks in the plane."""
    from dataclasses import replace

    from modeseek.core.errors import InvalidInput
    from modeseek.priors.energy import save_energy_net
    from modeseek.reproduction.training.energy import recipe
    from modeseek.reproduction.training.energy import train as training

    chosen = recipe(command.name)
    wrong = [f"--{name}" for name in ("start", "device", "minutes") if getattr(command, name) != getattr(Train, name)]
    if wrong:
        raise InvalidInput(f"training {command.name} does not read {', '.join(wrong)}, which are options of solids: leave it out")
    config = chosen.config if command.iterations is None else replace(chosen.config, iterations=command.iterations)
    path = command.out / f"{command.name}.safetensors"
    average = None
    with progress_bar(json_lines=command.json) as progress:
        task = progress.add_task(command.name, total=config.iterations)
        for step in training(chosen.density(), config, checkpoint=command.out / f"{command.name}.checkpoint.safetensors"):
            progress.update(task, completed=step.iteration, description=f"{command.name}: loss {step.loss:.4f}")
            average = step.average
    assert average is not None
    save_energy_net(average, path, density=command.name, iterations=str(config.iterations), seed=str(config.seed))
    report_files([path], json_lines=command.json)


def train_prior(command: Train) -> None:
    """Run every stage of `modeseek train solids`; write the pipeline and its model card to OUT/solids/pipeline."""
    from dataclasses import replace

    from modeseek.core.files import write_text
    from modeseek.priors.pipelines.loading import checked_device
    from modeseek.reproduction.training.export import export, model_card, restore
    from modeseek.reproduction.training.networks import Sizes
    from modeseek.reproduction.training.quality import measure
    from modeseek.reproduction.training.solids import SolidsConfig, train_solids

    device, folder, start = checked_device(command.device), command.out / "solids", command.start
    config = SolidsConfig.on(device)
    if command.iterations is not None:
        config = replace(config, unet=command.iterations)
    stages = None if start is None else folder / "start"
    if start is not None and stages is not None:
        config = replace(config, sizes=Sizes.of(start))
        if not stages.exists():
            restore(start, stages)
    with progress_bar(json_lines=command.json) as progress:
        tasks: dict[str, Any] = {}
        for step in train_solids(folder, config, start=stages, device=device, minutes=command.minutes):
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(step.stage, total=step.total)
            if step.note:
                print(f"{step.stage}: {step.note}", file=sys.stderr)
            progress.update(tasks[step.stage], completed=step.done, total=step.total, description=f"{step.stage}: loss {step.loss:.4f}")
    export(folder, folder / "pipeline", config, card=model_card(config, {}))
    rows = {}
    for what, found in measure(folder / "pipeline"):
        rows[what] = ", ".join(f"{name} {value:.1f} dB" if name == "PSNR" else f"{name} {value:.3f}" for name, value in found.items())
    write_text(folder / "pipeline" / "README.md", model_card(config, rows))
    report_files([folder / "pipeline"], json_lines=command.json)
