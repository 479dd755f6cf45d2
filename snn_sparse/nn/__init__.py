"""Modules that hold state (parameters, running statistics) and call :mod:`snn_sparse.ops`."""

from snn_sparse.nn.layers import BatchNorm2d, Conv2d, MaxPool2d
from snn_sparse.nn.neuron import IF, LIF, NEURONS, Neuron, ParametricLIF, make_neuron

__all__ = ["IF", "LIF", "NEURONS", "BatchNorm2d", "Conv2d", "MaxPool2d", "Neuron", "ParametricLIF", "make_neuron"]
