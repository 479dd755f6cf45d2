"""What a spiking neuron *is*: plain-PyTorch definitions of LIF, IF and parametric LIF over a whole sequence.

These loops are the oracle: every faster implementation is held against them. The arithmetic is that of SpikingJelly
0.0.0.0.12 as used by Kim et al. (ECCV 2022, arXiv 2207.01382).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from snn_sparse.ops.surrogate import ATan, Surrogate


@dataclass(frozen=True)
class Firing:
    """How a neuron fires and resets; what LIF, IF and parametric LIF have in common.

    Args:
        v_threshold: the neuron spikes where the membrane potential ``h >= v_threshold``.
        v_reset: potential after a spike (hard reset), or ``None``: ``v_threshold`` is subtracted (soft reset).
        detach_reset: whether the backward pass leaves out the path through the reset.
        surrogate: stands in for ds/dh.

    Raises:
        ValueError: a number that is not finite.
    """

    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = True
    surrogate: Surrogate = field(default_factory=ATan)

    def __post_init__(self) -> None:
        if not math.isfinite(self.v_threshold):
            raise ValueError(f"v_threshold must be finite, got {self.v_threshold!r}")
        if self.v_reset is not None and not math.isfinite(self.v_reset):
            raise ValueError(f"v_reset must be finite or None, got {self.v_reset!r}")

    @property
    def v_rest(self) -> float:
        """Potential a sequence starts from and leaks towards: ``v_reset``, or 0 with the soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    def fire(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes ``s`` and the membrane potential after the reset, both shaped and typed like ``h``."""
        s = self.surrogate.spike(h - self.v_threshold)
        r = s.detach() if self.detach_reset else s
        if self.v_reset is None:
            return s, h - r * self.v_threshold
        return s, h * (1 - r) + r * self.v_reset


Charge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _over_time(
    x: torch.Tensor, charge: Charge, firing: Firing, v: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, N, ...] with T >= 1, got shape {tuple(x.shape)}")
    if v is None:
        v = torch.full_like(x[0], firing.v_rest)
    elif v.shape != x.shape[1:]:
        raise ValueError(f"v must have the shape of one timestep {tuple(x.shape[1:])}, got {tuple(v.shape)}")
    spikes = []
    for x_t in x.unbind(0):
        s, v = firing.fire(charge(v, x_t))
        spikes.append(s)
    return torch.stack(spikes), v


def check_tau(tau: float) -> float:
    """``tau`` if it is a finite number of at least 1 timestep, else a ValueError that says so."""
    if not (isinstance(tau, (int, float)) and math.isfinite(tau) and tau >= 1):
        raise ValueError(f"tau must be a finite number >= 1 (in timesteps), got {tau!r}")
    return float(tau)


def lif(
    x: torch.Tensor,
    *,
    tau: float = 4 / 3,
    decay_input: bool = True,
    firing: Firing | None = None,
    v: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaky integrate-and-fire neurons over all timesteps.

    ``h[t] = v[t-1] + (x[t] - (v[t-1] - v_rest)) / tau`` (with ``decay_input=False`` the input is added undivided),
    then fire and reset as :class:`Firing` says.

    Args:
        x: input current ``[T, N, ...]``, floating point.
        tau: membrane time constant in timesteps, at least 1.
        decay_input: whether ``x`` is divided by ``tau`` too.
        firing: threshold, reset and surrogate.
        v: membrane potential ``[N, ...]`` before the first step; ``v_rest`` if left out.

    Returns:
        spikes ``[T, N, ...]`` in the dtype of ``x``, and the membrane potential ``[N, ...]`` after the last step.

    Raises:
        ValueError: ``tau`` or a shape is out of range. TypeError: ``x`` is no floating-point tensor.
    """
    tau, firing = check_tau(tau), firing or Firing()

    def charge(v: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        leak = v - firing.v_rest
        return v + (x_t - leak) / tau if decay_input else v - leak / tau + x_t

    return _over_time(x, charge, firing, v)


def integrate_and_fire(
    x: torch.Tensor, *, firing: Firing | None = None, v: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """IF neurons: ``h[t] = v[t-1] + x[t]``. Arguments, returns and errors as :func:`lif`."""
    return _over_time(x, lambda v, x_t: v + x_t, firing or Firing(), v)


def parametric_lif(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    decay_input: bool = True,
    firing: Firing | None = None,
    v: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """LIF with a learnable time constant, ``1 / tau = sigmoid(w)`` (Fang et al., ICCV 2021).

    Args:
        x: input current ``[T, N, ...]``.
        w: scalar tensor; its gradient is returned by autograd.
        decay_input: whether ``x`` is multiplied by ``1 / tau`` too.
        firing: threshold, reset and surrogate.
        v: membrane potential before the first step.

    Returns and errors as :func:`lif`.
    """
    if not isinstance(w, torch.Tensor) or w.numel() != 1:
        raise ValueError("w must be a tensor with a single entry")
    firing, rate = firing or Firing(), w.sigmoid()

    def charge(v: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        leak = v - firing.v_rest
        return v + (x_t - leak) * rate if decay_input else v - leak * rate + x_t

    return _over_time(x, charge, firing, v)
