"""Rolled-up graphs, run as they say: what tests of rolling up compare with the loop that somebody wrote."""

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from snn_sparse.fusion.capture import capture, take_census
from snn_sparse.fusion.roll_up import roll_up
from snn_sparse.fusion.tidy import tidy


class Node(nn.Module):
    """A leaky neuron of one timestep a call, which keeps its potential."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        v = 0.5 * self.v + x
        spikes = (v >= 1.0).to(x)
        self.v = v * (1 - spikes)
        return spikes


class Cell(nn.Module):
    """The same, whose potential goes in and comes out."""

    def forward(self, x, v):
        v = 0.5 * v + x
        spikes = (v >= 1.0).to(x)
        return spikes, v * (1 - spikes)


KINDS = {nn.Conv2d: "conv", nn.Linear: "linear", nn.BatchNorm2d: "norm", Node: "neuron", Cell: "neuron"}


def kinds(model):
    """``kind_of`` for the modules of a network."""
    return lambda node: KINDS.get(type(model.get_submodule(node.target))) if node.op == "call_module" else None


def captured(model, *inputs):
    """A network's captured graph, tidied, and how its outputs nest."""
    census = take_census(model, model.forward, inputs)
    found = capture(model, model.forward, inputs, lambda m, _: type(m) in KINDS, census)
    tidy(found.graph)
    return found.graph, found.spec


def rolled(model, *inputs):
    """A network's rolled-up graph, and how its outputs nest."""
    graph, spec = captured(model, *inputs)
    return roll_up(graph, kinds(model)), spec


class Running(fx.Interpreter):
    """Runs a rolled-up graph: batch norms with statistics per step, neurons along time."""

    def run_node(self, n):
        if n.op != "call_module":
            return super().run_node(n)
        module, (args, _) = self.module.get_submodule(n.target), self.fetch_args_kwargs_from_env(n)
        if n.meta.get("statistics") == "per_step":
            steps, updates = n.meta["steps"], n.meta["updates"]
            found = torch.cat([module(part) for part in args[0].chunk(steps)])
            for _ in range(updates - steps):
                module(args[0])
            return found
        if n.meta.get("time_axis") is None:
            return module(*args)
        assert n.meta["time_axis"] == 0
        if isinstance(module, Node):
            return torch.stack([module(x) for x in args[0]])
        v, answers = args[1], []
        for x in args[0]:
            spikes, v = module(x, v)
            answers.append((spikes, v))
        return tuple(torch.stack(part) for part in zip(*answers, strict=True))


def run(model, graph, spec, *inputs):
    """What a rolled-up graph answers."""
    module = fx.GraphModule(model, graph)
    return tree_unflatten(Running(module).run(*inputs), spec)


def check(model, *inputs, calls=None):
    """A rolled-up loop computes what the loop does, state and running statistics included.

    Args:
        model: with a loop.
        *inputs: of it.
        calls: module's name -> how often the rolled-up graph calls it; those not named: once.
    """
    expected, twin = copy.deepcopy(model), copy.deepcopy(model)
    graph, spec = rolled(model, *inputs)
    graph.lint()
    for node in graph.nodes:  # what passes behind will read
        assert "value" in node.meta or node.op == "output", node
    found = Counter(node.target for node in graph.nodes if node.op == "call_module")
    assert found == Counter(dict.fromkeys(found, 1) | (calls or {}))
    for _ in range(2):
        actual = tree_flatten(run(twin, graph, spec, *inputs))[0]
        wanted = tree_flatten(expected(*inputs))[0]
        assert len(actual) == len(wanted)
        for a, w in zip(actual, wanted, strict=True):
            torch.testing.assert_close(a, w, rtol=1e-10, atol=1e-10)
        for (name, a), w in zip(twin.named_buffers(), expected.buffers(), strict=True):
            torch.testing.assert_close(a, w, rtol=1e-10, atol=1e-10, msg=name)
        for a, w in zip(twin.modules(), expected.modules(), strict=True):
            if isinstance(a, Node) and isinstance(w.v, torch.Tensor):
                torch.testing.assert_close(a.v, w.v)
    return graph
