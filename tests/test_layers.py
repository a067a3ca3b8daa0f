"""A file imports only from lower layers, nothing in the library imports the experiments, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "modeseek"
LAYERS = (
    ("core",),
    ("scaling", "densities", "product"),
    ("representations", "metrics"),
    ("plots", "solids"),
    ("priors",),
    ("gradients",),
    ("distillation",),
    ("pages",),
    ("tasks", "integrations", "playground"),
    ("sweeps",),
    ("reproduction",),
    ("app",),
    ("cli",),
    ("__main__",),
)
"""Bottom to top; packages of one layer do not import each other."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def package(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_packages(path):
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
        for target in imported_packages(path)
        if target != package(path) and RANK[target] >= RANK[package(path)]
    ]
    assert wrong == []


def test_no_file_is_long():
    long = {str(path.relative_to(SOURCE)): count for path in SOURCE.rglob("*.py") if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}


def loaded(code, names):
    command = f"import sys\n{code}\nprint([name for name in {names!r}.split() if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light():
    """`import modeseek` loads no torch; its public names load no plotting, command-line or diffusion library."""
    assert loaded("import modeseek", "torch numpy matplotlib diffusers") == "[]"
    heavy = "matplotlib tyro rich diffusers transformers peft scipy sklearn modeseek.reproduction"
    assert loaded("import modeseek\nfor name in dir(modeseek): getattr(modeseek, name)", heavy) == "[]"


def test_help_loads_no_torch():
    code = "from modeseek.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\nimport builtins"
    assert loaded(code, "torch").splitlines()[-1] == "[]"
