"""Where cells run: anything with the interface of `concurrent.futures.Executor`.

    LocalPool      processes of this machine; when a process dies, only its cell fails, and it is replaced
    ray_executor   the workers of a Ray cluster                                        pip install "modeseek[ray]"
    slurm_executor jobs of a SLURM cluster, through submitit                           pip install "modeseek[slurm]"

`run_cells` submits `modeseek.sweeps.worker.work` and understands `WorkerLost`: the cell is run again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from modeseek.core.errors import InvalidInput, MissingPackage, WorkerLost
from modeseek.sweeps.worker import start_worker

GRACE = 30.0  # seconds a worker may take to save after SIGTERM


class LocalPool(Executor):
    """`workers` processes of this machine, each replaced individually when it dies.

    The standard library's pool breaks when one process is killed. In this pool only the task of that process fails, with `WorkerLost`.
    Calls must be picklable. If a result has an attribute `restart_worker` that is true, its process is replaced before the next task.

    Args:
        workers: processes.
        threads: of torch in each; None: the cores divided by the workers.
    """

    def __init__(self, workers: int, *, threads: int | None = None) -> None:
        if workers < 1:
            raise InvalidInput(f"workers must be at least 1, got {workers}")
        self.threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None] = queue.SimpleQueue()
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._closed = False
        self._slots = [threading.Thread(target=self._serve, args=(slot,), daemon=True, name=f"worker {slot}") for slot in range(workers)]
        for thread in self._slots:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call."""
        if self._closed:
            raise RuntimeError("the pool is shut down")
        future: Future[Any] = Future()
        self._tasks.put((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the pool; with `cancel_futures` running tasks get SIGTERM, time to save, and then SIGKILL."""
        self._closed = True
        if cancel_futures:
            with suppress(queue.Empty):
                while True:
                    task = self._tasks.get_nowait()
                    if task is not None:
                        task[0].cancel()
            self._signal(signal.SIGTERM)
        for _ in self._slots:
            self._tasks.put(None)
        if not wait:
            return
        try:
            deadline = time.monotonic() + GRACE if cancel_futures else float("inf")
            for thread in self._slots:
                thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        finally:  # too slow, or a second Ctrl-C
            if cancel_futures:
                self._signal(signal.SIGKILL)

    def _serve(self, slot: int) -> None:
        """One slot: take tasks in turn and hand them to this slot's process."""
        while (task := self._tasks.get()) is not None:
            future, fn, args, kwargs = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._pool(slot).submit(fn, *args, **kwargs).result()
            except BrokenProcessPool:
                self._drop(slot)
                future.set_exception(WorkerLost("the worker process ended without a result: it was killed, or ran out of memory"))
            except BaseException as error:
                future.set_exception(error)
            else:
                if getattr(result, "restart_worker", False):
                    self._drop(slot)
                future.set_result(result)
        self._drop(slot)

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        if slot not in self._pools:
            context = _context()
            self._pools[slot] = ProcessPoolExecutor(1, mp_context=context, initializer=start_worker, initargs=(self.threads, slot))
        return self._pools[slot]

    def _drop(self, slot: int) -> None:
        pool = self._pools.pop(slot, None)
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _signal(self, number: int) -> None:
        for pool in list(self._pools.values()):
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                with suppress(ProcessLookupError, TypeError):
                    os.kill(process.pid, number)


def _context() -> Any:
    """New processes from a server that has imported torch once, where the system has such servers; a fresh interpreter each elsewhere."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modeseek.sweeps.preload"])
    return context


@contextmanager
def ending(pool: Executor) -> Iterator[Executor]:
    """Shut an executor down at the end of the block: at once, with its tasks cancelled, where the block raises."""
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


# ---------------------------------------------------------------- Ray
class RayExecutor(Executor):
    """Calls as Ray tasks; Ray keeps a worker process between tasks of one kind, so what it has loaded stays loaded."""

    def __init__(self, ray: Any, *, cpus: float, gpus: float, threads: int | None) -> None:
        self._ray = ray
        self._threads = threads
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_called)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a task; a worker that dies gives `WorkerLost`."""
        found: Future[Any] = self._remote.remote(self._threads, fn, args, kwargs).future()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def pass_on(done: Future[Any]) -> None:
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            elif isinstance(error, (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError)) or (
                isinstance(error, self._ray.exceptions.RayError) and not isinstance(error, self._ray.exceptions.RayTaskError)
            ):
                future.set_exception(WorkerLost(f"a Ray worker was lost ({str(error).splitlines()[0][:200]})"))
            else:
                future.set_exception(error)

        found.add_done_callback(pass_on)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect from the cluster and cancel running tasks."""
        self._ray.shutdown()


def _called(threads: int | None, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return fn(*args, **kwargs)


def ray_executor(address: str | None = None, *, cpus: float = 1, gpus: float = 0, threads: int | None = 1) -> RayExecutor:
    """Connect to a Ray cluster, or start Ray on this machine.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT"; None starts Ray here.
        cpus, gpus: that one cell takes; Ray runs as many cells at once as fit on the cluster.
        threads: of torch in a worker.

    Raises:
        MissingPackage: Ray is not installed.
        InvalidInput: no cluster answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackage('--executor ray needs Ray: pip install "modeseek[ray]"') from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None if address else False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"no Ray cluster answers at {address or 'this machine'} ({str(error).splitlines()[0]})") from error
    return RayExecutor(ray, cpus=cpus, gpus=gpus, threads=threads)


# ---------------------------------------------------------------- SLURM
class SlurmExecutor(Executor):
    """Calls as jobs of a SLURM cluster, one job for each call, at most `jobs` of them submitted at once."""

    def __init__(self, executor: Any, jobs: int) -> None:
        self._executor = executor
        self._slots = threading.Semaphore(jobs)
        self._jobs: list[Any] = []
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job; a job that ends without a result gives `WorkerLost`."""
        future: Future[Any] = Future()
        threading.Thread(target=self._follow, args=(future, fn, args, kwargs), daemon=True).start()
        return future

    def _follow(self, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self._slots:
            if self._closed or not future.set_running_or_notify_cancel():
                future.cancel()
                return
            try:
                job = self._executor.submit(fn, *args, **kwargs)
                self._jobs.append(job)
                future.set_result(job.result())
            except Exception as error:
                future.set_exception(WorkerLost(f"a job ended without a result ({(str(error).splitlines() or [''])[0][:200]})"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; with `cancel_futures` cancel running jobs."""
        self._closed = True
        if cancel_futures:
            for job in self._jobs:
                with suppress(Exception):
                    job.cancel()


def slurm_executor(folder: Any, *, jobs: int = 16, cluster: str | None = None, **parameters: Any) -> SlurmExecutor:
    """Jobs through submitit.

    Args:
        folder: for submitit's scripts and logs.
        jobs: that run at once.
        cluster: None: SLURM where there is one; "local" or "debug" run on this machine.
        parameters: of submitit's `update_parameters`: timeout_min, slurm_partition, gpus_per_node, mem_gb, ...

    Raises:
        MissingPackage: submitit is not installed.
        InvalidInput: there is no SLURM on this machine, or submitit does not accept a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise MissingPackage('--executor slurm needs submitit: pip install "modeseek[slurm]"') from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        if cluster is None and executor.cluster != "slurm":
            raise InvalidInput("there is no SLURM on this machine (sbatch is not found): start the sweep on a login node, or use --shard")
        executor.update_parameters(**parameters)
    except (TypeError, NameError) as error:
        raise InvalidInput(f"submitit does not accept {parameters}: {error}") from error
    return SlurmExecutor(executor, jobs)
