"""What one training step needs on a GPU: peak memory, and its kernels by what they are for."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.kernel_classes import CLASSES, is_kernel, kernel_class

Step = Callable[[], object]
# TrainStep records its graph after three calls; what cuDNN tries out on the first call is no part of the peak.
WARMUP_STEPS = 3


@dataclass(frozen=True)
class Kernel:
    """One kernel, copy or memset that the GPU ran."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Breakdown:
    """Kernels of one step: how many, and seconds by class, in the order of :data:`CLASSES`."""

    kernels: float
    seconds: dict[str, float]


class Gpu:
    """The allocator and the profiler of one device; tests put something else in its place."""

    def __init__(self, device: str) -> None:
        self.device = device

    def wait(self) -> None:
        """For everything that the GPU has been given."""
        torch.cuda.synchronize(self.device)

    def forget_peak(self) -> int:
        """Start the peak anew; bytes that are in use now."""
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Most bytes in use since :meth:`forget_peak`."""
        return torch.cuda.max_memory_allocated(self.device)

    def free(self) -> None:
        """Give back what no tensor uses."""
        gc.collect()
        torch.cuda.empty_cache()

    def profile(self, run: Step) -> list[Kernel]:
        """The kernels of a run, those inside a replayed graph too."""
        from torch.profiler import ProfilerActivity, profile

        self.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            self.wait()
        return kernels_of(found.events() or [])


def kernels_of(events: Iterable[Any]) -> list[Kernel]:
    """What ran on the GPU among a profile's events; marks of the program's parts are none of it."""
    return [
        Kernel(e.name, e.time_range.elapsed_us() / 1e6)
        for e in events
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
    ]


def breakdown(kernels: Iterable[Kernel], steps: int = 1) -> Breakdown:
    """Kernels of ``steps`` steps, added up for one; copies and memsets take time but are no kernels."""
    seconds = dict.fromkeys(CLASSES, 0.0)
    count = 0
    for kernel in kernels:
        seconds[kernel_class(kernel.name)] += kernel.seconds / steps
        count += is_kernel(kernel.name)
    return Breakdown(count / steps, seconds)


def build_alone(make: Callable[[], Step], gpu: Gpu) -> tuple[Step, float]:
    """Make a step and let it run while no other does.

    Returns:
        the step, and the most bytes that it needed (weights, state and activations) beyond what was there before it.
    """
    gpu.free()
    before = gpu.forget_peak()
    step = make()
    for _ in range(WARMUP_STEPS):
        step()
    gpu.wait()
    gpu.forget_peak()
    for _ in range(WARMUP_STEPS):
        step()
    gpu.wait()
    return step, gpu.peak() - before


def profile_step(step: Step, gpu: Gpu, steps: int = 3) -> Breakdown:
    """The mean breakdown of a few steps.

    Raises:
        RuntimeError: the profiler saw nothing, as where it lacks the right to look.
    """

    def run() -> None:
        for _ in range(steps):
            step()

    kernels = gpu.profile(run)
    if not kernels:
        raise RuntimeError("the profiler saw no kernels")
    return breakdown(kernels, steps)
