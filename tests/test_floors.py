"""A file imports only from lower floors, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "modeseek"
FLOORS = {
    "errors": 0,
    "files": 1,
    "denoiser": 1,
    "distributed": 1,
    "schedules": 2,
    "densities": 2,
    "guidance": 2,
    "product": 2,
    "sampling": 2,
    "representations": 2,
    "landscape": 2,
    "metrics": 3,
    "drawing": 3,
    "priors": 3,
    "plots": 4,
    "gradients": 4,
    "solids": 4,
    "distill": 5,
    "recipes": 5,
    "runs": 6,
    "generate": 7,
    "sculpt": 8,
    "integrations": 8,
    "options": 8,
    "experiments": 9,
    "cli": 10,
    "__main__": 11,
}


def room(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modeseek."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("modeseek."))


def test_imports_go_down():
    files = [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]
    assert len(files) > 30
    wrong = [
        f"{path.relative_to(SOURCE)} imports {target}"
        for path in files
        for target in imported_rooms(path)
        if target != room(path) and FLOORS[target] >= FLOORS[room(path)]
    ]
    assert wrong == []


def test_import_is_light():
    """`import modeseek` brings in no plotting, command-line or diffusion library."""
    heavy = "matplotlib tyro rich diffusers transformers peft scipy sklearn"
    code = f"import sys, modeseek; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
