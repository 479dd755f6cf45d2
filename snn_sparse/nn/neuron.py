"""Spiking neurons as modules. They keep no state between calls: each call is one whole sequence."""

import math
from typing import Any

import torch
from torch import nn

from snn_sparse import ops
from snn_sparse.specs import NeuronSpec, check_tau


class Neuron(nn.Module):
    """Base of LIF, IF and parametric LIF.

    Args:
        kind: ``lif``, ``plif`` or ``if``.
        tau: membrane time constant in timesteps.
        decay_input: whether the input decays too.
        v_threshold: the neuron spikes where its membrane potential reaches this.
        v_reset: potential after a spike, or ``None``: ``v_threshold`` is subtracted (soft reset).
        surrogate: a name (``atan``, ``sigmoid``, ``piecewise_quadratic``, ``triangle``) or an ``ops.Surrogate``.
        detach_reset: whether the backward pass leaves out the path through the reset.

    Called with an input current ``[T, N, ...]`` (and, if wanted, the membrane potential ``v`` ``[N, ...]`` to start
    from), it returns the spikes ``[T, N, ...]``.
    """

    keeps_state = False  # from call to call

    def __init__(
        self,
        kind: str,
        tau: float,
        decay_input: bool,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: str | ops.Surrogate = "atan",
        detach_reset: bool = True,
    ) -> None:
        super().__init__()
        s = ops.as_surrogate(surrogate)
        fixed = (bool(decay_input), v_threshold, v_reset, bool(detach_reset))
        self.spec = NeuronSpec(kind, check_tau(tau), *fixed, s.kind, s.alpha, s.height)

    def rate(self) -> torch.Tensor | None:
        """``1 / tau`` of the parametric neuron, a tensor with one entry; None for the others."""
        return None

    def describe(self) -> tuple[NeuronSpec, torch.Tensor | None]:
        """The neuron as the operator takes it: its specification, and :meth:`rate`."""
        return self.spec, self.rate()

    def start(self, like: torch.Tensor) -> torch.Tensor | None:
        """Potential that a call with maps such as ``like`` starts from; None: rest, as always with a neuron of ours."""
        return None

    def sequence(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes ``[T, N, ...]`` and the membrane potential ``[N, ...]`` after the last step."""
        return ops.plain_neuron(x, self.spec, rate=self.rate(), v=v)

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> torch.Tensor:
        """Spikes ``[T, N, ...]`` of the input current ``x``."""
        return self.sequence(x, v)[0]

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        s = self.spec
        return (
            f"v_threshold={s.v_threshold}, v_reset={s.v_reset}, detach_reset={s.detach_reset}, "
            f"surrogate={s.surrogate}(alpha={s.alpha})"
        )


class LIF(Neuron):
    """Leaky integrate-and-fire neurons (:func:`snn_sparse.ops.plain_neuron`).

    Args:
        tau: membrane time constant in timesteps, at least 1; the published networks use 4/3.
        decay_input: whether the input is divided by ``tau`` too.
        **firing: threshold, reset and surrogate, as :class:`Neuron`.
    """

    def __init__(self, tau: float = 4 / 3, decay_input: bool = True, **firing: Any) -> None:
        super().__init__("lif", tau, decay_input, **firing)

    @property
    def tau(self) -> float:
        """The time constant, in timesteps."""
        return self.spec.tau

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"tau={self.tau:g}, decay_input={self.spec.decay_input}, {super().extra_repr()}"


class IF(Neuron):
    """Integrate-and-fire neurons without a leak (:func:`snn_sparse.ops.plain_neuron`).

    Args:
        **firing: threshold, reset and surrogate, as :class:`Neuron`.
    """

    def __init__(self, **firing: Any) -> None:
        super().__init__("if", 1.0, True, **firing)


class ParametricLIF(Neuron):
    """LIF with a learnable time constant shared by the layer (Fang et al., ICCV 2021).

    The parameter is ``w`` with ``1 / tau = sigmoid(w)``, as in SpikingJelly, so that its checkpoints load.

    Args:
        init_tau: time constant to start from, more than 1 timestep.
        decay_input: whether the input is divided by ``tau`` too.
        **firing: threshold, reset and surrogate, as :class:`Neuron`.
    """

    def __init__(self, init_tau: float = 2.0, decay_input: bool = True, **firing: Any) -> None:
        super().__init__("plif", 1.0, decay_input, **firing)
        if not (isinstance(init_tau, (int, float)) and math.isfinite(init_tau) and init_tau > 1):
            raise ValueError(f"init_tau must be a finite number > 1 (in timesteps), got {init_tau!r}")
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    def rate(self) -> torch.Tensor:
        """``1 / tau``, a tensor with one entry."""
        return self.w.sigmoid()

    @property
    def tau(self) -> float:
        """The time constant as it stands now, in timesteps."""
        return 1.0 / float(self.w.detach().sigmoid())

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"tau={self.tau:g}, decay_input={self.spec.decay_input}, {super().extra_repr()}"


NEURONS: dict[str, type[nn.Module]] = {"lif": LIF, "if": IF, "plif": ParametricLIF, "relu": nn.ReLU}


def make_neuron(kind: str, **options: Any) -> nn.Module:
    """Make a neuron layer by name: ``lif``, ``if``, ``plif``, or ``relu`` for the conventional network.

    Raises:
        ValueError: unknown name. TypeError: an option that this neuron does not have.
    """
    if kind not in NEURONS:
        raise ValueError(f"unknown neuron {kind!r}: choose from {', '.join(NEURONS)}")
    return NEURONS[kind](**options)
