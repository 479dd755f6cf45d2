"""Plans: memory formats on the edges of the graph of stages, with the winners of races forced."""

import copy

import cpp_case
import pytest
import torch
from fusion.compiling import assert_equivalent
from fusion.planted import lif
from spikingjelly.activation_based import functional
from torch import nn
from zoo.network import lively

import snn_sparse as ss
from snn_sparse.fusion.plan import Convert, name_of
from snn_sparse.ops.convolution import LiveConfiguration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.tuning import Winner
from snn_sparse.tuning import cpu as tuning

pytestmark = cpp_case.needs_cpp


class Net(nn.Module):
    """A convolution, then two beside each other or behind each other, told apart by their channels."""

    def __init__(self, beside):
        super().__init__()
        self.conv1, self.sn1 = nn.Conv2d(2, 8, 3, padding=1), lif(2.0)
        self.conv2, self.sn2 = nn.Conv2d(8, 8 if beside else 16, 3, padding=1), lif(2.0)
        self.conv3, self.sn3 = nn.Conv2d(8 if beside else 16, 24, 3, padding=1), lif(2.0)
        self.beside = beside
        functional.set_step_mode(self, "m")

    def forward(self, x):
        outer = x.shape[:2]

        def step(conv, node, x):
            return node(conv(x.flatten(0, 1)).unflatten(0, outer))

        y = step(self.conv1, self.sn1, x)
        z = step(self.conv2, self.sn2, y)
        return step(self.conv3, self.sn3, y if self.beside else z).sum(0), z.mean(0)


@pytest.fixture
def winners(monkeypatch):
    """Output channels of a convolution -> its winner: ``nchw``, ``nhwc`` or the vectors of live lanes."""
    found = {}

    def choose(g, dtype, keep, rate):
        won = found[g.outputs]
        if isinstance(won, int):
            live = LiveConfiguration(won, 8, True, True)
            return Winner((1.0,), (2.0,), MemoryFormat("lanes", won), live, rate=rate)
        return Winner((1.0,), (1.0,), NHWC if won == "nhwc" else NCHW, rate=rate)

    monkeypatch.setattr(tuning, "choose", choose)
    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    return found


def conversions(beside):
    """What is converted in the graph that runs, once its results are right."""
    model = lively(Net(beside)).double()
    ours = ss.fuse(copy.deepcopy(model), verify=False)
    mask = ss.Mask({n: torch.rand(p.shape) < 0.5 for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    mask.apply_(ours)

    def draw():
        return (torch.randn(3, 9, 2, 5, 5, dtype=torch.float64),)

    assert_equivalent(model, ours, draw, functional.reset_net)
    graph = ours.__dict__["_fused_compiler"].last.module
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(module := graph.get_submodule(node.target), Convert):
            found.append((node.args[0].name, name_of(module.old), name_of(module.new)))
    return found


def test_nothing_where_all_agree(winners):
    winners |= {8: "nchw", 16: "nchw", 24: "nchw"}
    assert conversions(False) == []


def test_once_at_the_edge(winners):
    winners |= {8: "nhwc", 16: "nhwc", 24: "nhwc"}
    assert conversions(False) == [("x", "nchw", "nhwc")]
    winners |= {8: 2, 16: 2, 24: 2}
    first, *rest = conversions(False)
    assert first[1:] == ("nchw", "lanes 2")
    assert [c[1:] for c in rest] == [("lanes 2", "nchw")]  # for z.mean, which reads it beside a convolution


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_neurons_write_what_the_next_layer_reads(winners, lanes):
    winners |= {8: "nchw", 16: lanes, 24: "nhwc"}
    assert [c for c in conversions(False) if "conv1" in c[0]] == []


def test_of_two_readers_one_converts(winners):
    for others in ("nchw", "nhwc", 2):
        winners |= {8: 1, 24: others}
        found = [c[1:] for c in conversions(True) if c[0].startswith("conv1")]
        assert len(found) == 1, found
        assert set(found[0]) == {"lanes 1", f"lanes {others}" if others == 2 else others}
    winners[24] = 1
    assert [c for c in conversions(True) if c[0].startswith("conv1")] == []


def test_lanes_are_between_stages_only(winners):
    """What leaves the last stage, and what functions of torch read, are ordinary maps."""
    winners |= {8: 1, 24: 3}
    model = lively(Net(True))
    ours = ss.fuse(model, torch.randn(3, 9, 2, 5, 5), verify=False)
    ss.Mask({n: torch.rand(p.shape) < 0.5 for n, p in ss.tickets.prunable(model).items()}).apply_(ours)
    ours(torch.randn(3, 9, 2, 5, 5))
    module = ours.__dict__["_fused_compiler"].last.module
    lanes = set()
    for node in module.graph.nodes:
        part = module.get_submodule(node.target) if node.op == "call_module" else None
        plan = getattr(part, "plan", None)
        if (plan is not None and plan.out.kind == "lanes") or (isinstance(part, Convert) and part.new.kind == "lanes"):
            lanes.add(node)
    assert lanes
    for node in lanes:
        assert node.users
        assert all(user.op == "call_module" for user in node.users), node


def test_names():
    assert name_of(NCHW) == "nchw"
    assert name_of(MemoryFormat("lanes", 3)) == "lanes 3"
