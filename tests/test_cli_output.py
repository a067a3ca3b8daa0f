"""What commands print: JSON lines, nothing but results where there is no terminal, the doctor's findings, completions."""

import json
import os
import signal
import subprocess
import sys

import pytest

from modeseek.cli import main
from modeseek.cli.doctor import EXTRAS, examine
from modeseek.cli.experiments import Run
from modeseek.cli.progress import JsonProgress, progress_bar
from modeseek.reproduction import EXPERIMENTS


def command(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "modeseek", *words], capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120
    )


def test_json_lines_say_how_far_and_how_long(capsys, monkeypatch):
    now = iter([0.0, 10.0, 20.0, 40.0])
    monkeypatch.setattr("modeseek.cli.progress.time.monotonic", lambda: next(now))
    with JsonProgress() as progress:
        task = progress.add_task("msd", total=100)
        for done in (60, 70, 90):  # a resumed run: 60 steps were there
            progress.update(task, completed=done)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines] == [60, 70, 90]
    assert [line["left"] for line in lines] == [None, 30.0, 10.0]
    assert [line["seconds"] for line in lines] == [10.0, 20.0, 40.0]
    assert all(line["event"] == "progress" and line["total"] == 100 for line in lines)


def test_no_bar_where_stderr_is_no_terminal(capsys):
    with progress_bar() as progress:
        progress.update(progress.add_task("x", total=2), completed=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_image_as_json(pipeline_folder, tmp_path, capsys):
    words = [
        "image",
        "a red cat",
        "--prior",
        str(pipeline_folder("sd1")),
        "--method",
        "sds",
        "--steps",
        "3",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines[:-1]] == [1, 2, 3]
    assert lines[-1]["event"] == "done"
    assert str(tmp_path / "index.html") in lines[-1]["files"]
    assert main([*words[:-2], str(tmp_path / "other"), "--json", "--method", "magic"]) == 1
    out, error = capsys.readouterr()
    assert json.loads(out)["error"] == "InvalidInput"
    assert error.startswith("modeseek: ")


def test_doctor_reports_what_is_missing(capsys, monkeypatch):
    for extra in list(EXTRAS):  # gradio takes seconds to import
        monkeypatch.delitem(EXTRAS, extra)
    monkeypatch.setitem(EXTRAS, "app", (("no_such_module",), "`modeseek app`"))
    monkeypatch.setitem(EXTRAS, "threed", (("trimesh", "skimage:scikit-image"), "meshes"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "extra app (`modeseek app`): no_such_module missing" in out
    assert "pip install 'modeseek[app]'" in out
    assert "pip install 'modeseek[threed]'" not in out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"][0].startswith("cpu")
    assert {package["name"]: package["state"] for package in found["required"]}["torch"] == "ok"


def test_doctor_tells_broken_from_missing(tmp_path, monkeypatch):
    (tmp_path / "halfthere.py").write_text("raise OSError('libcuda.so not found')")
    (tmp_path / "halfthere-1.2.dist-info").mkdir()
    (tmp_path / "halfthere-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: halfthere\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = examine("halfthere", "halfthere")
    assert (found.state, found.detail) == ("broken", "1.2, but its import fails: libcuda.so not found")
    assert examine("torch", "torch").state == "ok"
    assert examine("nothing", "no-such-distribution").state == "missing"


def test_help_has_no_colours_where_there_is_no_terminal_and_under_no_color():
    found = command("--help", NO_COLOR="1")
    assert found.returncode == 0
    assert "\x1b[" not in found.stdout
    assert {"image", "3d", "app", "doctor", "compare"} <= set(found.stdout.replace(",", " ").replace("{", " ").replace("}", " ").split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_the_commands(shell):
    found = command("--tyro-print-completion", shell)
    assert found.returncode == 0
    assert "compare" in found.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["image", "a red 'cat'"],
        ["image", "a cat", "--method", "sds", "--seeds", "3", "--interval", "900", "100", "--lr", "0.1", "--no-check"],
        ["3d", "a cat", "--perp-neg", "--low", "32", "100", "--guidance", "2.5"],
        ["sample", "--steps", "3", "--", "--a prompt like an option"],
        ["edit", "photo.png", "--source", "a red cube", "--target", "a blue cube", "--method", "pds"],
    ],
)
def test_the_recorded_command_gives_the_same_options(words):
    import shlex
    from typing import Annotated, Union

    import tyro

    from modeseek.cli import COMMANDS
    from modeseek.cli.options import command_line

    choices = tuple(Annotated[options, tyro.conf.subcommand(name)] for name, (options, _) in COMMANDS.items())
    parsed = tyro.cli(Union[choices], args=words)  # noqa: UP007
    line = command_line(words[0], parsed)
    assert shlex.split(line)[0] == "modeseek"
    assert tyro.cli(Union[choices], args=shlex.split(line)[1:]) == parsed  # noqa: UP007


LEAVING = """
import atexit, sys, time
from modeseek.__main__ import run
sys.argv = ["modeseek", "export", "/missing"]
atexit.register(time.sleep, 0.4)
status = run()
print("ended", flush=True)
sys.exit(status)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_after_the_end_do_not_change_the_status(number):
    process = subprocess.Popen([sys.executable, "-c", LEAVING], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ended\n"
    process.send_signal(number)
    assert b"Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_the_help_names_every_experiment():
    words = (Run.__doc__ or "").replace(".", " ").split()
    assert [name for name in EXPERIMENTS if name not in words] == []
