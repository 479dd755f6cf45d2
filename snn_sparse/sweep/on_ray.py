"""Searches of a sweep as Ray tasks, on this machine or a cluster whose machines share the sweep's directory."""

import os
import signal
from typing import Any

from snn_sparse.sweep.planned import PlannedSearch
from snn_sparse.sweep.process import Outcome, Report, run_search_process, without
from snn_sparse.sweep.workers import Stop, Workers, machine_cpus, share

RETRIES = 3  # a search whose machine goes away goes on elsewhere
LOOK = 0.5  # seconds between two looks for a signal
OBJECTS = 80 * 2**20  # bytes of shared memory: only outcomes travel


def run_task(search: PlannedSearch, threads: int, cwd: str, needed: Outcome | None) -> Outcome:
    """Run a search inside a Ray worker; ``needed`` is the outcome of the search that it is like."""
    if needed is not None and needed.state != "done":
        return without(search, needed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray cancels by it; a sweep in the background ignores it
    return run_search_process(search, threads, lambda: None, cwd)


def run_on_ray(
    searches: list[PlannedSearch], found: dict[str, Outcome], workers: Workers, stop: Stop, report: Report
) -> None:
    """Run searches on Ray until all have ended; a signal cancels them, which makes each write its checkpoint.

    Args:
        searches: those that are not finished; one that needs another stands behind it.
        found: outcomes of those that are.
        workers: where, and what each may use.
        stop: told of signals.
        report: called with each outcome.

    Raises:
        ValueError: the cluster is not there, or no machine of a local one has what a search needs.
    """
    import ray

    cpus, gpus = _connect(workers)
    try:
        with stop.listening():  # after ray.init, which has handlers of its own
            task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(run_task)
            tasks: dict[str, Any] = {}
            for search in searches:
                needed = tasks.get(search.after, found.get(search.after)) if search.after else None
                tasks[search.name] = task.options(name=search.name).remote(search, cpus, os.getcwd(), needed)
            _collect(tasks, stop, report)
    finally:
        ray.shutdown()


def _connect(workers: Workers) -> tuple[int, float]:
    """Start Ray or join a cluster; returns CPUs and GPUs of a search."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if workers.ray not in (None, "local"):
        try:
            ray.init(address=workers.ray, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"ray {workers.ray}: {error}") from error
        gpus = workers.gpus if workers.gpus is not None else float("GPU" in ray.cluster_resources())
        return workers.cpus or 1, gpus
    here = machine_cpus()
    count = workers.count or share(here, workers.cpus or 1)
    cpus = workers.cpus or share(here, count)
    ray.init(address="local", num_cpus=count * cpus, object_store_memory=OBJECTS, include_dashboard=False, **quiet)
    there = int(ray.cluster_resources().get("GPU", 0))
    gpus = workers.gpus if workers.gpus is not None else _gpu_share(there, count)
    if gpus > there:
        ray.shutdown()
        raise ValueError(f"gpus_per_search is {gpus:g}, this machine has {there}")
    return cpus, gpus


def _gpu_share(gpus: int, workers: int) -> float:
    """A whole GPU for each worker where there are enough, else an equal share."""
    return min(1.0, gpus / workers)


def _collect(tasks: dict[str, Any], stop: Stop, report: Report) -> None:
    """Report outcomes as tasks end; cancel what is left when a signal has come, and wait for it."""
    import ray

    left = {task: name for name, task in tasks.items()}
    cancelled = False
    while left:
        ended, _ = ray.wait(list(left), timeout=LOOK)
        for task in ended:
            report(_outcome(left.pop(task), task, cancelled))
        if stop.number is not None and not cancelled:
            cancelled = True
            for task in left:
                ray.cancel(task)


def _outcome(name: str, task: Any, cancelled: bool) -> Outcome:
    import ray

    try:
        return ray.get(task)
    except Exception as error:  # whatever went wrong there is the outcome of that search
        if cancelled or isinstance(error, ray.exceptions.TaskCancelledError):
            return Outcome(name, "stopped", "the same command goes on")
        return Outcome(name, "failed", f"Ray: {str(error).strip().splitlines()[-1]}")
