"""Drop-in: our layers in existing networks."""

from snn_sparse.fusion.swap import fuse

__all__ = ["fuse"]
