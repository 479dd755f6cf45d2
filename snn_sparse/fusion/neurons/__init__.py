"""Spiking neurons in other people's modules: known by class (SpikingJelly, snnTorch, norse), or by what they do."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from snn_sparse import nn as ours
from snn_sparse.fusion.neurons import norse, probe, snntorch, spikingjelly
from snn_sparse.fusion.neurons.dynamics import Dynamics, Reading
from snn_sparse.fusion.neurons.surrogates import match_curve, read_surrogate
from snn_sparse.specs import NeuronSpec

__all__ = ["Dynamics", "is_stateful", "looks_like_neuron", "match_curve", "read_surrogate", "recognise"]


def recognise(
    module: nn.Module, shapes: Sequence[torch.Size], calls: int, named: Mapping[type, NeuronSpec]
) -> Dynamics | str:
    """Recognise a spiking neuron.

    Args:
        module: any module.
        shapes: of the tensors that it was called with, the first time in a forward pass.
        calls: how often one forward pass calls it.
        named: classes that the user says are neurons, with their specification, which is taken as it is.

    Returns:
        how it computes, or why it is no neuron of ours, in one line.
    """
    if isinstance(module, ours.Neuron):
        return _own(module, shapes)
    for kind in type(module).__mro__:
        if kind in named:
            return probe.place(module, shapes, calls, named[kind])
    answer: Dynamics | str | None = None
    if spikingjelly.is_node(module):
        answer = spikingjelly.recognise(module, shapes)
    elif snntorch.is_neuron(module):
        answer = snntorch.recognise(module, shapes)
    elif norse.is_cell(module):
        answer = norse.recognise(module, shapes)
    elif not probe.is_small(module):
        answer = "it is no neuron: a layer of PyTorch's, or one with layers inside"
    return probe.recognise(module, shapes, calls) if answer is None else answer


def looks_like_neuron(module: nn.Module) -> bool:
    """Whether a module is worth asking :func:`recognise` about; cheap."""
    return _known(module) or probe.is_small(module)


def is_stateful(module: nn.Module) -> bool:
    """Whether a module that looks like a neuron seems to keep something between calls; cheap."""
    if isinstance(module, ours.Neuron) or norse.is_cell(module):
        return False
    return spikingjelly.is_node(module) or snntorch.is_neuron(module) or probe.keeps_state(module)


def _known(module: nn.Module) -> bool:
    known = spikingjelly.is_node(module) or snntorch.is_neuron(module) or norse.is_cell(module)
    return known or isinstance(module, ours.Neuron)


def _own(module: ours.Neuron, shapes: Sequence[torch.Size]) -> Dynamics | str:
    kind = type(module)
    if kind.forward is not ours.Neuron.forward or kind.sequence is not ours.Neuron.sequence:
        return "it overrides forward or sequence"
    if len(shapes) != 1:
        return "it is called with a membrane potential"
    return Dynamics(_read_own, 0)


def _read_own(module: nn.Module) -> Reading:
    assert isinstance(module, ours.Neuron)
    return module.spec, module.rate()
