"""The script for a CUDA card: its code path on the CPU, and the tests that need a card."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(SCRIPT.parent))  # as when it is run as a script: it imports its neighbours
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_without_a_card_nothing_is_measured(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = (SCRIPT.parent.parent / "docs" / "benchmarks.md").read_bytes()
    assert gpu.main([]) == 0
    assert "no CUDA card on this machine: nothing is measured" in capsys.readouterr().out
    assert (SCRIPT.parent.parent / "docs" / "benchmarks.md").read_bytes() == before


def test_the_documentation_has_a_place_for_the_table(gpu, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").mkdir()
    page = (SCRIPT.parent.parent / "docs" / "benchmarks.md").read_text()
    (tmp_path / "docs" / "benchmarks.md").write_text(page)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    report = {"card": "A card", "torch": "2", "date": "today", "parts": {"nccl": {"sum": True}, "steps": {"SDS step, s": 0.25}}}
    for _ in range(2):  # a second table takes the place of the first
        gpu.publish(report)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert text.count("A card, torch 2") == 1
    assert "| steps: SDS step, s | 0.25 |" in text
    assert text.partition(gpu.BEGIN)[0] == page.partition(gpu.BEGIN)[0]
    assert text.partition(gpu.END)[2] == page.partition(gpu.END)[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_script_runs_on_a_cpu(gpu, tmp_path):
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert set(report["parts"]) == {"equality", "resume", "steps", "nccl", "others"}
    assert report["parts"]["resume"] == {"resumed run equals the whole one": True}
    assert report["parts"]["equality"]["nerf image"] == 0
    assert report["card"] in (tmp_path / "gpu.md").read_text()


@pytest.mark.gpu
def test_gradients_and_the_nerf_equal_those_of_the_cpu(gpu):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    gpu.equality("cuda")


@pytest.mark.gpu
def test_a_resumed_run_on_a_card_ends_with_the_same_pixels(gpu):
    gpu.resume("cuda", 20)
