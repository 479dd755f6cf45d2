"""Arguments that both neuron kernels share, checked once."""

from dataclasses import dataclass
from typing import Any

import torch

from snn_sparse.ops.backend import TRITON_DTYPES
from snn_sparse.ops.neuron.call import DIFFERENTIABLE, Settings, Tensors, norm_code, spikes_shape
from snn_sparse.ops.neuron.triton_math import HARD, LATE, SOFT
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, is_channels_last, ordered, packed_shape
from snn_sparse.specs import MAX_TIMESTEPS, NEURONS, NORMS

MAX_EXACT_TIMESTEPS = 8
_SEGMENT = 4  # the compiler's time grows with the cube of unrolled steps


@dataclass(frozen=True)
class Inputs:
    """A call of the neuron's operators, as its kernels take it.

    Args:
        t: the tensors, all on one device; ``y`` in float32, float16 or bfloat16.
        s: the numbers; T at most 32. Formats are read off the tensors: all results lie as ``y`` does.

    Raises:
        ValueError: sizes that do not fit. TypeError: a dtype that is not supported.
    """

    t: Tensors
    s: Settings

    def __post_init__(self) -> None:
        t, steps = self.t, self.s.steps
        if not 1 <= steps <= MAX_TIMESTEPS:
            raise ValueError(f"timesteps must be 1 to {MAX_TIMESTEPS}, got {steps}")
        if t.y.dim() != 5 or t.y.shape[0] not in (1, steps):
            raise ValueError(f"y must be [{steps} or 1, N, C, H, W], got {tuple(t.y.shape)}")
        if t.v is not None and t.v.shape != t.y.shape[1:]:
            raise ValueError(f"v must be {tuple(t.y.shape[1:])}, got {tuple(t.v.shape)}")
        check_numbers(self.s, t.rate)
        for name, x in (("y", t.y), ("residual", t.residual), ("v", t.v)):
            if x is not None and x.dtype not in TRITON_DTYPES:
                raise TypeError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}")
        self._check_residual()
        self._check_norm("", t.mean, t.spread, t.y.shape[0], self.s.frozen)
        self._check_norm("_r", t.mean_r, t.spread_r, steps, self.s.frozen_r)

    def _check_residual(self) -> None:
        t, shape = self.t, (self.s.steps, *self.t.y.shape[1:])
        if t.mean_r is not None and (t.residual is None or t.bits_r is not None):
            raise ValueError("the batch norm of a residual needs a dense residual")
        if t.residual is not None and t.residual.shape != shape:
            raise ValueError(f"residual must be {shape}, got {tuple(t.residual.shape)}")
        if t.bits_r is not None and t.bits_r.shape != packed_shape(shape, self.channels_last):
            raise ValueError(f"bits_r must be {packed_shape(shape, self.channels_last)}, got {tuple(t.bits_r.shape)}")

    def _check_norm(
        self, suffix: str, mean: torch.Tensor | None, spread: torch.Tensor | None, steps: int, frozen: bool
    ) -> None:
        if mean is None:
            return
        channels = self.t.y.shape[2]
        shapes = [(channels,)] if frozen else [(1, channels), (steps, channels)]
        of_spread = mean.shape if frozen else (mean.shape[0], 3, channels)
        if mean.shape not in shapes or spread is None or spread.shape != of_spread:
            wanted = (channels,) if frozen else (steps, 3, channels)
            got = tuple(mean.shape), None if spread is None else tuple(spread.shape)
            raise ValueError(
                f"mean{suffix} and spread{suffix} must be {shapes[-1]} and {wanted}, got {got[0]} and {got[1]}"
            )
        for name in ("weight", "bias"):
            x = getattr(self.t, name + suffix)
            if x is not None and x.shape != (channels,):
                raise ValueError(f"{name}{suffix} must be [{channels}], got {tuple(x.shape)}")

    @property
    def packed(self) -> bool:
        """Whether the residual is packed spikes."""
        return self.t.bits_r is not None

    @property
    def channels_last(self) -> bool:
        """Whether ``y`` and all results lie channels last."""
        return is_channels_last(self.t.y)

    @property
    def memory_format(self) -> MemoryFormat:
        """Memory format of ``y`` and of all results."""
        return NHWC if self.channels_last else NCHW

    def tiled_channels_last(self, bits: bool = False) -> bool:
        """Whether kernels read channels last, as dense 1x1 maps lie too: neighbouring channels are read at once."""
        single = self.t.y.shape[-1] * self.t.y.shape[-2] == 1
        return self.channels_last or (single and not self.packed and not bits)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the dense spikes."""
        return spikes_shape(self.t, self.s)

    @property
    def differentiable(self) -> list[str]:
        """Names of the given tensors that have a gradient; statistics are not among them."""
        return [name for name in DIFFERENTIABLE if getattr(self.t, name) is not None]

    @property
    def norm_codes(self) -> tuple[int, int]:
        """How kernels normalise ``y`` and the residual."""
        return norm_code(self.t.mean, self.s.frozen), norm_code(self.t.mean_r, self.s.frozen_r)

    @property
    def segments(self) -> int:
        """Parts that the timesteps are cut into; few counts serve all, steps that do not exist are masked."""
        if self.s.steps <= MAX_EXACT_TIMESTEPS:
            return 1
        return next(n for n in (3, 4, 6, 8) if self.s.steps <= n * _SEGMENT)

    @property
    def segment_steps(self) -> int:
        """Steps of a segment, which kernels unroll and whose potentials the backward pass keeps in registers."""
        return self.s.steps if self.s.steps <= MAX_EXACT_TIMESTEPS else _SEGMENT

    def arguments(self) -> dict[str, Any]:
        """Arguments of both kernels, by the names of their parameters."""
        t, s, (norm, norm_r) = self.t, self.s, self.norm_codes
        residual = t.residual
        if t.bits_r is not None:
            residual = t.bits_r.contiguous()
        elif residual is not None:
            residual = ordered(residual, self.memory_format)
        channels = {name: getattr(t, name) for name in _CHANNELS}
        return {
            "y": ordered(t.y, self.memory_format),
            "residual": residual,
            "rate": t.rate,
            "v_init": None if t.v is None else ordered(t.v, self.memory_format),
            "steps": s.steps,
            "eps": float(s.eps),
            "eps_r": float(s.eps_r),
            "NORM": norm,
            "CONSTANT": t.y.shape[0] == 1,
            "NORM_R": norm_r,
            "BITS_R": self.packed,
            "STEPS": self.segment_steps,
            "SEGMENTS": self.segments,
            "EXACT": self.segments == 1,
            **{name: None if x is None else x.contiguous() for name, x in channels.items()},
            **neuron_arguments(s),
        }


_CHANNELS = ("mean", "spread", "weight", "bias", "mean_r", "spread_r", "weight_r", "bias_r")


def check_numbers(s: Settings, rate: torch.Tensor | None) -> None:
    """Raise a ValueError for a ``rate`` or a late reset that does not go with the kind of neuron."""
    given = rate is not None and rate.numel() == 1
    if not {NEURONS["plif"]: given, NEURONS["leaky"]: given or rate is None}.get(s.kind, rate is None):
        raise ValueError("rate must be a tensor with one entry for plif (leaky: if learnt), and None for other neurons")
    if s.late and not (s.kind == NEURONS["leaky"] and s.detach_reset and not s.hard_reset):
        raise ValueError("late must be 0 but for a leaky neuron with a soft, detached reset")


def neuron_arguments(s: Settings) -> dict[str, Any]:
    """Arguments of every kernel with a neuron in it."""
    return {
        "tau": float(s.tau),
        "decay": float(s.decay),
        "v_threshold": float(s.v_threshold),
        "fires_at": float(s.fires_at),
        "v_reset": float(s.v_reset),
        "late": float(s.late),
        "KIND": s.kind,
        "DECAY_INPUT": s.decay_input,
        "RESET": HARD.value if s.hard_reset else LATE.value if s.late else SOFT.value,
    }


def is_batch(code: int) -> bool:
    """Whether a branch is normalised by statistics of the batch, through which gradients flow."""
    return code in (NORMS["per_step"], NORMS["pooled"])
