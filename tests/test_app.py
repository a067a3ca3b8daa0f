"""The app's jobs: one at a time, stopped and resumed, their errors; and its server: loopback names alone."""

import threading
import zipfile
from types import SimpleNamespace

import pytest

from modeseek.app import Busy, Job, Worker, loopback_socket
from modeseek.app.jobs import NothingToResume, duration
from modeseek.app.layout import zipped
from modeseek.app.panes import pane
from modeseek.core.errors import InvalidInput
from modeseek.core.interrupts import Terminated


class Steps:
    """Steps that a test lets through one by one; what was done is kept, as in a checkpoint."""

    def __init__(self, total, fail_at=None):
        self.total, self.fail_at, self.done, self.closed = total, fail_at, 0, 0
        self.gate = threading.Semaphore(0)
        self.seen = threading.Semaphore(0)

    def __call__(self):
        try:
            while self.done < self.total:
                self.gate.acquire(timeout=10)
                if self.done == self.fail_at:
                    raise InvalidInput("the prompt means nothing: choose another")
                self.done += 1
                yield SimpleNamespace(index=self.done - 1, calls=2.0 * self.done)
                self.seen.release()
        finally:
            self.closed += 1

    def let(self, count):
        for _ in range(count):
            self.gate.release()


def job(tmp_path, steps):
    return Job(title="a <cat>", folder=tmp_path, total=steps.total, steps=steps)


def test_second_job_is_refused_until_the_first_has_ended(tmp_path):
    steps, worker = Steps(3), Worker()
    first = worker.start(job(tmp_path, steps))
    steps.let(2)
    steps.seen.acquire(timeout=10)
    with pytest.raises(Busy, match=r"busy with 'a <cat>' \(step \d of 3.*\): wait for it, or stop it first"):
        worker.start(job(tmp_path, Steps(1)))
    steps.let(1)
    worker.wait(10)
    assert (first.state, first.done, first.calls, steps.closed) == ("finished", 3, 6.0, 1)
    other = Steps(1)
    other.let(1)
    worker.start(job(tmp_path, other))
    worker.wait(10)
    assert worker.job.state == "finished"


def test_a_terminated_job_is_stopped(tmp_path):
    """SIGTERM while a step is finished raises `Terminated` in the job's thread; the run resumes from its folder."""

    def steps():
        raise Terminated

    first = Job("a", tmp_path, 3, steps)
    first.state = "running"
    first.work()
    assert (first.state, first.error) == ("stopped", "")


def test_a_job_that_ends_while_it_is_stopped_is_not_active(tmp_path):
    """`stop` waits for the end of a job or comes before it: the state is never "stopping" without a thread."""
    first = Job("a", tmp_path, 1, lambda: iter(()))
    first.state = "running"
    with first._lock:
        late = threading.Thread(target=first.stop)
        late.start()
        first.state = "finished"
    late.join(10)
    assert (first.state, first.active) == ("finished", False)


def test_stop_and_resume(tmp_path):
    steps, worker = Steps(10), Worker()
    first = worker.start(job(tmp_path, steps))
    steps.let(3)
    for _ in range(2):
        steps.seen.acquire(timeout=10)
    worker.stop()
    assert first.state in ("stopping", "stopped")
    steps.let(1)
    worker.wait(10)
    assert first.state == "stopped"
    assert steps.closed == 1
    assert 3 <= first.done <= 4
    assert "Resume continues" in pane(first, tmp_path)
    done = steps.done
    assert worker.resume() is first
    steps.let(10)
    worker.wait(10)
    assert (first.state, first.done, steps.done) == ("finished", 10, 10)
    assert done < 10
    with pytest.raises(NothingToResume, match="start one with Run"):
        worker.resume()


def test_errors_are_worded_as_on_the_command_line(tmp_path):
    steps, worker = Steps(5, fail_at=1), Worker()
    steps.let(2)
    worker.start(job(tmp_path, steps))
    worker.wait(10)
    assert worker.job.state == "failed"
    assert worker.job.error == "modeseek: the prompt means nothing: choose another"
    shown = pane(worker.job, tmp_path)
    assert 'role="alert">modeseek: the prompt means nothing' in shown
    assert "a &lt;cat&gt;" in shown


def test_time_left_counts_this_process_alone(tmp_path, monkeypatch):
    """A run resumed at step 90 of 100 that makes 2 steps in 10 s has 8 steps, 40 s, left."""
    now = iter([100.0, 110.0])
    monkeypatch.setattr("modeseek.app.jobs.time.monotonic", lambda: next(now))
    found = Job(title="", folder=tmp_path, total=100, steps=lambda: iter(()), state="running", done=92)
    found._first, found._began = 90, 100.0 if next(now) == 100.0 else None
    assert found.left == pytest.approx(40.0)
    assert Job(title="", folder=tmp_path, total=100, steps=lambda: iter(()), state="running", done=90).left is None


def test_durations():
    assert [duration(s) for s in (0.2, 59.6, 61, 3600)] == ["0 s", "1 min 0 s", "1 min 1 s", "1 h 0 min"]


def test_archive_has_results_and_no_checkpoint(tmp_path):
    folder = tmp_path / "run"
    (folder / "frames").mkdir(parents=True)
    for name in ("run.json", "frames/000000.png", "checkpoint.safetensors", ".hidden.part"):
        (folder / name).write_text(name)
    with zipfile.ZipFile(zipped(folder)) as archive:
        assert sorted(archive.namelist()) == ["run/frames/000000.png", "run/run.json"]


def test_forms_are_options_of_the_command_line(tmp_path):
    from modeseek.cli.app import tabs

    image, *others = tabs(tmp_path)
    assert (image.methods[0], others[0].methods[0]) == ("msd", "mean-shift")
    form = {"prompt": "a red cube", "method": "sds", "representation": "pixels", "seeds": 2, "prior": " ", "negative": "", "device": "cpu"}
    empty = {"steps": "", "guidance": "", "lr": "", "seed": ""}
    job = image.job(form | empty)
    assert (job.title, job.total) == ("a red cube", 400)
    assert image.job(form | empty).folder == job.folder  # the same settings resume
    assert image.job(form | empty | {"steps": "7"}).total == 7
    assert image.job(form | empty | {"steps": "7"}).folder != job.folder
    with pytest.raises(InvalidInput, match="lr must be a number or empty, got 'fast'"):
        image.job(form | empty | {"lr": "fast"})


@pytest.mark.slow
def test_edit_form_makes_an_edit(tmp_path):
    from PIL import Image

    from modeseek.cli.app import tabs

    edit = next(tab for tab in tabs(tmp_path / "runs") if tab.image)
    upload = tmp_path / "upload.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(upload)
    form = {"source": "a red cube", "prompt": "a blue cube", "method": "dds", "prior": "", "device": "cpu", "image": str(upload)}
    form |= {"steps": "3", "guidance": "", "lr": "", "seed": "", "negative": ""}
    worker = Worker()
    job = worker.start(edit.job(form))
    worker.wait(200)
    assert (job.state, job.done, job.error) == ("finished", 3, "")
    page = job.page().read_text()
    assert "source image" in page
    assert "modeseek edit" in page
    assert job.frame().name == "000002.png"
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(upload.read_bytes())
    assert edit.job(form | {"image": str(copy)}).folder == job.folder  # the same image and settings resume
    with pytest.raises(InvalidInput, match="upload a PNG"):
        edit.job(form | {"image": None})
    with pytest.raises(InvalidInput, match="takes no negative prompt"):
        edit.job(form | {"negative": "blur"})


def test_port_in_use_is_a_users_error():
    with loopback_socket(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        port = listener.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port} cannot be used.*choose another --port"):
            loopback_socket(port)
    with pytest.raises(InvalidInput, match="port 99999 cannot be used"):
        loopback_socket(99999)
