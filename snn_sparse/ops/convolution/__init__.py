"""Convolution of a sequence under a mask: one operator, computed densely, at live weights, or of packed spikes."""

from snn_sparse.ops.convolution import check  # registers itself
from snn_sparse.ops.convolution.channel_groups import Grouper, tiled
from snn_sparse.ops.convolution.configuration import (
    Directions,
    LayerConfiguration,
    LiveConfiguration,
    SpikeConfiguration,
    TileConfiguration,
)
from snn_sparse.ops.convolution.cpu import live_configuration, takes_spikes, takes_winograd
from snn_sparse.ops.convolution.directions import run_direction
from snn_sparse.ops.convolution.fused_neuron import convolution_neuron
from snn_sparse.ops.convolution.op import convolution

__all__ = [
    "Directions",
    "Grouper",
    "LayerConfiguration",
    "LiveConfiguration",
    "SpikeConfiguration",
    "TileConfiguration",
    "check",
    "convolution",
    "convolution_neuron",
    "live_configuration",
    "run_direction",
    "takes_spikes",
    "takes_winograd",
    "tiled",
]
