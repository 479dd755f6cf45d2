"""SpikingJelly's neurons, from 0.0.0.0.12 (``clock_driven``) to 2.x (``activation_based``), and subclasses of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.neurons.dynamics import Dynamics, Reading, number
from snn_sparse.fusion.neurons.surrogates import read_surrogate
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor

# Classes whose dynamics are ours: the kind of neuron.
_NODES = {
    "LIFNode": "lif",
    "SimpleLIFNode": "lif",
    "MultiStepLIFNode": "lif",
    "IFNode": "if",
    "SimpleIFNode": "if",
    "MultiStepIFNode": "if",
    "ParametricLIFNode": "plif",
    "MultiStepParametricLIFNode": "plif",
}
# What a subclass may not define itself and still be the neuron it inherits from.
_OVERRIDES = {
    *("forward", "__call__", "single_step_forward", "multi_step_forward", "functional_forward", "materialize_states"),
    *("single_step_functional_forward", "multi_step_functional_forward", "neuronal_charge", "neuronal_fire"),
    *("neuronal_reset", "neuronal_adaptation", "apply_hard_reset", "apply_soft_reset", "v_float_to_tensor"),
    *("v", "tau", "w", "v_threshold", "v_reset", "detach_reset", "decay_input", "surrogate_function"),
}


def is_node(module: nn.Module) -> bool:
    """Whether a module is a neuron of SpikingJelly's, or of a subclass."""
    names = {c.__name__ for c in type(module).__mro__ if c.__module__.startswith("spikingjelly.")}
    return bool(names & {"BaseNode", "SimpleBaseNode"})


def _ours(name: str) -> bool:
    return name in _OVERRIDES or name.startswith(("jit_", "eval_"))


def base_of(module: nn.Module) -> type | str | None:
    """Return the class that a module behaves as, why it is none of ours, or None if a user's own code decides."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("spikingjelly."):
            return kind if kind.__name__ in _NODES else f"{kind.__name__} of SpikingJelly is no neuron of ours"
        if any(_ours(name) for name in vars(kind)):
            return None
    return None


def recognise(module: Any, shapes: Sequence[torch.Size]) -> Dynamics | str | None:
    """Return the dynamics of a SpikingJelly neuron, why it is none of ours, or None if a subclass changes them."""
    base = base_of(module)
    if base is None or isinstance(base, str):
        return base
    own = sorted(name for name in vars(module) if callable(vars(module)[name]) and _ours(name))
    if own:
        return f"{own[0]} is replaced on the instance"
    if len(shapes) != 1:
        return "it is called with more than one tensor"
    reason = _unusual(module)
    if reason:
        return reason
    steps = base.__name__.startswith("MultiStep") or getattr(module, "step_mode", "s") == "m"
    newer = hasattr(base, "single_step_functional_forward") or base.__name__.startswith("Simple")
    read = partial(_read, _NODES[base.__name__], newer)
    try:
        read(module)
    except (ValueError, TypeError, AttributeError) as error:
        return str(error).splitlines()[0]
    return Dynamics(read, 0 if steps else None, "v", start, finish)


def _unusual(module: Any) -> str | None:
    if getattr(module, "store_v_seq", False):
        return "store_v_seq is set: it keeps the potentials of all timesteps"
    if getattr(module, "backend", "torch") == "lava":
        return "its backend is lava"
    if getattr(module, "_neuron_precision", None) is not None:
        return "it computes in a precision of its own"
    return None


def _read(kind: str, newer: bool, module: Any) -> Reading:
    """Read the numbers as they stand now; raise a ValueError that says which is no number."""
    firing = read_surrogate(module.surrogate_function)
    if isinstance(firing, str):
        raise ValueError(firing)
    names = ("v_threshold", "v_reset", "tau") if kind == "lif" else ("v_threshold", "v_reset")
    numbers = {name: number(getattr(module, name)) for name in names}
    for name, value in numbers.items():
        if value is None and not (name == "v_reset" and module.v_reset is None):
            raise ValueError(f"{name} is not a fixed number")
    fields: dict[str, Any] = {**numbers, **firing.fields(), "kind": kind, "detach_reset": bool(module.detach_reset)}
    if kind == "if":
        return NeuronSpec(**fields), None
    fields["decay_input"] = bool(module.decay_input)
    rate = module.w.sigmoid() if kind == "plif" else None
    if rate is not None and rate.numel() != 1:
        raise ValueError("it has a time constant for each neuron")
    rate = None if rate is None else rate.reshape(())
    # Before 2.0, without a reset potential and without decay of the input: v * (1 - 1 / tau) + x.
    if not (newer or module.decay_input) and not module.v_reset:
        decay = 1.0 - (1.0 / fields.pop("tau") if rate is None else rate)
        fields.update(kind="leaky", decay=float(decay))
        return NeuronSpec(**fields), None if rate is None else decay
    return NeuronSpec(**fields), rate


def start(module: Any, like: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Potential that the next call starts from: ``v`` of the module, which is a number before the first call."""
    kept = module.v
    if isinstance(kept, Tensor):
        return kept.to(like) if kept.shape == like.shape else None  # 2.x starts anew at another batch size
    rest = 0.0 if module.v_reset is None else float(module.v_reset)
    return None if float(kept) == rest else torch.full_like(like, float(kept))


def finish(module: Any, v: Tensor) -> None:
    """Keep the potential after the last timestep."""
    module.v = v
