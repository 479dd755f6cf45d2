"""Where the searches of a sweep run and how many at a time; the signal that stops them."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

PASSED_ON = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Workers:
    """How many searches run at a time, and where.

    Attributes:
        count: at a time on this machine; more than one needs Ray.
        ray: address of a Ray cluster, ``local`` for a new one on this machine, None for what ``count`` needs.
        cpus: of each search; None: an equal share of this machine's, one on a cluster.
        gpus: of each search, may be a fraction; None: an equal share of this machine's, one on a cluster that has any.
    """

    count: int | None = None
    ray: str | None = None
    cpus: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"workers must be at least 1, got {self.count}")
        if self.cpus is not None and self.cpus < 1:
            raise ValueError(f"cpus_per_search must be at least 1, got {self.cpus}")
        if self.gpus is not None and not (self.gpus in (0, 1) or 0 < self.gpus < 1 or self.gpus % 1 == 0 < self.gpus):
            raise ValueError(f"gpus_per_search must be a fraction below 1 or a whole number, got {self.gpus}")
        if self.ray not in (None, "local") and self.count is not None:
            raise ValueError("workers is for this machine: a Ray cluster runs as many searches as it has room for")
        if self.ray is not None and not has_ray():
            raise ValueError("ray is not installed: pip install 'snn_sparse[sweep]'")

    @property
    def on_ray(self) -> bool:
        """Whether Ray is asked for and there."""
        return self.ray is not None or ((self.count or 1) > 1 and has_ray())


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


class Stop:
    """Remembers the first SIGINT or SIGTERM in :attr:`number`; None until then."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Serve as a signal handler."""
        self.number = self.number or number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals inside, as before outside."""
        before = {number: signal.signal(number, self) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def share(total: int, workers: int) -> int:
    """An equal share of CPUs, at least one."""
    return max(1, total // workers)


def machine_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
