"""How the layers of a network under its mask compute on this machine, as a table."""

from contextlib import nullcontext

import torch
from torch import nn

from snn_sparse.fusion.network import fuse
from snn_sparse.nn.masked import Masked
from snn_sparse.ops.backend import choose
from snn_sparse.ops.convolution.mask_structure import dead_channels, dead_filters, row_order, union_fraction
from snn_sparse.tuning import Winner

GROUPS = (8, 16, 32)  # rows of a matrix unit's tile
HEADER = ("layer", "input", "density", "dead filters", "dead channels", *(f"union {g}" for g in GROUPS))
HEADER += ("configuration", "ms", "dense ms", "faster")
TRAINING = 3  # directions on a GPU that a training step runs


def structure(mask: torch.Tensor | None) -> tuple[str, ...]:
    """Density, dead filters and channels, and the union of columns of each size of :data:`GROUPS`."""
    if mask is None:
        return ("100 %", "0", "0", *["100 %"] * len(GROUPS))
    density = f"{100 * int(mask.count_nonzero()) / mask.numel():.2f} %"
    unions = (f"{100 * union_fraction(mask, g, row_order(mask, g)):.0f} %" for g in GROUPS)
    return (density, str(dead_filters(mask)), str(dead_channels(mask)), *unions)


def layer_rows(
    model: nn.Module, batch_size: int, in_channels: int, image_size: int, device: torch.device, dtype: torch.dtype
) -> list[tuple[str, ...]]:
    """Race every layer of a (masked) network for one batch of images: a row for each layer and shape.

    On a GPU these are the convolutions of packed spikes, and times are those of a training step; the first convolution
    and the linear layers always run densely there and are not listed.

    Args:
        model: plain or fused, on the CPU.
        batch_size: images N.
        in_channels: channels of an image.
        image_size: side in pixels.
        device: where to compute.
        dtype: of the products; a CPU computes in float32.

    Returns:
        as :data:`HEADER` says: layer, input (T x N x C x H x W), density, filters and input channels without live
        weights, share of the columns that groups of 8, 16 and 32 filters use when similar ones stand together, the
        configuration, its milliseconds, those of the fastest dense way, ratio.

    Raises:
        ValueError: nothing faster than plain PyTorch runs on ``device``.
    """
    chosen = choose("convolution", device, torch.float32)
    on_gpu = chosen.name == "triton"
    if chosen.name == "plain":
        raise ValueError(f"there is nothing to race on {device}: {chosen.reason}")
    fused = fuse(model).to(device).eval()
    images = torch.zeros(batch_size, in_channels, image_size, image_size, device=device)
    if on_gpu:
        fused = fused.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    half = on_gpu and dtype != torch.float32
    # on a GPU with gradients, so that spikes come packed
    with nullcontext() if on_gpu else torch.no_grad(), torch.autocast(device.type, dtype, enabled=half):
        fused(images)
    rows: list[tuple[str, ...]] = []
    for name, layer in fused.named_modules():
        if isinstance(layer, Masked):
            found = structure(layer.tuner.keep) if layer.tuner.winners else ()
            rows += [
                (name, "x".join(map(str, g.input_shape)), *found, *_times(w))
                for (g, _), w in layer.tuner.winners.items()
            ]
    return rows


def _times(winner: Winner) -> tuple[str, str, str, str]:
    seconds, dense = sum(winner.seconds[:TRAINING]), sum(winner.dense_seconds[:TRAINING])
    faster = f"{dense / seconds:.2f}x" if seconds else "-"
    return winner.describe(), f"{1e3 * seconds:.3g}", f"{1e3 * dense:.3g}", faster
