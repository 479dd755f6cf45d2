"""The arguments of the neuron's operators, by name and in the order of their schema, for Python and Triton alike."""

from typing import NamedTuple

import torch

from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.neuron.surrogate import surrogate_of
from snn_sparse.ops.spikes import NCHW, MemoryFormat, Sizes
from snn_sparse.specs import NEURONS, NORMS, SURROGATES, NeuronSpec

Tensor = torch.Tensor


class Tensors(NamedTuple):
    """The tensors of the operators; ``_r`` belongs to the residual.

    ``mean`` and ``spread`` are those of the batch ``[T or 1, C]`` (spread: 1/std; on a GPU ``[T or 1, 3, C]``: 1/std,
    then scale and shift of ``y * scale + shift``), or, ``frozen``, the running ones ``[C]`` (spread: variance). With
    ``bits_r``, ``residual`` is the carrier of packed spikes. ``rate``: 1/tau of plif, or the decay of leaky where it is
    learnt.
    """

    y: Tensor
    mean: Tensor | None = None
    spread: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    mean_r: Tensor | None = None
    spread_r: Tensor | None = None
    weight_r: Tensor | None = None
    bias_r: Tensor | None = None
    bits_r: Tensor | None = None
    rate: Tensor | None = None
    v: Tensor | None = None


class Settings(NamedTuple):
    """The numbers of the operators; ``steps`` is T, ``images`` N; ``constant``: ``y`` is one map for all.

    A neuron spikes where ``h >= fires_at``. ``late`` is subtracted at the next charge from a potential that has fired,
    which the reset then leaves as it is; 0: the reset is not late. ``surrogate`` is a code of :data:`specs.SHAPES`; the
    surrogate is ``peak * shape(slope * (h - v_threshold))``.
    """

    steps: int
    images: int
    constant: bool
    kind: int
    tau: float
    decay_input: bool
    decay: float
    v_threshold: float
    fires_at: float
    v_reset: float
    hard_reset: bool
    late: float
    detach_reset: bool
    surrogate: int
    peak: float
    slope: float
    frozen: bool
    frozen_r: bool
    eps: float
    eps_r: float
    pool: bool
    format: int
    format_r: int
    format_out: int

    @classmethod
    def of(
        cls,
        spec: NeuronSpec,
        steps: int,
        images: int,
        constant: bool = False,
        norm: Norm | None = None,
        norm_r: Norm | None = None,
        pool: bool = False,
        formats: tuple[MemoryFormat, MemoryFormat, MemoryFormat] = (NCHW, NCHW, NCHW),
        digits: int = 24,
    ) -> "Settings":
        """Collect the numbers of a call from the objects that describe it; ``digits`` are those of its arithmetic."""
        surrogate = surrogate_of(spec)
        return cls(
            steps,
            images,
            constant,
            NEURONS[spec.kind],
            float(spec.tau),
            spec.decay_input,
            float(spec.decay),
            float(spec.v_threshold),
            spec.fires_at(digits),
            float(spec.v_rest),
            spec.v_reset is not None,
            float(spec.v_threshold) if spec.late_reset else 0.0,
            spec.detach_reset,
            SURROGATES[spec.surrogate],
            float(surrogate.peak),
            float(surrogate.slope),
            norm is not None and norm.spec.frozen,
            norm_r is not None and norm_r.spec.frozen,
            norm.spec.eps if norm is not None else 0.0,
            norm_r.spec.eps if norm_r is not None else 0.0,
            pool,
            *(f.code for f in formats),
        )


# The inputs that have a gradient, in the order of the backward operator's results.
DIFFERENTIABLE = ("y", "weight", "bias", "residual", "weight_r", "bias_r", "rate", "v")


def maps_of(t: Tensors, s: Settings) -> tuple[int, int, int, int]:
    """(N, C, H, W) of the neurons, before pooling; lanes do not tell N."""
    c, h, w = t.y.shape[1:4] if s.format > 1 else t.y.shape[2:]
    return s.images, c, h, w


def spikes_shape(t: Tensors, s: Settings) -> Sizes:
    """(T, N, C, H, W) of the spikes, after pooling."""
    n, c, h, w = maps_of(t, s)
    return (s.steps, n, c, h // 2, w // 2) if s.pool else (s.steps, n, c, h, w)


def norm_code(mean: Tensor | None, frozen: bool) -> int:
    """How a branch is normalised."""
    if mean is None:
        return NORMS["none"]
    if frozen:
        return NORMS["frozen"]
    return NORMS["per_step"] if mean.shape[0] > 1 else NORMS["pooled"]
