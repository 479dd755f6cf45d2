"""A convolution of packed spikes on a GPU that waits: it runs alone, or with the neuron behind it in one kernel."""

from typing import Any

import torch

from snn_sparse.kernels.conv_settings import Geometry
from snn_sparse.nn.deferred import Deferred, PackedStored, Stored
from snn_sparse.ops.conv_plan import ConvPlan
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.layout import Layout, layout_of
from snn_sparse.ops.packed_conv import packed_conv2d
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
        self._results: dict[bool, Stored] = {}
        self.sizes = sizes  # type: ignore[assignment]

    def stored(self, wish: Layout | None = None) -> Stored:
        """The output alone; computed once."""
        return self._convolve(True)

    def unbiased(self) -> Stored:
        """The output without the bias, whose gradient is zero then: for batch statistics, which would subtract it."""
        return self._convolve(self._layer.bias is None)

    def _convolve(self, adds_bias: bool) -> Stored:
        if adds_bias not in self._results:
            layer, bias = self._layer, self._layer.bias
            given = layer.weight, bias, list(layer.stride), [int(p) for p in layer.padding]
            how = {"adds_bias": adds_bias, "statistics": layer.training}
            y, parts = packed_conv2d(self._spikes.packed, *given, self._plan, **how)
            shift = None if adds_bias else bias.detach()
            self._results[adds_bias] = Stored(y, self.sizes, layout_of(y), parts=parts, shift=shift)
        return self._results[adds_bias]

    def _compute(self) -> torch.Tensor:
        return self.stored().sequence()

    def fires(self, norm: Norm, spec: NeuronSpec, w: torch.Tensor | None, pool: bool) -> PackedStored | None:
        """Spikes of the batch norm and neuron behind it, in one kernel; None where that cannot be, or is not faster."""
        if self._plan.ways.spikes is None or norm.uses_batch or torch.is_grad_enabled() or self._results:
            return None
        if pool and self._plan.ways.spikes.pixel_major:
            return None
        stride, padding = self._layer.stride[0], int(self._layer.padding[0])
        given = self._spikes.packed, self._layer.weight, self._layer.bias, stride, padding
        return PackedStored(packed_conv_neuron(*given, self._plan, norm, spec, w, pool))
