"""What runs where, and why not something faster: every answer on a CPU, and its reason."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from snn_sparse.ops.backend import Choice, backend_report, choose, implementation, runs

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

CPU = torch.device("cpu")
OPERATORS = ("neuron", "convolution", "live")


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_the_operators_are_there_where_a_compiler_is():
    """The other tests of the operators skip themselves without them: a build that failed must not go unnoticed."""
    assert choose("neuron", CPU, torch.float32) == Choice("cpp")


@cpp_case.needs_cpp
@pytest.mark.parametrize("operator", OPERATORS)
def test_each_dtype_on_a_cpu(operator):
    for dtype in (torch.float32, torch.float64):
        assert choose(operator, CPU, dtype) == Choice("cpp")
        assert runs(operator, torch.zeros(1, dtype=dtype))
    for dtype in (torch.float16, torch.bfloat16, torch.int32):
        reason = f"the C++ operators compute in float32 and float64, not in {dtype}"
        assert choose(operator, CPU, dtype) == Choice("plain", reason)
        assert not runs(operator, torch.zeros(1, dtype=dtype))


@cpp_case.needs_cpp
def test_autocast_means_plain():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert choose("neuron", CPU, torch.float32) == Choice("plain", "autocast is on")
    with torch.autocast("cpu", enabled=False):
        assert choose("neuron", CPU, torch.float32) == Choice("cpp")


@cpp_case.needs_cpp
def test_a_compiled_graph_means_plain():
    found = []

    @torch.compile(backend="eager", fullgraph=True)
    def run(x):
        found.append(implementation("neuron", x))
        return x + 1

    run(torch.zeros(2))
    assert found[0] == "plain"
    assert implementation("neuron", torch.zeros(2)) == "cpp"


def test_other_devices_have_no_kernels():
    assert choose("neuron", torch.device("meta"), torch.float32) == Choice("plain", "there are no kernels for meta")
    assert implementation("neuron", torch.zeros(1, device="meta")) == "plain"


@cpp_case.needs_cpp
def test_tensors_must_agree():
    single, double, half = (torch.zeros(1, dtype=d) for d in (torch.float32, torch.float64, torch.float16))
    assert implementation("neuron", single, None, single) == "cpp"
    for others in ((double,), (half,), (half, double), (torch.zeros(1, device="meta"),)):
        assert implementation("neuron", single, *others) == "plain"
        assert implementation("neuron", *others, single) == "plain"
        assert not runs("neuron", None, single, *others)


def test_the_report_names_every_operator_device_and_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = backend_report()
    dtypes = ("float32", "float64", "bfloat16")
    assert [row[:3] for row in rows] == [(operator, "cpu", dtype) for operator in OPERATORS for dtype in dtypes]
    for operator, device, dtype, name, reason in rows:
        assert Choice(name, reason) == choose(operator, torch.device(device), getattr(torch, dtype))
        assert (name == "plain") == bool(reason)


# fuse() must give a network that computes the plain results, forward and backward.
SCRIPT = """
import warnings
import torch
from snn_sparse import nn as snn
from snn_sparse.fusion import fuse
from snn_sparse.ops.backend import choose, need_library, runs

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = [choose(operator, torch.device("cpu"), torch.float32) for operator in ("neuron", "convolution", "neuron")]
    assert {f.name for f in found} == {"plain"}
    model = torch.nn.Sequential(snn.Conv2d(3, 5, 3, padding=1), snn.BatchNorm2d(5), snn.LIF(), snn.MaxPool2d(2))
    fused = fuse(model)
    x = torch.randn(2, 4, 3, 6, 6)
    results = []
    for network in (model, fused):
        network.zero_grad()
        y = network(x)
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        results.append((y.detach(), *[p.grad.clone() for p in network.parameters()]))
    assert not runs("neuron", x)
    try:
        need_library()
    except RuntimeError as error:
        assert str(error) == found[0].reason
    else:
        raise AssertionError
assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
messages = [str(w.message) for w in caught]
assert len(messages) == 1, messages
print(messages[0])
print(found[0].reason)
"""


def without(library, before=""):
    """The one warning of a process that cannot use the operators, and the reason that ``choose`` gives there."""
    environment = {**os.environ, "SNN_SPARSE_LIBRARY": library}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", before + SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, reason = done.stdout.strip().split("\n", 1)
    return message, reason


def test_a_missing_library_warns_once(tmp_path):
    path = tmp_path / "missing.so"
    message, reason = without(str(path))
    assert "plain PyTorch is used" in message
    assert str(path) in message
    assert reason.startswith("the C++ operators do not load: ")
    assert str(path) in reason


def test_a_damaged_library_warns_once(tmp_path):
    path = tmp_path / "damaged.so"
    path.write_bytes(b"\x7fELF, but not really")
    assert "plain PyTorch is used" in without(str(path))[0]


def test_another_library_warns_once():
    found = list(Path(sysconfig.get_path("platlib")).glob("safetensors/*.so"))
    if not found:
        pytest.skip("no other library at hand")
    message, reason = without(str(found[0]))
    assert "holds other operators" in message
    assert "holds other operators" in reason


def test_a_package_without_operators_warns_once():
    before = "import importlib.util as u; f = u.find_spec\n"
    before += "u.find_spec = lambda n, *a: None if n == 'snn_sparse._C' else f(n, *a)\n"
    message, reason = without("", before)
    assert "installed without its C++ operators" in message
    assert message.startswith(reason)
