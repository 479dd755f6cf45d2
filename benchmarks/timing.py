"""Timing side by side: every variant once a round, so that a slow moment of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Clock = Callable[[Callable[[], object]], float]
GRAPH_MS = 2  # of a CUDA graph that holds a kernel many times; ten replays are a reading


@dataclass(frozen=True)
class Timing:
    """Seconds of one variant over the rounds."""

    seconds: list[float]

    def quantile(self, q: float) -> float:
        """Quantile by linear interpolation."""
        ordered = sorted(self.seconds)
        place = q * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    @property
    def median(self) -> float:
        """Median."""
        return statistics.median(self.seconds)


def wall_clock(run: Callable[[], object]) -> float:
    """Seconds of one call on a CPU."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def graph_clock(run: Callable[[], object]) -> float:
    """Seconds of one call on a GPU, replayed from a CUDA graph, so that no launch by the host is in it."""
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(run, rep=GRAPH_MS, return_mode="median") / 1e3


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


@dataclass(frozen=True)
class EventClock:
    """Seconds of a call by CUDA events around a batch of them; the host waits before the batch and behind it only.

    Attributes:
        calls: in a batch.
        event: makes an event.
        wait: for everything that the GPU has been given.
    """

    calls: int = 10
    event: Callable[[], Any] = _timing_event
    wait: Callable[[], object] = torch.cuda.synchronize

    def __call__(self, run: Callable[[], object]) -> float:
        """Make the calls; mean seconds of one."""
        first, last = self.event(), self.event()
        self.wait()
        first.record()
        for _ in range(self.calls):
            run()
        last.record()
        self.wait()
        return first.elapsed_time(last) / 1000 / self.calls


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int = 5, warmup: int = 1, clock: Clock = wall_clock
) -> dict[str, Timing]:
    """Run every variant in turn, a ``clock`` reading a round; the first ``warmup`` rounds do not count.

    Args:
        variants: what to time, by name.
        rounds: readings of each.
        warmup: rounds before them.
        clock: seconds of one call, however many it makes.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warmup + rounds):
        for name, run in variants.items():
            reading = clock(run)
            if number >= warmup:
                seconds[name].append(reading)
    return {name: Timing(times) for name, times in seconds.items()}


def ratios(timings: Mapping[str, Timing], reference: str, inverse: bool = False) -> dict[str, Timing]:
    """How many times less than ``reference`` each variant took, round by round; ``inverse``: what share of it."""
    base = timings[reference].seconds
    found = {}
    for name, timing in timings.items():
        pairs = zip(base, timing.seconds, strict=True)
        found[name] = Timing([s / b if inverse else b / s for b, s in pairs])
    return found
