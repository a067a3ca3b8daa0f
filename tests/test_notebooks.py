"""The notebooks run from top to bottom, show what they promise, and are committed without outputs."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SHOWN = {
    "plane.ipynb": ["image/png", "<svg", "'MSD'"],
    "image_prior.ipynb": ["image/png", "denoiser calls", "<iframe"],
    "own_renderer.ipynb": ["image/png", "denoiser calls", "tensor"],
}
"""What the outputs of each must hold."""


def test_notebooks_are_there_without_outputs():
    assert {path.name for path in NOTEBOOKS} == set(SHOWN)
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    root = Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    for text in SHOWN[path.name]:
        assert text in outputs
    if os.environ.get("MODESEEK_SCREENSHOTS"):
        nbformat.write(notebook, Path(os.environ["MODESEEK_SCREENSHOTS"]) / path.name)
