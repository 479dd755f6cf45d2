"""What the tests of the GPU benchmark share: a stand-in for the device, small arguments, a ticket."""

import argparse

import snn_sparse as ss
from benchmarks.gpu_measure import Gpu, Kernel
from benchmarks.gpu_providers import PROVIDERS


class StandIn(Gpu):
    """Bytes as told, and kernels by name instead of a profile."""

    def __init__(self, used=(0,), peaks=(0,)):
        super().__init__("cpu")
        self.used, self.peaks, self.calls = list(used), list(peaks), []

    def wait(self):
        self.calls.append("wait")

    def forget_peak(self):
        self.calls.append("forget")
        return self.used.pop(0) if len(self.used) > 1 else self.used[0]

    def peak(self):
        self.calls.append("peak")
        return self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0]

    def free(self):
        self.calls.append("free")

    def profile(self, run):
        run()
        return [Kernel("_forward_kernel", 3e-3), Kernel("Memcpy DtoD (Device -> Device)", 6e-3)]


def small_args(**changes):
    chosen = {"arch": ["vgg_small"], "batch_size": 4, "timestep": 2, "only": None, "ticket": [], "device": "cpu"}
    return argparse.Namespace(**{**chosen, "rounds": 2, "providers": list(PROVIDERS), **changes})


def ticket_file(folder, arch="vgg_small", percent=96.0, **config):
    model = ss.build_model(arch, timesteps=2, **config)
    mask = ss.magnitude_mask(model, percent)
    path = folder / f"{arch}-{percent}.safetensors"
    ss.Ticket(model.config, mask, model.state_dict(), model.state_dict()).save(path)
    return str(path), mask
