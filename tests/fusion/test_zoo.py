"""The zoo itself: each network runs, learns, fires, and is what its table says, before any compiler sees it."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.utils._pytree import tree_leaves
from zoo import NETWORKS, surrogates
from zoo.multistep import MultiStepLIFNode
from zoo.network import nothing

SPIKE_FUNCTIONS = (surrogates.Rectangle, surrogates.Triangle, surrogates.FastSigmoid)
NODES = (neuron.BaseNode, neuron.SimpleBaseNode, MultiStepLIFNode)
if any(name.startswith("snn_") for name in NETWORKS):
    from snntorch._neurons import SpikingNeuron

    NODES += (SpikingNeuron,)

every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def built(network, dtype=torch.float32):
    return network.build().to(dtype), tuple(x.to(dtype) for x in network.inputs())


def tensors(outputs):
    return tree_leaves(outputs)


class Firing:
    """Counts the spikes and elements of each neuron layer, whether a library's node, a module or lines in a loop."""

    def __init__(self, model, monkeypatch):
        self.spikes, self.elements = Counter(), Counter()
        for name, module in model.named_modules():
            if isinstance(module, NODES):
                module.register_forward_hook(lambda _m, _x, y, name=name: self.add(name, y))
        for function in SPIKE_FUNCTIONS:
            monkeypatch.setattr(function, "forward", staticmethod(self.watched(function.forward)))

    def watched(self, forward):
        def watching(*args):
            y = forward(*args)
            place = self.place()
            if place is not None:
                self.add(place, y)
            return y

        return watching

    def place(self):
        """The line that made these spikes and the module it ran in; None in a node that is hooked already."""
        frame, line = sys._getframe(), None
        while not isinstance(module := frame.f_locals.get("self"), nn.Module):
            if Path(frame.f_code.co_filename).parent == Path(surrogates.__file__).parent:
                line = frame.f_lineno
            frame = frame.f_back
        return None if isinstance(module, NODES) else (id(module), frame.f_lineno, line)

    def add(self, place, y):
        spikes = y[0] if isinstance(y, tuple) else y
        assert bool(((spikes == 0) | (spikes == 1)).all()), place
        self.spikes[place] += int(spikes.sum())
        self.elements[place] += spikes.numel()


def test_styles_are_many_and_named():
    assert len(NETWORKS) >= 26
    assert all(name == network.name for name, network in NETWORKS.items())
    assert len({network.style for network in NETWORKS.values()}) == len(NETWORKS)
    for network in NETWORKS.values():
        assert 0 <= network.fusible <= network.neurons
        assert network.captured or network.fusible == 0


@every_network
def test_runs_and_learns(network, dtype):
    if dtype == torch.float64 and not network.float64:
        model, inputs = built(network, dtype)
        with pytest.raises(RuntimeError, match="dtype"):
            model(*inputs)
        return
    model, inputs = built(network, dtype)
    assert len(inputs[0]) == 3 or inputs[0].shape[1] == 3  # images of a batch
    outputs = tensors(model(*inputs))
    for y in outputs:
        assert y.dtype == dtype
        assert bool(y.isfinite().all())
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
        assert p.grad.dtype == dtype
    moved = {name: bool(p.grad.any()) for name, p in model.named_parameters()}
    assert all(moved.values()), moved


@every_network
def test_has_the_neurons_it_states_and_they_fire(network, monkeypatch):
    model, inputs = built(network)
    firing = Firing(model, monkeypatch)
    for _ in range(3):
        network.reset(model)
        model(*inputs)
        inputs = network.inputs()
    assert len(firing.elements) == network.neurons
    for place, spikes in firing.spikes.items():
        assert 0 < spikes < firing.elements[place], place


@every_network
def test_reset_forgets_and_nothing_else_does(network):
    model, inputs = built(network)
    model(*inputs)  # running statistics
    model.eval()

    def run(reset):
        if reset:
            network.reset(model)
        random.seed(0)
        return torch.cat([y.detach().flatten() for _ in range(2) for y in tensors(model(*inputs))])

    matters = False
    for _ in range(4):
        inputs = network.inputs()
        expected = run(True)
        assert torch.equal(run(True), expected)
        matters |= not torch.equal(run(False), expected)
    assert matters == (network.reset is not nothing)
