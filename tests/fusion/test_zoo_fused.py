"""Every network of the zoo on fused layers, against itself as it was written."""

import copy
import inspect
import re
from pathlib import Path

import pytest
import torch
from fusion.compiling import assert_equivalent, built, drawn, neurons_fused, outputs, twins
from zoo import NETWORKS

import snn_sparse as ss

CAPTURED = {name: network for name, network in NETWORKS.items() if network.captured}
WILD = {name: network for name, network in NETWORKS.items() if not network.captured}
# Neurons that are lines in a loop, or that hand a tuple on, stay as they were written.
INLINE = ("inline", "inline_helper", "norse_like")
LINES = {
    "data_if": r"if x.mean\(\) > 0",
    "random_steps": "random numbers in Python",
    "side_effects": "the attribute (counter|last)",
    "early_exit": r"\.item\(\)",
}
FUSED = {}  # name -> how many of its neurons fuse


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fused_neurons(name):
    """How many neurons of a network fuse, counted once."""
    if name not in FUSED:
        model, inputs = built(NETWORKS[name])
        fused = ss.fuse(model, *inputs, verify=False)
        FUSED[name] = neurons_fused(fused)
    return FUSED[name]


@pytest.mark.parametrize("name", CAPTURED)
def test_same_results(name):
    network = NETWORKS[name]
    model, inputs = built(network)
    model, fused = twins(model, *inputs)
    exact = {} if network.float64 else {"outputs_to": 1e-4, "gradients_to": 1e-3}
    assert_equivalent(model, fused, lambda: drawn(network), network.reset, **exact)
    assert ss.explain(fused).stages
    assert "" not in ss.explain(fused).left
    FUSED[name] = neurons_fused(fused)


@pytest.mark.parametrize("name", [n for n in CAPTURED if n not in INLINE])
def test_its_neurons_fuse(name):
    assert fused_neurons(name) >= NETWORKS[name].fusible


def test_nine_neurons_in_ten_fuse():
    fusible = sum(network.fusible for network in CAPTURED.values())
    fused = sum(min(fused_neurons(name), network.fusible) for name, network in CAPTURED.items())
    assert fused >= 0.9 * fusible, (fused, fusible)


@pytest.mark.parametrize("name", WILD)
def test_what_cannot_be_captured_runs_unchanged(name):
    network = WILD[name]
    model, fused = twins(built(network)[0])
    inputs = drawn(network)
    for _ in range(2):
        network.reset(model), network.reset(fused)
        expected, actual = outputs(model, inputs), outputs(fused, inputs)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
        inputs = drawn(network)
    explained = ss.explain(fused)
    assert list(explained.left) == [""]
    assert not explained.fused
    assert re.search(LINES[name], explained.left[""])


@pytest.mark.parametrize("name", ["data_if", "early_exit"])
def test_the_reason_names_the_line(name):
    model, inputs = built(WILD[name])
    reason = ss.explain(ss.fuse(model, *inputs)).left[""]
    found = re.search(r"\((\S+):(\d+): (.*)\)$", reason)
    assert found, reason
    path, number, line = found.groups()
    assert Path(path).name == Path(inspect.getsourcefile(type(model))).name
    assert Path(path).read_text().splitlines()[int(number) - 1].strip() == line


def test_verification_lets_pass_what_agrees():
    """The whole way, as users call it, for one network of each library."""
    for name in ("loop_stack", "seq_to_ann", "self_mem", *(n for n in ("snn_hidden",) if n in NETWORKS)):
        network = NETWORKS[name]
        model, inputs = built(network)
        expected = outputs(copy.deepcopy(model), inputs)
        fused = ss.fuse(model, *inputs)
        assert neurons_fused(fused) == network.fusible
        torch.testing.assert_close(outputs(fused, inputs), expected)
