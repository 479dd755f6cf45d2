"""Timing side by side: every variant once a round, so that a slow moment of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


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


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int = 5, warmup: int = 1, device: str = "cpu"
) -> dict[str, Timing]:
    """Run every variant once a round and time it; the first ``warmup`` rounds do not count.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warmup + rounds):
        for name, run in variants.items():
            started = _now(device)
            run()
            if number >= warmup:
                seconds[name].append(_now(device) - started)
    return {name: Timing(times) for name, times in seconds.items()}


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ratios(timings: dict[str, Timing], reference: str, inverse: bool = False) -> dict[str, Timing]:
    """How many times less than ``reference`` each variant took, round by round; ``inverse``: what share of it."""
    base = timings[reference].seconds
    found = {}
    for name, timing in timings.items():
        pairs = zip(base, timing.seconds, strict=True)
        found[name] = Timing([s / b if inverse else b / s for b, s in pairs])
    return found
