"""A short version of scripts/kill_matrix.py: two commands, one kill of each kind."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "kill_matrix.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_commands_end_as_if_they_had_not_been(pipeline_folder, tmp_path):
    options = ["--prior", str(pipeline_folder("sd1")), "--preloaded"]
    options += ["--steps", "10", "--kills", "1", "--signals", "1", "--only", "image,train"]
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "matrix"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal, nothing left") == 6
