"""Loading the compiled operators: what a missing or damaged library leaves, each in a process of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from snn_sparse.ops.library import cpu_library

# fuse() must give a network that computes the plain results, forward and backward.
SCRIPT = """
import warnings
import torch
from snn_sparse import nn as snn
from snn_sparse import ops
from snn_sparse.fusion import fuse
from snn_sparse.ops.library import cpu_library, usable

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not cpu_library()
    assert not cpu_library()
    model = torch.nn.Sequential(snn.Conv2d(3, 5, 3, padding=1), snn.BatchNorm2d(5), snn.LIF(), snn.MaxPool2d(2))
    fused = fuse(model)
    x = torch.randn(2, 4, 3, 6, 6)
    results = []
    for network in (model, fused):
        network.zero_grad()
        y = network(x)
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        results.append((y.detach(), *[p.grad.clone() for p in network.parameters()]))
    assert not usable(x)
assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
messages = [str(w.message) for w in caught]
assert len(messages) == 1, messages
print(messages[0])
"""


def warning_with(library: str) -> str:
    environment = {**os.environ, "SNN_SPARSE_LIBRARY": library}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_the_operators_are_there_where_a_compiler_is():
    """The other tests of the operators skip themselves without them: a build that failed must not go unnoticed."""
    assert cpu_library()


def test_a_missing_library_warns_once(tmp_path):
    path = tmp_path / "missing.so"
    message = warning_with(str(path))
    assert "plain PyTorch is used" in message
    assert str(path) in message


def test_a_damaged_library_warns_once(tmp_path):
    path = tmp_path / "damaged.so"
    path.write_bytes(b"\x7fELF, but not really")
    assert "plain PyTorch is used" in warning_with(str(path))


def test_another_library_warns_once():
    found = list(Path(sysconfig.get_path("platlib")).glob("safetensors/*.so"))
    if not found:
        pytest.skip("no other library at hand")
    assert "holds other operators" in warning_with(str(found[0]))
