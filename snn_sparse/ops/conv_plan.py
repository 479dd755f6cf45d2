"""How each direction of a convolution of packed spikes is computed, as the operators take it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from snn_sparse.kernels.conv_settings import Geometry, Lists, Way
from snn_sparse.ops.channel_groups import Grouper

Tensor = torch.Tensor


class Ways(NamedTuple):
    """How each direction is computed; None: by torch, on unpacked spikes.

    ``spikes`` is the output with batch norm and neuron, without gradients (``packed_conv_neuron.py``).
    """

    output: Way | None = None
    grad_input: Way | None = None
    grad_weight: Way | None = None
    spikes: Way | None = None


DIRECTIONS = Ways._fields


_ALL_BY_TORCH = Ways()


@dataclass(frozen=True)
class ConvPlan:
    """Ways with the lists that they walk through, on the device of the layer.

    Attributes:
        ways: of the directions.
        alive: bool ``[Cout, Cin, kh, kw]``, or None.
        lists: four int32 tensors a direction (order, pointers, channels, segments), empty where there is none.
    """

    ways: Ways = _ALL_BY_TORCH
    alive: Tensor | None = None
    lists: tuple[Tensor, ...] = ()

    @classmethod
    def make(cls, ways: Ways, grouper: Grouper, device: torch.device) -> "ConvPlan":
        """The plan of a layer under the mask of ``grouper``."""
        empty = torch.empty(0, dtype=torch.int32, device=device)
        lists: list[Tensor] = []
        for direction, way in zip(DIRECTIONS, ways, strict=True):
            if way is None:
                lists += [empty] * 4
                continue
            found = grouper.groups(way, direction == "grad_input").lists(device)
            order = empty if found.order is None else found.order
            lists += [order, found.pointers, found.channels, found.segments]
        alive = None
        if grouper.mask is not None:  # as the weight gradient's kernel reads it
            alive = grouper.mask.to(device).contiguous(memory_format=torch.channels_last)
        return cls(ways, alive, tuple(lists))

    def arguments(self) -> tuple[Tensor | None, list[Tensor], list[int]]:
        """As the operators take it."""
        if not any(self.ways):
            return None, [], []
        return self.alive, list(self.lists), [n for w in self.ways for n in (w.encode() if w else [0] * 8)]


def way_of(direction: str, lists: list[Tensor], ways: list[int]) -> tuple[Way, Lists] | None:
    """Way and lists of a direction, out of what :meth:`ConvPlan.arguments` gave; None: by torch."""
    i = DIRECTIONS.index(direction)
    way = Way.decode(ways[8 * i : 8 * i + 8]) if ways else None
    if way is None:
        return None
    order, *others = lists[4 * i : 4 * i + 4]
    return way, Lists(order if len(order) else None, *others)


def geometry_of_conv(shape: Any, weight: Tensor, stride: list[int], padding: list[int]) -> Geometry:
    """Sizes of the convolution of an input of ``shape`` (T, N, C, H, W) by a weight."""
    t, n, c, h, w = shape
    return Geometry(t, n, c, weight.shape[0], h, w, (weight.shape[2], weight.shape[3]), stride[0], padding[0])
