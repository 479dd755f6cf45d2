"""Batch norm, residual, spiking neuron and spike max-pool over all timesteps, as one operator.

``reference.py`` says what it is, ``op.py`` is the operator; C++ (``csrc/neuron``) and Triton (``triton_*.py``)
compute it.
"""

from snn_sparse.ops.neuron import check  # registers itself
from snn_sparse.ops.neuron.batch_norm import Norm, batch_norm_sequence, plain_statistics
from snn_sparse.ops.neuron.op import neuron_sequence
from snn_sparse.ops.neuron.reference import plain_neuron, plain_potentials, plain_stage
from snn_sparse.ops.neuron.surrogate import (
    SURROGATES,
    ATan,
    Erf,
    FastSigmoid,
    PiecewiseQuadratic,
    Rectangle,
    Sigmoid,
    Surrogate,
    Triangle,
    as_surrogate,
    surrogate_config,
)

__all__ = [
    "SURROGATES",
    "ATan",
    "Erf",
    "FastSigmoid",
    "Norm",
    "PiecewiseQuadratic",
    "Rectangle",
    "Sigmoid",
    "Surrogate",
    "Triangle",
    "as_surrogate",
    "batch_norm_sequence",
    "check",
    "neuron_sequence",
    "plain_neuron",
    "plain_potentials",
    "plain_stage",
    "plain_statistics",
    "surrogate_config",
]
