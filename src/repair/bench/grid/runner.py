"""Run many jobs here, in several processes, or over a Ray cluster; results as they end.

Knows processes and what is done already; knows neither cells' contents nor methods. A job that
fails with a sentence for the user does not stop the others.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from repair.errors import EnvironmentProblem, RepairError, UsageError

_Job = TypeVar("_Job")


@dataclass(frozen=True)
class Failure:
    """A job that ended with a sentence instead of a result."""

    message: str


Result = dict[str, Any] | Failure


def run_jobs(
    jobs: Sequence[_Job],
    work: Callable[[_Job], dict[str, Any]],
    *,
    workers: int = 1,
    ray: str | None = None,
) -> Iterator[tuple[_Job, Result]]:
    """Each job with its result, in the order in which they end.

    Args:
        work: a function of a module, for other processes to import.
        workers: processes on this machine; 1 is this one.
        ray: address of a Ray cluster in place of processes here, such as ``auto``.

    Raises:
        UsageError: fewer than one worker.
        EnvironmentProblem: Ray is not installed or not there, or a process was killed.
    """
    if workers < 1:
        raise UsageError("At least one worker is needed.")
    if ray is not None:
        yield from _over_ray(jobs, work, ray)
    elif workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _caught(work, job)
    else:
        yield from _over_processes(jobs, work, min(workers, len(jobs)))


def _caught(work: Callable[[_Job], dict[str, Any]], job: _Job) -> Result:
    try:
        return work(job)
    except RepairError as error:
        return Failure(str(error))


def _over_processes(
    jobs: Sequence[_Job], work: Callable[[_Job], dict[str, Any]], workers: int
) -> Iterator[tuple[_Job, Result]]:
    # Spawned, because a forked process inherits the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, _begin, (threads, os.getpid())) as pool:
        waiting = {pool.submit(_caught, work, job): job for job in jobs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise EnvironmentProblem(
                "A worker was killed.", "What is finished is kept: run the command again."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int, parent: int) -> None:
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once the one that started it is gone: killed, it could not tell."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _over_ray(
    jobs: Sequence[_Job], work: Callable[[_Job], dict[str, Any]], address: str
) -> Iterator[tuple[_Job, Result]]:
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise EnvironmentProblem(
            "Ray is not installed.", "Install it: pip install 'repair-unlearning[scale]'."
        ) from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EnvironmentProblem(
            f"There is no Ray cluster at {address}.", "Start one: ray start --head."
        ) from error

    # Ray takes plain functions alone.
    def caught(job: _Job) -> Result:
        return _caught(work, job)

    remote = ray.remote(num_cpus=1, max_retries=1)(caught)
    waiting = {remote.remote(job): job for job in jobs}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready[0]), ray.get(ready[0])
    finally:
        for reference in waiting:
            ray.cancel(reference)
        ray.shutdown()
