"""Helpers that the tests of the benchmarks share: a stand-in for a GPU, small arguments, a ticket."""

import argparse

import torch

import snn_sparse as ss
from benchmarks.machine import Gpu
from benchmarks.projection import PUBLISHED_CASE
from benchmarks.rows import Row
from benchmarks.step_rows import HOURS

REFERENCE, MULTI_STEP = "SpikingJelly time loop fp32", "SpikingJelly multi-step Triton bf16"
COMPILED, FUSED_DENSE = f"{MULTI_STEP} compiled", "fused dense bf16"
CPU = "CPU, 2 threads"


class StandIn(Gpu):
    """Kernels by name instead of a profile, and a clock that is made up."""

    def __init__(self, kernels=(("_forward_kernel", 3e-3), ("Memcpy DtoD (Device -> Device)", 6e-3))):
        self.found, self.readings = list(kernels), iter(range(1, 10_000))

    def clock(self, run):
        run()
        return next(self.readings) / 1000

    def profile(self, run):
        run()
        return self.found


def pretend_gpu(monkeypatch, calls=None, used=(0,), peaks=(0,)):
    """The allocator answers as told and notes the calls; tensors stay on the CPU."""
    calls, used, peaks = [] if calls is None else calls, list(used), list(peaks)

    def answers(name, found):
        return lambda *_: calls.append(name) or (found.pop(0) if len(found) > 1 else found[0])

    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", answers("memory_allocated", used))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", answers("max_memory_allocated", peaks))


def small_args(**changes):
    chosen = {"arch": ["vgg_small"], "batch_size": 4, "timestep": 2, "only": None, "ticket": [], "device": "cuda"}
    return argparse.Namespace(**{**chosen, "rounds": 2, "providers": None, **changes})


def ticket_file(folder, arch="vgg_small", percent=96.0, **config):
    model = ss.build_model(arch, timesteps=2, **config)
    mask = ss.magnitude_mask(model, percent)
    path = folder / f"{arch}-{percent}.safetensors"
    ss.Ticket(model.config, mask, model.state_dict(), model.state_dict()).save(path)
    return str(path), mask


def row(provider, metric, median, device, case=f"{PUBLISHED_CASE} batch 128", reason=""):
    return Row(case, provider, metric, median, median, median, device, "versions", "commit", "2030-01-01", reason)


def two_devices():
    """Rows of a CPU and of a GPU."""
    values = {
        "seconds": (0.07, 0.0035),
        "images/s": (1828.6, 36571.4),
        "times faster": (1.0, 20.0),
        "times the floor": (34.4, 1.72),
        "peak MB": (9216.0, 1536.0),
        "of the reference's memory": (1.0, 1 / 6),
        "kernels": (5000.0, 80.0),
        "us neuron": (0.0, 1200.4),
        "us convolution (library)": (2000.0, 1900.0),
    }
    names = (REFERENCE, FUSED_DENSE)
    gpu = [row(n, m, v, "NVIDIA H100") for m, vs in values.items() for n, v in zip(names, vs, strict=True)]
    gpu.append(row(FUSED_DENSE, HOURS, 1.6, "NVIDIA H100"))
    gpu.append(row("fused bf16, ticket masks, level by level", HOURS, 1.2, "NVIDIA H100"))
    gpu.append(row("dense bf16 on H100", "floor us convolution", 1710.0, "NVIDIA H100"))
    cpu = [row(name, "times faster", value, CPU) for name, value in (("loop", 1.0), ("fused", 1.5))]
    return [*cpu, *(row(name, "seconds", 1.0, CPU) for name in ("loop", "fused"))], gpu
