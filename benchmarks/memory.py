"""Peak memory of a training step, each provider in a process of its own.

``python -m benchmarks.memory PROVIDER --arch vgg16`` prints the megabytes that weights, gradients, optimizer state and
activations add to a process that has only imported everything.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import Timing
from snn_sparse.ops.library import cpu_library

RUNS = 1
# What is freed goes back to the system at once: otherwise the peak is that of the heap's fragmentation.
_ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}


def measure_peaks(providers: list[str], arch: str, batch_size: int, timestep: int) -> dict[str, Timing]:
    """Megabytes of each provider, one process each; plans are those that the timing has left on disk."""
    found = {}
    for provider in providers:
        command = [sys.executable, "-m", "benchmarks.memory", provider, "--arch", arch]
        command += ["--batch_size", str(batch_size), "--timestep", str(timestep)]
        here = Path(__file__).resolve().parents[1]
        peaks = [
            float(
                subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, env=_ENVIRONMENT).stdout
            )
            for _ in range(RUNS)
        ]
        found[provider] = Timing(peaks)
    return found


def _megabytes(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process alone; ru_maxrss would start from the parent's peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"benchmarks: error: /proc/self/status shows no {field}")


def main() -> None:
    """Print the peak of one provider."""
    from benchmarks.train_step import make_step, prepare

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--timestep", type=int, default=5)
    args = parser.parse_args()
    args.device = "cpu"
    small = argparse.Namespace(batch_size=2, timestep=1, device="cpu")
    make_step(args.provider, *prepare(small, "vgg_small"))()  # imports and loads all libraries
    cpu_library()
    before = _megabytes("VmRSS")
    step = make_step(args.provider, *prepare(args, args.arch))
    step()  # looks up the plans
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what timing the plans has left in the heap
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: drawing a mask is not training
    step()
    print(_megabytes("VmHWM") - before)


if __name__ == "__main__":
    main()
