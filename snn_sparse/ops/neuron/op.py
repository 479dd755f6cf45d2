"""Batch norm + residual + neuron + 2x2 spike max-pool over all timesteps: the operator, for any device.

``snn_sparse::neuron`` has one schema; C++ implements it on a CPU (``csrc/neuron/``), Triton on an NVIDIA GPU
(``triton_*.py``). :func:`neuron_sequence` is the function to call.
"""

import math
from typing import Any

import torch

from snn_sparse.ops.backend import implementation
from snn_sparse.ops.library import define, differentiable_once, implement_in_triton
from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.neuron.call import DIFFERENTIABLE, Settings, Tensors, maps_of, spikes_shape
from snn_sparse.ops.neuron.reference import check_rate, plain_stage
from snn_sparse.ops.neuron.statistics import exact_dtype, move_running, statistics_of
from snn_sparse.ops.spikes import (
    NCHW,
    NHWC,
    MemoryFormat,
    Packed,
    convert,
    empty,
    format_of,
    ordered,
    packed_shape,
    unpack_spikes,
)
from snn_sparse.specs import MAX_TIMESTEPS, NORMS, NeuronSpec

Tensor = torch.Tensor
_TENSORS = "Tensor y, " + ", ".join(f"Tensor? {name}" for name in Tensors._fields[1:])
_NUMBERS = (
    "SymInt steps, SymInt images, bool constant, int kind, float tau, bool decay_input, float decay, "
    "float v_threshold, float fires_at, float v_reset, bool hard_reset, float late, bool detach_reset, int surrogate, "
    "float peak, float slope, bool frozen, bool frozen_r, float eps, float eps_r, bool pool, "
    "int format, int format_r, int format_out"
)
_COUNT, _SETTINGS = len(Tensors._fields), len(Settings._fields)
# Returns spikes, their bits, the final potential, and mean, spread, mean_r, spread_r of the batch where `batch` and
# `batch_r` (codes of NORMS) ask for them: a CPU finds them while they are in cache. Empty: not asked for.
define(
    "neuron",
    f"({_TENSORS}, {_NUMBERS}, bool packed, bool final_v, int batch, int batch_r) -> ({', '.join(['Tensor'] * 7)})",
)
define(
    "neuron_backward",
    f"(Tensor? grad, Tensor? grad_v, {_TENSORS}, {_NUMBERS}, int needs) -> ({', '.join(['Tensor'] * 8)})",
)


def _split(arguments: tuple[Any, ...]) -> tuple[Tensors, Settings, tuple[Any, ...]]:
    rest = arguments[_COUNT:]
    return Tensors(*arguments[:_COUNT]), Settings(*rest[:_SETTINGS]), rest[_SETTINGS:]


# ---- forward ---------------------------------------------------------------------------------------------------------


@implement_in_triton("neuron")
def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    from snn_sparse.ops.neuron.triton_forward import forward

    t, s, (packed, final_v, batch, batch_r) = _split(arguments)
    if batch or batch_r:
        raise ValueError("batch must be 0 on a GPU, where batch_statistics finds mean and spread")
    spikes, v = forward(t, s, bits=packed, final_v=final_v)
    nothing = [t.y.new_empty(0, dtype=torch.float32) for _ in range(5)]
    v = v if v is not None else nothing.pop()
    if packed:
        return t.y.new_zeros(1).expand(spikes_shape(t, s)), spikes, v, *nothing[:4]
    return spikes, t.y.new_empty(0, dtype=torch.int32), v, *nothing[:4]


def _potential_format(v: Tensor | None, s: Settings) -> MemoryFormat:
    """The format of the membrane potential: as it is given, else that of the spikes where these are no lanes."""
    if v is not None:
        return format_of(v)
    return NHWC if s.format_out == NHWC.code else NCHW


@torch.library.register_fake("snn_sparse::neuron")
def _fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    t, s, (packed, final_v, batch, batch_r) = _split(arguments)
    y, shape, exact = t.y, spikes_shape(t, s), exact_dtype(t.y.dtype)
    v = y.new_empty(0, dtype=exact)
    if final_v:
        v = empty(maps_of(t, s), exact, y.device, _potential_format(t.v, s))
    sets = {NORMS["per_step"]: 1 if s.constant else s.steps, NORMS["pooled"]: 1}
    sizes = [(sets[code], maps_of(t, s)[1]) if code else (0,) for code in (batch, batch, batch_r, batch_r)]
    found = [y.new_empty(size, dtype=exact) for size in sizes]
    bits = y.new_empty(packed_shape(shape, s.format_out == 1) if packed else 0, dtype=torch.int32)
    if packed:
        return y.new_zeros(1).expand(shape), bits, v, *found
    return empty(shape, y.dtype, y.device, MemoryFormat.of_code(s.format_out)), bits, v, *found


# ---- backward --------------------------------------------------------------------------------------------------------


@implement_in_triton("neuron_backward")
def _backward(grad: Tensor | None, grad_v: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    from snn_sparse.ops.neuron.triton_backward import backward

    t, s, (needs,) = _split(arguments)
    found = backward(t, s, grad, grad_v, [name for i, name in enumerate(DIFFERENTIABLE) if needs >> i & 1])
    grads = (found.get(name) for name in DIFFERENTIABLE)
    return tuple(t.y.new_empty(0) if grad is None else grad for grad in grads)


@torch.library.register_fake("snn_sparse::neuron_backward")
def _fake_backward(grad: Tensor | None, grad_v: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    t, s, (needs,) = _split(arguments)
    y, found = t.y, []
    for i, name in enumerate(DIFFERENTIABLE):
        x = getattr(t, name)
        if not needs >> i & 1:
            found.append(y.new_empty(0))
        elif name == "residual":
            format_r = MemoryFormat.of_code(s.format_r)
            dtype = y.dtype if t.bits_r is not None else x.dtype
            found.append(empty((s.steps, *maps_of(t, s)), dtype, y.device, format_r))
        elif name in ("y", "v") and x.dim() > 1 and not (name == "y" and s.format > 1):
            found.append(empty(tuple(x.shape), x.dtype, x.device, format_of(x)))
        else:
            found.append(torch.empty_like(x))
    return tuple(found)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    t, ctx.settings, (_, ctx.final_v, batch, batch_r) = _split(inputs)
    mean, spread, mean_r, spread_r = output[3:]
    t = t._replace(mean=mean, spread=spread) if batch else t
    t = t._replace(mean_r=mean_r, spread_r=spread_r) if batch_r else t
    ctx.save_for_backward(*t)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _bits: Any, grad_v: Tensor | None, *_: Any) -> tuple[Any, ...]:
    t, s = Tensors(*ctx.saved_tensors), ctx.settings
    wanted = dict(zip(Tensors._fields, ctx.needs_input_grad, strict=False))
    needs = sum(1 << i for i, name in enumerate(DIFFERENTIABLE) if wanted[name])
    grad_v = grad_v if ctx.final_v else None  # of an empty stand-in otherwise
    nothing = (None,) * (_SETTINGS + 4)
    if (grad is None and grad_v is None) or not needs:
        return (*(None,) * _COUNT, *nothing)
    grad = None if grad is None else ordered(grad, MemoryFormat.of_code(s.format_out))
    grad_v = None if grad_v is None else ordered(grad_v, _potential_format(t.v, s))
    grads = torch.ops.snn_sparse.neuron_backward(grad, grad_v, *t, *s, needs)
    found = {name: g for name, g in zip(DIFFERENTIABLE, grads, strict=True) if wanted[name]}
    return (*(found.get(name) for name in Tensors._fields), *nothing)


differentiable_once("neuron", "neuron_backward", _differentiate, _setup)

# ---- the function to call --------------------------------------------------------------------------------------------


def neuron_sequence(
    y: Tensor,
    spec: NeuronSpec,
    timesteps: int,
    *,
    norm: Norm | None = None,
    residual: Tensor | Packed | None = None,
    norm_residual: Norm | None = None,
    rate: Tensor | None = None,
    v: Tensor | None = None,
    pool: bool = False,
    packed: bool = False,
    final_v: bool = False,
    images: int | None = None,
    constant: bool | None = None,
    memory_format: MemoryFormat | None = None,
    residual_format: MemoryFormat | None = None,
    out_format: MemoryFormat | None = None,
) -> tuple[Tensor | Packed, Tensor | None]:
    """Run neurons over all timesteps, with the batch norm and residual before them and the max-pool behind them.

    The membrane potential never reaches memory, and backward keeps ``y`` and the batch statistics only. It can be
    differentiated once. It runs on plain PyTorch (``reference.py``) where no kernel takes the tensors.

    Args:
        y: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]``: a constant input, shown ``timesteps`` times.
        spec: the neuron.
        timesteps: T.
        norm: batch norm of ``y``; moves its running statistics.
        residual: ``[T, N, C, H, W]``, or packed spikes, added after ``norm``.
        norm_residual: batch norm of a dense ``residual``.
        rate: ``1 / tau`` of the parametric neuron, or the learnt decay of the leaky one; one entry.
        v: membrane potential ``[N, C, H, W]`` before the first step.
        pool: whether a 2x2 max-pool of stride 2 follows.
        packed: whether spikes are wanted at one bit each, where Triton kernels run.
        final_v: whether the potential after the last step is wanted.
        images: N, for ``y`` in lanes, which do not tell it.
        constant: whether ``y`` has one step for all, which lanes do not tell either.
        memory_format: of ``y``; as it lies if left out.
        residual_format: of ``residual``; likewise.
        out_format: of the spikes on a CPU; that of ``y`` if left out.

    Returns:
        spikes ``[T, N, C, H, W]`` (pooled: ``H // 2, W // 2``) or lanes; the potential ``[N, C, H, W]``, or None.

    Raises:
        ValueError: sizes that do not fit; named. TypeError: dtypes that do not fit.
    """
    memory_format = memory_format or _checked(y, timesteps, residual, norm_residual, v, pool)
    check_rate(spec, rate)
    dense = residual.carrier if isinstance(residual, Packed) else residual
    images = y.shape[1] if images is None else images
    constant = y.shape[0] == 1 < timesteps if constant is None else constant
    format_r = residual_format or (NCHW if dense is None else format_of(dense))
    chosen = implementation("neuron", y, dense, v)
    if timesteps > MAX_TIMESTEPS and chosen == "triton":
        chosen = "plain"
    if isinstance(residual, Packed) and chosen != "triton":
        residual = dense = unpack_spikes(residual)
    out_format = memory_format if chosen == "triton" else out_format or memory_format
    steps = 1 if constant else timesteps
    if chosen == "plain":
        y = convert(y, (steps, images, *_map_sizes(y, memory_format)), memory_format, _ordinary(memory_format))
        dense = None if dense is None else convert(dense, (timesteps, *y.shape[1:]), format_r, _ordinary(format_r))
        spikes, last = plain_stage(y, spec, timesteps, norm, dense, norm_residual, rate, v, pool)
        return _in_lanes(spikes, out_format), last if final_v else None
    mean, spread, batch = statistics_of(norm, y, steps, memory_format, chosen)
    mean_r, spread_r, batch_r = statistics_of(norm_residual, dense, timesteps, format_r, chosen)
    format_r = memory_format if chosen == "triton" else format_r
    t = Tensors(
        ordered(y, memory_format),
        *(mean, spread, *_affine(norm)),
        None if dense is None else dense if isinstance(residual, Packed) else ordered(dense, format_r),
        *(mean_r, spread_r, *_affine(norm_residual)),
        residual.bits if isinstance(residual, Packed) else None,
        None if rate is None else rate.to(exact_dtype(y.dtype)),
        None if v is None else ordered(v, format_of(v)),
    )
    formats, digits = (memory_format, format_r, out_format), 53 if y.dtype == torch.float64 else 24
    s = Settings.of(spec, timesteps, images, constant, norm, norm_residual, pool, formats, digits)
    packs = packed and chosen == "triton"
    spikes, words, last, *found = torch.ops.snn_sparse.neuron(*t, *s, packs, final_v, batch, batch_r)
    values = images * math.prod(_map_sizes(y, memory_format)[1:])
    if norm is not None and batch:
        move_running(norm, found[0], found[1], values * steps)
    if norm_residual is not None and batch_r:
        move_running(norm_residual, found[2], found[3], values * timesteps)
    return Packed(spikes, words) if packs else spikes, last if final_v else None


def _affine(norm: Norm | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if norm is None else (norm.weight, norm.bias)


def _map_sizes(y: Tensor, memory_format: MemoryFormat) -> tuple[int, int, int]:
    c, h, w = y.shape[1:4] if memory_format.kind == "lanes" else y.shape[2:]
    return c, h, w


def _ordinary(memory_format: MemoryFormat) -> MemoryFormat:
    return NCHW if memory_format.kind == "lanes" else memory_format


def _in_lanes(spikes: Tensor, memory_format: MemoryFormat) -> Tensor:
    """Spikes of plain PyTorch in lanes, if these are wanted."""
    if memory_format.kind != "lanes":
        return spikes
    t, n, c, h, w = spikes.shape
    return convert(spikes, (t, n, c, h, w), format_of(spikes), memory_format)


def _checked(
    y: Tensor,
    timesteps: int,
    residual: Tensor | Packed | None,
    norm_residual: Norm | None,
    v: Tensor | None,
    pool: bool,
) -> MemoryFormat:
    """The format of an ordinary ``y``, if all sizes fit."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        raise TypeError(f"y must be a floating-point tensor, got {getattr(y, 'dtype', type(y).__name__)}")
    if timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    if y.dim() != 5 or y.shape[0] not in (1, timesteps) or y.numel() == 0:
        raise ValueError(f"y must be [{timesteps} or 1, N, C, H, W] and not empty, got shape {tuple(y.shape)}")
    if pool and min(y.shape[-2:]) < 2:
        raise ValueError(f"y must have maps of at least 2x2 for pool=True, got {tuple(y.shape[-2:])}")
    shape = (timesteps, *y.shape[1:])
    dense = residual.carrier if isinstance(residual, Packed) else residual
    if dense is not None and tuple(dense.shape) != shape:
        raise ValueError(f"residual must be {shape}, got shape {tuple(dense.shape)}")
    if norm_residual is not None and not isinstance(residual, Tensor):
        raise ValueError("norm_residual needs a dense residual")
    if v is not None and v.shape != y.shape[1:]:
        raise ValueError(f"v must be {tuple(y.shape[1:])}, got shape {tuple(v.shape)}")
    return format_of(y)
