"""What can be asked of each command, as the command line shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Model:
    """Options of every command that opens a prior."""

    prior: str = "solids"
    """solids, a folder in diffusers' layout, or a hub id."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the prior's networks."""
    download: bool = False
    """Fetch the model from the hub if it is not on disk."""


@dataclass(frozen=True, kw_only=True)
class Prompted(Model):
    """Options of every command that takes a prompt."""

    prompt: tyro.conf.Positional[str]
    """What to draw or make; `3d` adds the words for its views."""
    guidance: float | None = None
    """Scale s of D_u + s (D_c - D_u); 3 for solids, 7.5 for other models."""
    negative: str = ""
    """Prompt to guide away from."""
    out: Path | None = None
    """Folder for what is made; runs/COMMAND/PROMPT, and the method where there is one, by default."""


@dataclass(frozen=True, kw_only=True)
class Run(Model):
    """Run table1 table2 table3 table4 table3d fig1 fig2 fig3 fig4 fig5 fig6 fig8 fig9 oracle frontier search search4 solids demo.

    Finished cells are kept in OUT/cells and not run again, so an interrupted run goes on where it stopped. Tables and pictures are in
    OUT/NAME (OUT/NAME-quick with --quick, with -seedN for another seed).
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """What to run, in this order."""
    out: Path = Path("runs")
    """Folder for results."""
    quick: bool = False
    """Fewer points and draws through the same code: minutes."""
    workers: int = 1
    """Processes side by side; each gets its share of the cores."""
    seed: int = 0
    """Seed of all randomness."""
    pictures: int = 4
    """Pictures of each prompt in every row of Table 4, from 1 to 32; in search4, fig9 and table3d at most 2."""


@dataclass(frozen=True, kw_only=True)
class Image(Prompted):
    """Distil pictures of a prompt into OUT: pictures, a contact sheet over time, an animation, curves, run.json. Resumes after a kill."""

    method: str = "msd"
    """sds, sjc, vsd, sdi, msd (ours), msd-published or msd-persistent."""
    seeds: int = 1
    """How many pictures, painted side by side."""
    steps: int | None = None
    """Optimiser steps; the method's own by default, 400."""
    representation: Literal["mlp", "pixels", "latents"] = "mlp"
    """What is painted on: the paper's coordinate network, free pixels, or free latents."""
    noise: Literal["fresh", "fixed"] | None = None
    """Fresh noise each step, or fixed for each picture."""
    space: Literal["latent", "image"] | None = None
    """Where the residual is taken."""
    refresh: int | None = None
    """Steps that one estimate serves."""
    samples: int | None = None
    """Monte-Carlo samples an estimate."""
    draw_steps: int | None = None
    """Sampler steps of a draw; inversion steps of SDI."""
    interval: tuple[int, int] | None = None
    """Timesteps between which guidance and kernel of msd-published act; 999 0 is everywhere."""
    rate: float | None = None
    """Learning rate of the optimiser, 0.01 by default."""
    seed: int = 0
    """Of the gradient's randomness."""
    image_size: int | None = None
    """Side of the picture in pixels; the model's own by default."""


@dataclass(frozen=True, kw_only=True)
class Sample(Prompted):
    """Draw pictures of a prompt with DDIM, the reference that every gradient is held against."""

    seeds: int = 8
    """How many pictures."""
    steps: int = 32
    """DDIM steps, each one denoiser call."""
    image_size: int | None = None
    """Side of the picture in pixels; the model's own by default."""


@dataclass(frozen=True, kw_only=True)
class Object(Prompted):
    """Distil a 3-D object from a prompt into OUT: turntable, depth, normals, mesh, run.json. Resumes after a kill."""

    method: str = "msd"
    """msd (ours), msd-persistent, msd-published, sds, vsd or sdi."""
    preset: Literal["cpu", "paper"] = "cpu"
    """A small volume for the embedded prior, or the paper's."""
    steps: int | None = None
    """Optimiser steps; 250 by default, 10 000 with the paper's preset."""
    views: int | None = None
    """Pictures a step."""
    draw_steps: int | None = None
    """Sampler steps of a draw."""
    refresh: int | None = None
    """Steps that one estimate, and its cameras, serve."""
    rate: float | None = None
    """Learning rate."""
    size: int | None = None
    """Side of a rendered picture in pixels; the prior's own by default, 512 with the paper's preset."""
    low: tuple[int, int] | None = None
    """Another side until a step: --low 64 5000 renders 64 x 64 in the first 5000 steps."""
    perp_neg: bool = False
    """Push each view off the words for the others."""
    seed: int = 0
    """Of all randomness."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Make the meshes of a finished or running 3-D run again: mesh.glb, mesh.obj and mesh.ply in its folder."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    resolution: int = 128
    """Cells a side of marching cubes."""
    threshold: float | None = None
    """Density on the surface; suggested from the field by default."""
    texture: int = 1024
    """Side of the texture in texels; 0: colours at the vertices."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Rebuild an embedded network: fractal-a, fractal-a-weak, fractal-ab-weak, spiral, pinwheel or solids. Resumes after a kill."""

    name: tyro.conf.Positional[str]
    """Which network."""
    out: Path = Path("runs/train")
    """Folder for the weights and the checkpoint."""
    iterations: int | None = None
    """Fewer or more iterations than the recipe's; for solids, steps of its UNet."""
    start: Path | None = None
    """For solids: a finished prior's folder whose UNet goes on, its other networks taken as they are."""
    device: str = "cpu"
    """For solids: where its networks are trained: cpu, cuda, cuda:1."""
