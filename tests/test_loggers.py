"""Runs sent to TensorBoard and Weights & Biases hold the numbers and frames of their folder."""

import json

import numpy as np
import pytest

from modeseek.core.errors import InvalidInput, MissingPackage
from modeseek.distillation.recipes import get_recipe
from modeseek.tasks.loggers import logged, logger
from modeseek.tasks.text_to_image import ImageRun, PriorChoice, distill_images

STEPS = 4


@pytest.fixture
def run(pipeline_folder):
    return ImageRun(
        prompt="a red cat", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=get_recipe("sds", steps=STEPS), seeds=(0,)
    )


class Kept:
    def __init__(self):
        self.numbers, self.images, self.closed = {}, {}, 0

    def scalars(self, step, values):
        self.numbers[step] = values

    def image(self, step, name, image):
        self.images[step] = image

    def close(self):
        self.closed += 1


def test_every_step_and_frame_is_logged(run, tmp_path):
    kept = Kept()
    steps = list(logged(distill_images(run, tmp_path), tmp_path, kept))
    assert [step.index for step in steps] == list(kept.numbers) == list(range(STEPS))
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in kept.numbers.items()] == lines
    assert len(kept.images) == len(list((tmp_path / "frames").glob("*.png"))) > 1
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in kept.images.values())
    assert kept.closed == 1


def test_an_error_closes_the_logger(tmp_path):
    def steps():
        raise InvalidInput("no")
        yield

    kept = Kept()
    with pytest.raises(InvalidInput):
        list(logged(steps(), tmp_path, kept))
    assert kept.closed == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_logger_writes_nothing_before_the_first_step(tmp_path):
    """A run that is refused leaves no files in a folder that may belong to another run."""
    pytest.importorskip("tensorboard")
    log = logger("tensorboard", tmp_path / "out")
    log.close()
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_hold_the_curves(run, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    list(logged(distill_images(run, tmp_path), tmp_path, logger("tensorboard", tmp_path)))
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in found.Scalars("residual")] == [(x["step"], pytest.approx(x["residual"])) for x in lines]
    assert [e.step for e in found.Images("frame")] == [int(p.stem) for p in sorted((tmp_path / "frames").glob("*.png"))]


def test_wandb_gets_the_settings_and_the_same_id_on_resume(run, tmp_path, monkeypatch):
    """A stand-in for wandb that records its calls: the real one needs an account or its offline server."""
    import sys
    from types import SimpleNamespace

    calls = []

    class FakeRun:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    started = []
    fake = SimpleNamespace(init=lambda **settings: started.append(settings) or FakeRun(), Image=lambda array: array.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        list(logged(distill_images(run, tmp_path), tmp_path, logger("wandb", tmp_path)))
    assert len(started) == 1  # the second time the run is finished: nothing is opened
    assert started[0]["config"]["prompt"] == "a red cat"
    assert started[0]["resume"] == "allow"
    assert [call[0] for call in calls if call != "finish" and "residual" in call[1]] == list(range(STEPS))
    assert calls[-1] == "finish"


def test_unknown_and_missing(tmp_path, monkeypatch):
    import sys

    with pytest.raises(InvalidInput, match="choose tensorboard or wandb"):
        logger("csv", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackage, match=r"--log wandb needs wandb .*pip install 'modeseek\[log\]'"):
        logger("wandb", tmp_path)
