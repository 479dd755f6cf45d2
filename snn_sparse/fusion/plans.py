"""What the fused layers of a network have planned, as a table."""

import torch
from torch import nn

from snn_sparse.fusion.swap import fuse
from snn_sparse.kernels.conv_settings import Geometry
from snn_sparse.nn.fused.gpu_plan import Choice
from snn_sparse.nn.fused.layers import FusedConv2d, FusedLinear
from snn_sparse.ops.device import kernels_run
from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.mask_structure import dead_channels, dead_filters, row_order, union_fraction

GROUPS = (8, 16, 32)  # rows of a matrix unit's tile
HEADER = ("layer", "input", "density", "dead filters", "dead channels", *(f"union {g}" for g in GROUPS), "plan", "ms")
HEADER += ("dense ms", "faster")
TRAINING = 3  # directions of a GPU plan that a training step runs


def structure(mask: torch.Tensor | None) -> tuple[str, ...]:
    """Density, dead filters and channels, and the union of columns of each size of :data:`GROUPS`."""
    if mask is None:
        return ("100 %", "0", "0", *["100 %"] * len(GROUPS))
    density = f"{100 * int(mask.count_nonzero()) / mask.numel():.2f} %"
    unions = (f"{100 * union_fraction(mask, g, row_order(mask, g)):.0f} %" for g in GROUPS)
    return (density, str(dead_filters(mask)), str(dead_channels(mask)), *unions)


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
        for shape, plan in layer.planner.plans.items():
            found = structure(layer.planner.mask)
            sizes = "x".join(map(str, shape.sizes))
            rows.append((name, sizes, *found, plan.describe(), *_times(plan.seconds, plan.dense_seconds)))
    return rows


def _times(planned: float, dense: float) -> tuple[str, str, str]:
    return f"{1e3 * planned:.3g}", f"{1e3 * dense:.3g}", f"{dense / planned:.2f}x" if planned else "-"


def gpu_plan_rows(
    model: nn.Module, batch_size: int, in_channels: int, image_size: int, device: torch.device, dtype: torch.dtype
) -> list[tuple[str, ...]]:
    """As :func:`plan_rows`, of the convolutions of packed spikes on a GPU; their times are those of a training step.

    The plan names how output, input gradient and weight gradient are computed; dense is cuDNN on unpacked spikes. The
    first convolution and the linear layers always run dense by torch and are not listed.

    Raises:
        ValueError: the kernels do not run on ``device``.
    """
    if not kernels_run(torch.empty(0, dtype=dtype, device=device), "convolution"):
        raise ValueError(f"there is nothing to plan: the kernels do not run on {device}")
    fused = fuse(model).to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = torch.zeros((batch_size, in_channels, image_size, image_size), device=device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        fused(images.contiguous(memory_format=torch.channels_last))  # with gradients, so that spikes come packed
    rows: list[tuple[str, ...]] = []
    for name, layer in fused.named_modules():
        if isinstance(layer, FusedConv2d):
            found = structure(layer.conv_planner.mask) if layer.conv_planner.choices else ()
            rows += [_gpu_row(name, found, g, choice) for (g, _), choice in layer.conv_planner.choices.items()]
    return rows


def _gpu_row(name: str, found: tuple[str, ...], geometry: Geometry, choice: Choice) -> tuple[str, ...]:
    sizes = "x".join(map(str, geometry.input_shape()))
    chosen = ", ".join("dense" if way is None else way.describe() for way in choice.ways[:TRAINING])
    times = _times(sum(choice.seconds[:TRAINING]), sum(choice.library_seconds[:TRAINING]))
    return (name, sizes, *found, chosen, *times)
