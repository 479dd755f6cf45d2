"""A convolution of packed spikes on a GPU that waits: it runs alone, or with the neuron behind it in one kernel."""

from typing import Any

import torch

from snn_sparse.nn.deferred import Deferred, PackedStored, Stored
from snn_sparse.ops import Norm
from snn_sparse.ops.convolution import LayerConfiguration, convolution, convolution_neuron
from snn_sparse.ops.spikes import MemoryFormat, format_of
from snn_sparse.specs import NeuronSpec


class Convolved(Deferred):
    """A convolution layer's output, which nobody has asked for yet.

    Args:
        layer: with weight and bias; in training the kernel is asked for the parts of the batch statistics too.
        spikes: its input.
        configuration: how each direction is computed.
        sizes: of the output.
    """

    def __init__(
        self, layer: Any, spikes: PackedStored, configuration: LayerConfiguration, sizes: tuple[int, ...]
    ) -> None:
        self._layer, self._spikes, self._configuration = layer, spikes, configuration
        self._results: dict[bool, Stored] = {}
        self.sizes = sizes  # type: ignore[assignment]

    def stored(self, wanted: MemoryFormat | None = None) -> Stored:
        """The output alone; computed once."""
        return self._convolve(True)

    def unbiased(self) -> Stored:
        """The output without the bias, whose gradient is zero then: for batch statistics, which would subtract it."""
        return self._convolve(self._layer.bias is None)

    def _convolve(self, adds_bias: bool) -> Stored:
        if adds_bias not in self._results:
            layer, bias = self._layer, self._layer.bias
            how = {"adds_bias": adds_bias, "statistics": layer.training}
            given = layer.weight, bias, layer.stride[0], int(layer.padding[0]), self._configuration
            y, parts = convolution(self._spikes.packed, *given, **how)
            shift = None if adds_bias else bias.detach()
            self._results[adds_bias] = Stored(y, self.sizes, format_of(y), parts=parts, shift=shift)
        return self._results[adds_bias]

    def _compute(self) -> torch.Tensor:
        return self.stored().sequence()

    def fires(self, norm: Norm, spec: NeuronSpec, rate: torch.Tensor | None, pool: bool) -> PackedStored | None:
        """Spikes of the batch norm and neuron behind it, in one kernel; None where that cannot be, or is not faster."""
        chosen = self._configuration.directions.spikes
        if chosen is None or not norm.spec.frozen or torch.is_grad_enabled() or self._results:
            return None
        if pool and chosen.pixel_major:
            return None
        stride, padding = self._layer.stride[0], int(self._layer.padding[0])
        given = self._spikes.packed, self._layer.weight, self._layer.bias, stride, padding, self._configuration
        return PackedStored(convolution_neuron(*given, norm, spec, rate, pool))
