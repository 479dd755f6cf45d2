"""norse's ``LIFBoxCell``: one timestep a call, the state explicit, as a named tuple."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.neurons.dynamics import Dynamics, Reading, number
from snn_sparse.fusion.neurons.surrogates import Firing, read_surrogate
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor


def is_cell(module: nn.Module) -> bool:
    """Whether a module is one of norse's feed-forward cells, or of a subclass."""
    return any(c.__module__.startswith("norse.") and c.__name__.startswith("SNN") for c in type(module).__mro__)


def recognise(module: Any, shapes: Sequence[torch.Size]) -> Dynamics | str:
    """Return the dynamics of a ``LIFBoxCell``, or why it is no neuron of ours."""
    kind = type(module)
    if kind.__name__ != "LIFBoxCell" or not kind.__module__.startswith("norse."):
        return f"{kind.__name__} of norse is no neuron of ours"
    if getattr(module.activation, "__name__", "") != "lif_box_feed_forward_step":
        return "its activation is replaced on the instance"
    try:
        _read(module)
    except (ValueError, TypeError, AttributeError) as error:
        return str(error).splitlines()[0]
    return Dynamics(_read, None, None, start, explicit=True, returns_potential=True, unpack=unpack, pack=pack)


def _read(module: Any) -> Reading:
    """Read the numbers as they stand now; raise a ValueError that says which is no number."""
    p = module.p
    names = ("tau_mem_inv", "v_leak", "v_th", "v_reset")
    values = [number(getattr(p, name)) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise ValueError(f"{name} is not a fixed number")
    _, leak, threshold, reset = values
    soft = getattr(p.reset_method, "__name__", "") == "reset_subtract"
    if not soft and getattr(p.reset_method, "__name__", "") != "reset_value":
        raise ValueError("its reset method is none of norse's")
    if leak != (0.0 if soft else reset):
        raise ValueError("it leaks towards another potential than it resets to")
    firing = _firing(p.method, float(p.alpha))
    if isinstance(firing, str):
        raise ValueError(firing)
    rate = torch.as_tensor(module.dt * p.tau_mem_inv).detach().reshape(())
    spec = NeuronSpec(
        kind="plif",
        v_threshold=float(threshold),  # type: ignore[arg-type]
        v_reset=None if soft else reset,
        detach_reset=False,
        **firing.fields(),
    )
    return spec, rate


@lru_cache
def _firing(method: str, alpha: float) -> Firing | str:
    threshold = sys.modules["norse.torch.functional.threshold"].threshold
    return read_surrogate(lambda u: threshold(u, method, torch.as_tensor(alpha)))


def start(module: Any, like: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Potential to start from: the one it was called with, spread over the neurons if it is one number."""
    return v if v is None else v.expand_as(like)


def unpack(state: Any) -> Tensor | None:
    """Potential of a state; None if there is none yet."""
    return None if state is None else state.v


def pack(v: Tensor) -> Any:
    """State of a potential."""
    return sys.modules["norse.torch.functional.lif_box"].LIFBoxFeedForwardState(v=v)
