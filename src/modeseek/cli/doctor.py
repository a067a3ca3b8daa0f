"""`modeseek doctor`: show versions, devices, and missing optional packages with the features that they enable."""

from __future__ import annotations

import importlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

REQUIRED = ("torch", "numpy", "safetensors", "diffusers", "transformers", "pillow", "matplotlib", "tyro", "rich")
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "diffusers": (("accelerate", "peft", "sentencepiece"), "large models loaded without a second copy, LoRA adapters, T5 tokenizers"),
    "threed": (("trimesh", "skimage:scikit-image", "xatlas"), "meshes: `modeseek 3d` and `modeseek export`"),
    "app": (("gradio",), "`modeseek app`"),
    "log": (("tensorboard", "wandb"), "`--log tensorboard` and `--log wandb`"),
}
"""Extra -> (modules, each `module` or `module:distribution`; what they give)."""
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions, devices and missing extras; ends with status 1 if a required package cannot be imported."""

    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Package:
    """The state of a package, and its version or the error of its import."""

    name: str
    state: State
    detail: str


def examine(module: str, distribution: str) -> Package:
    """Import a module and read its version."""
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return Package(distribution, "missing", "")
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        words = (str(error) or type(error).__name__).splitlines()[0]
        return Package(distribution, "broken", f"{found}, but its import fails: {words}")
    return Package(distribution, "ok", found)


def examined() -> dict[str, Any]:
    """Collect the facts that `modeseek doctor` prints."""
    import modeseek

    modules = {"pillow": "PIL"}
    required = [examine(modules.get(name, name), name) for name in REQUIRED]
    extras = {}
    for extra, (names, gives) in EXTRAS.items():
        pairs = [name.split(":") if ":" in name else [name, name] for name in names]
        extras[extra] = {"gives": gives, "packages": [vars(examine(module, distribution)) for module, distribution in pairs]}
    return {
        "modeseek": modeseek.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices(),
        "required": [vars(package) for package in required],
        "extras": extras,
    }


def devices() -> list[str]:
    """List the devices of torch, with the number of threads or the memory."""
    try:
        import torch
    except Exception:
        return []
    found = [f"cpu: {torch.get_num_threads()} threads"]
    for k in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(k)
        found.append(f"cuda:{k}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def doctor(command: Doctor) -> int:
    """Run `modeseek doctor`; returns the exit status."""
    found = examined()
    broken = [package["name"] for package in found["required"] if package["state"] != "ok"]
    if command.json:
        print(json.dumps(found, indent=1))
        return 1 if broken else 0
    print(f"modeseek {found['modeseek']}, Python {found['python']}, {found['platform']}")
    print("devices: " + "; ".join(found["devices"] or ["none: torch cannot be imported"]))
    print("required: " + ", ".join(_words(package) for package in found["required"]))
    for extra, facts in found["extras"].items():
        wrong = [package for package in facts["packages"] if package["state"] != "ok"]
        print(f"extra {extra} ({facts['gives']}): " + ", ".join(_words(package) for package in facts["packages"]))
        if wrong:
            print(f"  to install: pip install 'modeseek[{extra}]'")
    if broken:
        print(f"broken: {', '.join(broken)}; reinstall with pip install --force-reinstall {' '.join(broken)}")
    return 1 if broken else 0


def _words(package: dict[str, str]) -> str:
    return f"{package['name']} {package['detail'] or package['state']}"
