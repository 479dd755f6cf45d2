"""Spiking neurons as modules. They keep no state between calls: each call is one whole sequence."""

import math
from typing import Any

import torch
from torch import nn

from snn_sparse import ops


class Neuron(nn.Module):
    """What LIF, IF and parametric LIF have in common.

    Args:
        v_threshold: the neuron spikes where its membrane potential reaches this.
        v_reset: potential after a spike, or ``None``: ``v_threshold`` is subtracted (soft reset).
        surrogate: a name (``atan``, ``sigmoid``, ``piecewise_quadratic``, ``triangle``) or an ``ops.Surrogate``.
        detach_reset: whether the backward pass leaves out the path through the reset.

    Called with an input current ``[T, N, ...]`` (and, if wanted, the membrane potential ``v`` ``[N, ...]`` to start
    from), it returns the spikes ``[T, N, ...]``.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: str | ops.Surrogate = "atan",
        detach_reset: bool = True,
    ) -> None:
        super().__init__()
        self.firing = ops.Firing(v_threshold, v_reset, bool(detach_reset), ops.as_surrogate(surrogate))

    def sequence(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes ``[T, N, ...]`` and the membrane potential ``[N, ...]`` after the last step."""
        raise TypeError(f"{type(self).__name__} is no neuron by itself: use LIF, IF or ParametricLIF")

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> torch.Tensor:
        """Spikes ``[T, N, ...]`` of the input current ``x``."""
        return self.sequence(x, v)[0]

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        f = self.firing
        return (
            f"v_threshold={f.v_threshold}, v_reset={f.v_reset}, detach_reset={f.detach_reset}, "
            f"surrogate={f.surrogate.kind}(alpha={f.surrogate.alpha})"
        )


class LIF(Neuron):
    """Leaky integrate-and-fire neurons, :func:`snn_sparse.ops.lif`.

    Args:
        tau: membrane time constant in timesteps, at least 1; the published networks use 4/3.
        decay_input: whether the input is divided by ``tau`` too.
        **firing: as :class:`Neuron`.
    """

    def __init__(self, tau: float = 4 / 3, decay_input: bool = True, **firing: Any) -> None:
        super().__init__(**firing)
        self.tau = ops.neuron.check_tau(tau)
        self.decay_input = bool(decay_input)

    def sequence(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Neuron.sequence`."""
        return ops.lif(x, tau=self.tau, decay_input=self.decay_input, firing=self.firing, v=v)

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"tau={self.tau:g}, decay_input={self.decay_input}, {super().extra_repr()}"


class IF(Neuron):
    """Integrate-and-fire neurons without a leak, :func:`snn_sparse.ops.integrate_and_fire`."""

    def sequence(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Neuron.sequence`."""
        return ops.integrate_and_fire(x, firing=self.firing, v=v)


class ParametricLIF(Neuron):
    """LIF with a learnable time constant shared by the layer, :func:`snn_sparse.ops.parametric_lif`.

    The parameter is ``w`` with ``1 / tau = sigmoid(w)``, as in SpikingJelly, so that its checkpoints load.

    Args:
        init_tau: time constant to start from, more than 1 timestep.
        decay_input: whether the input is divided by ``tau`` too.
        **firing: as :class:`Neuron`.
    """

    def __init__(self, init_tau: float = 2.0, decay_input: bool = True, **firing: Any) -> None:
        super().__init__(**firing)
        if not (isinstance(init_tau, (int, float)) and math.isfinite(init_tau) and init_tau > 1):
            raise ValueError(f"init_tau must be a finite number > 1 (in timesteps), got {init_tau!r}")
        self.decay_input = bool(decay_input)
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    @property
    def tau(self) -> float:
        """The time constant as it stands now, in timesteps."""
        return 1.0 / float(self.w.detach().sigmoid())

    def sequence(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Neuron.sequence`."""
        return ops.parametric_lif(x, self.w, decay_input=self.decay_input, firing=self.firing, v=v)

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"tau={self.tau:g}, decay_input={self.decay_input}, {super().extra_repr()}"


NEURONS: dict[str, type[nn.Module]] = {"lif": LIF, "if": IF, "plif": ParametricLIF, "relu": nn.ReLU}


def make_neuron(kind: str, **options: Any) -> nn.Module:
    """A neuron layer by name: ``lif``, ``if``, ``plif``, or ``relu`` for the conventional network of the same shape.

    Raises:
        ValueError: unknown name. TypeError: an option that this neuron does not have.
    """
    if kind not in NEURONS:
        raise ValueError(f"unknown neuron {kind!r}: choose from {', '.join(NEURONS)}")
    return NEURONS[kind](**options)
