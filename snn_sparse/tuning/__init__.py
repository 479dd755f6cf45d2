"""Races between the ways to compute a layer, and their winners, remembered on disk."""

from snn_sparse.tuning.cpu import PACK_ABOVE
from snn_sparse.tuning.tuner import LayerTuner, choosing, looking, without_races
from snn_sparse.tuning.winner import Winner

__all__ = ["PACK_ABOVE", "LayerTuner", "Winner", "choosing", "looking", "without_races"]
