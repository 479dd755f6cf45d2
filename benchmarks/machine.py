"""Measurements of a training step on a CPU and on a GPU: time, peak memory, kernels by what they are for."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.kernel_classes import CLASSES, is_kernel, kernel_class
from benchmarks.memory import SETTLING_STEPS, peak_megabytes
from benchmarks.providers import Images, Provider, Step, make_step
from benchmarks.timing import Clock, EventClock, wall_clock

# TrainStep records its graph after three calls; what cuDNN tries out on the first call is no part of the peak.
WARMUP_STEPS = 3
PROFILED_STEPS = 3
Kernels = list[tuple[str, float]]  # names and seconds of what the GPU ran


@dataclass(frozen=True)
class Breakdown:
    """Kernels of one step: how many, and seconds by class, in the order of :data:`CLASSES`."""

    kernels: float
    seconds: dict[str, float]


class Cpu:
    """A processor."""

    clock: Clock = staticmethod(wall_clock)

    def build(self, provider: Provider, images: Images, with_peak: bool) -> tuple[Step, float]:
        """A step, and the megabytes that it needed in a process of its own; ``with_peak`` False: not measured, 0."""
        step = make_step(provider, images)
        for _ in range(SETTLING_STEPS):
            step()  # layers are tuned; what has won is on disk for the other process
        return step, peak_megabytes(provider, images) if with_peak else 0.0

    def kernels(self, step: Step) -> Breakdown | None:
        """They are a GPU's."""
        return None


class Gpu:
    """An NVIDIA GPU, the current one from now on; cuDNN times its algorithms on the first call, for all alike."""

    def __init__(self, device: str, clock: Clock | None = None) -> None:
        self.clock = clock or EventClock()
        torch.cuda.set_device(torch.device(device).index or 0)
        torch.backends.cudnn.benchmark = True

    def build(self, provider: Provider, images: Images, with_peak: bool) -> tuple[Step, float]:
        """A step, and the megabytes (weights, state, activations) that it needed beyond what was there before it."""
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        step = make_step(provider, images)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            for _ in range(WARMUP_STEPS):
                step()
            torch.cuda.synchronize()
        return step, (torch.cuda.max_memory_allocated() - before) / 2**20

    def kernels(self, step: Step) -> Breakdown | None:
        """The mean of a few steps.

        Raises:
            RuntimeError: the profiler saw nothing, as where it lacks the right to look.
        """
        found = self.profile(lambda: [step() for _ in range(PROFILED_STEPS)])
        if not found:
            raise RuntimeError("the profiler saw no kernels")
        return breakdown(found, PROFILED_STEPS)

    def profile(self, run: Callable[[], object]) -> Kernels:
        """The kernels of a run, those inside a replayed graph too."""
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            torch.cuda.synchronize()
        return kernels_of(found.events() or [])


def kernels_of(events: Iterable[Any]) -> Kernels:
    """List the kernels among a profile's events, without marks of the program's parts."""
    on_gpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation]
    return [(e.name, e.time_range.elapsed_us() / 1e6) for e in on_gpu]


def breakdown(kernels: Kernels, steps: int = 1) -> Breakdown:
    """Kernels of ``steps`` steps, added up for one; copies and memsets take time but are no kernels."""
    seconds = dict.fromkeys(CLASSES, 0.0)
    for name, time in kernels:
        seconds[kernel_class(name)] += time / steps
    return Breakdown(sum(is_kernel(name) for name, _ in kernels) / steps, seconds)
