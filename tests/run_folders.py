"""Folders as runs leave them, written by hand: no prior, no optimisation."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def settings(**given):
    base = {"prompt": 'a red <cat> & "dog"', "method": "msd", "steps": 40, "guidance": 3.0, "prior": "solids", "lr": 0.01}
    sources = {"prompt": "given", "method": "given", "guidance": "prior", "prior": "default"}
    return {k: {"value": v, "source": "given" if k in given else sources.get(k, "recipe")} for k, v in (base | given).items()}


def write_run_json(folder, task, config, **facts):
    value = {"version": "0.1.0", "task": task, "method": "msd", "config": config, "finished": True, "guidance": 3.0, "calls": 40.0, **facts}
    (folder / "run.json").write_text(json.dumps(value))


def write_curves(folder, steps):
    lines = [{"step": k, "calls": 1.0 + k, "residual": 30 / (1 + k), "bandwidth": 80 * 0.9**k} for k in range(steps)]
    (folder / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def noise(height, width, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def image_run(folder: Path, *, method="msd", steps=40, seeds=(0, 3), side=32, frames=5, prompt='a red <cat> & "dog"', **facts) -> Path:
    """An image run whose frame k is of one colour, darker by k."""
    (folder / "frames").mkdir(parents=True)
    for k in range(frames):
        step = round(k * (steps - 1) / (frames - 1))
        strip = Image.new("RGB", (side * len(seeds), side), (40 * k + 30, 20, 60))
        strip.save(folder / "frames" / f"{step:06d}.png")
    for seed in seeds:
        noise(side, side, seed).save(folder / f"image-{seed}.png")
    write_curves(folder, steps)
    config = {"prompt": prompt, "prior": {"name": "solids"}, "recipe": {"method": method, "steps": steps}, "seeds": list(seeds), "seed": 0}
    facts = {"method": method, "settings": settings(prompt=prompt, method=method, steps=steps), **facts}
    write_run_json(folder, "image", config, command=f"modeseek image 'a red cat' --method {method}", **facts)
    return folder


def cube(path: Path, *, textured: bool = False) -> None:
    """A unit cube as .glb: red at its top (y up), or with a texture."""
    import trimesh

    box = trimesh.creation.box()
    if textured:
        uv = box.vertices[:, :2] + 0.5
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), (30, 200, 40)), metallicFactor=0.0)
        box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    else:
        colours = np.where(box.vertices[:, 1:2] > 0, [[220, 20, 20, 255]], [[20, 20, 220, 255]]).astype(np.uint8)
        box.visual = trimesh.visual.ColorVisuals(box, vertex_colors=colours)
    path.write_bytes(box.export(file_type="glb"))


def object_run(folder: Path, *, method="msd", steps=40, textured=False, mesh=True, prompt="a red cube") -> Path:
    """A 3-D run with previews, a turntable, depth, normals and a mesh."""
    (folder / "frames").mkdir(parents=True)
    for k in range(4):
        noise(16, 64, k).save(folder / "frames" / f"{k * 13:06d}.png")
    turning = [Image.new("RGB", (48, 48), (20 * k, 90, 120)) for k in range(8)]
    turning[0].save(folder / "turntable.gif", save_all=True, append_images=turning[1:], duration=80)
    for name in ("depth", "normals", "preview"):
        noise(32, 128, 7).save(folder / f"{name}.png")
    if mesh:
        cube(folder / "mesh.glb", textured=textured)
    write_curves(folder, steps)
    config = {"prompt": prompt, "prior": {"name": "solids"}, "recipe": {"method": method, "steps": steps}, "preset": "cpu", "seed": 0}
    facts = {"mesh": {"faces": 12}} if mesh else {"mesh": None, "why": "the field is empty"}
    write_run_json(folder, "3d", config, method=method, settings=settings(prompt=prompt, method=method, steps=steps), **facts)
    return folder


def experiment(folder: Path) -> Path:
    """A reproduced table of three rows, one of them diverged, with a figure."""
    folder.mkdir(parents=True)
    rows = [
        {
            "density": "fractal",
            "denoiser": "ideal",
            "guidance": "none",
            "method": m,
            "row": r,
            "calls": c,
            "seconds": s,
            "metrics": v,
            "paper": p,
        }
        for m, r, c, s, v, p in [
            ("SDS", "as published", 400, 9.0, {"nll": 36.2, "nll error": 0.4, "precision": 0.08}, {"nll": 36.15}),
            ("MSD", "adaptive", 100, 12.0, {"nll": -1.3, "nll error": 0.02, "precision": 0.97}, {"nll": -1.32}),
            ("VSD", "as published", 800, 30.0, {"nll": None, "precision": 0.02}, None),
        ]
    ]
    value = {"experiment": "table1", "version": "0.1.0", "seed": 0, "config": {"seed": 0, "quick": True}, "rows": rows}
    (folder / "results.json").write_text(json.dumps(value | {"columns": ["nll", "precision"], "notes": "Rows of the fractal."}))
    noise(60, 90, 1).save(folder / "table1.png")
    return folder
