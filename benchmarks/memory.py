"""Peak memory of a training step on a CPU, each provider in a process of its own.

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

from benchmarks.providers import Images, Provider, choose_providers, make_step, prepare
from benchmarks.refusals import no_fallback

# What is freed goes back to the system at once: otherwise the peak is that of the heap's fragmentation.
SETTLING_STEPS = 3  # the first looks how much spikes, the second races layers anew where that is not what was expected
_ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}


def peak_megabytes(provider: Provider, images: Images) -> float:
    """Megabytes of a provider's step; layers are computed as a step in this process has left it on disk.

    Raises:
        RuntimeError: it does not run; the message says why.
    """
    model, x, _ = images
    command = [sys.executable, "-m", "benchmarks.memory", provider.name, "--arch", model.config["arch"]]
    command += ["--batch_size", str(len(x)), "--timestep", str(model.timesteps)]
    here = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, env=_ENVIRONMENT)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return float(done.stdout)


def _megabytes(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process alone; ru_maxrss would start from the parent's peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"benchmarks: error: /proc/self/status shows no {field}")


def main() -> None:
    """Print the peak of one provider."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--timestep", type=int, default=5)
    args = parser.parse_args()
    provider = choose_providers([args.provider], "cpu")[-1]
    with no_fallback():
        make_step(provider, prepare("vgg_small", 1, 2, "cpu"))()  # imports and loads all libraries
        before = _megabytes("VmRSS")
        step = make_step(provider, prepare(args.arch, args.timestep, args.batch_size, "cpu"))
        for _ in range(SETTLING_STEPS):
            step()  # looks up how layers compute
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what tuning has left in the heap
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: drawing a mask is not training
    step()
    print(_megabytes("VmHWM") - before)


if __name__ == "__main__":
    main()
