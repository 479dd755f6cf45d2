"""Specifications of a neuron, a batch norm and a convolution, said once for Python, Triton and C++. Needs no torch.

``csrc/common/codes.h`` repeats the integer codes and limits for C++; a test holds the two against each other.
"""

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, get_args

# Codes under which operators and kernels know them.
NEURONS = {"lif": 0, "plif": 1, "if": 2, "leaky": 3}
SHAPES = {"atan": 0, "logistic": 1, "triangle": 2, "rectangle": 3, "fast_sigmoid": 4, "gaussian": 5}
# Surrogates by name: the shape of each, which a height and a factor on h - v_threshold make the surrogate.
SURROGATES = {
    "atan": SHAPES["atan"],
    "sigmoid": SHAPES["logistic"],
    "piecewise_quadratic": SHAPES["triangle"],
    "triangle": SHAPES["triangle"],
    "rectangle": SHAPES["rectangle"],
    "fast_sigmoid": SHAPES["fast_sigmoid"],
    "erf": SHAPES["gaussian"],
}
NORMS = {"none": 0, "per_step": 1, "pooled": 2, "frozen": 3}
MEMORY_FORMATS = {"nchw": 0, "nhwc": 1, "lanes": 1}  # lanes: plus the number of vectors side by side

# Limits of the kernels.
LANES, MAX_VECTORS = 8, 8  # of the ``lanes`` memory format
MAX_KERNEL, MAX_STRIDE, MAX_PADDING = 7, 8, 64  # of a convolution at live weights or from spikes on a CPU
MAX_SPIKE_WIDTH = 4096  # pixels of a row, from spikes
MAX_TIMESTEPS = 32  # of the Triton kernels

BatchNormStatistics = Literal["per_step", "pooled"]


def check_tau(tau: float) -> float:
    """Return ``tau`` if it is a finite number of at least 1 timestep, else raise a ValueError that says so."""
    if not (isinstance(tau, (int, float)) and math.isfinite(tau) and tau >= 1):
        raise ValueError(f"tau must be a finite number >= 1 (in timesteps), got {tau!r}")
    return float(tau)


def check_alpha(alpha: float, name: str = "alpha") -> float:
    """Return a number of a surrogate if it is positive and finite, else raise a ValueError that names it."""
    if not (isinstance(alpha, (int, float)) and math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"{name} must be a positive number, got {alpha!r}")
    return float(alpha)


def _check_finite(name: str, value: Any) -> None:
    check_kind(name, value, Real)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise a TypeError that names the argument unless ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")


def check_statistics(statistics: str) -> BatchNormStatistics:
    """Return ``statistics`` if it is one of the two kinds, else raise a ValueError that names them."""
    if statistics not in get_args(BatchNormStatistics):
        raise ValueError(f"bn_statistics must be one of {', '.join(get_args(BatchNormStatistics))}, got {statistics!r}")
    return statistics  # type: ignore[return-value]


@dataclass(frozen=True)
class NeuronSpec:
    """A spiking neuron: how it charges, fires, resets, and what stands in for ds/dh in the backward pass.

    Args:
        kind: ``lif``, ``plif`` (its rate ``1 / tau`` is learnt and comes as a tensor), ``if`` or ``leaky``
            (``h = decay * v + x``; a learnt ``decay`` comes as a tensor).
        tau: membrane time constant of ``lif`` in timesteps, at least 1.
        decay_input: whether the input is divided by ``tau`` too.
        v_threshold: the neuron spikes where the membrane potential ``h >= v_threshold``.
        v_reset: potential after a spike (hard reset), or ``None``: ``v_threshold`` is subtracted (soft reset).
        detach_reset: whether the backward pass leaves out the path through the reset.
        surrogate: ``atan``, ``sigmoid``, ``piecewise_quadratic``, ``triangle``, ``rectangle``, ``fast_sigmoid`` or
            ``erf``.
        alpha: its steepness (for ``triangle``: its height), positive.
        height: of the surrogate at the threshold, where it is not the one that its formula gives.
        decay: factor on the potential of ``leaky``.
        strict: whether it spikes where ``h > v_threshold`` only.
        late_reset: whether the soft reset is subtracted after the decay of the next step (snnTorch); ``leaky`` only,
            and with ``detach_reset``. The potential that is handed on is then the one before the reset.

    Raises:
        ValueError: an unknown name, or a number out of range; named.
    """

    kind: str = "lif"
    tau: float = 4 / 3
    decay_input: bool = True
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = True
    surrogate: str = "atan"
    alpha: float = 2.0
    height: float | None = None
    decay: float = 1.0
    strict: bool = False
    late_reset: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("neuron", self.kind, NEURONS), ("surrogate", self.surrogate, SURROGATES)):
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"unknown {name} {value!r}: choose from {', '.join(known)}")
        check_tau(self.tau)
        check_alpha(self.alpha)
        _check_finite("v_threshold", self.v_threshold)
        if self.v_reset is not None:
            _check_finite("v_reset", self.v_reset)
        if self.height is not None:
            check_alpha(self.height, "height")
        _check_finite("decay", self.decay)
        for name in ("decay_input", "detach_reset", "strict", "late_reset"):
            check_kind(name, getattr(self, name), int)  # bools are
        if self.late_reset and not (self.kind == "leaky" and self.v_reset is None and self.detach_reset):
            raise ValueError("late_reset needs kind leaky, v_reset None and detach_reset True")

    @property
    def v_rest(self) -> float:
        """Potential a sequence starts from and leaks towards: ``v_reset``, or 0 with the soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    def fires_at(self, digits: int = 24) -> float:
        """Least potential that spikes, in numbers of ``digits`` binary digits: 24 in float32, 53 in float64.

        There ``h >= fires_at`` is ``h >= v_threshold``, or ``h > v_threshold`` for a strict threshold.
        """
        if not self.strict:
            return float(self.v_threshold)
        return next_binary(round_binary(self.v_threshold, digits), digits)


@dataclass(frozen=True)
class BatchNormSpec:
    """A batch norm: which statistics it takes.

    Args:
        statistics: ``per_step`` (each timestep its own) or ``pooled`` (one set over T and N).
        eps: added to the biased variance.
        frozen: whether the running statistics normalise, as constants, instead of the batch's.
    """

    statistics: BatchNormStatistics = "per_step"
    eps: float = 1e-5
    frozen: bool = False


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of a convolution over ``steps`` timesteps of ``images`` images, with one stride and one padding.

    Raises:
        ValueError: maps too small for the kernel.
    """

    steps: int
    images: int
    inputs: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: int
    padding: int

    def __post_init__(self) -> None:
        if min(self.out_size) < 1:
            raise ValueError(f"maps of {self.height}x{self.width} are too small for a kernel of {self.kernel}")

    @classmethod
    def of(cls, shape: Any, weight: Any, stride: int, padding: int) -> "ConvGeometry":
        """Read the sizes off the shapes of the input (T, N, C, H, W) and of the weight (Cout, Cin, kh, kw)."""
        t, n, c, h, w = shape
        return cls(t, n, c, weight[0], h, w, (weight[2], weight[3]), stride, padding)

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = (self.height, self.width)
        high, wide = ((s + 2 * self.padding - k) // self.stride + 1 for s, k in zip(sizes, self.kernel, strict=True))
        return high, wide

    @property
    def taps(self) -> int:
        """Weights of one input and output channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def merged(self) -> "ConvGeometry":
        """The same sizes with all timesteps as images of one."""
        return replace(self, steps=1, images=self.steps * self.images)

    @property
    def input_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the input (T, N, Cin, H, W)."""
        return (self.steps, self.images, self.inputs, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the output (T, N, Cout, Ho, Wo)."""
        return (self.steps, self.images, self.outputs, *self.out_size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight (Cout, Cin, kh, kw)."""
        return (self.outputs, self.inputs, *self.kernel)


_LEAST = {24: -149, 53: -1074}  # exponent of the least positive number, by binary digits


def round_binary(x: float, digits: int) -> float:
    """Round to a number of 24 (float32) or 53 (float64) binary digits; halves go to the even one."""
    spacing = 2.0 ** max(math.frexp(x)[1] - digits, _LEAST[digits])
    return round(x / spacing) * spacing


def next_binary(x: float, digits: int) -> float:
    """Return the least number of 24 (float32) or 53 (float64) binary digits above ``x``, which is one."""
    mantissa, exponent = math.frexp(x or 2.0**-1074)
    return x + 2.0 ** max(exponent - digits - (mantissa == -0.5), _LEAST[digits])  # closer just above -2**n


def ceil_div(a: int, b: int) -> int:
    """Divide whole numbers, rounding up."""
    return -(-a // b)
