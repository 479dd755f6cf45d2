"""Shared by the tests of the C++ operators: skipping without them, and running again with each instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snn_sparse.ops.backend import choose

ISAS = ("portable", "avx2", "avx512")
_found = choose("neuron", torch.device("cpu"), torch.float32)
# A file's ``pytestmark``; ``ops/test_backend.py`` fails where the operators should be there and are not.
needs_cpp = pytest.mark.skipif(_found.name != "cpp", reason=f"the C++ operators do not run: {_found.reason}")


def run_again(isa, *files):
    """Run test files in a process of their own, in which the choice of the instruction set is made anew."""
    if os.environ.get("SNN_SPARSE_ISA"):
        pytest.skip("already inside such a process")
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text().split() if processor.exists() else []
    if isa != "portable" and {"avx2": "avx2", "avx512": "avx512bw"}[isa] not in flags:
        pytest.skip(f"this processor has no {isa}")
    environment = {**os.environ, "SNN_SPARSE_ISA": isa, "EXAMPLES": "20"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not slow", *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-4000:]


def with_threads(numbers, run):
    """Results of ``run`` with each number of threads."""
    before, found = torch.get_num_threads(), []
    try:
        for n in numbers:
            torch.set_num_threads(n)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found
