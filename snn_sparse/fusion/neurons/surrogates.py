"""Other people's surrogate gradients as ours: by class where it is known, else by the shape of the gradient."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from snn_sparse.ops import SURROGATES, Surrogate

Tensor = torch.Tensor

# SpikingJelly's classes whose formula is one of ours: kind, steepness and height from their ``alpha``.
_SPIKINGJELLY: dict[str, Callable[[float], tuple[str, float, float | None]]] = {
    "ATan": lambda a: ("atan", a, None),
    "Sigmoid": lambda a: ("sigmoid", a, None),
    "PiecewiseQuadratic": lambda a: ("piecewise_quadratic", a, None),
    "Rect": lambda a: ("rectangle", a, None),
    "Erf": lambda a: ("erf", a, None),
    "SoftSign": lambda a: ("fast_sigmoid", a, a / 2),  # alpha / 2 / (1 + alpha |u|)^2
    "SuperSpike": lambda a: ("fast_sigmoid", 1.0, a),  # alpha / (1 + |u|)^2
}

# From a height relative to the peak, strictly between 0 and 1, to the z where the curve has it.
_INVERSE: dict[str, Callable[[float], float]] = {
    "atan": lambda r: math.sqrt(1 / r - 1),
    "sigmoid": lambda r: 2 * math.acosh(1 / math.sqrt(r)),
    "piecewise_quadratic": lambda r: 1 - r,
    "fast_sigmoid": lambda r: 1 / math.sqrt(r) - 1,
    "erf": lambda r: math.sqrt(-math.log(r)),
}


@dataclass(frozen=True)
class Firing:
    """A surrogate of ours and whether the spike function that has it fires above the threshold only."""

    kind: str
    alpha: float
    height: float | None
    strict: bool

    def fields(self) -> dict[str, Any]:
        """Arguments of a specification."""
        return {"surrogate": self.kind, "alpha": self.alpha, "height": self.height, "strict": self.strict}


def nice(value: float, tolerance: float) -> Iterator[float]:
    """Round numbers and simple fractions within a relative ``tolerance``, simplest first, then ``value``."""
    seen = set()
    digits = (d for d in range(7) if 10.0**-d > 50 * tolerance * abs(value))  # else any number is next to a round one
    rounded = [round(value, d) for d in digits]
    for candidate in [*rounded, float(Fraction(value).limit_denominator(100)), value]:
        if abs(candidate - value) <= tolerance * abs(value) and candidate not in seen:
            seen.add(candidate)
            yield candidate


Curve = tuple[str, float, float | None]


def match_curve(gradient: Callable[[Tensor], Tensor], tolerance: float = 1e-9) -> Curve | None:
    """Find the surrogate of ours that has this gradient.

    Args:
        gradient: from ``u`` (float64, one dimension) to the gradient of the spike there, deterministic.
        tolerance: largest error, relative to the peak.

    Returns:
        kind, alpha and height (None: the formula's) as :class:`~snn_sparse.specs.NeuronSpec` takes them; None: no
        surrogate of ours.
    """
    steps = torch.logspace(-4, 2, 121, dtype=torch.float64)
    u = torch.cat([-steps.flip(0), steps.new_zeros(1), steps])
    found = gradient(u).detach().to(torch.float64)
    peak = float(found[len(steps)])
    if not (math.isfinite(peak) and peak > 0):
        return None
    relative = found[len(steps) + 1 :] / peak
    half = int((relative - 0.5).abs().nan_to_num(9.0).argmin())  # a point where the curve tells its width best
    r, at = float(relative[half]), float(steps[half])
    candidates = _rectangles(gradient, peak, steps, relative)
    if 0 < r < 1:
        candidates += [(kind, inverse(r) / at) for kind, inverse in _INVERSE.items()]
    for kind, slope in candidates:
        for surrogate in _roundings(kind, slope, peak, 1e-12 if tolerance <= 1e-9 else tolerance):
            if _agrees(surrogate, u, found, tolerance):
                return surrogate.kind, surrogate.alpha, surrogate.height
    return None


def rescale(curve: Curve, unit: float) -> Curve:
    """Return the surrogate of potentials that are ``unit`` times as large: a ``unit``-th as steep and as high."""
    surrogate = SURROGATES[curve[0]](*curve[1:])
    kind = "piecewise_quadratic" if curve[0] == "triangle" else curve[0]
    scaled = next(_roundings(kind, surrogate.slope / unit, surrogate.peak / unit, 1e-12))
    return scaled.kind, scaled.alpha, scaled.height


def _rectangles(
    gradient: Callable[..., Tensor], peak: float, steps: Tensor, relative: Tensor
) -> list[tuple[str, float]]:
    """Find the edge by bisection if the gradient falls from its peak to nothing between two neighbouring points."""
    inside = int((relative > 0.5).sum())
    if not 0 < inside < len(steps) or float(relative[inside]) != 0:
        return []
    low, high = float(steps[inside - 1]), float(steps[inside])
    for _ in range(60):
        middle = (low + high) / 2
        hit = float(gradient(steps.new_full((1,), middle))) > peak / 2
        low, high = (middle, high) if hit else (low, middle)
    return [("rectangle", 0.5 / high)]


def _roundings(kind: str, slope: float, peak: float, tolerance: float) -> Iterator[Surrogate]:
    """Surrogates of a shape with this width and height, the roundest numbers first, the formula's height if it fits."""
    if not (math.isfinite(slope) and slope > 0):
        return
    make = SURROGATES[kind]
    if kind == "piecewise_quadratic" and abs(slope - 1) <= tolerance:
        yield from (SURROGATES["triangle"](alpha) for alpha in nice(peak, tolerance))
    for alpha in nice(slope * 2 / math.pi if kind == "atan" else slope, tolerance):
        formula = make(alpha)
        if abs(formula.peak - peak) <= 10 * tolerance * peak:
            yield formula
        yield from (make(alpha, height) for height in nice(peak, tolerance))


def _agrees(surrogate: Surrogate, u: Tensor, found: Tensor, tolerance: float) -> bool:
    """Whether a surrogate has these gradients; an overflow of theirs where ours is nothing counts as nothing."""
    ours = surrogate.gradient(u)
    error = (ours - found).abs()
    overflow = ~found.isfinite() & (ours < 1e-12 * surrogate.peak)
    error = torch.where(overflow, 0.0, error)
    if surrogate.kind == "rectangle":  # the edge is in its place up to rounding
        error = torch.where((u.abs() - 0.5 / surrogate.alpha).abs() < 1e-6 / surrogate.alpha, 0.0, error)
    return bool((error <= tolerance * surrogate.peak).all())


def read_surrogate(function: Any) -> Firing | str:
    """Read a spike function of ``u = h - v_threshold``: a module of SpikingJelly's, or any callable.

    Returns:
        the :class:`Firing`, or why not, in one line.
    """
    if not getattr(function, "spiking", True):
        return "its surrogate function is not in spiking mode"
    kind = type(function)
    if kind.__module__.startswith("spikingjelly.") and kind.__name__ in _SPIKINGJELLY:
        alpha = function.alpha
        if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0 < alpha < math.inf:
            return Firing(*_SPIKINGJELLY[kind.__name__](float(alpha)), strict=False)
    if isinstance(function, nn.Module):  # its numbers may change
        return _probe(function)
    try:
        if function not in _known:
            _known[function] = _probe(function)
        return _known[function]
    except TypeError:  # cannot be a key
        return _probe(function)


_known: "WeakKeyDictionary[Any, Firing | str]" = WeakKeyDictionary()


def _probe(function: Any) -> Firing | str:
    if not callable(function):
        return "it has no surrogate function"
    if isinstance(function, nn.Module) and any(p.requires_grad for p in function.parameters()):
        return "its surrogate function has learnable parameters"
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            u = torch.tensor([-1.0, -1e-6, 0.0, 1e-6, 1.0], dtype=torch.float64, requires_grad=True)
            spikes = function(u).tolist()
            if spikes[:2] != [0.0, 0.0] or spikes[3:] != [1.0, 1.0]:
                return f"its surrogate function answers {spikes} at {u.tolist()}, not 0 and 1"
            curve = match_curve(lambda at: _gradient(function, at))
    except Exception as error:  # anybody's code
        return f"its surrogate function raises {type(error).__name__}"
    name = getattr(function, "__qualname__", type(function).__name__).removesuffix(".<locals>.inner")
    return f"its surrogate gradient {name} is none of ours" if curve is None else Firing(*curve, spikes[2] == 0.0)


def _gradient(function: Any, u: Tensor) -> Tensor:
    u = u.clone().requires_grad_()
    spikes = function(u)
    if not spikes.requires_grad:
        return torch.zeros_like(u)
    return torch.autograd.grad(spikes.sum(), u)[0].to(u)
