"""The kernels compile with no GPU. What registers and stack they need is for the command's table, not for a test."""

import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.timeout(900)  # where the compiler's cache is empty
def test_quick_table():
    command = [sys.executable, "-m", "benchmarks.compile_kernels", "--arch", "90", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    # Only after the last kernel; the exit status also tells of stack.
    assert lines, done.stderr[-3000:]
    assert lines[-1].startswith(f"{len(lines) - 2} kernels compiled"), (done.stdout + done.stderr)[-3000:]
    assert {row.split()[0] for row in lines[1:-1]} == {
        "forward",
        "backward",
        "finish_sums",
        "partial_statistics",
        "merge_statistics",
        "unpack",
        "conv",
        "weight_gradient",
        "scatter",
        "conv_neuron",
        "pack_weight",
    }


def test_import_of_the_package_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import snn_sparse.ops"
    subprocess.run([sys.executable, "-c", code], check=True)
