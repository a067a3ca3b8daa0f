"""Bad inputs: one line that names what was given, nothing overwritten, no connection attempted, no pickle opened.

Command lines run in this process through `main`. `safe` watches sockets, pickles and the files that were there before.
"""

import json
import os
import pickle
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeseek import MSD, SDS, InvalidInput, ModeseekError, OutputError, Points, WeightsError, distill
from modeseek.cli import main
from modeseek.core.files import read_json, read_object, read_state, read_tensors, safe_name, write_json, write_state, write_tensors
from modeseek.core.locks import locked
from modeseek.distillation.loop import optimise
from modeseek.distillation.recipes import RECIPES
from modeseek.sweeps import run_cells
from modeseek.sweeps.reading import read_prompts, read_seeds, read_shard, read_sweep
from modeseek.sweeps.sweep import Sweep, methods_of
from modeseek.tasks.run_folder import claimed, lines_before
from modeseek.tasks.sampling import SampleRun
from modeseek.tasks.text_to_3d import ObjectRun, reopened
from modeseek.tasks.text_to_image import ImageRun, PriorChoice, distill_images

MARK = "executed"


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.write_text, (Path(self.path), "executed"))


@pytest.fixture
def safe(monkeypatch, tmp_path):
    """Fails the test where a connection is attempted."""
    tried = []

    def refuse(*arguments, **settings):
        tried.append(arguments)
        raise OSError("connections are watched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield tmp_path
    assert tried == []
    assert not list(tmp_path.rglob(MARK))


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folders(pipeline_folder, tmp_path_factory):
    """Folders by name: pipelines that are damaged in one way each, and run folders."""
    root, found = tmp_path_factory.mktemp("bad"), {"GOOD": pipeline_folder("sd1")}

    def copy(name):
        found[name] = root / name.lower()
        shutil.copytree(found["GOOD"], found[name])
        return found[name]

    def rewritten(path, change):
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    unet = "unet/diffusion_pytorch_model.safetensors"
    rewritten(copy("NAN") / unet, lambda w: next(iter(w.values())).view(-1)[:1].fill_(float("nan")))
    rewritten(copy("INF") / "vae/diffusion_pytorch_model.safetensors", lambda w: next(iter(w.values())).view(-1)[:1].fill_(float("inf")))
    rewritten(copy("LACKING") / unet, lambda w: w.pop(next(iter(w))))
    path = copy("CUT") / unet
    path.write_bytes(path.read_bytes()[:1000])
    (copy("EMPTY_WEIGHTS") / unet).write_bytes(b"")
    folder = copy("PICKLED") / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder / MARK)))
    folder = copy("SHARDED_PICKLE") / "unet"
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "part.bin").write_bytes(pickle.dumps(Evil(folder / MARK)))
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, "part.bin")}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    folder = copy("INDEX_OUTSIDE") / "unet"
    index["weight_map"] = dict.fromkeys(weights, "../vae/diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    folder = copy("INDEX_BROKEN") / "unet"
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    (copy("NO_CONFIG") / "unet" / "config.json").unlink()
    (copy("NO_INDEX") / "model_index.json").unlink()
    (copy("BROKEN_INDEX") / "model_index.json").write_text('{"_class_name": ')
    (copy("FOREIGN_FAMILY") / "model_index.json").write_text('{"_class_name": "EvilPipeline"}')
    (copy("LIST_INDEX") / "model_index.json").write_text("[1]")
    path = copy("FOREIGN_CODE") / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unet": ["os", "system"]}))
    shutil.rmtree(copy("NO_TOKENIZER") / "tokenizer")
    found["EMPTY"] = root / "empty"
    found["EMPTY"].mkdir()
    found["FILE"] = root / "file.txt"
    found["FILE"].write_text("keep me")
    found["BINARY"] = root / "binary.txt"
    found["BINARY"].write_bytes(b"\xff\xfe\x00\x01")
    found["PROMPTS"] = root / "prompts.txt"
    found["PROMPTS"].write_text("a red cube\n# a comment\n\na blue sphere\n")
    found["BLANK"] = root / "blank.txt"
    found["BLANK"].write_text("\n# nothing\n")
    found["TWICE"] = root / "twice.txt"
    found["TWICE"].write_text("a red cube\na red cube\n")
    for name, text in {
        "YAML_LIST": "- a",
        "YAML_BROKEN": "prompts: [",
        "YAML_UNKNOWN": "prompts: [a]\ncolour: red",
        "YAML_TASK": "prompts: [a]\ntask: video",
        "YAML_METHOD": "prompts: [a]\nmethods: [magic]",
        "YAML_SETTING": "prompts: [a]\nmethods: [{method: sds, speed: 3}]",
        "YAML_VALUE": "prompts: [a]\nmethods: [{method: sds, steps: many}]",
        "YAML_PROMPTS": "prompts: 3",
        "YAML_PRIOR": "prompts: [a]\npriors: [{name: solids, colour: red}]",
        "YAML_OBJECT": "prompts: [!!python/object/apply:os.system ['touch executed']]",
    }.items():
        found[name] = root / f"{name.lower()}.yaml"
        found[name].write_text(text)
    for name, text in {
        "RUN_LIST": "[]",
        "RUN_NULL": "null",
        "RUN_CUT": '{"config": {',
        "RUN_EMPTY": "{}",
        "RUN_OTHER": '{"config": {"prompt": 1}}',
    }.items():
        found[name] = root / name.lower()
        found[name].mkdir()
        (found[name] / "run.json").write_text(text)
    found["IMAGE_RUN"] = root / "image-run"
    run = ImageRun(prompt="a red cube", prior=PriorChoice(name=str(found["GOOD"])), recipe=replace(RECIPES["sds"], steps=2), seeds=(0,))
    list(distill_images(run, found["IMAGE_RUN"]))
    return found


IMAGE = ["image", "a red cube", "--prior", "GOOD", "--steps", "2", "--method", "sds", "--out", "OUT"]
OBJECT = ["3d", "a red cube", "--prior", "GOOD", "--steps", "2", "--out", "OUT"]
SAMPLE = ["sample", "a red cube", "--prior", "GOOD", "--steps", "2", "--out", "OUT"]
SWEEP = ["sweep", "PROMPTS", "--prior", "GOOD", "--steps", "2", "--methods", "sds", "--out", "OUT"]
COMMAND_LINES = [
    # numbers out of range
    ([*IMAGE, "--guidance", "nan"], "guidance"),
    ([*IMAGE, "--guidance", "inf"], "guidance"),
    ([*IMAGE, "--guidance", "1e39"], "guidance"),
    ([*IMAGE, "--lr", "nan"], "lr must be a number greater than 0"),
    ([*IMAGE, "--lr", "-1"], "lr must be a number greater than 0"),
    ([*IMAGE, "--lr", "0"], "lr must be a number greater than 0"),
    ([*IMAGE, "--lr", "1e39"], "lr"),
    ([*IMAGE, "--steps", "0"], "steps must be a whole number from 1"),
    ([*IMAGE, "--steps", "-3"], "steps"),
    ([*IMAGE, "--seeds", "0"], "--seeds is the number of images"),
    ([*IMAGE, "--seeds", "-1"], "--seeds"),
    ([*IMAGE, "--seed", str(2**70)], "seed must be a whole number"),
    ([*IMAGE, "--seed", "-1"], "seed must be a whole number"),
    ([*IMAGE, "--refresh", "0"], "refresh"),
    ([*IMAGE, "--samples", "0"], "samples"),
    ([*IMAGE, "--sampler-steps", "0"], "sampler_steps"),
    ([*IMAGE, "--interval", "5000", "1"], "interval"),
    ([*IMAGE, "--interval", "1", "900"], "interval"),
    ([*IMAGE, "--image-size", "0"], "image-size"),
    ([*IMAGE, "--image-size", "7"], "multiples"),
    ([*IMAGE, "--image-size", "big"], "image-size"),
    ([*OBJECT, "--lr", "-1"], "lr must be a number greater than 0"),
    ([*OBJECT, "--views", "0"], "views"),
    ([*OBJECT, "--size", "-4"], "size"),
    ([*OBJECT, "--low", "0", "5"], "low"),
    ([*OBJECT, "--seed", "-7"], "seed"),
    ([*OBJECT, "--guidance", "nan"], "guidance"),
    ([*SAMPLE[:4], "--out", "OUT", "--steps", "0"], "steps"),
    ([*SAMPLE, "--guidance", "inf"], "guidance"),
    ([*SAMPLE, "--seeds", "0"], "--seeds"),
    (["train", "spiral", "--iterations", "0", "--out", "OUT"], "iterations"),
    (["train", "spiral", "--iterations", "-5", "--out", "OUT"], "iterations"),
    (["run", "demo", "--quick", "--workers", "0", "--out", "OUT"], "workers must be at least 1"),
    (["run", "table4", "--images", "99", "--out", "OUT"], "--images 99"),
    # names
    ([*IMAGE[:4], "--method", "magic", "--out", "OUT"], "magic"),
    ([*OBJECT, "--method", "sjcx"], "sjcx"),
    (["run", "table9", "--out", "OUT"], "table9"),
    (["run", "--out", "OUT"], "no experiment"),
    (["train", "swiss-roll", "--out", "OUT"], "choose fractal-a"),
    # prompts
    (["image", "", *IMAGE[2:]], "text that is not empty"),
    (["image", "   ", *IMAGE[2:]], "text that is not empty"),
    (["image", "a\0b", *IMAGE[2:]], "zero byte"),
    (["image", "\ud800", *IMAGE[2:]], "Unicode"),
    (["image", "a purple elephant", "--out", "OUT"], "elephant"),
    # devices and data types
    ([*IMAGE, "--device", "meta"], "device 'meta'"),
    ([*IMAGE, "--device", "cuda:99"], "cuda:99"),
    ([*IMAGE, "--device", "toaster"], "toaster"),
    # priors
    ([*IMAGE[:2], "--prior", "[/bold]x", "--out", "OUT"], "[/bold]x"),
    ([*IMAGE[:2], "--prior", "/nowhere/at/all", "--out", "OUT"], "/nowhere/at/all"),
    ([*IMAGE[:2], "--prior", "", "--out", "OUT"], "prior"),
    ([*IMAGE[:2], "--prior", "foo/bar", "--out", "OUT"], "is not on disk"),
    ([*IMAGE[:2], "--prior", "stabilityai/stable-diffusion-2", "--out", "OUT"], "taken off the hub"),
    *(
        ([*IMAGE[:2], "--prior", name, "--steps", "2", "--out", "OUT"], words)
        for name, words in {
            "NAN": "NaN or infinite",
            "INF": "NaN or infinite",
            "LACKING": "lack",
            "CUT": "do not load",
            "EMPTY_WEIGHTS": "do not load",
            "PICKLED": "pickled weights",
            "SHARDED_PICKLE": "part.bin",
            "INDEX_OUTSIDE": "only .safetensors files in its own folder",
            "INDEX_BROKEN": "not readable as an index",
            "NO_CONFIG": "config.json",
            "NO_INDEX": "model_index.json",
            "BROKEN_INDEX": "not readable",
            "FOREIGN_FAMILY": "EvilPipeline",
            "LIST_INDEX": "not readable",
            "FOREIGN_CODE": "system",
            "NO_TOKENIZER": "tokenizer",
            "EMPTY": "model_index.json",
            "FILE": "file.txt",
        }.items()
    ),
    (["sample", "a red cube", "--prior", "NAN", "--out", "OUT"], "NaN or infinite"),
    # folders
    ([*IMAGE[:-1], "FILE"], "cannot write"),
    ([*IMAGE[:-1], "FILE/below"], "cannot write"),
    ([*IMAGE[:-1], "/proc/1/modeseek"], "cannot write"),
    *(
        ([*IMAGE[:-1], name], "run.json" if name != "RUN_OTHER" else "another run")
        for name in ("RUN_LIST", "RUN_NULL", "RUN_CUT", "RUN_EMPTY", "RUN_OTHER")
    ),
    (["image", "a blue cube", *IMAGE[2:-1], "IMAGE_RUN"], "prompt is 'a red cube' there and 'a blue cube' here"),
    ([*SWEEP[:-1], "IMAGE_RUN"], "single run"),
    *((["export", name], "run.json") for name in ("EMPTY", "RUN_LIST", "RUN_NULL", "RUN_CUT", "RUN_EMPTY")),
    (["export", "IMAGE_RUN"], "holds no 3-D run"),
    (["export", "RUN_OTHER"], "holds no 3-D run"),
    (["export", "FILE"], "run.json"),
    # sweeps
    (["sweep", "NOWHERE.txt", "--out", "OUT"], "cannot read prompts"),
    (["sweep", "BINARY", "--out", "OUT"], "UTF-8"),
    (["sweep", "BLANK", "--out", "OUT"], "no prompt"),
    (["sweep", "TWICE", "--out", "OUT"], "given twice"),
    ([*SWEEP, "--seeds", "7-0"], "seeds"),
    ([*SWEEP, "--seeds", "a"], "seeds"),
    ([*SWEEP, "--seeds", "0,0"], "given twice"),
    ([*SWEEP, "--seeds", "0-99999999"], "seeds"),
    ([*SWEEP, "--methods", "sds,magic"], "magic"),
    ([*SWEEP, "--methods", ""], "at least one method"),
    ([*SWEEP, "--shard", "5/4"], "K/N"),
    ([*SWEEP, "--shard", "x"], "K/N"),
    ([*SWEEP, "--workers", "0"], "workers"),
    ([*SWEEP, "--threads", "0"], "threads"),
    ([*SWEEP, "--lease", "nan"], "lease"),
    ([*SWEEP, "--shard", "1/2", "--workers", "2"], "--shard runs in this process"),
    ([*SWEEP, "--executor", "slurm"], "no SLURM"),
    ([*SWEEP, "--executor", "slurm", "--slurm", "x"], "NAME=VALUE"),
    ([*SWEEP, "--gpus", "2", "--address", "auto"], "--executor local does not read --address, --gpus"),
    ([*SWEEP, "--executor", "ray", "--workers", "2"], "--executor ray does not read --workers"),
    (["train", "fractal-a", "--minutes", "5", "--out", "OUT"], "training fractal-a does not read --minutes"),
    *(
        (["sweep", name, "--out", "OUT"], words)
        for name, words in {
            "YAML_LIST": "must hold keys",
            "YAML_BROKEN": "no YAML",
            "YAML_UNKNOWN": "colour",
            "YAML_TASK": "video",
            "YAML_METHOD": "magic",
            "YAML_SETTING": "speed",
            "YAML_VALUE": "steps",
            "YAML_PROMPTS": "prompts must be a list",
            "YAML_PRIOR": "colour",
            "YAML_OBJECT": "no YAML",
        }.items()
    ),
    (["plan", *IMAGE, "--lr", "nan"], "lr"),
    (["plan", *IMAGE[:2], "--prior", "NAN", "--out", "OUT"], "NaN or infinite"),
]


def placed(word, folders, out):
    head, slash, tail = str(word).partition("/")
    if word == "OUT":
        return str(out)
    return str(folders[head]) + slash + tail if head in folders else str(word)


def test_there_are_enough_of_them():
    assert len(COMMAND_LINES) >= 80
    assert len({" ".join(map(str, arguments)) for arguments, _ in COMMAND_LINES}) == len(COMMAND_LINES)
    assert len(CALLS) >= 40


@pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
@pytest.mark.parametrize(("arguments", "words"), COMMAND_LINES, ids=[" ".join(map(repr, a))[:90] for a, _ in COMMAND_LINES])
def test_a_bad_command_line_is_one_line(arguments, words, folders, safe, capsys):
    before = {name: snapshot(path) for name, path in folders.items() if path.is_dir()} | {"FILE": folders["FILE"].read_bytes()}
    status = main([placed(word, folders, safe / "out") for word in arguments])
    error = capsys.readouterr().err
    assert status == 1
    assert words in error
    assert error.startswith("modeseek: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    after = {name: snapshot(path) for name, path in folders.items() if path.is_dir()} | {"FILE": folders["FILE"].read_bytes()}
    assert before == after


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "abc"), ("WORLD_SIZE", "-1"), ("WORLD_SIZE", "2"), ("MODESEEK_TIMEOUT", "abc"), ("RANK", "x")]
)
def test_a_bad_environment_is_one_line(name, value, folders, safe, monkeypatch, capsys):
    for other in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "MODESEEK_TIMEOUT"):
        monkeypatch.delenv(other, raising=False)
    if name != "WORLD_SIZE":
        for other, there in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(other, there)
    monkeypatch.setenv(name, value)
    assert main([placed(word, folders, safe / "out") for word in IMAGE]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1


def test_a_download_without_a_network_says_so(safe, monkeypatch, capsys):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*arguments, **settings):
        raise LocalEntryNotFoundError("cannot find the file in the cache, and the hub did not answer")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("modeseek.priors.pipelines.folders._offline", lambda: False)
    assert main(["image", "a cat", "--prior", "foo/bar", "--download", "--out", str(safe / "out")]) == 1
    assert "the hub cannot be reached" in capsys.readouterr().err


# ---------------------------------------------------------------- disks
def test_a_full_disk_is_one_line_and_keeps_what_was_there(folders, safe, monkeypatch, capsys):
    """The writer of checkpoints meets a full disk: the run's folder keeps its files and the same command resumes."""
    from safetensors import SafetensorError

    arguments = [placed(word, folders, safe / "out") for word in IMAGE]
    with monkeypatch.context() as patch:
        full = 'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'
        patch.setattr("modeseek.core.files.save_file", lambda *a, **k: (_ for _ in ()).throw(SafetensorError(full)))
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert not list((safe / "out").rglob("*.part"))
    assert main(arguments) == 0
    assert json.loads((safe / "out" / "run.json").read_text())["finished"]


def test_a_read_only_disk_is_one_line(folders, safe, monkeypatch, capsys):
    """Resuming on a disk that has become read-only; the removal of the temporary file fails as well."""
    arguments = [placed(word, folders, safe / "out") for word in IMAGE]

    def refuse(*arguments, **settings):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("modeseek.core.files.os.replace", refuse)
        patch.setattr(Path, "unlink", refuse)
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert error.count("\n") == 1
    assert main(arguments) == 0


def test_a_vanished_folder_is_one_line(folders, safe, monkeypatch, capsys):
    """The folder is removed while the run writes into it, and cannot be made again."""
    import modeseek.tasks.text_to_image as task

    def vanish(*arguments):
        shutil.rmtree(safe / "out")
        (safe / "out").write_text("another file")
        return torch.zeros(1, 3, 16, 16)

    monkeypatch.setattr(task, "images_of", vanish)
    assert main([placed(word, folders, safe / "out") for word in IMAGE]) == 1
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert error.count("\n") == 1
    assert (safe / "out").read_text() == "another file"


# ---------------------------------------------------------------- Python
def one_point():
    return Points(torch.zeros(1, 2))


def ideal(x, sigma):
    return x / (1 + sigma.reshape(-1, 1) ** 2)


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def state_file(path, value):
    write_state(path, {"a": value}, kind="test")
    return path


def pickled(path):
    path.write_bytes(pickle.dumps(Evil(path.parent / MARK)))
    return path


def resumed(tmp_path, **changes):
    """Two runs with one checkpoint that differ in a setting which no argument of the loop shows."""
    for settings in ({}, changes):
        list(optimise(one_point(), MSD(denoiser=ideal, **settings), steps=2, checkpoint=tmp_path / "c.safetensors"))


def held(tmp_path):
    with locked(tmp_path):
        list(distill_images(ImageRun(prompt="a"), tmp_path))


RUN = ImageRun(prompt="a red cube")
CALLS = {
    "seed too large": (lambda t: replace(RUN, seed=2**70), InvalidInput, "2\\^63"),
    "seed of another type": (lambda t: replace(RUN, seed="1"), InvalidInput, "whole number"),
    "seed that is a bool": (lambda t: replace(RUN, seed=True), InvalidInput, "whole number"),
    "no seeds": (lambda t: replace(RUN, seeds=()), InvalidInput, "at least one seed"),
    "seeds twice": (lambda t: replace(RUN, seeds=(1, 1)), InvalidInput, "each once"),
    "prompt of another type": (lambda t: replace(RUN, prompt=3), InvalidInput, "text"),
    "prompt with a zero byte": (lambda t: replace(RUN, prompt="a\0"), InvalidInput, "zero byte"),
    "representation": (lambda t: replace(RUN, representation="mesh"), InvalidInput, "mlp, pixels"),
    "recipe steps": (lambda t: replace(RECIPES["sds"], steps=1.5), InvalidInput, "whole number"),
    "recipe lr": (lambda t: replace(RECIPES["sds"], lr=float("nan")), InvalidInput, "lr"),
    "recipe guidance": (lambda t: replace(RECIPES["sds"], guidance=float("inf")), InvalidInput, "guidance"),
    "recipe bandwidth": (lambda t: replace(RECIPES["msd"], bandwidth=(1.0,)), InvalidInput, "two numbers"),
    "recipe bandwidth below 0": (lambda t: replace(RECIPES["msd"], bandwidth=(-1.0, 1.0)), InvalidInput, "bandwidth"),
    "recipe method": (lambda t: replace(RECIPES["msd"], method="magic"), InvalidInput, "magic"),
    "recipe warmup": (lambda t: replace(RECIPES["msd"], warmup=1.5), InvalidInput, "warmup must be a number from 0 to 1, got 1.5"),
    "recipe schedule": (lambda t: replace(RECIPES["msd"], schedule="linear"), InvalidInput, "constant, cosine"),
    "recipe optimiser": (lambda t: replace(RECIPES["msd"], optimiser="lion"), InvalidInput, "lion"),
    "object views": (lambda t: ObjectRun(prompt="a", views=0), InvalidInput, "views"),
    "object preset": (lambda t: ObjectRun(prompt="a", preset="huge"), InvalidInput, "cpu, paper"),
    "sample steps": (lambda t: SampleRun(prompt="a", steps=0), InvalidInput, "steps"),
    "sample guidance": (lambda t: SampleRun(prompt="a", guidance=float("nan")), InvalidInput, "guidance"),
    "loop lr": (lambda t: list(optimise(one_point(), SDS(denoiser=ideal), steps=1, lr=float("inf"))), InvalidInput, "lr"),
    "loop steps": (lambda t: list(distill(one_point(), SDS(denoiser=ideal), steps=0)), InvalidInput, "at least 1 step"),
    "loop seed": (lambda t: list(optimise(one_point(), SDS(denoiser=ideal), steps=1, seed=-1)), InvalidInput, "seed"),
    "checkpoint every": (lambda t: list(optimise(one_point(), SDS(denoiser=ideal), steps=1, every=0)), InvalidInput, "every"),
    "checkpoint of other samples": (lambda t: resumed(t, samples=2), OutputError, "other settings"),
    "checkpoint of other noise": (lambda t: resumed(t, noise="fixed"), OutputError, "other settings"),
    "checkpoint with NaN": (lambda t: read_state(state_file(t / "s", torch.tensor(float("nan"))), kind="test"), WeightsError, "NaN"),
    "checkpoint cut short": (lambda t: cut(state_file(t / "s", torch.zeros(3))), WeightsError, "cut short"),
    "checkpoint of another kind": (
        lambda t: read_state(state_file(t / "s", torch.zeros(3)), kind="other"),
        WeightsError,
        "expected 'other'",
    ),
    "pickle as a checkpoint": (lambda t: read_state(pickled(t / "s"), kind="test"), WeightsError, "no readable safetensors"),
    "pickle as weights": (lambda t: read_tensors(pickled(t / "s"), kind="test"), WeightsError, "no readable safetensors"),
    "infinite weights": (lambda t: infinite(t / "s"), WeightsError, "NaN or infinite"),
    "JSON that is a list": (lambda t: read_object(written(t / "j", "[]"), "a"), OutputError, "expected an object"),
    "JSON without a key": (lambda t: read_object(written(t / "j", "{}"), "a"), OutputError, "has no 'a'"),
    "JSON that is missing": (lambda t: read_json(t / "nothing"), OutputError, "cannot read"),
    "JSON with bad bytes": (lambda t: (t / "j").write_bytes(b"\xff") and read_json(t / "j"), OutputError, "not a JSON file"),
    "write below a file": (lambda t: write_json(written(t / "f", "x") / "below", {}), OutputError, "cannot write"),
    "folder in use": (held, OutputError, f"in use by process {os.getpid()}"),
    "run that is a list": (lambda t: claim_over(t, "[]"), OutputError, "run.json"),
    "run without settings": (lambda t: claim_over(t, "{}"), OutputError, "'config'"),
    "run with foreign weights": (lambda t: foreign_weights(t), OutputError, "other weights"),
    "mesh of no run": (lambda t: reopened(t), OutputError, "run.json"),
    "seeds text": (lambda t: read_seeds("1-"), InvalidInput, "0-7"),
    "shard text": (lambda t: read_shard("0/4"), InvalidInput, "K/N"),
    "prompts file": (lambda t: read_prompts(t), InvalidInput, "cannot read prompts"),
    "sweep file": (lambda t: read_sweep(t / "nothing.yaml"), InvalidInput, "cannot read"),
    "sweep without prompts": (lambda t: Sweep(prompts=(), methods=methods_of(["sds"], "image")), InvalidInput, "at least one prompt"),
    "sweep with a method twice": (lambda t: Sweep(prompts=("a",), methods=methods_of(["sds"], "image") * 2), InvalidInput, "given twice"),
    "recipe setting": (lambda t: methods_of(["sds"], "image", speed=3), InvalidInput, "speed"),
    "no workers": (lambda t: list(run_cells([], t, workers=0)), InvalidInput, "workers"),
    "dtype": (lambda t: PriorChoice(dtype="int8").open(), InvalidInput, "int8"),  # type: ignore[arg-type]
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])
    return read_state(path, kind="test")


def infinite(path):
    write_tensors(path, {"a": torch.tensor([float("inf")])}, {"modeseek": "test"})
    return read_tensors(path, kind="test")


def claim_over(folder, text):
    written(folder / "run.json", text)
    with claimed(folder, RUN):
        pass


def foreign_weights(folder):
    for weights in ("one", "two"):
        with claimed(folder, RUN, weights=weights):
            (folder / "curves.jsonl").touch()  # it has begun


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_raises_a_named_error(name, safe):
    call, kind, words = CALLS[name]
    with pytest.raises(kind, match=words) as caught:
        call(safe)
    assert isinstance(caught.value, ModeseekError)
    assert "\n" not in str(caught.value)
    assert not list(safe.rglob(".*.part"))


# ---------------------------------------------------------------- damaged and foreign files that are mended
def test_a_cut_curve_keeps_its_whole_lines(tmp_path):
    (tmp_path / "curves.jsonl").write_text('{"step": 0, "calls": 1}\n{"step": 1, "calls": 2}\n{"step": 2, "ca')
    assert [line["step"] for line in lines_before(tmp_path, 9)] == [0, 1]


def test_folder_names_are_safe_and_different():
    long, letters = "a" * 400, "\N{GRINNING FACE}" * 90
    names = [
        safe_name(prompt, method)
        for prompt in (long, long + "b", letters, letters + "a", "a b", "a-b", "../..")
        for method in ("msd", "sds")
    ]
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) <= 80 and "/" not in name and not name.startswith(".") for name in names)
    assert all(name.rsplit("-", 2)[-2] in ("msd", "sds") or name.endswith(("msd", "sds")) for name in names)


def test_a_checkpoint_of_another_prompt_is_refused(folders, safe, capsys):
    """Copied into the folder of a run that differs in one word."""
    shutil.copytree(folders["IMAGE_RUN"], safe / "out")
    facts = json.loads((safe / "out" / "run.json").read_text())
    facts["config"]["prompt"], facts["finished"] = "a blue cube", False
    (safe / "out" / "run.json").write_text(json.dumps(facts))
    saved = (safe / "out" / "checkpoint.safetensors").read_bytes()
    arguments = [placed(word, folders, safe / "out") for word in IMAGE]
    arguments[1] = "a blue cube"
    assert main([*arguments, "--seeds", "1"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert (safe / "out" / "checkpoint.safetensors").read_bytes() == saved


def test_leftovers_of_a_part_are_those_of_its_name(tmp_path):
    """`train fractal-a` must not remove what a running `train fractal-a-weak` is writing."""
    own, other = tmp_path / ".fractal-a.safetensors.1.part", tmp_path / ".fractal-a-weak.safetensors.2.part"
    own.touch(), other.touch()
    with locked(tmp_path, "fractal-a"):
        assert not own.exists()
        assert other.exists()
    with locked(tmp_path):
        assert not other.exists()
