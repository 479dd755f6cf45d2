"""The kernels compile with no GPU, and the usual variants keep to registers."""

import subprocess
import sys

import pytest

pytest.importorskip("triton")


def test_quick_table():
    command = [sys.executable, "-m", "snn_sparse.kernels.compile", "--arch", "90", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    header, *rows, summary = done.stdout.splitlines()
    assert header.split() == [
        "kernel",
        "variant",
        "tile",
        "warps",
        "T",
        "dtype",
        "arch",
        "registers",
        "spills",
        "shared",
    ]
    assert "no bytes of stack" in summary
    assert {row.split()[0] for row in rows} == {
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
        "optimizer_step",
        "image_batch",
    }
    for row in rows:
        timesteps, _, architecture, registers, spills, _ = row.split()[-6:]
        assert 0 < int(registers) <= 255
        assert architecture == "sm_90"
        assert int(timesteps) > 8 or spills == "0"


def test_import_of_the_package_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import snn_sparse.kernels"
    subprocess.run([sys.executable, "-c", code], check=True)
