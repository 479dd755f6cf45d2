"""Convolution and linear layers under a mask, batch norm that waits for its neuron, max-pool that the neuron takes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from snn_sparse.nn.deferred import Deferred, Normed, PackedStored, Pooled, Spikes, Stored, plain, stored
from snn_sparse.nn.fused.convolution import Convolved
from snn_sparse.nn.fused.masked import Masked, computes, product_dtype
from snn_sparse.nn.layers import BatchNorm2d, Conv2d, MaxPool2d
from snn_sparse.ops.backend import runs
from snn_sparse.ops.convolution import LayerConfiguration, convolution
from snn_sparse.ops.neuron import Norm
from snn_sparse.ops.spikes import NCHW, NHWC, PACKED, convert, format_of, ordered
from snn_sparse.specs import BatchNormSpec, ConvGeometry
from snn_sparse.tuning import PACK_ABOVE


class FusedConv2d(Masked, Conv2d):
    """:class:`snn_sparse.nn.Conv2d` under its mask: at the live weights only, or densely in the faster format."""

    def _supported(self) -> bool:
        square = len(set(self.stride)) == len(set(self.padding)) == 1 and not isinstance(self.padding, str)
        return square and self.groups == 1 and set(self.dilation) == {1} and self.padding_mode == "zeros"

    def forward(self, x: Any) -> Any:
        """Convolve; deferred, an ordinary tensor where the operators cannot be used."""
        given = x if isinstance(x, Deferred) else stored(x) if _is_maps(x) else None
        tensors = [given.data] if isinstance(given, Stored) else []
        what = "plain" if given is None or not self._supported() else computes(*tensors, self.weight, self.bias)
        if what == "triton":
            return self._on_gpu(given)
        return self._on_cpu(given) if what == "cpp" else self._plain(plain(x))

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.flatten(0, 1) if x.dim() == 5 else x
        y = self._conv_forward(batch, self.masked_weight(), self.bias)
        return y.unflatten(0, x.shape[:2]) if x.dim() == 5 else y

    def _on_cpu(self, given: Any) -> Stored:
        g = ConvGeometry.of(given.sizes, self.weight.shape, self.stride[0], int(self.padding[0]))
        memory_format, how = self.tuner.on_cpu(g, self.weight.dtype)
        source = stored(given, memory_format)
        self.hold_mask(written=how.live is None)  # live kernels read no pruned weight
        binary = source.binary and (how.live is None or self.tuner.density > PACK_ABOVE)
        x = source.data_in(memory_format)
        y, _ = convolution(x, self.weight, self.bias, g.stride, g.padding, how, binary=binary)
        y = ordered(y, memory_format) if how.live is None else y
        return Stored(y, g.output_shape, memory_format, source.repeat)

    def _on_gpu(self, given: Any) -> Deferred:
        """Convolve packed spikes as each direction was raced, anything else by torch."""
        packs = torch.is_grad_enabled() or self.weight.permute(0, 2, 3, 1).is_contiguous()
        source = stored(given, PACKED if packs else None)
        g = ConvGeometry.of(source.sizes, self.weight.shape, self.stride[0], int(self.padding[0]))
        how = LayerConfiguration.dense(self.keep())
        if isinstance(source, PackedStored) and source.memory_format == NHWC:
            how = self.tuner.on_gpu(g, product_dtype(self.weight), self.weight.dtype, self.weight.device)
        self.hold_mask()
        if isinstance(source, PackedStored):
            return Convolved(self, source, how, g.output_shape)
        y, _ = convolution(source.sequence(), self.weight, self.bias, g.stride, g.padding, how)
        return Stored(y, g.output_shape, format_of(y), source.repeat)


def _is_maps(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dim() in (4, 5) and x.numel() > 0


class FusedLinear(Masked, nn.Linear):
    """``torch.nn.Linear`` under its mask: a sparse one as a 1x1 convolution of 1x1 maps at the live weights."""

    def forward(self, x: Any) -> torch.Tensor:
        """``[..., F]`` -> ``[..., K]``, an ordinary tensor."""
        x = plain(x)
        usable = self.keep_mask is not None and x.dim() >= 2 and x.numel() > 0
        if not usable or computes(x, self.weight, self.bias) != "cpp":
            return F.linear(x, self.masked_weight(), self.bias)
        sizes = (1, x[..., 0].numel(), x.shape[-1], 1, 1)
        g = ConvGeometry.of(sizes, (*self.weight.shape, 1, 1), 1, 0)
        memory_format, how = self.tuner.on_cpu(g, x.dtype)
        if how.live is None:
            return F.linear(x, self.masked_weight(), self.bias)
        self.hold_mask(written=False)
        data = convert(x.reshape(sizes), sizes, NCHW, memory_format)
        y, _ = convolution(data, self.weight[..., None, None], self.bias, 1, 0, how)
        return convert(y, g.output_shape, memory_format, NCHW).reshape(*x.shape[:-1], self.out_features)


class FusedBatchNorm2d(BatchNorm2d):
    """:class:`snn_sparse.nn.BatchNorm2d` that waits for the neuron behind it."""

    @property
    def uses_batch(self) -> bool:
        """Whether the batch's own statistics normalise."""
        return self.training or self.running_mean is None

    def at_work(self, timesteps: int, move_statistics: bool) -> Norm:
        """Describe itself to an operator; counts the updates of the running statistics that it will make."""
        updates = timesteps if self.bn_statistics == "per_step" else 1
        factors = self.update_factors(updates) if move_statistics else [0.0] * updates
        moves = move_statistics or not self.uses_batch
        running = (self.running_mean, self.running_var) if moves else (None, None)
        spec = BatchNormSpec(self.bn_statistics, self.eps, not self.uses_batch)
        return Norm(spec, self.weight, self.bias, *running, tuple(factors))

    def forward(self, x: Any) -> Any:
        """Normalise; deferred, an ordinary tensor where the operators cannot be used."""
        if isinstance(x, Deferred) or (_is_maps(x) and runs("neuron", x, self.weight)):
            self._check_input_dim(x)
            given = x if isinstance(x, Convolved) else stored(x)
            if given.repeat:  # a constant batch that was repeated before: T equal steps, T updates
                given = stored(given.tensor())
            return Normed(given, self)
        return super().forward(x)


class FusedMaxPool2d(MaxPool2d):
    """:class:`snn_sparse.nn.MaxPool2d`; a 2x2 pool of stride 2 behind a neuron is taken over by the neuron."""

    def forward(self, x: Any) -> Any:
        """Pool; deferred behind a neuron, else an ordinary tensor."""
        usual = (
            {self.kernel_size, self.stride} <= {2, (2, 2)}
            and self.padding in (0, (0, 0))
            and self.dilation in (1, (1, 1))
            and not self.ceil_mode
            and not self.return_indices
        )
        if isinstance(x, Spikes) and usual and min(x.sizes[-2:]) >= 2:
            return Pooled(x)
        return super().forward(plain(x))
