"""What the fused layers of a network have planned, as a table."""

import torch
from torch import nn

from snn_sparse.fusion.swap import fuse
from snn_sparse.nn.fused.layers import FusedConv2d, FusedLinear
from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.mask_structure import dead_channels, dead_filters, row_order, union_fraction

GROUPS = (8, 16, 32)  # rows of a matrix unit's tile
HEADER = ("layer", "input", "density", "dead filters", "dead channels", *(f"union {g}" for g in GROUPS), "plan", "ms")
HEADER += ("dense ms", "faster")


def structure(mask: torch.Tensor) -> tuple[str, ...]:
    """Dead filters and channels, and the union of columns of each size of :data:`GROUPS`."""
    unions = (f"{100 * union_fraction(mask, g, row_order(mask, g)):.0f} %" for g in GROUPS)
    return (str(dead_filters(mask)), str(dead_channels(mask)), *unions)


def plan_rows(model: nn.Module, batch_size: int, in_channels: int, image_size: int) -> list[tuple[str, ...]]:
    """Plan every layer of a (masked) network for one batch of images: a row for each layer and shape.

    Args:
        model: plain or fused, on the CPU.
        batch_size: images N.
        in_channels: channels of an image.
        image_size: side in pixels.

    Returns:
        as :data:`HEADER` says: layer, input (T x N x C x H x W), density, filters and input channels without live
        weights, share of the columns that groups of 8, 16 and 32 filters use when similar ones stand together, plan,
        its milliseconds, those of the faster dense way, ratio.

    Raises:
        ValueError: the C++ operators are not installed.
    """
    if not cpu_library():
        raise ValueError("there is nothing to plan: the C++ operators are not installed")
    fused = fuse(model)
    with torch.no_grad():
        fused.eval()(torch.zeros(batch_size, in_channels, image_size, image_size))
    rows: list[tuple[str, ...]] = []
    for name, layer in fused.named_modules():
        if not isinstance(layer, (FusedConv2d, FusedLinear)):
            continue
        density = layer.planner.density
        for shape, plan in layer.planner.plans.items():
            mask = layer.planner.mask
            found = structure(mask) if mask is not None else ("0", "0", *["100 %"] * len(GROUPS))
            sizes = "x".join(map(str, shape.sizes))
            live = "100 %" if density is None else f"{100 * density:.2f} %"
            times = (f"{1e3 * plan.seconds:.2f}", f"{1e3 * plan.dense_seconds:.2f}")
            rows.append(
                (name, sizes, live, *found, plan.describe(), *times, f"{plan.dense_seconds / plan.seconds:.2f}x")
            )
    return rows
