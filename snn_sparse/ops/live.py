"""The live entries of a masked tensor: where they are, reading and writing them."""

import torch

from snn_sparse.ops.backend import implementation


def live_index(mask: torch.Tensor) -> torch.Tensor:
    """Places of the true entries of a flattened bool tensor, in order: ``[live]``, int32 where the operator is."""
    index = mask.reshape(-1).nonzero().squeeze(1)
    small = mask.device.type == "cpu" and mask.numel() < 2**31
    return index.to(torch.int32) if small else index


def gather_live(dense: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``dense[index]``, a copy ``[live]``; ``dense`` is one-dimensional and contiguous, ``index`` from above."""
    if index.dtype == torch.int32 and implementation("live", dense) == "cpp":
        return torch.ops.snn_sparse.gather_live(dense, index)
    return dense.index_select(0, index)


def scatter_live(dense: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> None:
    """``dense[index] = values``, in place; ``dense`` is one-dimensional and contiguous, ``index`` from above."""
    if index.dtype == torch.int32 and implementation("live", dense, values) == "cpp":
        torch.ops.snn_sparse.scatter_live_(dense, index, values)
    else:
        dense.scatter_(0, index.long(), values)
