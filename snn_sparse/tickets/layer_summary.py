"""Summary of a mask, a row a layer: for reports, and for the header of a ticket file."""

from typing import Any

import torch

from snn_sparse.tickets.mask import Mask


def layer_summary(mask: Mask) -> list[dict[str, Any]]:
    """Density in percent, filters without a live weight, and input channels that nothing reads, of every layer.

    Raises:
        ValueError: a layer's mask has no entry; named.
    """
    rows = []
    for name, alive in mask.items():
        if not alive.numel():
            raise ValueError(f"mask {name!r} has no entry")
        channels = alive.shape[1] if alive.dim() > 1 else 1
        matrix = alive.reshape(alive.shape[0], channels, -1).any(-1)  # [filters, channels]
        rows.append(
            {
                "name": name.removesuffix(".weight"),
                "density": 100.0 * int(alive.count_nonzero()) / alive.numel(),
                "dead_filters": int(torch.count_nonzero(~matrix.any(1))),
                "dead_channels": int(torch.count_nonzero(~matrix.any(0))),
            }
        )
    return rows
