"""Batch norm + residual + neuron + 2x2 spike max-pool over all timesteps, for any device.

:func:`neuron_sequence` chooses: Triton kernels on an NVIDIA GPU (a ``torch.library`` operator), the C++ operator on a
CPU, and otherwise (float64 on a GPU, no Triton, a failed first-use check, a graph compiled for a CPU, T > 32) plain
PyTorch, :func:`snn_sparse.ops.fused_neuron.reference`.
"""

import torch

from snn_sparse.ops.device import kernels_run
from snn_sparse.ops.fused_neuron import Branch, NeuronSpec, Norm, fused_neuron, reference
from snn_sparse.ops.layout import layout_of
from snn_sparse.ops.library import usable
from snn_sparse.ops.neuron_operator import run_kernels
from snn_sparse.ops.spike_bits import Packed, unpack_spikes

MAX_TIMESTEPS = 32  # of the kernels
Tensor = torch.Tensor


def neuron_sequence(
    y: Tensor,
    spec: NeuronSpec,
    timesteps: int,
    *,
    norm: Norm | None = None,
    residual: Tensor | Packed | None = None,
    norm_residual: Norm | None = None,
    w: Tensor | None = None,
    v: Tensor | None = None,
    pool: bool = False,
    packed: bool = False,
    final_v: bool = False,
) -> tuple[Tensor | Packed, Tensor | None]:
    """Spikes of a neuron over all timesteps, with the batch norm and residual before it and the max-pool behind it.

    The membrane potential never reaches memory, and backward keeps ``y`` and the batch statistics only. It can be
    differentiated once.

    Args:
        y: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]`` for one map that is shown ``timesteps`` times; its memory layout
            (NCHW or channels last) is that of the results.
        spec: the neuron.
        timesteps: T.
        norm: batch norm of ``y``; moves its running statistics.
        residual: ``[T, N, C, H, W]``, or packed spikes, added after ``norm``.
        norm_residual: batch norm of a dense ``residual``.
        w: of the parametric neuron, one entry.
        v: membrane potential ``[N, C, H, W]`` before the first step.
        pool: whether a 2x2 max-pool of stride 2 follows.
        packed: whether spikes are wanted at one bit each, where Triton kernels run.
        final_v: whether the potential after the last step is wanted.

    Returns:
        spikes ``[T, N, C, H, W]`` (pooled: ``H // 2, W // 2``); the potential ``[N, C, H, W]``, or None.

    Raises:
        ValueError: sizes that do not fit; named. TypeError: dtypes that do not fit.
    """
    _check_call(y, spec, timesteps, residual, norm_residual, w, v, pool)
    if not kernels_run(y) or timesteps > MAX_TIMESTEPS:
        if isinstance(residual, Packed):
            residual = unpack_spikes(residual)
        return _without_kernels(y, spec, timesteps, norm, residual, norm_residual, w, v, pool, final_v)
    call = {"norm": norm, "residual": residual, "norm_residual": norm_residual, "w": w, "v": v}
    return run_kernels(y, spec, timesteps, **call, pool=pool, packed=packed, final_v=final_v)  # type: ignore[arg-type]


def _without_kernels(
    y: Tensor,
    spec: NeuronSpec,
    timesteps: int,
    norm: Norm | None,
    residual: Tensor | None,
    norm_residual: Norm | None,
    w: Tensor | None,
    v: Tensor | None,
    pool: bool,
    final_v: bool,
) -> tuple[Tensor, Tensor | None]:
    if torch.compiler.is_compiling() or not usable(y, residual, v):
        spikes, last = reference(y, spec, timesteps, norm, residual, norm_residual, w, v, pool)
        return spikes, last if final_v else None
    other = None if residual is None else Branch(residual, layout_of(residual), norm_residual)
    start = None if v is None else Branch(v.unsqueeze(0), layout_of(v.unsqueeze(0)))
    main, layout, sizes = Branch(y, layout_of(y), norm), layout_of(y), (timesteps, *y.shape[1:])
    static = y.shape[0] == 1 < timesteps
    spikes, last = fused_neuron(
        main, sizes, spec, static=static, residual=other, w=w, v=start, pool=pool, out=layout, final_v=final_v
    )
    return spikes, last.squeeze(0) if final_v else None


def _check_call(
    y: Tensor,
    spec: NeuronSpec,
    timesteps: int,
    residual: Tensor | Packed | None,
    norm_residual: Norm | None,
    w: Tensor | None,
    v: Tensor | None,
    pool: bool,
) -> None:
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
    if (spec.kind == "plif") != (w is not None and w.numel() == 1):
        raise ValueError("w must be a tensor with one entry for plif, and None for other neurons")
