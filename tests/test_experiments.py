"""Experiments end to end through the command, at reduced size: resume after a kill, shared cells, clear errors."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from modeseek.cli import main
from modeseek.reproduction import EXPERIMENTS, Settings
from modeseek.reproduction.published_numbers import published
from modeseek.sweeps.cells import cell_path, shipped_weights

COMMAND = [sys.executable, "-m", "modeseek", "run", "demo", "--quick"]


def untimed(path):
    results = json.loads(path.read_text())
    for row in results["rows"]:
        row.pop("seconds")
    return results


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_run_resumes_to_the_same_results(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*COMMAND, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [*COMMAND, "--out", str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 300
    while len(list((broken / "cells").glob("*.json"))) < 3:
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in (broken / "cells").glob("*.json")}
    assert 3 <= len(finished) < 14
    assert not (broken / "demo-quick").exists()
    subprocess.run([*COMMAND, "--out", str(broken)], check=True, capture_output=True)
    assert all((broken / "cells" / name).stat().st_mtime_ns == stamp for name, stamp in finished.items())
    results = untimed(broken / "demo-quick" / "results.json")
    assert results == untimed(whole / "demo-quick" / "results.json")
    by_method = {(row["density"], row["method"], row["row"]): row["metrics"] for row in results["rows"]}
    assert (
        by_method["fractal", "MSD", "adaptive bandwidth"]["coverage"]
        > by_method["fractal", "MSD", "as published, l = lambda/sqrt 2"]["coverage"]
    )
    assert (
        by_method["pinwheel", "SDS", "default levels"]["precision"]
        < by_method["pinwheel", "MSD", "as published, l = lambda/sqrt 2"]["precision"]
    )
    assert {path.name for path in (broken / "demo-quick").glob("*.png")} == {"fractal.png", "pinwheel.png", "landscapes.png"}


@pytest.mark.slow
def test_workers_die_with_a_killed_run(tmp_path):
    """Only the parent is killed; its workers notice and end, so that nothing goes on writing into the folder."""
    command = [sys.executable, "-m", "modeseek", "run", "table3", "--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while not list((tmp_path / "cells").glob("*.json")) and time.time() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    while time.time() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers outlived their parent by minutes")


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize("quick", [True, False])
def test_cells_are_distinct_and_stable(name, quick, tmp_path):
    cells = list(EXPERIMENTS[name].cells(Settings(quick=quick)))
    again = list(EXPERIMENTS[name].cells(Settings(quick=quick)))
    paths = [cell_path(cell, tmp_path) for cell in cells]
    assert len(set(paths)) == len(cells)
    assert paths == [cell_path(cell, tmp_path) for cell in again]


def test_other_weights_are_other_cells(tmp_path, monkeypatch):
    cell = EXPERIMENTS["demo"].cells(Settings(quick=True))[0]
    before = cell_path(cell, tmp_path)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "prior.safetensors").write_bytes(b"trained anew")
    monkeypatch.setattr("modeseek.sweeps.cells.ASSETS", tmp_path / "assets")
    shipped_weights.cache_clear()
    after = cell_path(cell, tmp_path)
    shipped_weights.cache_clear()
    assert after != before


def test_figures_share_their_cells_with_the_tables():
    def configurations(*names):
        return {repr(cell) for name in names for cell in EXPERIMENTS[name].cells(Settings())}

    assert configurations("fig1", "fig2") <= configurations("table1", "table2", "table4")
    assert configurations("fig4") == configurations("fig8") < configurations("table4")


def test_published_numbers_are_the_papers():
    assert published("fractal", "ideal", "none", "MSD") == {
        "nll": -1.32,
        "precision": 0.92,
        "recall": 0.33,
        "mmd_1e4": 30.46,
        "log_efficiency": 13.44,
    }
    assert published("spiral", "learned", "none", "SDI")["recall"] == 0.42
    assert published("fractal", "learned", "cfg", "MSD") == {"nll": -1.15, "precision": 0.94, "mmd_1e4": 133.41}
    assert published("fractal", "learned", "none", "SJC") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "table9"], "no experiment is called table9"),
        (["run", "demo", "--workers", "0", "--quick"], "workers must be at least 1"),
        (["train", "swiss-roll"], "choose fractal-a"),
    ],
)
def test_command_line_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_unwritable_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("keep me")
    assert main(["run", "demo", "--quick", "--out", str(tmp_path / "file")]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "keep me"


def test_half_written_cell_is_named_and_kept(tmp_path, capsys):
    cell = EXPERIMENTS["demo"].cells(Settings(quick=True))[0]
    path = cell_path(cell, tmp_path)
    path.parent.mkdir()
    path.write_text('{"format": 2, "ro')
    assert main(["run", "demo", "--quick", "--out", str(tmp_path)]) == 1
    assert f"{path} is not a JSON file" in capsys.readouterr().err
    assert path.read_text() == '{"format": 2, "ro'


def test_train_command(tmp_path, capsys):
    for _ in range(2):  # the second call finds the first's checkpoint and ends at once
        assert main(["train", "fractal-a-weak", "--out", str(tmp_path), "--iterations", "12"]) == 0
    assert (tmp_path / "fractal-a-weak.safetensors").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_two_workers(tmp_path):
    """The keyboard's signal reaches the command and its workers: the command ends soon, with status 130, and no process is left."""
    command = [sys.executable, "-m", "modeseek", "run", "table2", "--quick", "--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.time() + 250
    while len(list((tmp_path / "cells").glob("*.json"))) < 2:
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=45)[1]
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "modeseek: interrupted; run the same command again to resume"
    assert "Traceback" not in error
    deadline = time.time() + 5  # the command's children end shortly after it
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.time() < deadline, "a process of the run is left"
        time.sleep(0.2)
    assert len(list((tmp_path / "cells").glob("*.json"))) < 40
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part") or ".lease" in path.name]
