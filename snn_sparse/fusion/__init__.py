"""Drop-in: any spiking network on fused layers, by a small compiler.

capture -> tidy -> roll up time -> recognise neurons -> stages -> plan -> verify; a file a pass.
"""

from snn_sparse.fusion.explanation import Explanation, explain
from snn_sparse.fusion.network import fuse, unfuse

__all__ = ["Explanation", "explain", "fuse", "unfuse"]
