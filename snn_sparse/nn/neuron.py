"""Spiking neurons as modules. They keep no state between calls: each call is one whole sequence."""

import math
from typing import Any

import torch
from torch import nn

from snn_sparse import ops
from snn_sparse.specs import NeuronSpec, check_tau


class Neuron(nn.Module):
    """Base of LIF, IF, parametric LIF and leaky neurons.

    Args:
        kind: ``lif``, ``plif``, ``if`` or ``leaky``.
        tau: membrane time constant in timesteps.
        decay_input: whether the input decays too.
        v_threshold: the neuron spikes where its membrane potential reaches this.
        v_reset: potential after a spike, or ``None``: ``v_threshold`` is subtracted (soft reset).
        surrogate: a name (``atan``, ``sigmoid``, ``piecewise_quadratic``, ``triangle``, ``rectangle``,
            ``fast_sigmoid``, ``erf``) or an ``ops.Surrogate``.
        detach_reset: whether the backward pass leaves out the path through the reset.
        strict: whether a potential on the threshold does not spike.
        **leaky: ``decay`` and ``late_reset`` of the leaky neuron, as :class:`snn_sparse.NeuronSpec`.

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
        strict: bool = False,
        **leaky: Any,
    ) -> None:
        super().__init__()
        s = ops.as_surrogate(surrogate)
        fixed = (bool(decay_input), v_threshold, v_reset, bool(detach_reset))
        self.spec = NeuronSpec(kind, check_tau(tau), *fixed, s.kind, s.alpha, s.height, strict=bool(strict), **leaky)

    def rate(self) -> torch.Tensor | None:
        """The learnt number, a tensor with one entry: ``1 / tau`` or the decay; None where nothing is."""
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
        height = "" if s.height is None else f", height={s.height}"
        return (
            f"v_threshold={s.v_threshold}, v_reset={s.v_reset}, detach_reset={s.detach_reset}, "
            f"{'strict=True, ' if s.strict else ''}surrogate={s.surrogate}(alpha={s.alpha}{height})"
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


class Leaky(Neuron):
    """Neurons whose potential is multiplied by a factor each timestep: ``h = beta * v + x``, as snnTorch's.

    Args:
        beta: the factor, 0 to 1.
        learn_beta: whether it is a parameter, ``beta``, shared by the layer and clamped to 0..1 where it is used.
        late_reset: whether ``v_threshold`` is subtracted after the decay of the next step (snnTorch's ``reset_delay``).
        v_reset: ``None``: ``v_threshold`` is subtracted (soft reset), or the potential after a spike.
        **firing: threshold, surrogate and the rest, as :class:`Neuron`.
    """

    def __init__(
        self,
        beta: float = 0.9,
        learn_beta: bool = False,
        late_reset: bool = False,
        v_reset: float | None = None,
        **firing: Any,
    ) -> None:
        if not (isinstance(beta, (int, float)) and 0 <= beta <= 1):
            raise ValueError(f"beta must be a number from 0 to 1, got {beta!r}")
        super().__init__("leaky", 1.0, True, v_reset=v_reset, decay=float(beta), late_reset=bool(late_reset), **firing)
        self.beta: nn.Parameter | float = nn.Parameter(torch.tensor(float(beta))) if learn_beta else float(beta)

    def rate(self) -> torch.Tensor | None:
        """The learnt factor, a tensor with one entry; None where it is fixed."""
        return self.beta.clamp(0, 1) if isinstance(self.beta, torch.Tensor) else None

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        beta = self.beta.item() if isinstance(self.beta, torch.Tensor) else self.beta
        return f"beta={beta:g}, late_reset={self.spec.late_reset}, {super().extra_repr()}"


NEURONS: dict[str, type[nn.Module]] = {
    "lif": LIF,
    "if": IF,
    "plif": ParametricLIF,
    "leaky": Leaky,
    "relu": nn.ReLU,
}


def make_neuron(kind: str, **options: Any) -> nn.Module:
    """Make a neuron layer by name: ``lif``, ``if``, ``plif``, ``leaky``, or ``relu`` for the conventional network.

    Raises:
        ValueError: unknown name. TypeError: an option that this neuron does not have.
    """
    if kind not in NEURONS:
        raise ValueError(f"unknown neuron {kind!r}: choose from {', '.join(NEURONS)}")
    return NEURONS[kind](**options)
