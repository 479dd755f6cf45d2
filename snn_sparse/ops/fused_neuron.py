"""Batch norm + residual + neuron + 2x2 spike max-pool over all timesteps as one CPU operator, and what it computes.

:func:`reference` is the definition; :func:`fused_neuron` the operator of ``csrc/``, for which nothing is saved but the
convolution's output and the batch statistics: backward recomputes the membrane potential by the same instructions.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from snn_sparse.ops.batch_norm import BatchNormStatistics, batch_norm_sequence
from snn_sparse.ops.layout import NCHW, Layout, ordered
from snn_sparse.ops.neuron import Firing, integrate_and_fire, lif, parametric_lif

_DTYPES = (torch.float32, torch.float64)
_NEURONS = {"lif": 0, "plif": 1, "if": 2}
_SURROGATES = {"atan": 0, "sigmoid": 1, "piecewise_quadratic": 2, "triangle": 3}


@dataclass(frozen=True)
class NeuronSpec:
    """Which neuron: ``lif``, ``plif`` (its ``w`` comes as a tensor) or ``if``; time constant, threshold, reset."""

    kind: str = "lif"
    tau: float = 4 / 3
    decay_input: bool = True
    firing: Firing = field(default_factory=Firing)


@dataclass(frozen=True)
class Norm:
    """One batch norm: affine parameters and running statistics ``[C]`` (or None), and how to use them.

    ``factors`` are the shares of the new statistics in the updates (see :func:`batch_norm_sequence`). ``parts`` are
    those of the batch statistics, where the kernel that has written the input gave them (``kernels/statistics.py``);
    ``shift`` is a bias ``[C]`` that the input lacks, since the batch's mean would take it away again.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    factors: tuple[float, ...]
    training: bool
    eps: float = 1e-5
    statistics: BatchNormStatistics = "per_step"
    parts: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    @property
    def uses_batch(self) -> bool:
        """Whether the batch's own statistics normalise."""
        return self.training or self.running_mean is None

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """The plain definition."""
        x = x if self.shift is None else x + self.shift.detach()[:, None, None]
        return batch_norm_sequence(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            factors=self.factors,
            eps=self.eps,
            statistics=self.statistics,
        )


@dataclass(frozen=True)
class Branch:
    """An input of the neuron: data in its layout, and the batch norm that comes first, if any."""

    data: torch.Tensor
    layout: Layout = NCHW
    norm: Norm | None = None


def reference(
    y: torch.Tensor,
    spec: NeuronSpec,
    timesteps: int,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
    norm_residual: Norm | None = None,
    w: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    pool: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`fused_neuron` computes, in plain PyTorch, on ordinary tensors.

    Args:
        y: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]`` for one map that is shown ``timesteps`` times.
        spec: the neuron.
        timesteps: T.
        norm: of ``y``.
        residual: ``[T, N, C, H, W]``, added after ``norm``.
        norm_residual: of ``residual``.
        w: of the parametric neuron.
        v: membrane potential ``[N, C, H, W]`` before the first step.
        pool: whether a 2x2 max-pool of stride 2 follows.

    Returns:
        spikes ``[T, N, C, H, W]``, or ``[T, N, C, H // 2, W // 2]``; the membrane potential after the last step.
    """
    x = y if norm is None else norm.reference(y)
    x = x.expand(timesteps, *x.shape[1:])
    if residual is not None:
        x = x + (residual if norm_residual is None else norm_residual.reference(residual))
    if spec.kind == "if":
        spikes, v = integrate_and_fire(x, firing=spec.firing, v=v)
    elif spec.kind == "plif":
        assert w is not None
        spikes, v = parametric_lif(x, w, decay_input=spec.decay_input, firing=spec.firing, v=v)
    else:
        spikes, v = lif(x, tau=spec.tau, decay_input=spec.decay_input, firing=spec.firing, v=v)
    return F.max_pool2d(spikes.flatten(0, 1), 2).unflatten(0, spikes.shape[:2]) if pool else spikes, v


class _FusedNeuron(torch.autograd.Function):
    """Tensors first, then what describes them."""

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        residual: torch.Tensor | None,
        v_init: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        weight2: torch.Tensor | None,
        bias2: torch.Tensor | None,
        rate: torch.Tensor | None,
        running: list[torch.Tensor | None],
        running2: list[torch.Tensor | None],
        config: list[int],
        params: list[float],
        layouts: tuple[Layout, Layout],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        spikes, mean, invstd, mean2, invstd2, v = torch.ops.snn_sparse.fused_neuron_forward(
            y, residual, v_init, weight, bias, *running, weight2, bias2, *running2, rate, config, params
        )
        ctx.save_for_backward(y, residual, v_init, weight, bias, mean, invstd, weight2, bias2, mean2, invstd2, rate)
        ctx.config, ctx.params, ctx.layouts, ctx.spikes_shape = config[:-1], params, layouts, spikes.shape
        ctx.set_materialize_grads(False)
        return spikes, v

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, grad_v: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        # once_differentiable would miss a second derivative through the inputs alone, and it would silently be zero.
        if torch.is_grad_enabled():
            raise RuntimeError("fused_neuron can be differentiated only once: no create_graph=True")
        y, residual, v_init, weight, bias, mean, invstd, weight2, bias2, mean2, invstd2, rate = ctx.saved_tensors
        need = ctx.needs_input_grad
        flags = int(need[0]) + 2 * int(need[1]) + 4 * int(need[2]) + 8 * int(need[7])
        if grad is None:  # only the final potential was used
            grad = y.new_zeros(ctx.spikes_shape)
        grads = torch.ops.snn_sparse.fused_neuron_backward(
            ordered(grad, ctx.layouts[0]),
            ordered(grad_v, ctx.layouts[1]) if grad_v is not None else None,
            y,
            residual,
            v_init,
            weight,
            bias,
            _given(mean),
            _given(invstd),
            weight2,
            bias2,
            _given(mean2),
            _given(invstd2),
            rate,
            [*ctx.config, flags],
            ctx.params,
        )
        return *map(_given, grads), None, None, None, None, None


def _given(x: torch.Tensor) -> torch.Tensor | None:
    return x if x.numel() else None


def _norm_config(norm: Norm | None) -> list[int]:
    if norm is None:
        return [0, 0]
    return [1 if norm.statistics == "per_step" else 2, int(norm.training)]


def _norm_tensors(norm: Norm | None) -> list[torch.Tensor | None]:
    if norm is None:
        return [None] * 3
    tracked = norm.training and norm.running_mean is not None
    momentum = torch.tensor(norm.factors, dtype=torch.float64) if tracked else None
    return [norm.running_mean, norm.running_var, momentum]


def fused_neuron(
    main: Branch,
    sizes: tuple[int, int, int, int, int],
    spec: NeuronSpec,
    *,
    static: bool = False,
    residual: Branch | None = None,
    w: torch.Tensor | None = None,
    v: Branch | None = None,
    pool: bool = False,
    out: Layout = NCHW,
    final_v: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes and final membrane potential of :func:`reference`, each tensor in its layout, on the CPU.

    Args:
        main: the convolution's output; one map if ``static``.
        sizes: (T, N, C, H, W) before pooling.
        spec: the neuron.
        static: whether ``main`` is one map that is shown T times.
        residual: added after batch norm; never static.
        w: of the parametric neuron.
        v: membrane potential before the first step, ``[1, N, C, H, W]``.
        pool: whether a 2x2 max-pool of stride 2 follows.
        out: layout of the spikes.
        final_v: whether the potential after the last step is wanted, in the layout of ``v`` (``nchw`` without one);
            otherwise the second result is empty.

    Raises:
        ValueError: sizes that do not fit, named by the operator. TypeError: tensors that are not float32 or float64 on
            the CPU.
    """
    for name, branch in (("main", main), ("residual", residual), ("v", v)):
        if branch is not None and (branch.data.device.type != "cpu" or branch.data.dtype not in _DTYPES):
            data = branch.data
            raise TypeError(f"{name} must be float32 or float64 on the CPU, got {data.dtype} on {data.device}")
    config, params = _describe(main, sizes, spec, static, residual, v, pool, out)
    norm, norm2 = main.norm, residual.norm if residual is not None else None
    try:
        return _FusedNeuron.apply(
            ordered(main.data, main.layout),
            ordered(residual.data, residual.layout) if residual is not None else None,
            ordered(v.data, v.layout) if v is not None else None,
            norm.weight if norm else None,
            norm.bias if norm else None,
            norm2.weight if norm2 else None,
            norm2.bias if norm2 else None,
            w.sigmoid().to(main.data.dtype) if w is not None else None,
            _norm_tensors(norm),
            _norm_tensors(norm2),
            [*config, int(final_v)],
            params,
            (out, v.layout if v is not None else NCHW),
        )
    except RuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _describe(
    main: Branch,
    sizes: tuple[int, int, int, int, int],
    spec: NeuronSpec,
    static: bool,
    residual: Branch | None,
    v: Branch | None,
    pool: bool,
    out: Layout,
) -> tuple[list[int], list[float]]:
    """The integers and floats that the operator takes, in its order (``csrc/neuron/neuron_ops.cpp``)."""
    firing, norm, norm2 = spec.firing, main.norm, residual.norm if residual is not None else None
    config = [*sizes, int(static), *_norm_config(norm), int(residual is not None), *_norm_config(norm2)]
    config += [_NEURONS[spec.kind], int(spec.decay_input), int(firing.v_reset is not None), int(firing.detach_reset)]
    config += [_SURROGATES[firing.surrogate.kind], int(pool)]
    for layout in (main.layout, out, *(b.layout if b is not None else NCHW for b in (residual, v))):
        config += layout.config()
    params = [spec.tau, firing.v_threshold, firing.v_reset or 0.0, float(firing.surrogate.alpha)]
    return config, params + [norm.eps if norm else 0.0, norm2.eps if norm2 else 0.0]
