"""A convolution of packed spikes on a GPU that waits: it runs alone, or with the neuron behind it in one kernel."""

from typing import Any

import torch

from snn_sparse.kernels.conv_settings import Geometry
from snn_sparse.nn.deferred import Deferred, PackedStored, Stored
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.layout import Layout, layout_of
from snn_sparse.ops.packed_conv import ConvPlan, packed_conv2d
from snn_sparse.ops.packed_conv_neuron import packed_conv_neuron


def geometry_of(layer: Any, sizes: tuple[int, ...]) -> Geometry:
    """The sizes of a convolution layer (one stride, one padding) on an input of ``sizes`` (T, N, C, H, W)."""
    t, n, c, h, w = sizes
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    return Geometry(t, n, c, layer.out_channels, h, w, kernel, layer.stride[0], int(layer.padding[0]))


class Convolved(Deferred):
    """A convolution layer's output, which nobody has asked for yet.

    Args:
        layer: with weight and bias; in training the kernel is asked for the parts of the batch statistics too.
        spikes: its input.
        plan: how each direction is computed.
        sizes: of the output.
    """

    def __init__(self, layer: Any, spikes: PackedStored, plan: ConvPlan, sizes: tuple[int, ...]) -> None:
        self._layer, self._spikes, self._plan = layer, spikes, plan
        self._result: Stored | None = None
        self.sizes = sizes  # type: ignore[assignment]

    def stored(self, wish: Layout | None = None) -> Stored:
        """The output alone; computed once."""
        if self._result is None:
            stride, padding = list(self._layer.stride), [int(p) for p in self._layer.padding]
            given = self._layer.weight, self._layer.bias, stride, padding
            y, parts = packed_conv2d(self._spikes.packed, *given, self._plan, statistics=self._layer.training)
            self._result = Stored(y, self.sizes, layout_of(y), parts=parts)
        return self._result

    def _compute(self) -> torch.Tensor:
        return self.stored().sequence()

    def fires(self, norm: Norm, spec: NeuronSpec, w: torch.Tensor | None, pool: bool) -> PackedStored | None:
        """Spikes of the batch norm and neuron behind it, in one kernel; None where that cannot be, or is not faster."""
        if self._plan.ways.spikes is None or norm.uses_batch or torch.is_grad_enabled() or self._result is not None:
            return None
        if pool and self._plan.ways.spikes.pixel_major:
            return None
        stride, padding = self._layer.stride[0], int(self._layer.padding[0])
        given = self._spikes.packed, self._layer.weight, self._layer.bias, stride, padding
        return PackedStored(packed_conv_neuron(*given, self._plan, norm, spec, w, pool))
