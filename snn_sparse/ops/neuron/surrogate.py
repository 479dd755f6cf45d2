"""Surrogate gradients: what stands in for the derivative of the Heaviside step in the backward pass.

Every surrogate is a small immutable value with three functions of ``u = h - v_threshold``: the spike (a step forward,
the surrogate backward), the surrogate gradient, and its primitive, the smooth function whose derivative it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from snn_sparse.specs import NeuronSpec, check_alpha


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate gradient backward."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, surrogate: "Surrogate", strict: bool) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0 if strict else u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad_spikes: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return grad_spikes * ctx.surrogate.gradient(u), None, None


@dataclass(frozen=True)
class Surrogate(ABC):
    """Base of the surrogates: ``peak * curve(slope * u)``, where ``curve(0) = 1``.

    Args:
        alpha: steepness (for :class:`Triangle`: height) of the surrogate; a positive, finite number.
        height: the gradient at ``u = 0``, if another than the formula's.

    Raises:
        ValueError: ``alpha`` or ``height`` is not positive and finite.
    """

    alpha: float = 1.0
    height: float | None = None
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if self.height is not None:
            check_alpha(self.height, "height")

    @property
    def peak(self) -> float:
        """The gradient at ``u = 0``."""
        return self.formula_peak if self.height is None else self.height

    @property
    def formula_peak(self) -> float:
        """The gradient at ``u = 0`` that the formula gives."""
        return self.alpha

    @property
    def slope(self) -> float:
        """Factor on ``u``."""
        return self.alpha

    @abstractmethod
    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate's shape, 1 at ``z = 0``."""

    @abstractmethod
    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Integrate :meth:`curve` from 0 to ``z``."""

    def spike(self, u: torch.Tensor, strict: bool = False) -> torch.Tensor:
        """1 where ``u >= 0`` (``strict``: ``u > 0``), else 0, typed like ``u``; its gradient is :meth:`gradient`."""
        return _Spike.apply(u, self, strict)

    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u = h - v_threshold``."""
        return self.peak * self.curve(self.slope * u)

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth function whose derivative is :meth:`gradient`, one half at ``u = 0``."""
        return 0.5 + self.peak / self.slope * self.integral(self.slope * u)


@dataclass(frozen=True)
class ATan(Surrogate):
    """``alpha/2 / (1 + (pi/2 * alpha * u)^2)`` (Fang et al., ICCV 2021); the published networks use ``alpha = 2``."""

    alpha: float = 2.0
    kind: ClassVar[str] = "atan"

    @property
    def formula_peak(self) -> float:
        """The gradient at ``u = 0`` that the formula gives."""
        return self.alpha / 2

    @property
    def slope(self) -> float:
        """Factor on ``u``."""
        return math.pi / 2 * self.alpha

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``1 / (1 + z^2)``."""
        return 1 / (1 + z * z)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate the arc tangent."""
        return torch.atan(z)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """``alpha * y * (1 - y)`` with ``y = sigmoid(alpha * u)``."""

    alpha: float = 4.0
    kind: ClassVar[str] = "sigmoid"

    @property
    def formula_peak(self) -> float:
        """The gradient at ``u = 0`` that the formula gives."""
        return self.alpha / 4

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``4 y (1 - y)``."""
        y = torch.sigmoid(z)
        return 4 * y * (1 - y)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate the sigmoid, less one half, times 4."""
        return 4 * torch.sigmoid(z) - 2


@dataclass(frozen=True)
class PiecewiseQuadratic(Surrogate):
    """``max(0, alpha - alpha^2 * |u|)``: a triangle of area 1 (Esser et al., PNAS 2016), ``2 / alpha`` wide."""

    alpha: float = 1.0
    kind: ClassVar[str] = "piecewise_quadratic"

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``max(0, 1 - |z|)``."""
        return (1 - z.abs()).clamp_min(0)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate two joined parabolas."""
        z = z.clamp(-1, 1)
        return z - 0.5 * z.abs() * z


@dataclass(frozen=True)
class Triangle(PiecewiseQuadratic):
    """``alpha * max(0, 1 - |u|)``: a triangle of fixed width and height ``alpha`` (Bellec et al., NeurIPS 2018)."""

    kind: ClassVar[str] = "triangle"

    @property
    def slope(self) -> float:
        """Factor on ``u``."""
        return 1.0


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """``alpha`` where ``|u| < 1 / (2 alpha)``, else 0 (Wu et al., Frontiers in Neuroscience 2018)."""

    alpha: float = 1.0
    kind: ClassVar[str] = "rectangle"

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate the indicator of ``|z| < 1/2``."""
        return (z.abs() < 0.5).to(z.dtype)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate a ramp."""
        return z.clamp(-0.5, 0.5)


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """``1 / (1 + alpha * |u|)^2`` (Zenke and Ganguli, Neural Computation 2018), as in snnTorch."""

    alpha: float = 25.0
    kind: ClassVar[str] = "fast_sigmoid"

    @property
    def formula_peak(self) -> float:
        """The gradient at ``u = 0`` that the formula gives."""
        return 1.0

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``1 / (1 + |z|)^2``."""
        d = 1 + z.abs()
        return 1 / (d * d)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``z / (1 + |z|)``."""
        return z / (1 + z.abs())


@dataclass(frozen=True)
class Erf(Surrogate):
    """``alpha / sqrt(pi) * exp(-(alpha * u)^2)``, a Gaussian (Yin et al., Nature Machine Intelligence 2021)."""

    alpha: float = 2.0
    kind: ClassVar[str] = "erf"

    @property
    def formula_peak(self) -> float:
        """The gradient at ``u = 0`` that the formula gives."""
        return self.alpha / math.sqrt(math.pi)

    def curve(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate ``exp(-z^2)``."""
        return torch.exp(-z * z)

    def integral(self, z: torch.Tensor) -> torch.Tensor:
        """Evaluate the error function, times sqrt(pi) / 2."""
        return math.sqrt(math.pi) / 2 * torch.erf(z)


SURROGATES: dict[str, type[Surrogate]] = {
    c.kind: c for c in (ATan, Sigmoid, PiecewiseQuadratic, Triangle, Rectangle, FastSigmoid, Erf)
}


def as_surrogate(surrogate: "str | Surrogate | Mapping[str, Any]") -> Surrogate:
    """A surrogate from its name (with its default ``alpha``), from :func:`surrogate_config`'s record, or itself.

    Raises:
        ValueError: unknown name.
        TypeError: none of the three.
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, Mapping):
        kind, options = surrogate.get("kind"), {k: surrogate[k] for k in ("alpha", "height") if k in surrogate}
    else:
        kind, options = surrogate, {}
    if not isinstance(kind, str):
        raise TypeError(f"surrogate must be a name or a Surrogate, got {type(surrogate).__name__}")
    if kind not in SURROGATES:
        raise ValueError(f"unknown surrogate {kind!r}: choose from {', '.join(sorted(SURROGATES))}")
    return SURROGATES[kind](**options)


def surrogate_of(spec: NeuronSpec) -> Surrogate:
    """Return the surrogate that a neuron's specification names."""
    return SURROGATES[spec.surrogate](spec.alpha, spec.height)


def surrogate_config(surrogate: Surrogate) -> dict[str, Any]:
    """A record of a surrogate that JSON can hold and :func:`as_surrogate` reads."""
    return {"kind": surrogate.kind, "alpha": surrogate.alpha} | (
        {"height": surrogate.height} if surrogate.height else {}
    )
