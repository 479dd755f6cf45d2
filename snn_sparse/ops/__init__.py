"""Operators: what they are and what computes them, one room each; ``backend.py`` says what runs where."""

from snn_sparse.ops.backend import backend_report
from snn_sparse.ops.convolution import convolution
from snn_sparse.ops.loss import predict, temporal_cross_entropy
from snn_sparse.ops.neuron import (
    SURROGATES,
    ATan,
    Erf,
    FastSigmoid,
    Norm,
    PiecewiseQuadratic,
    Rectangle,
    Sigmoid,
    Surrogate,
    Triangle,
    as_surrogate,
    batch_norm_sequence,
    neuron_sequence,
    plain_neuron,
    plain_stage,
    surrogate_config,
)
from snn_sparse.ops.spikes import Packed, unpack_spikes

__all__ = [
    "SURROGATES",
    "ATan",
    "Erf",
    "FastSigmoid",
    "Norm",
    "Packed",
    "PiecewiseQuadratic",
    "Rectangle",
    "Sigmoid",
    "Surrogate",
    "Triangle",
    "as_surrogate",
    "backend_report",
    "batch_norm_sequence",
    "convolution",
    "neuron_sequence",
    "plain_neuron",
    "plain_stage",
    "predict",
    "surrogate_config",
    "temporal_cross_entropy",
    "unpack_spikes",
]
