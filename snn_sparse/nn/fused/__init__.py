"""Layers that run whole stages (batch norm, neuron, pooling) as one operator and convolve at live weights only."""

from snn_sparse.nn.fused.layers import FusedBatchNorm2d, FusedConv2d, FusedLinear, FusedMaxPool2d
from snn_sparse.nn.fused.masked import Masked
from snn_sparse.nn.fused.neuron import FusedIF, FusedLIF, FusedNeuron, FusedParametricLIF

__all__ = [
    "FusedBatchNorm2d",
    "FusedConv2d",
    "FusedIF",
    "FusedLIF",
    "FusedLinear",
    "FusedMaxPool2d",
    "FusedNeuron",
    "FusedParametricLIF",
    "Masked",
]
