"""Convolution of packed spikes, batch norm with running statistics and neuron in one kernel, for evaluation.

It computes :func:`packed_conv2d` and then :func:`neuron_sequence`; nothing of it can be differentiated.
"""

import torch

from snn_sparse.kernels.conv_settings import Geometry, Lists, Way
from snn_sparse.ops.conv_plan import ConvPlan
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.spike_bits import Packed, packed_shape

Tensor = torch.Tensor


def _output_shape(shape: list[int], weight: Tensor, stride: int, padding: int, pool: bool) -> tuple[int, ...]:
    t, n, c, h, w = shape
    kernel = (weight.shape[2], weight.shape[3])
    *outer, high, wide = Geometry(t, n, c, weight.shape[0], h, w, kernel, stride, padding).output_shape
    return (*outer, high // 2, wide // 2) if pool else (*outer, high, wide)


@torch.library.custom_op("snn_sparse::packed_conv_neuron", mutates_args=())
def _packed_conv_neuron(
    bits: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    shape: list[int],
    stride: int,
    padding: int,
    lists: list[Tensor],
    way: list[int],
    statistics: list[Tensor],
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    kind: str,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    rate: Tensor | None,
    pool: bool,
) -> Tensor:
    from snn_sparse.kernels.conv_neuron import conv_neuron
    from snn_sparse.kernels.settings import Neuron, Normalisation

    t, n, c, h, w = shape
    geometry = Geometry(t, n, c, weight.shape[0], h, w, (weight.shape[2], weight.shape[3]), stride, padding)
    chosen = Way.decode(way)
    assert chosen is not None
    norm = Normalisation(statistics[0], running_var=statistics[1], weight=gain, bias=shift, eps=eps)
    neuron = Neuron(kind, tau, decay_input, v_threshold, v_reset)
    walked = Lists(None, *lists[1:])
    return conv_neuron(bits, weight.to(dtype), bias, geometry, walked, chosen, norm, neuron, rate=rate, pool=pool)


@_packed_conv_neuron.register_fake
def _fake_packed_conv_neuron(
    bits: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    shape: list[int],
    stride: int,
    padding: int,
    lists: list[Tensor],
    way: list[int],
    statistics: list[Tensor],
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    kind: str,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    rate: Tensor | None,
    pool: bool,
) -> Tensor:
    return bits.new_empty(packed_shape(_output_shape(shape, weight, stride, padding, pool), True))


def packed_conv_neuron(
    packed: Packed,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    plan: ConvPlan,
    norm: Norm,
    spec: NeuronSpec,
    w: Tensor | None = None,
    pool: bool = False,
) -> Packed:
    """Spikes of a convolution, batch norm and neuron, packed, channels last; not differentiable.

    Args:
        packed: spikes ``[T, N, Cin, H, W]``, channels last.
        weight: ``[Cout, Cin, kh, kw]``; computed in its dtype, or under autocast in the lower precision.
        bias: ``[Cout]`` or None.
        stride: of the convolution.
        padding: of the convolution.
        plan: with a way for ``spikes``.
        norm: with running statistics.
        spec: the neuron.
        w: of the parametric neuron.
        pool: whether a 2x2 max-pool of stride 2 follows.

    Raises:
        ValueError: the plan has no way, or ``norm`` uses the batch's statistics.
    """
    if plan.ways.spikes is None:
        raise ValueError("plan has no way to compute spikes in one kernel")
    if norm.uses_batch or norm.running_mean is None or norm.running_var is None:
        raise ValueError("norm must have running statistics and use them")
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    shape, firing = list(packed.carrier.shape), spec.firing
    bits = _packed_conv_neuron(
        packed.bits, weight, bias, dtype, shape, stride, padding, list(plan.lists[12:]), plan.ways.spikes.encode(),
        [norm.running_mean, norm.running_var], norm.weight, norm.bias, norm.eps, spec.kind, float(spec.tau),
        spec.decay_input, float(firing.v_threshold), None if firing.v_reset is None else float(firing.v_reset),
        None if w is None else w.float().sigmoid(), pool,
    )  # fmt: skip
    out = _output_shape(shape, weight, stride, padding, pool)
    return Packed(weight.new_zeros(1, dtype=dtype).expand(out), bits)
