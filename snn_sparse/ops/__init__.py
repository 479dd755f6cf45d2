"""What an operator is: plain-PyTorch definitions, shape rules and errors. Imports kernels, nothing above."""

from snn_sparse.ops.batch_norm import BatchNormStatistics, batch_norm_sequence, check_statistics
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.loss import predict, temporal_cross_entropy
from snn_sparse.ops.neuron import Firing, integrate_and_fire, lif, parametric_lif
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.packed_conv import packed_conv2d
from snn_sparse.ops.spike_bits import Packed, unpack_spikes
from snn_sparse.ops.surrogate import (
    SURROGATES,
    ATan,
    PiecewiseQuadratic,
    Sigmoid,
    Surrogate,
    Triangle,
    as_surrogate,
    surrogate_config,
)

__all__ = [
    "SURROGATES",
    "ATan",
    "BatchNormStatistics",
    "Firing",
    "NeuronSpec",
    "Norm",
    "Packed",
    "PiecewiseQuadratic",
    "Sigmoid",
    "Surrogate",
    "Triangle",
    "as_surrogate",
    "batch_norm_sequence",
    "check_statistics",
    "integrate_and_fire",
    "lif",
    "neuron_sequence",
    "packed_conv2d",
    "parametric_lif",
    "predict",
    "surrogate_config",
    "temporal_cross_entropy",
    "unpack_spikes",
]
