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
    def forward(ctx: Any, u: torch.Tensor, surrogate: "Surrogate") -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad_spikes: torch.Tensor) -> tuple[torch.Tensor, None]:
        (u,) = ctx.saved_tensors
        return grad_spikes * ctx.surrogate.gradient(u), None


@dataclass(frozen=True)
class Surrogate(ABC):
    """Base of the surrogates.

    Args:
        alpha: steepness (for :class:`Triangle`: height) of the surrogate; a positive, finite number.

    Raises:
        ValueError: ``alpha`` is not positive and finite.
    """

    alpha: float = 1.0
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def spike(self, u: torch.Tensor) -> torch.Tensor:
        """1 where ``u >= 0``, else 0, in the dtype of ``u``; differentiable through :meth:`gradient`."""
        return _Spike.apply(u, self)

    @abstractmethod
    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u = h - v_threshold``."""

    @abstractmethod
    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth function whose derivative is :meth:`gradient`."""


@dataclass(frozen=True)
class ATan(Surrogate):
    """``alpha/2 / (1 + (pi/2 * alpha * u)^2)`` (Fang et al., ICCV 2021); the published networks use ``alpha = 2``."""

    alpha: float = 2.0
    kind: ClassVar[str] = "atan"

    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u``."""
        z = (math.pi / 2 * self.alpha) * u
        return (self.alpha / 2) / (1 + z * z)

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth step itself."""
        return torch.atan(math.pi / 2 * self.alpha * u) / math.pi + 0.5


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """``alpha * y * (1 - y)`` with ``y = sigmoid(alpha * u)``."""

    alpha: float = 4.0
    kind: ClassVar[str] = "sigmoid"

    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u``."""
        y = torch.sigmoid(self.alpha * u)
        return self.alpha * y * (1 - y)

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth step itself."""
        return torch.sigmoid(self.alpha * u)


@dataclass(frozen=True)
class PiecewiseQuadratic(Surrogate):
    """``max(0, alpha - alpha^2 * |u|)``: a triangle of area 1 (Esser et al., PNAS 2016)."""

    alpha: float = 1.0
    kind: ClassVar[str] = "piecewise_quadratic"

    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u``."""
        return (self.alpha - self.alpha**2 * u.abs()).clamp_min(0)

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth step itself."""
        z = u.clamp(-1 / self.alpha, 1 / self.alpha)
        return -0.5 * self.alpha**2 * z.abs() * z + self.alpha * z + 0.5


@dataclass(frozen=True)
class Triangle(Surrogate):
    """``alpha * max(0, 1 - |u|)``: a triangle of fixed width and height ``alpha`` (Bellec et al., NeurIPS 2018)."""

    alpha: float = 1.0
    kind: ClassVar[str] = "triangle"

    def gradient(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the surrogate of ds/dh at ``u``."""
        return self.alpha * (1 - u.abs()).clamp_min(0)

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Evaluate the smooth step itself."""
        z = u.clamp(-1, 1)
        return self.alpha * (z - 0.5 * z.abs() * z + 0.5)


SURROGATES: dict[str, type[Surrogate]] = {c.kind: c for c in (ATan, Sigmoid, PiecewiseQuadratic, Triangle)}


def as_surrogate(surrogate: "str | Surrogate | Mapping[str, Any]") -> Surrogate:
    """A surrogate from its name (with its default ``alpha``), from :func:`surrogate_config`'s record, or itself.

    Raises:
        ValueError: unknown name.
        TypeError: none of the three.
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, Mapping):
        kind, options = surrogate.get("kind"), {"alpha": surrogate["alpha"]} if "alpha" in surrogate else {}
    else:
        kind, options = surrogate, {}
    if not isinstance(kind, str):
        raise TypeError(f"surrogate must be a name or a Surrogate, got {type(surrogate).__name__}")
    if kind not in SURROGATES:
        raise ValueError(f"unknown surrogate {kind!r}: choose from {', '.join(sorted(SURROGATES))}")
    return SURROGATES[kind](**options)


def surrogate_of(spec: NeuronSpec) -> Surrogate:
    """Return the surrogate that a neuron's specification names."""
    return SURROGATES[spec.surrogate](spec.alpha)


def surrogate_config(surrogate: Surrogate) -> dict[str, Any]:
    """A record of a surrogate that JSON can hold and :func:`as_surrogate` reads."""
    return {"kind": surrogate.kind, "alpha": surrogate.alpha}
