"""Modules that hold state (parameters, running statistics, masks) and call :mod:`snn_sparse.ops`."""

from snn_sparse.nn.layers import AvgPool2d, BatchNorm2d, Conv1d, Conv2d, MaxPool2d
from snn_sparse.nn.masked_layers import MaskedConv2d, MaskedLinear
from snn_sparse.nn.neuron import IF, LIF, NEURONS, Leaky, Neuron, ParametricLIF, make_neuron
from snn_sparse.nn.stage import Stage
from snn_sparse.nn.sync_norm import SyncBatchNorm2d, synchronise_batch_norms

__all__ = [
    "IF",
    "LIF",
    "NEURONS",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Leaky",
    "MaskedConv2d",
    "MaskedLinear",
    "MaxPool2d",
    "Neuron",
    "ParametricLIF",
    "Stage",
    "SyncBatchNorm2d",
    "make_neuron",
    "synchronise_batch_norms",
]
