"""snnTorch's ``Leaky`` and ``Lapicque``, with hidden or explicit state."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.neurons.dynamics import Dynamics, Reading, number, settle_to_zero
from snn_sparse.fusion.neurons.surrogates import read_surrogate
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor

_RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
_OVERRIDES = {"forward", "__call__", "fire", "mem_reset", "_base_state_function", *_RESETS, "mem", "beta", "threshold"}


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a neuron of snnTorch's, or of a subclass."""
    return any(c.__module__.startswith("snntorch.") and c.__name__ == "SpikingNeuron" for c in type(module).__mro__)


def recognise(module: Any, shapes: Sequence[torch.Size]) -> Dynamics | str | None:
    """Return the dynamics of a neuron of snnTorch's, why it is none of ours, or None if a subclass changes them."""
    base = None
    for base in type(module).__mro__:
        if base.__module__.startswith("snntorch."):
            break
        if _OVERRIDES & set(vars(base)):
            return None
    if base is None or base.__name__ not in ("Leaky", "Lapicque"):
        return f"{base.__name__ if base else 'it'} of snnTorch is no neuron of ours"
    own = sorted(_OVERRIDES & {name for name in vars(module) if callable(vars(module)[name])})
    if own:
        return f"{own[0]} is replaced on the instance"
    reason = _unusual(module, base.__name__) or _called_wrongly(module, shapes)
    if reason:
        return reason
    try:
        spec, _ = _read(base.__name__, module)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    late_zero = spec.v_reset is not None and getattr(module, "reset_delay", True)
    settle = _settle if late_zero else None
    gain = _lapicque(module)[1] if base.__name__ == "Lapicque" else 1.0
    hidden = bool(module.init_hidden)
    return Dynamics(
        partial(_read, base.__name__),
        None,
        "mem",
        partial(start, settle),
        finish,
        explicit=not hidden,
        returns_potential=not hidden or bool(module.output),
        gain=gain,
        settle=settle,
    )


def _called_wrongly(module: Any, shapes: Sequence[torch.Size]) -> str | None:
    if len(shapes) > (1 if module.init_hidden else 2):
        return "it is called with more tensors than it takes"
    return None


def _unusual(module: Any, kind: str) -> str | None:
    reset = _reset(module)
    checks = {
        "inhibition lets one neuron of a layer spike": module.inhibition,
        "it quantises its potential": module.state_quant,
        "its reset_mechanism is none": reset == "none",
        "its state_function is not snnTorch's": reset is None,
        "graded_spikes_factor is not 1": number(module.graded_spikes_factor) != 1.0,
        "its threshold is learnt, or one per neuron": number(module.threshold) is None,
        "beta is one per neuron": module.beta.numel() != 1,
        "without reset_delay it resets by subtraction at once": reset == "subtract" and not _delayed(module),
        "Lapicque resets to zero with the input of the next step": kind == "Lapicque" and reset == "zero",
        "the beta of Lapicque is learnt": kind == "Lapicque" and module.beta.requires_grad,
        "R, C or time_step is no single number": kind == "Lapicque" and _lapicque(module) is None,
    }
    return next((reason for reason, holds in checks.items() if holds), None)


def _delayed(module: Any) -> bool:
    return bool(getattr(module, "reset_delay", True))


def _reset(module: Any) -> str | None:
    return _RESETS.get(getattr(module.state_function, "__name__", ""))


def _lapicque(module: Any) -> Any:
    """Decay of the potential and gain of the input, as snnTorch computes them; None if they are no numbers."""
    r, c, step = module.R, module.C, module.time_step
    decay, gain = number(1 - step / (r * c)), number(r * (1 / (r * c)) * step)
    return None if decay is None or gain is None else (decay, gain)


def _read(kind: str, module: Any) -> Reading:
    """Read the numbers as they stand now; raise a ValueError that says which is no number."""
    firing = read_surrogate(module.spike_grad)
    if isinstance(firing, str):
        raise ValueError(firing)
    beta, zero = module.beta, _reset(module) == "zero"
    learnt = kind == "Leaky" and isinstance(beta, nn.Parameter)
    rate = beta.clamp(0, 1).reshape(()) if learnt else None
    decay = _lapicque(module)[0] if kind == "Lapicque" else float(beta.detach().clamp(0, 1))
    threshold = float(module.threshold)
    if zero and threshold < 0:
        raise ValueError("its threshold is negative, where a reset to zero fires again")
    spec = NeuronSpec(
        kind="leaky",
        decay=decay,
        v_threshold=threshold,
        v_reset=0.0 if zero else None,
        detach_reset=_delayed(module),  # without delay the reset takes the spikes as they are
        late_reset=not zero,
        **firing.fields(),
    )
    return spec, rate


def _settle(module: Any, v: Tensor) -> Tensor:
    """Reset to zero where the potential has fired, which snnTorch does at the next step."""
    return settle_to_zero(float(module.threshold), read_surrogate(module.spike_grad).strict, v)  # type: ignore[union-attr]


def start(settle: Callable[..., Tensor] | None, module: Any, like: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Potential that the next call starts from: the one given, else ``mem`` if it fits, else rest."""
    kept = module.mem if v is None else v
    if kept.shape != like.shape:  # snnTorch starts anew, whatever was given
        return None
    return kept.to(like) if settle is None else settle(module, kept).to(like)


def finish(module: Any, v: Tensor) -> None:
    """Keep the potential after the last timestep."""
    module.mem = v
