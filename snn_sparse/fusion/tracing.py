"""Tracing: a fused network that torch.compile meets before it was ever called is captured while Dynamo traces it."""

from typing import Any

import torch

Tensor = torch.Tensor


def _example(variable: Any) -> Any:
    """A value like the one that one of Dynamo's variables stands for; tensors hold zeros."""
    variable = variable.realize()
    if variable.is_tensor():
        fake = variable.as_proxy().node.meta["example_value"]
        sizes = [int(n) for n in fake.shape]
        return torch.zeros(sizes, dtype=fake.dtype, device=fake.device)
    if hasattr(variable, "items") and isinstance(variable.items, (list, tuple)):
        return variable.python_type()([_example(v) for v in variable.items])
    if hasattr(variable, "items") and isinstance(variable.items, dict):
        return {k.vt.as_python_constant(): _example(v) for k, v in variable.items.items()}
    return variable.as_python_constant()


def meet_traced(context: Any) -> None:
    """At Dynamo's compile time, in ``forward`` of a fused network: capture and plan it for what it is called with."""

    def local(name: str) -> Any:
        return context.get_local(name)._i_will_not_complain_if_bc_breaks_VariableTracker()

    network: Any = local("self").value
    try:
        args, kwargs = tuple(_example(local("args"))), dict(_example(local("kwargs")))
    except Exception:  # an argument whose value Dynamo does not tell; the network runs as it was written
        return
    network.__dict__["_fused_compiler"].meet(network, args, kwargs, traced=True)
