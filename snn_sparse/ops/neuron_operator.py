"""The Triton kernels of the neuron as ``torch.library`` operators: schema, shapes, gradient.

:func:`snn_sparse.ops.neuron_sequence` is the function to call; it chooses what runs on a device.
"""

from typing import Any, NamedTuple

import torch

from snn_sparse.ops.batch_statistics import update_statistics
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.layout import layout_of
from snn_sparse.ops.spike_bits import Packed, packed_shape

Tensor = torch.Tensor


class Settings(NamedTuple):
    """The arguments of the operators that are no tensors, in their order; ``steps`` is T."""

    steps: int
    kind: str
    tau: float
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    surrogate: str
    alpha: float
    frozen: bool
    frozen_r: bool
    eps: float
    eps_r: float
    pool: bool

    @classmethod
    def of(cls, spec: NeuronSpec, timesteps: int, norm: Norm | None, norm_r: Norm | None, pool: bool) -> "Settings":
        """From the objects that describe a call."""
        f = spec.firing
        return cls(
            timesteps,
            spec.kind,
            float(spec.tau),
            spec.decay_input,
            float(f.v_threshold),
            None if f.v_reset is None else float(f.v_reset),
            f.detach_reset,
            f.surrogate.kind,
            float(f.surrogate.alpha),
            norm is not None and not norm.uses_batch,
            norm_r is not None and not norm_r.uses_batch,
            norm.eps if norm is not None else 0.0,
            norm_r.eps if norm_r is not None else 0.0,
            pool,
        )


class Given(NamedTuple):
    """The tensors of the operators, in their order; ``_r`` belongs to the residual.

    ``mean`` and ``spread`` are those of the batch ``[T or 1, C]`` (spread: 1/std), or ``frozen``: the running ones
    ``[C]`` (spread: variance). With ``bits_r``, ``residual`` is the carrier of packed spikes. ``w`` is that of plif.
    """

    y: Tensor
    mean: Tensor | None
    spread: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mean_r: Tensor | None
    spread_r: Tensor | None
    weight_r: Tensor | None
    bias_r: Tensor | None
    bits_r: Tensor | None
    w: Tensor | None
    v: Tensor | None


# Inputs that have a gradient: the name here, and in the kernels' Gradients.
_DIFFERENTIABLE = {
    "y": "y",
    "weight": "weight",
    "bias": "bias",
    "residual": "residual",
    "weight_r": "weight_residual",
    "bias_r": "bias_residual",
    "w": "rate",
    "v": "v",
}
_TENSORS = "Tensor y, " + ", ".join(f"Tensor? {name}" for name in Given._fields[1:])
_NUMBERS = (
    "SymInt steps, str kind, float tau, bool decay_input, float v_threshold, float? v_reset, bool detach_reset, "
    "str surrogate, float alpha, bool frozen, bool frozen_r, float eps, float eps_r, bool pool"
)
_COUNT = len(Given._fields)
FORWARD = "snn_sparse::neuron_sequence"
BACKWARD = "snn_sparse::neuron_sequence_backward"
torch.library.define(FORWARD, f"({_TENSORS}, {_NUMBERS}, bool packed, bool final_v) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    BACKWARD,
    f"(Tensor? grad, Tensor? grad_v, {_TENSORS}, {_NUMBERS}, bool[] needs) -> ({', '.join(['Tensor'] * 8)})",
)


def _split(arguments: tuple[Any, ...]) -> tuple[Given, Settings, tuple[Any, ...]]:
    given, rest = arguments[:_COUNT], arguments[_COUNT:]
    count = len(Settings._fields)
    return Given(*given), Settings(*rest[:count]), rest[count:]


def _output_shape(given: Given, s: Settings) -> tuple[int, ...]:
    _, n, c, h, w = given.y.shape
    return (s.steps, n, c, h // 2, w // 2) if s.pool else (s.steps, n, c, h, w)


def _like(y: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised ``[..., C, H, W]`` in the memory layout of ``y``."""
    if layout_of(y).kind == "nhwc":
        *outer, c, h, w = shape
        return y.new_empty((*outer, h, w, c), dtype=dtype).movedim(-1, -3)
    return y.new_empty(shape, dtype=dtype)


def _kernel_inputs(given: Given, s: Settings) -> Any:
    from snn_sparse.kernels.inputs import Inputs
    from snn_sparse.kernels.settings import Neuron, Normalisation

    def norm(suffix: str, frozen: bool, eps: float) -> Normalisation | None:
        mean, spread, weight, bias = (getattr(given, n + suffix) for n in ("mean", "spread", "weight", "bias"))
        if mean is None:
            return None
        return Normalisation(mean, None if frozen else spread, spread if frozen else None, weight, bias, eps)

    neuron = Neuron(s.kind, s.tau, s.decay_input, s.v_threshold, s.v_reset, s.detach_reset, s.surrogate, s.alpha)
    norms = norm("", s.frozen, s.eps), norm("_r", s.frozen_r, s.eps_r)
    residual = given.residual if given.bits_r is None else given.bits_r
    rate = None if given.w is None else given.w.float().sigmoid()
    return Inputs(given.y, neuron, s.steps, norms[0], residual, norms[1], rate, given.v, s.pool)


@torch.library.impl(FORWARD, ("CPU", "CUDA"))
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from snn_sparse.kernels.neuron import forward

    given, s, (packed, final_v) = _split(arguments)
    spikes, v = forward(_kernel_inputs(given, s), bits=packed, final_v=final_v)
    y = given.y
    v = v if v is not None else y.new_empty(0, dtype=torch.float32)
    if packed:
        return y.new_zeros(1).expand(_output_shape(given, s)), spikes, v
    return spikes, y.new_empty(0, dtype=torch.int32), v


@torch.library.register_fake(FORWARD)
def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    given, s, (packed, final_v) = _split(arguments)
    y, shape = given.y, _output_shape(given, s)
    exact = torch.float64 if y.dtype == torch.float64 else torch.float32
    v = _like(y, tuple(y.shape[1:]), exact) if final_v else y.new_empty(0, dtype=torch.float32)
    if packed:
        words = packed_shape(shape, layout_of(y).kind == "nhwc")
        return y.new_zeros(1).expand(shape), y.new_empty(words, dtype=torch.int32), v
    return _like(y, shape), y.new_empty(0, dtype=torch.int32), v


@torch.library.impl(BACKWARD, ("CPU", "CUDA"))
def _backward(grad: Tensor | None, grad_v: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    from snn_sparse.kernels.neuron_backward import backward

    given, s, (needs,) = _split(arguments)
    inputs = _kernel_inputs(given, s)
    wanted = [theirs for theirs, need in zip(_DIFFERENTIABLE.values(), needs, strict=True) if need]
    found = backward(inputs, grad, grad_v, wanted)
    grads = {name: getattr(found, theirs) for name, theirs in _DIFFERENTIABLE.items()}
    if grads["w"] is not None and given.w is not None and inputs.rate is not None:  # kernels know 1 / tau = sigmoid(w)
        grads["w"] = (grads["w"] * inputs.rate * (1 - inputs.rate)).to(given.w.dtype)
    return tuple(g if g is not None else given.y.new_empty(0) for g in grads.values())


@torch.library.register_fake(BACKWARD)
def _fake_backward(grad: Tensor | None, grad_v: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    given, s, (needs,) = _split(arguments)
    y, found = given.y, []
    for name, need in zip(_DIFFERENTIABLE, needs, strict=True):
        x = getattr(given, name)
        if not need:
            found.append(y.new_empty(0))
        elif name in ("y", "v"):
            found.append(_like(y, tuple(x.shape), x.dtype))
        elif name == "residual":
            found.append(_like(y, (s.steps, *y.shape[1:]), y.dtype if given.bits_r is not None else x.dtype))
        else:
            found.append(torch.empty_like(x))
    return tuple(found)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, settings, (_, ctx.final_v) = _split(inputs)
    ctx.save_for_backward(*given)
    ctx.settings = settings
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _bits: Any, grad_v: Tensor | None) -> tuple[Any, ...]:
    given = Given(*ctx.saved_tensors)
    needs = dict(zip(Given._fields, ctx.needs_input_grad, strict=False))
    wanted = [needs[name] for name in _DIFFERENTIABLE]
    nothing = (None,) * len(Settings._fields)
    grad_v = grad_v if ctx.final_v else None  # of an empty stand-in otherwise
    if (grad is None and grad_v is None) or not any(wanted):
        return (*(None,) * _COUNT, *nothing, None, None)
    grads = torch.ops.snn_sparse.neuron_sequence_backward(grad, grad_v, *given, *ctx.settings, wanted)
    found = {name: g for name, need, g in zip(_DIFFERENTIABLE, wanted, grads, strict=True) if need}
    return (*(found.get(name) for name in Given._fields), *nothing, None, None)


def _only_once(*_: Any) -> None:
    raise RuntimeError("neuron_sequence can be differentiated only once: no create_graph=True")


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_setup)
torch.library.register_autograd(BACKWARD, _only_once, setup_context=lambda ctx, inputs, output: None)


def run_kernels(
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
) -> tuple[Any, Tensor | None]:
    """:func:`neuron_sequence` by the Triton kernels, without asking whether they run here."""
    bits = residual.bits if isinstance(residual, Packed) else None
    dense = residual.carrier if isinstance(residual, Packed) else residual
    mean, spread, weight, bias = _normed(norm, y)
    mean_r, spread_r, weight_r, bias_r = _normed(norm_residual, dense)
    given = Given(y, mean, spread, weight, bias, dense, mean_r, spread_r, weight_r, bias_r, bits, w, v)
    settings = Settings.of(spec, timesteps, norm, norm_residual, pool)
    spikes, words, v = torch.ops.snn_sparse.neuron_sequence(*given, *settings, packed, final_v)
    return Packed(spikes, words) if packed else spikes, v if final_v else None


def _normed(norm: Norm | None, x: Tensor | None) -> tuple[Tensor | None, ...]:
    """Mean, spread, weight and bias; moves the running statistics."""
    if norm is None or x is None:
        return None, None, None, None
    if not norm.uses_batch:
        return norm.running_mean, norm.running_var, norm.weight, norm.bias
    pooled = norm.statistics == "pooled"
    running = norm.running_mean, norm.running_var
    found = update_statistics(
        x, *running, norm.factors, pooled=pooled, eps=norm.eps, parts=norm.parts, shift=norm.shift
    )
    return *found, norm.weight, norm.bias
