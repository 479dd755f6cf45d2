"""Groups of output channels with the input channels that each group reads: what a mask leaves for a blocked kernel.

A tile of a matrix unit works on a group of output channels at once and must read every input channel that any of them
uses. For each group and tap the list of these is cut into chunks of equal length, which a kernel walks through; chunks
that would be empty are not there. Which channels stand in a group matters: see :func:`mask_structure.row_order`.
"""

from dataclasses import dataclass

import torch

from snn_sparse.ops.convolution.configuration import Directions, IndexLists, LayerConfiguration, TileConfiguration
from snn_sparse.ops.convolution.mask_structure import as_matrix, row_order

Tensor = torch.Tensor


@dataclass(frozen=True)
class ChannelGroups:
    """Index lists of a mask that the kernels walk through; int32 tensors.

    Attributes:
        outputs, inputs, taps: of the convolution.
        configuration: ``width`` output channels a group, ``step`` input channels a chunk.
        order: ``[groups * width]``, the output channels group by group; ``outputs`` where the last group is short.
        pointers: ``[groups * taps + 1]``; group g reads chunks ``pointers[g * taps + k]`` to the next pointer at tap k.
        channels: gathered ``[chunks * step]``, a chunk is ``step`` of them (-1: padding); else ``[chunks]``, a number i
            stands for the neighbours ``i * step`` to ``i * step + step - 1``.
        segments: ``[chunks]``, ``g * taps + k`` of each chunk.
    """

    outputs: int
    inputs: int
    taps: int
    configuration: TileConfiguration
    order: Tensor
    pointers: Tensor
    channels: Tensor
    segments: Tensor

    @property
    def fraction(self) -> float:
        """Share of a dense convolution's products that are computed, padding included."""
        c = self.configuration
        return len(self.segments) * c.step * c.width / (self.outputs * self.inputs * self.taps)

    def lists(self, device: torch.device | str = "cpu") -> IndexLists:
        """As the kernels take them."""
        order = self.order.to(device) if self.configuration.reorder else None
        return IndexLists(order, *(x.to(device) for x in (self.pointers, self.channels, self.segments)))


def group_channels(mask: Tensor, configuration: TileConfiguration, *, transposed: bool = False) -> ChannelGroups:
    """The groups of a convolution's mask.

    Args:
        mask: bool ``[Cout, Cin, ...]``.
        configuration: how a kernel will compute.
        transposed: whether outputs are the input channels of the convolution: for its input gradient.

    Raises:
        ValueError: ``mask`` is empty. TypeError: ``mask`` is no bool tensor.
    """
    as_matrix(mask)
    mask = mask.detach().cpu()
    mask = mask.transpose(0, 1) if transposed else mask
    outputs, inputs = mask.shape[:2]
    used = mask.reshape(outputs, inputs, -1)
    order = torch.arange(outputs + -outputs % configuration.width, dtype=torch.int32).clamp_max(outputs)
    if configuration.reorder:
        order[:outputs] = row_order(used, configuration.width).to(torch.int32)
    rows = torch.cat([used, used.new_zeros(1, *used.shape[1:])])[order.long()]
    unions = (
        rows.view(-1, configuration.width, *used.shape[1:]).any(1).transpose(1, 2).flatten(0, 1)
    )  # [groups * taps, inputs]
    lists = [_chunks(union, configuration) for union in unions]
    counts = torch.tensor([len(x) // configuration.step if configuration.gathered else len(x) for x in lists])
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    segments = torch.arange(len(lists)).repeat_interleave(counts).to(torch.int32)
    channels = torch.cat(lists).to(torch.int32)
    return ChannelGroups(outputs, inputs, used.shape[2], configuration, order, pointers, channels, segments)


class Grouper:
    """The groups of one mask, made once for each way of grouping: ordering outputs takes a while.

    Args:
        mask: bool ``[Cout, Cin, kh, kw]``; None: nothing is pruned.
        shape: of the weight.
    """

    def __init__(self, mask: Tensor | None, shape: tuple[int, ...]) -> None:
        self.mask = mask
        self.used = torch.ones(shape, dtype=torch.bool) if mask is None else mask.detach().cpu()
        self._known: dict[tuple[int, int, bool, bool, bool], ChannelGroups] = {}

    def groups(self, configuration: TileConfiguration, transposed: bool = False) -> ChannelGroups:
        """:func:`group_channels`."""
        key = (configuration.width, configuration.step, configuration.gathered, configuration.reorder, transposed)
        if key not in self._known:
            self._known[key] = group_channels(self.used, configuration, transposed=transposed)
        return self._known[key]


def tiled(directions: Directions, grouper: Grouper, device: torch.device) -> LayerConfiguration:
    """List what the kernels of each direction walk through, under the mask of ``grouper``, on the layer's device."""
    lists = [
        None if c is None else grouper.groups(c, name == "grad_input").lists(device)
        for name, c in zip(Directions._fields, directions, strict=True)
    ]
    keep = None
    if grouper.mask is not None:  # input channels innermost, as the weight gradient's kernel reads it
        keep = grouper.mask.to(device).contiguous(memory_format=torch.channels_last)
    return LayerConfiguration.of_tiles(keep, directions, lists)


def _chunks(union: Tensor, configuration: TileConfiguration) -> Tensor:
    """The channels of a union padded to whole chunks, or the numbers of the chunks that it touches."""
    listed = union.nonzero().squeeze(1)
    if configuration.gathered:
        return torch.cat([listed, listed.new_full((-len(listed) % configuration.step,), -1)])
    return listed.div(configuration.step, rounding_mode="floor").unique()
