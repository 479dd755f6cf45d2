"""What the host functions are told: which neuron, and which batch norm in front of it; and how kernels are told."""

from dataclasses import dataclass
from typing import Any

import torch

from snn_sparse.kernels.branch import NONE, PER_STEP, POOLED, RUNNING
from snn_sparse.kernels.neuron_math import NEURONS, SURROGATES


@dataclass(frozen=True)
class Neuron:
    """Which neuron.

    Args:
        kind: ``lif``, ``plif`` (its rate ``1 / tau`` comes as a tensor) or ``if``.
        tau: membrane time constant of ``lif``, in timesteps.
        decay_input: whether the input decays too.
        v_threshold: the neuron spikes where ``h >= v_threshold``.
        v_reset: potential after a spike; None: ``v_threshold`` is subtracted.
        detach_reset: whether the backward pass leaves out the path through the reset.
        surrogate: ``atan``, ``sigmoid``, ``piecewise_quadratic`` or ``triangle``.
        alpha: its steepness (height).

    Raises:
        ValueError: unknown neuron or surrogate.
    """

    kind: str = "lif"
    tau: float = 4 / 3
    decay_input: bool = True
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = True
    surrogate: str = "atan"
    alpha: float = 2.0

    def __post_init__(self) -> None:
        for value, known in ((self.kind, NEURONS), (self.surrogate, SURROGATES)):
            if value not in known:
                raise ValueError(f"unknown {value!r}: choose from {', '.join(known)}")

    def arguments(self) -> dict[str, Any]:
        """What every neuron kernel is told."""
        return {
            "tau": float(self.tau),
            "v_threshold": float(self.v_threshold),
            "v_reset": float(self.v_reset or 0.0),
            "KIND": NEURONS[self.kind],
            "DECAY_INPUT": self.decay_input,
            "HARD_RESET": self.v_reset is not None,
        }

    def surrogate_arguments(self) -> dict[str, Any]:
        """What backward kernels are told besides."""
        return {
            "alpha": float(self.alpha),
            "DETACH_RESET": self.detach_reset,
            "SURROGATE": SURROGATES[self.surrogate],
        }


@dataclass(frozen=True)
class Normalisation:
    """A batch norm with known statistics: of the batch (``invstd`` given) or running ones (``running_var`` given).

    Args:
        mean: float32 ``[T, C]`` (each step has its own) or ``[1, C]`` with ``invstd``; running mean ``[C]`` otherwise.
        invstd: ``1 / sqrt(variance + eps)`` of the batch, like ``mean``; gradients flow through these statistics.
        running_var: ``[C]``; constants, no gradient flows through them.
        weight: ``[C]`` or None.
        bias: ``[C]`` or None.
        eps: added to ``running_var``; batch statistics contain it already.

    Raises:
        ValueError: not exactly one of ``invstd`` and ``running_var``, or a shape that does not fit.
    """

    mean: torch.Tensor
    invstd: torch.Tensor | None = None
    running_var: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if (self.invstd is None) == (self.running_var is None):
            raise ValueError("exactly one of invstd and running_var must be given")
        if self.spread.shape != self.mean.shape or self.mean.dim() != (1 if self.frozen else 2):
            raise ValueError(f"mean and its spread have shapes {tuple(self.mean.shape)}, {tuple(self.spread.shape)}")
        for name in ("weight", "bias"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != self.mean.shape[-1:]:
                raise ValueError(f"{name} must be [{self.mean.shape[-1]}], got {tuple(tensor.shape)}")

    @property
    def frozen(self) -> bool:
        """Whether the statistics are constants."""
        return self.running_var is not None

    @property
    def spread(self) -> torch.Tensor:
        """1/std or running variance, whichever was given."""
        spread = self.running_var if self.invstd is None else self.invstd
        assert spread is not None
        return spread

    def code(self, steps: int, channels: int) -> int:
        """How kernels normalise a branch of ``steps`` steps; ValueError if the statistics do not fit it."""
        if self.mean.shape[-1] != channels or not (self.frozen or self.mean.shape[0] in (1, steps)):
            raise ValueError(f"statistics {tuple(self.mean.shape)} do not fit {steps} steps of {channels} channels")
        if self.frozen:
            return RUNNING.value
        return PER_STEP.value if self.mean.shape[0] > 1 else POOLED.value


def norm_code(norm: Normalisation | None, steps: int, channels: int) -> int:
    """:meth:`Normalisation.code`, or that of a branch without a batch norm."""
    return NONE.value if norm is None else norm.code(steps, channels)


def branch_arguments(norm: Normalisation | None, suffix: str = "") -> dict[str, Any]:
    """A branch's batch norm by the names of the kernels' parameters."""
    found: dict[str, Any] = dict.fromkeys(("mean", "spread", "weight", "bias"))
    if norm is not None:
        found = {name: getattr(norm, name) for name in found}
        found = {name: None if tensor is None else tensor.contiguous() for name, tensor in found.items()}
    found["eps"] = float(norm.eps) if norm is not None else 0.0
    return {name + suffix: value for name, value in found.items()}
