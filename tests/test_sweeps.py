"""The cell runner: every cell once, failures apart from each other, leases, dead workers, memory, termination."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from cellkit import Failing, Fragile, Hungry, Slow, Square

from modeseek.core.errors import CellsFailed, InvalidInput, OutputError
from modeseek.sweeps import leases, run_cells, run_shard
from modeseek.sweeps.cells import cell_path, failure_of, load
from modeseek.sweeps.executors import LocalPool, ending
from modeseek.sweeps.worker import is_out_of_memory, work


def squares(tmp_path, count, seconds=0.0):
    return [Square(k, tmp_path / "log", seconds) for k in range(count)]


def lines(tmp_path):
    return (tmp_path / "log").read_text().splitlines()


def temporary_files(out):
    return [str(path) for path in out.rglob("*") if path.name.endswith(".part") or ".lease" in path.name]


# ---------------------------------------------------------------- running
@pytest.mark.parametrize("workers", [1, 2])
def test_every_cell_runs_once_and_is_kept(tmp_path, workers):
    cells = squares(tmp_path, 5)
    found = list(run_cells([*cells, cells[0]], tmp_path, workers=workers))
    assert sorted(cell.number for cell in found) == [0, 1, 2, 3, 4]
    assert [load(cell, tmp_path).row["square"] for cell in cells] == [0, 1, 4, 9, 16]
    assert float(load(cells[3], tmp_path).arrays["value"]) == 3
    assert len(list(run_cells(cells, tmp_path))) == 5  # from the disk
    assert len(lines(tmp_path)) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "log"]  # no leases, nothing temporary
    assert temporary_files(tmp_path) == []


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path):
    cells = [Failing(1, tmp_path / "log"), *squares(tmp_path, 3), Failing(2, tmp_path / "log", "crash")]
    with pytest.raises(CellsFailed, match=r"2 cells failed: failing error 1: the number is unlucky; failing crash 2: ZeroDivisionError"):
        list(run_cells(cells, tmp_path))
    assert all(load(cell, tmp_path) is not None for cell in cells[1:4])
    failure = failure_of(cells[-1], tmp_path)
    assert failure.error.startswith("ZeroDivisionError")
    assert "return 1 / 0" in failure.traceback
    runs = len(lines(tmp_path))
    with pytest.raises(CellsFailed):  # not tried again
        list(run_cells(cells, tmp_path))
    assert len(lines(tmp_path)) == runs
    with pytest.raises(CellsFailed):
        list(run_cells(cells, tmp_path, retry_failed=True))
    assert len(lines(tmp_path)) == runs + 2


def test_a_success_forgets_the_failure(tmp_path):
    cell = Fragile(0, tmp_path / "log")
    path = cell_path(cell, tmp_path)
    path.parent.mkdir(parents=True)
    path.with_name(path.stem + ".error.json").write_text('{"error": "earlier"}')
    list(run_cells([cell], tmp_path, retry_failed=True))
    assert failure_of(cell, tmp_path) is None


def test_a_killed_worker_loses_nothing_and_its_cell_runs_again(tmp_path):
    cells = [Fragile(2, tmp_path / "deaths"), *squares(tmp_path, 4)]
    assert len(list(run_cells(cells, tmp_path, workers=2))) == 5
    assert len((tmp_path / "deaths").read_text().splitlines()) == 3
    assert len(lines(tmp_path)) == 4  # the other worker's cells were not touched


def test_a_cell_that_always_kills_its_worker_fails(tmp_path):
    cell = Fragile(99, tmp_path / "deaths")
    with pytest.raises(CellsFailed, match="5 workers ended while they ran it"):
        list(run_cells([cell, *squares(tmp_path, 1)], tmp_path, workers=2))
    assert len((tmp_path / "deaths").read_text().splitlines()) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_out_of_memory_is_tried_once_more_with_less(tmp_path, workers):
    list(run_cells([Hungry(tmp_path / "log"), Fragile(0, tmp_path / "other")], tmp_path, workers=workers))
    words = [line.split() for line in lines(tmp_path)]
    assert [word for word, _ in words] == ["False", "True"]
    assert workers == 1 or words[0][1] != words[1][1]  # in a fresh process


def test_out_of_memory_twice_is_a_failure(tmp_path):
    with pytest.raises(CellsFailed, match="can't allocate memory"):
        list(run_cells([Hungry(tmp_path / "log", ever=False)], tmp_path))
    assert len(lines(tmp_path)) == 2


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "std::bad_alloc", "[Errno 12] Cannot allocate memory"])
def test_allocators_are_understood(words):
    error = RuntimeError("a layer failed")
    error.__cause__ = RuntimeError(words)
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_full_disk_ends_the_run_with_its_line(tmp_path):
    cells = [*squares(tmp_path, 1), Failing(1, tmp_path / "log", "full"), *squares(tmp_path, 3)]
    with pytest.raises(OutputError, match="No space left on device"):
        list(run_cells(cells, tmp_path))
    assert load(cells[0], tmp_path) is not None
    assert failure_of(cells[1], tmp_path) is None


# ---------------------------------------------------------------- leases
def test_a_lease_is_exclusive_and_released(tmp_path):
    path = tmp_path / "cells" / "a.json"
    first = leases.acquire(path)
    assert leases.acquire(path) is None
    assert f"process {os.getpid()}" in leases.holder(path)
    first.release()
    assert leases.holder(path) is None
    assert leases.acquire(path).generation == 0


def test_only_one_of_many_threads_takes_a_lease(tmp_path):
    path = tmp_path / "cells" / "a.json"
    for _ in range(20):
        found, barrier = [], threading.Barrier(8)

        def take(found=found, barrier=barrier):
            barrier.wait()
            found.append(leases.acquire(path))

        threads = [threading.Thread(target=take) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        held = [lease for lease in found if lease is not None]
        assert len(held) == 1
        held[0].release()


def expire(lease, seconds):
    then = time.time() - seconds
    os.utime(lease.file, (then, then))
    text = json.loads(lease.file.read_text()) | {"machine": "another"}
    lease.file.write_text(json.dumps(text))
    os.utime(lease.file, (then, then))


def test_an_expired_lease_is_taken_over_once(tmp_path):
    path = tmp_path / "cells" / "a.json"
    old = leases.acquire(path, ttl=60)
    expire(old, 30)
    assert leases.acquire(path, ttl=60) is None
    expire(old, 61)
    new = leases.acquire(path, ttl=60)
    assert new.generation == 1
    assert leases.acquire(path, ttl=60) is None
    assert not old.renew()  # its holder learns that it has lost it
    assert new.renew()
    new.release()
    assert temporary_files(tmp_path) == []


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path):
    path = tmp_path / "cells" / "a.json"
    lease = leases.acquire(path)
    lease.file.write_text(json.dumps(json.loads(lease.file.read_text()) | {"pid": dead_process(), "start": "1"}))
    assert leases.acquire(path).generation == 1


def test_a_lease_is_renewed_while_it_is_kept(tmp_path):
    path = tmp_path / "cells" / "a.json"
    lease = leases.acquire(path, ttl=0.4)
    expire(lease, 0)
    with lease.kept(0.4):
        time.sleep(1.0)
        assert leases.acquire(path, ttl=0.4) is None
    assert leases.holder(path) is None


@pytest.mark.parametrize("moment", ["taken", "released"])
def test_an_interrupt_while_a_lease_is_taken_or_released_leaves_none(tmp_path, monkeypatch, moment):
    """Ctrl-C may arrive between any two lines: here after the lease's file was created, or before it is removed."""
    acquire = leases.acquire

    def interrupted(*arguments, **keywords):
        if moment == "taken":
            acquire(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(leases if moment == "taken" else leases.Lease, "acquire" if moment == "taken" else "release", interrupted)
    (cell,) = squares(tmp_path, 1)
    other = leases._create(cell_path(squares(tmp_path, 2)[1], tmp_path), 0)  # a cell that another thread of this process runs
    assert work(cell, tmp_path).state == "stopped"
    assert other
    assert [path.name.split(".")[0] for path in (tmp_path / "leases").iterdir()] == [cell_path(squares(tmp_path, 2)[1], tmp_path).stem]


def test_a_cell_of_another_process_is_waited_for(tmp_path):
    """Another driver runs the cell meanwhile: this one neither repeats nor loses it."""
    (cell,) = squares(tmp_path, 1, seconds=1.0)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(cell, tmp_path))
    process.start()
    while not leases.is_held(cell_path(cell, tmp_path)):
        time.sleep(0.01)
    assert list(run_cells([cell], tmp_path)) == [cell]
    process.join()
    assert len(lines(tmp_path)) == 1


def test_shards_divide_the_cells(tmp_path):
    cells = squares(tmp_path, 7)
    for number in (3, 1, 2):
        list(run_shard(cells, tmp_path, (number, 3)))
    assert sorted(int(line.split()[0]) for line in lines(tmp_path)) == list(range(7))
    with pytest.raises(InvalidInput, match="K from 1 to N"):
        list(run_shard(cells, tmp_path, (4, 3)))


def test_a_shard_that_starts_again_elsewhere_takes_its_cell_back(tmp_path, monkeypatch):
    """Its job was killed on another machine and restarted within the lease; the cell of a living process is left to it."""
    dead, alive, own = squares(tmp_path, 3)
    monkeypatch.setattr(leases, "_own", lambda: {"machine": "another", "host": "another", "pid": 1, "start": "1"})
    leases.acquire(cell_path(dead, tmp_path))
    held = leases.acquire(cell_path(alive, tmp_path))
    monkeypatch.undo()
    with held.kept(0.8):
        assert list(run_shard([dead, alive, own], tmp_path, (1, 1), ttl=0.8)) == [own, dead]
    assert len(lines(tmp_path)) == 2


# ---------------------------------------------------------------- ending
def test_interrupting_a_pool_ends_it_soon(tmp_path):
    """Tasks that run are told to stop and save, tasks that wait are dropped."""
    cells = [Slow(str(k), steps=3000) for k in range(6)]
    begun = time.monotonic()

    def interrupted():
        with ending(LocalPool(2, threads=1)) as pool:
            futures = [pool.submit(work, cell, tmp_path) for cell in cells]
            while len(list(tmp_path.glob("cells/slow-*"))) < 2:
                time.sleep(0.05)
            assert not any(future.done() for future in futures)
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun < 40
    assert len(list(tmp_path.glob("cells/slow-*/count"))) == 2  # saved, both
    assert multiprocessing.active_children() == []
    assert temporary_files(tmp_path) == []


DRIVER = """
import sys
from pathlib import Path
from cellkit import Slow
from modeseek.core.interrupts import terminable, Terminated
from modeseek.sweeps import run_cells
out, workers = Path(sys.argv[1]), int(sys.argv[2])
if __name__ == "__main__":
    try:
        with terminable():
            for cell in run_cells([Slow(str(k), steps=int(sys.argv[3])) for k in range(3)], out, workers=workers):
                pass
    except Terminated:
        sys.exit(143)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_saves_and_leaves_and_the_same_command_goes_on(tmp_path, workers):
    (tmp_path / "driver.py").write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), str(workers)]
    process = subprocess.Popen([*command, "250"], env=environment, stderr=subprocess.PIPE)
    while len(list(tmp_path.glob("cells/slow-*"))) < workers:
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 143
    counts = [int(path.read_text()) for path in tmp_path.glob("cells/slow-*/count")]
    assert len(counts) == workers
    assert min(counts) > 0
    assert temporary_files(tmp_path) == []
    subprocess.run([*command, "250"], env=environment, check=True)
    starts = sorted(json.loads(path.read_text())["row"]["started at"] for path in tmp_path.glob("cells/*.json"))
    assert starts == sorted([*counts, *[0] * (3 - workers)])


# ---------------------------------------------------------------- damaged files
@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"format": 3, "ro', '{"format": 1, "row": {}, "arrays": []}', '{"format": 3, "row": {}}']
)
def test_damaged_cells_are_named(tmp_path, text):
    (cell,) = squares(tmp_path, 1)
    path = cell_path(cell, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(OutputError, match=path.name):
        list(run_cells([cell], tmp_path))
    assert path.read_text() == text


def test_missing_arrays_are_named(tmp_path):
    (cell,) = squares(tmp_path, 1)
    list(run_cells([cell], tmp_path))
    cell_path(cell, tmp_path).with_suffix(".safetensors").unlink()
    with pytest.raises(OutputError, match=r"remove .* to run the cell again"):
        list(run_cells([cell], tmp_path))
