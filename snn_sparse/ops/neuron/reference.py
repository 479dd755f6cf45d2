"""Definition of what a spiking neuron *is*: plain PyTorch of LIF, IF and parametric LIF over a whole sequence.

These loops are the oracle: every faster implementation is held against them. The arithmetic is that of SpikingJelly
0.0.0.0.12 as used by Kim et al. (ECCV 2022, arXiv 2207.01382).
"""

import torch
import torch.nn.functional as F

from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.neuron.surrogate import surrogate_of
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor


def charge(v: Tensor, x: Tensor, spec: NeuronSpec, rate: Tensor | None) -> Tensor:
    """Membrane potential h before firing, from the potential ``v`` and the input ``x`` of one step.

    LIF: ``h = v + (x - (v - v_rest)) / tau``; with ``decay_input=False`` the input is added undivided. Parametric LIF
    multiplies by ``rate`` instead. IF: ``h = v + x``. Leaky: ``h = decay * v + x``, where a late reset still
    subtracts the threshold if ``v``, which is the potential before the reset then, has fired.
    """
    if spec.kind == "if":
        return v + x
    if spec.kind == "leaky":
        h = v * (spec.decay if rate is None else rate) + x
        return h - _fired(v, spec) * spec.v_threshold if spec.late_reset else h
    leak = v - spec.v_rest
    if rate is not None:
        return v + (x - leak) * rate if spec.decay_input else v - leak * rate + x
    return v + (x - leak) / spec.tau if spec.decay_input else v - leak / spec.tau + x


def _fired(h: Tensor, spec: NeuronSpec) -> Tensor:
    return (h > spec.v_threshold if spec.strict else h >= spec.v_threshold).to(h.dtype)


def fire(h: Tensor, spec: NeuronSpec) -> tuple[Tensor, Tensor]:
    """Spikes and the membrane potential after the reset, both shaped and typed like ``h``."""
    s = surrogate_of(spec).spike(h - spec.v_threshold, spec.strict)
    if spec.late_reset:
        return s, h
    r = s.detach() if spec.detach_reset else s
    return s, h - r * spec.v_threshold if spec.v_reset is None else h * (1 - r) + r * spec.v_reset


def plain_neuron(
    x: Tensor, spec: NeuronSpec, *, rate: Tensor | None = None, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run neurons over all timesteps in plain PyTorch.

    Args:
        x: input current ``[T, N, ...]``, floating point.
        spec: the neuron.
        rate: ``1 / tau`` of the parametric neuron (Fang et al., ICCV 2021), or the learnt decay of the leaky one, a
            tensor with one entry.
        v: membrane potential ``[N, ...]`` before the first step; ``spec.v_rest`` if left out.

    Returns:
        spikes ``[T, N, ...]`` in the dtype of ``x``, and the membrane potential ``[N, ...]`` after the last step.

    Raises:
        ValueError: a shape that does not fit, or ``rate`` missing or given for another neuron; named.
        TypeError: ``x`` is no floating-point tensor.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, N, ...] with T >= 1, got shape {tuple(x.shape)}")
    check_rate(spec, rate)
    if v is None:
        v = torch.full_like(x[0], spec.v_rest)
    elif v.shape != x.shape[1:]:
        raise ValueError(f"v must have the shape of one timestep {tuple(x.shape[1:])}, got {tuple(v.shape)}")
    spikes = []
    for x_t in x.unbind(0):
        s, v = fire(charge(v, x_t, spec, rate), spec)
        spikes.append(s)
    return torch.stack(spikes), v


def plain_potentials(
    x: Tensor, spec: NeuronSpec, *, rate: Tensor | None = None, v: Tensor | None = None, before_reset: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Run :func:`plain_neuron` and keep the membrane potential of each step beside the spikes.

    Returns:
        spikes ``[T, N, ...]``; potentials ``[T, N, ...]`` after the reset (or, if asked for, before it); the last one
        after its reset ``[N, ...]``.
    """
    spikes, potentials = [], []
    v = torch.full_like(x[0], spec.v_rest) if v is None else v
    for x_t in x.unbind(0):
        h = charge(v, x_t, spec, rate)
        s, v = fire(h, spec)
        spikes.append(s)
        potentials.append(h if before_reset else v)
    return torch.stack(spikes), torch.stack(potentials), v


def check_rate(spec: NeuronSpec, rate: Tensor | None) -> None:
    """Raise a ValueError unless ``rate`` has one entry: given for plif, at will for leaky, and for no other."""
    given = isinstance(rate, torch.Tensor) and rate.numel() == 1
    if not {"plif": given, "leaky": given or rate is None}.get(spec.kind, rate is None):
        raise ValueError("rate must be a tensor with one entry for plif (leaky: if learnt), and None for other neurons")


def plain_stage(
    y: Tensor,
    spec: NeuronSpec,
    timesteps: int,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    norm_residual: Norm | None = None,
    rate: Tensor | None = None,
    v: Tensor | None = None,
    pool: bool = False,
) -> tuple[Tensor, Tensor]:
    """Batch norm, residual, neuron and 2x2 spike max-pool in plain PyTorch: what ``neuron_sequence`` computes.

    Args:
        y: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]``: a constant input, shown ``timesteps`` times.
        spec: the neuron.
        timesteps: T.
        norm: batch norm of ``y``.
        residual: ``[T, N, C, H, W]``, added after ``norm``.
        norm_residual: batch norm of ``residual``.
        rate: ``1 / tau`` of the parametric neuron, or the learnt decay of the leaky one.
        v: membrane potential ``[N, C, H, W]`` before the first step.
        pool: whether a 2x2 max-pool of stride 2 follows.

    Returns:
        spikes ``[T, N, C, H, W]``, or ``[T, N, C, H // 2, W // 2]``; the membrane potential after the last step.
    """
    x = y if norm is None else norm.plain(y)
    x = x.expand(timesteps, *x.shape[1:])
    if residual is not None:
        x = x + (residual if norm_residual is None else norm_residual.plain(residual))
    spikes, v = plain_neuron(x, spec, rate=rate, v=v)
    return F.max_pool2d(spikes.flatten(0, 1), 2).unflatten(0, spikes.shape[:2]) if pool else spikes, v
