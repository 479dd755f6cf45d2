"""How each layer computes under its mask on this machine: ways to compute it are raced, winners remembered on disk."""

from snn_sparse.tuning.cpu import PACK_ABOVE
from snn_sparse.tuning.tuner import LayerTuner
from snn_sparse.tuning.winner import Winner

__all__ = ["PACK_ABOVE", "LayerTuner", "Winner"]
