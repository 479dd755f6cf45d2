"""Replay: each neuron of a network, on its own and on what it reads there, against what it was taken for."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from snn_sparse.fusion.compiled import original_forward
from snn_sparse.fusion.neurons import Dynamics
from snn_sparse.fusion.repeatable import Repeatable
from snn_sparse.fusion.sites import Sites
from snn_sparse.ops.neuron import plain_neuron

Tensor = torch.Tensor
GRADIENTS = {torch.float64: 1e-7, torch.float32: 1e-3}  # of the largest
SPIKES = {torch.float64: 0.0, torch.float32: 1e-3}  # share of them that may differ by rounding


class _Heard:
    """Input and answer of a neuron, and a copy of it from before."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)
        self.inputs: list[tuple[Any, ...]] = []
        self.spikes: list[Tensor] = []


def mistaken(model: nn.Module, inputs: Sequence[Any], spec: Any, sites: Sites) -> dict[str, str]:
    """Find the neurons that answer otherwise than what they were taken for.

    Args:
        model: the original; it is run once, and keeps what it keeps.
        inputs: flat list of its inputs.
        spec: how they nest.
        sites: of the network, as it was compiled.

    Returns:
        name -> what differs.
    """
    heard = _listen(model, inputs, spec, sites.neurons)
    found = {name: _difference(heard[name], sites.dynamics_of(name)) for name in sites.neurons if name in heard}
    return {name: reason for name, reason in found.items() if reason}


def _listen(model: nn.Module, inputs: Sequence[Any], spec: Any, names: Sequence[str]) -> dict[str, _Heard]:
    heard: dict[str, _Heard] = {}

    def before(name: str) -> Any:
        def remember(module: nn.Module, args: Any) -> None:
            if name not in heard:
                heard[name] = _Heard(module)
            heard[name].inputs.append(tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, args))

        return remember

    def behind(name: str) -> Any:
        def remember(_module: nn.Module, _args: Any, output: Any) -> None:
            heard[name].spikes.append(tree_leaves(output)[0].detach())

        return remember

    handles: list[Any] = []
    for name in names:
        module = model.get_submodule(name)
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(behind(name))]
    try:
        with Repeatable(), torch.no_grad():
            args, kwargs = tree_unflatten(list(inputs), spec)
            original_forward(model, *args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for kept in heard.values():
        kept.module._forward_hooks.clear()
        kept.module._forward_pre_hooks.clear()
    return heard


def _difference(heard: _Heard, dynamics: Dynamics) -> str:
    """Name what differs between a neuron and what it was taken for; empty: nothing, or it cannot be told."""
    axis, module = dynamics.time_axis, heard.module
    x = torch.stack([args[0] for args in heard.inputs]) if axis is None else heard.inputs[0][0].movedim(axis, 0)
    rest = heard.inputs[0][1:]
    given = rest[0] if rest else None
    v = dynamics.start(module, x[0], dynamics.unpack(given) if dynamics.unpack and given is not None else given)
    neuron, rate = dynamics.read(module)
    x = x.detach().requires_grad_()
    try:
        expected = _replayed(module, x, axis, rest)
    except Exception:  # it wants more than its input and its state
        return ""
    if not torch.equal(expected.detach(), _heard_spikes(heard, axis).to(expected)):
        return ""  # forward does something to it between the steps
    rate = None if rate is None else rate.detach().to(x)
    actual, _ = plain_neuron(x * dynamics.gain, neuron, rate=rate, v=v)
    if float((actual != expected).double().mean()) > SPIKES[x.dtype]:
        return "its spikes differ from those of what it was taken for"
    cotangent = torch.randn(actual.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    gradients = [_gradient(y, x, cotangent.to(x.device)) for y in (actual, expected)]
    error, scale = (gradients[0] - gradients[1]).abs().max(), gradients[1].abs().max()
    if float(error) > GRADIENTS[x.dtype] * max(float(scale), 1e-30):
        return "its gradient differs from that of what it was taken for"
    return ""


def _heard_spikes(heard: _Heard, axis: int | None) -> Tensor:
    return torch.stack(heard.spikes) if axis is None else heard.spikes[0].movedim(axis, 0)


def _replayed(module: nn.Module, x: Tensor, axis: int | None, rest: tuple[Any, ...]) -> Tensor:
    """Spikes [T, N, ...] of the module itself."""
    if axis is not None:
        return tree_leaves(module(x.movedim(0, axis), *rest))[0].movedim(axis, 0)
    spikes = []
    for x_t in x:
        out = module(x_t, *rest)
        rest = tuple(out[1:]) if rest and isinstance(out, (tuple, list)) else ()
        spikes.append(out[0] if isinstance(out, (tuple, list)) else out)
    return torch.stack(spikes)


def _gradient(y: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
    found = torch.autograd.grad(y, x, cotangent, allow_unused=True)[0] if y.requires_grad else None
    return torch.zeros_like(x) if found is None else found
