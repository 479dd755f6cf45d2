"""Convolution of packed spikes, batch norm with frozen statistics and neuron in one GPU kernel, for evaluation.

It computes :func:`convolution` and then :func:`neuron_sequence`; nothing of it can be differentiated.
"""

from typing import Any

import torch

from snn_sparse.ops.convolution.configuration import LayerConfiguration, tiles_of
from snn_sparse.ops.library import define, implement_in_triton
from snn_sparse.ops.neuron import Norm
from snn_sparse.ops.neuron.call import Settings
from snn_sparse.ops.spikes import Packed, packed_shape
from snn_sparse.specs import ConvGeometry, NeuronSpec

Tensor = torch.Tensor
define(
    "convolution_neuron",
    "(Tensor bits, Tensor weight, Tensor? bias, ScalarType dtype, SymInt[] shape, int stride, int padding, "
    "Tensor lists, int[] numbers, Tensor mean, Tensor variance, Tensor? norm_weight, Tensor? norm_bias, Tensor? rate, "
    "float eps, "
    "int kind, float tau, bool decay_input, float decay, float v_threshold, float fires_at, float v_reset, "
    "bool hard_reset, float late, bool pool) -> Tensor",
)
# The last numbers of the schema, as the neuron's operator knows them.
_NEURON = (
    "kind", "tau", "decay_input", "decay", "v_threshold", "fires_at", "v_reset", "hard_reset", "late", "pool",
)  # fmt: skip


def _output_shape(shape: Any, weight: Tensor, stride: int, padding: int, pool: bool) -> tuple[int, ...]:
    *outer, high, wide = ConvGeometry.of(shape, weight.shape, stride, padding).output_shape
    return (*outer, high // 2, wide // 2) if pool else (*outer, high, wide)


@implement_in_triton("convolution_neuron")
def _run(
    bits: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, shape: list[int], stride: int, padding: int,
    lists: Tensor, numbers: list[int], mean: Tensor, variance: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, rate: Tensor | None, eps: float, *neuron: Any,
) -> Tensor:  # fmt: skip
    from snn_sparse.ops.convolution.triton_conv_neuron import conv_neuron

    chosen = tiles_of("spikes", lists, numbers)
    assert chosen is not None
    geometry = ConvGeometry.of(shape, weight.shape, stride, padding)
    s = Settings.of(NeuronSpec(), shape[0], shape[1])._replace(eps=eps, **dict(zip(_NEURON, neuron, strict=True)))
    given = (bits, weight.to(dtype), bias, geometry, chosen[1], chosen[0], (mean, variance), (norm_weight, norm_bias))
    return conv_neuron(*given, s, rate=rate)


@torch.library.register_fake("snn_sparse::convolution_neuron")
def _fake(
    bits: Tensor, weight: Tensor, bias: Any, dtype: Any, shape: Any, stride: int, padding: int, *rest: Any
) -> Tensor:
    return bits.new_empty(packed_shape(_output_shape(shape, weight, stride, padding, rest[-1]), True))


def convolution_neuron(
    packed: Packed,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    configuration: LayerConfiguration,
    norm: Norm,
    spec: NeuronSpec,
    rate: Tensor | None = None,
    pool: bool = False,
) -> Packed:
    """Compute spikes of a convolution, batch norm and neuron, packed, channels last; not differentiable.

    Args:
        packed: spikes ``[T, N, Cin, H, W]``, channels last.
        weight: ``[Cout, Cin, kh, kw]``; computed in its dtype, or under autocast in the lower precision.
        bias: ``[Cout]`` or None.
        stride: of the convolution.
        padding: of the convolution.
        configuration: with one for ``spikes``.
        norm: with frozen statistics.
        spec: the neuron.
        rate: ``1 / tau`` of the parametric neuron, or the learnt decay of the leaky one.
        pool: whether a 2x2 max-pool of stride 2 follows.

    Raises:
        ValueError: no configuration for ``spikes``, or ``norm`` uses the batch's statistics.
    """
    if configuration.directions.spikes is None or configuration.lists is None:
        raise ValueError("configuration has none to compute spikes in one kernel")
    if not norm.spec.frozen or norm.running_mean is None or norm.running_var is None:
        raise ValueError("norm must have frozen statistics")
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    shape = list(packed.carrier.shape)
    s = Settings.of(spec, shape[0], shape[1], norm=norm, pool=pool)
    bits = torch.ops.snn_sparse.convolution_neuron(
        packed.bits, weight, bias, dtype, shape, stride, padding, configuration.lists, configuration.numbers,
        norm.running_mean, norm.running_var, norm.weight, norm.bias, None if rate is None else rate.float(), s.eps,
        *(getattr(s, name) for name in _NEURON),
    )  # fmt: skip
    out = _output_shape(shape, weight, stride, padding, pool)
    return Packed(weight.new_zeros(1, dtype=dtype).expand(out), bits)
