"""The first-use check on a GPU, on a machine that need not have one: what it means, and what is remembered."""

import json
import os
import warnings

import pytest
import torch

from snn_sparse.ops import backend
from snn_sparse.ops.backend import Choice, backend_report, choose, find_problem, find_problem_apart

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """An NVIDIA GPU, as far as the first-use check looks; the path of what it remembers."""
    pytest.importorskip("triton")
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(backend, "_passed", {})
    return tmp_path / "measured.json"


def checked(monkeypatch, result):
    """Put a check in the place of each operator's; returns the list of its calls."""
    calls = []

    def find(operator, device):
        calls.append((operator, device))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(backend, "find_problem_apart", find)
    return calls


def test_a_passed_check_is_remembered(card, monkeypatch):
    calls = checked(monkeypatch, None)
    for operator in ("neuron", "convolution", "neuron", "neuron"):
        assert choose(operator, CUDA, torch.float32) == Choice("triton")
        assert choose(operator, CUDA, torch.bfloat16) == Choice("triton")
    assert calls == [("neuron", CUDA), ("convolution", CUDA)]
    backend._passed.clear()  # as in another process
    assert choose("neuron", CUDA, torch.float32) == Choice("triton")
    assert len(calls) == 2
    remembered = json.loads(card.read_text())
    assert set(remembered.values()) == {"ok"}
    assert all("a card sm_90" in key and torch.__version__ in key for key in remembered)
    assert choose("neuron", torch.device("cuda", 1), torch.float32) == Choice("triton")  # of the same kind
    assert len(calls) == 2


def test_another_kind_of_card_is_checked_by_itself(card, monkeypatch):
    calls = checked(monkeypatch, None)
    choose("neuron", CUDA, torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "another card")
    choose("neuron", torch.device("cuda", 1), torch.float32)
    assert [device.index for _, device in calls] == [0, 1]


def test_a_failed_check_warns_once_and_means_plain(card, monkeypatch):
    calls = checked(monkeypatch, "spikes differ")
    with pytest.warns(UserWarning, match=r"spikes differ.*report.*measured\.json"):
        assert choose("neuron", CUDA, torch.float32) == Choice("plain", "spikes differ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("neuron", CUDA, torch.float16) == Choice("plain", "spikes differ")
    assert len(calls) == 1
    backend._passed.clear()  # as in another process, which must warn too
    with pytest.warns(UserWarning, match="spikes differ"):
        assert choose("neuron", CUDA, torch.float32) == Choice("plain", "spikes differ")
    assert len(calls) == 1
    checked(monkeypatch, None)
    assert choose("convolution", CUDA, torch.float32) == Choice("triton")  # the others are not affected


@pytest.mark.parametrize("content", ["not json", "[]", "KEY: 3", "KEY: null", "KEY: [1]", "KEY: {}"])
def test_a_damaged_record_is_checked_again(card, monkeypatch, content):
    calls = checked(monkeypatch, None)
    choose("neuron", CUDA, torch.float32)
    (key,) = json.loads(card.read_text())
    backend._passed.clear()
    card.write_text(content.replace("KEY", "{" + json.dumps(key)) + "}" * ("KEY" in content))
    assert choose("neuron", CUDA, torch.float32) == Choice("triton")
    assert len(calls) == 2


def test_a_check_that_raises_is_not_remembered_on_disk(card, monkeypatch):
    checked(monkeypatch, torch.OutOfMemoryError("no memory\nnow"))
    with pytest.warns(UserWarning, match="the check failed: OutOfMemoryError: no memory"):
        found = choose("neuron", CUDA, torch.float32)
    assert found == Choice("plain", "the check failed: OutOfMemoryError: no memory")
    assert not card.exists()
    backend._passed.clear()  # as in another process
    checked(monkeypatch, None)
    assert choose("neuron", CUDA, torch.float32) == Choice("triton")


def test_nothing_is_checked_while_a_graph_is_captured(card, monkeypatch):
    calls = checked(monkeypatch, None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    found = choose("neuron", CUDA, torch.float32)
    assert found == Choice("plain", "a CUDA graph is captured, in which nothing can be checked")
    assert not calls
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert choose("neuron", CUDA, torch.float32) == Choice("triton")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose("neuron", CUDA, torch.float32) == Choice("triton")  # known by then


def test_what_has_no_kernels_on_a_gpu(card, monkeypatch):
    calls = checked(monkeypatch, None)
    for dtype in (torch.float64, torch.int32):
        assert choose("neuron", CUDA, dtype) == Choice("plain", f"the Triton kernels do not compute in {dtype}")
    assert choose("live", CUDA, torch.float32) == Choice("plain", "torch's own kernels serve")
    assert not calls


def test_without_triton(card, monkeypatch):
    calls, find_spec = checked(monkeypatch, None), backend.importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda n, *a: None if n == "triton" else find_spec(n, *a))
    assert choose("neuron", CUDA, torch.float32) == Choice("plain", "Triton is not installed")
    backend.triton_version.cache_clear()
    assert backend.triton_version() is None
    backend.triton_version.cache_clear()
    assert not calls


def test_a_check_runs_in_ordinary_modes(monkeypatch):
    """Whoever happens to use an operator first, the check needs gradients, and full precision."""
    seen = []

    def check(device):
        seen.append(
            (device, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        )
        return "wrong"

    monkeypatch.setitem(backend._checks, "made up", check)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert find_problem("made up", CPU) == "wrong"
    assert seen == [(CPU, True, False, False)]


@pytest.fixture
def room(monkeypatch, tmp_path):
    """A module whose operator has a check, as a process of its own imports it; writes its body."""
    monkeypatch.syspath_prepend(str(tmp_path))
    start = "from snn_sparse.ops import backend\n"

    def write(body):
        (tmp_path / "sitecustomize.py").write_text(f"{start}@lambda f: backend.register_check('mine', f)\n{body}\n")

    return write


def test_a_check_runs_in_a_process_of_its_own(room):
    room("def check(device):\n    import os\n    return f'{device.type} {os.getpid()}'")
    found = find_problem_apart("mine", CPU)
    assert found.startswith("cpu ")
    assert found != f"cpu {os.getpid()}"
    room("def check(device):\n    print('something else')")
    assert find_problem_apart("mine", CPU) is None


def test_a_check_that_kills_its_process_does_not_kill_this_one(card, room, monkeypatch):
    room("def check(device):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(RuntimeError, match="without an answer: exit status -11"):
        find_problem_apart("mine", CPU)
    room("def check(device):\n    raise ValueError('an illegal memory access')")
    with pytest.raises(RuntimeError, match="without an answer: ValueError: an illegal memory access"):
        find_problem_apart("mine", CPU)
    original = find_problem_apart
    monkeypatch.setattr(backend, "find_problem_apart", lambda operator, device: original("mine", CPU))
    with pytest.warns(UserWarning, match="illegal memory access"):
        assert choose("neuron", CUDA, torch.float32).name == "plain"
    assert not card.exists()


def test_where_no_process_can_be_started_the_check_runs_here(monkeypatch):
    monkeypatch.setattr(backend.sys, "executable", "/no/such/python")
    monkeypatch.setitem(backend._checks, "made up", lambda device: f"here {device}")
    assert find_problem_apart("made up", CPU) == "here cpu"


def test_each_room_registers_its_check():
    assert {"neuron", "convolution"} <= set(backend._checks)


def test_the_report_has_every_gpu(card, monkeypatch):
    checked(monkeypatch, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    rows = backend_report()
    assert {row[1] for row in rows} == {"cpu", "cuda:0", "cuda:1"}
    assert ("neuron", "cuda:1", "bfloat16", "triton", "") in rows
    assert ("live", "cuda:0", "float32", "plain", "torch's own kernels serve") in rows
