"""A race: ways to compute one thing are timed, and the fastest is kept."""

import functools
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], Any]
SHORTLIST, REPEATS = 3, 3  # runs that are timed again on a CPU, and how often
GRAPH_MS = 10  # milliseconds of replays of each run on a GPU


def race(runs: Sequence[Run], device: torch.device, always: int = 1) -> list[float]:
    """Time runs in turn; seconds of each, infinite for one that cannot run.

    On a CPU all run once and the fastest few some more, on a GPU each is replayed from a CUDA graph.

    Args:
        runs: what to time; errors of the first ``always`` are raised.
        device: where they compute.
        always: number of runs at the start that are timed again however slow they were: those that others must beat.
    """
    clock = _graphed if device.type == "cuda" else _clocked
    seconds = [clock(run) for run in runs[:always]]
    for run in runs[always:]:
        try:
            seconds.append(clock(run))
        except Exception:  # too much shared memory, or whatever a compiler says
            seconds.append(float("inf"))
    if device.type == "cuda":
        return seconds
    for _ in range(REPEATS):
        able = [i for i in range(len(runs)) if seconds[i] < float("inf")]
        for i in sorted(able, key=seconds.__getitem__)[:SHORTLIST]:
            seconds[i] = min(seconds[i], clock(runs[i]))
    best = min(range(always), key=seconds.__getitem__)
    seconds[best] = min(seconds[best], clock(runs[best]))
    return seconds


def _clocked(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _graphed(run: Run) -> float:
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(run, rep=GRAPH_MS, return_mode="median") / 1e3


@functools.cache
def processor() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
