"""The compiled forward passes of one network, by kind of input."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from snn_sparse.fusion.capture import CannotCapture
from snn_sparse.fusion.compiled import Compiled, Guards, original_forward
from snn_sparse.fusion.verify import disagreement
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor
TRIES = 4  # refusals of one kind of input before it is not compiled again
MAX_KEYS = 32  # kinds of input whose compiled forward passes are kept, the last used


class Compiler:
    """The compiled forward passes of one network, by kind of input.

    Args:
        neurons: classes that the user says are neurons, with their specifications.
        verify: whether the first batch of each mode is checked against the original.

    Attributes:
        reason: why the last call ran as the original does; empty: it ran compiled.
        last: what ran last.
    """

    def __init__(self, neurons: Mapping[type, NeuronSpec], verify: bool) -> None:
        self.neurons, self.verify = dict(neurons), verify
        self.excluded: dict[str, str] = {}
        self.verified: dict[bool, str] = {}
        self.reason = ""
        self.last: Compiled | None = None
        self._entries: OrderedDict[Any, list[Compiled | Refused]] = OrderedDict()

    def __deepcopy__(self, memo: Any) -> "Compiler":
        return self.bare()

    def bare(self) -> "Compiler":
        """Make one for a copy of the network, which compiles anew, without checking again."""
        twin = Compiler(self.neurons, self.verify)
        twin.excluded, twin.verified = dict(self.excluded), dict(self.verified)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return self.bare().__dict__

    def forget(self) -> None:
        """Drop what was compiled: the network has moved, or changed its dtype."""
        self._entries.clear()

    def find(self, model: nn.Module, args: Any, kwargs: Any) -> "tuple[Compiled | Refused, list[Any]]":
        """The compiled forward pass for a call, compiled now if there is none, and the inputs as a list."""
        inputs, spec = tree_flatten((args, kwargs))
        key = _key(inputs, spec)
        known = self._entries.setdefault(key, [])
        self._entries.move_to_end(key)
        for entry in known:
            if entry.guards.hold():
                return entry, inputs
        refused = [entry for entry in known if isinstance(entry, Refused)]
        if len(refused) >= TRIES:  # forward changes an attribute at every call
            return refused[-1], inputs
        entry = self._compile(model, inputs, spec)
        known.append(entry)
        del known[:-MAX_KEYS]
        while len(self._entries) > MAX_KEYS:
            self._entries.popitem(last=False)
        return entry, inputs

    def meet(self, model: nn.Module, args: Any, kwargs: Any, traced: bool = False) -> None:
        """Compile for a call, if that has not been done, and plan it; ``traced``: for torch.compile."""
        entry, inputs = self.find(model, args, kwargs)
        self.took(entry)
        if not isinstance(entry, Refused):
            (entry.plan_traced if traced else entry.prepare)(inputs)

    def find_traced(self, args: Any, kwargs: Any) -> "tuple[Compiled | None, list[Any]]":
        """The compiled and planned forward pass for a call that torch.compile or torch.export follows, or None."""
        inputs, spec = tree_flatten((args, kwargs))
        for entry in self._entries.get(_key(inputs, spec), ()):
            if entry.guards.hold():
                if isinstance(entry, Refused):
                    return None, inputs
                if not torch.compiler.is_dynamo_compiling():  # torch.export, which runs Python
                    entry.plan_traced(inputs)
                return (entry if entry.is_planned() else None), inputs
        return None, inputs

    def took(self, entry: "Compiled | Refused") -> None:
        """Remember what a call runs on, for :func:`snn_sparse.explain`."""
        if isinstance(entry, Refused):
            self.reason = entry.reason
        else:
            self.reason, self.last = "", entry

    def refuse(self, model: nn.Module, entry: Compiled, error: Exception) -> "Refused":
        """Give up what was compiled, since it cannot be planned: the network runs as it was written."""
        refused = Refused(_told(error), model)
        for known in self._entries.values():
            known[:] = [refused if e is entry else e for e in known]
        return refused

    def _compile(self, model: nn.Module, inputs: list[Any], spec: Any) -> "Compiled | Refused":
        def forward(*flat: Any) -> Any:
            args, kwargs = tree_unflatten(list(flat), spec)
            return original_forward(model, *args, **kwargs)

        try:
            return self._compile_aside(model, forward, inputs, spec)
        except CannotCapture as error:
            return Refused(str(error), model)
        except Exception as error:  # of the compiler's own: never a reason not to run
            return Refused(_told(error), model)

    def _compile_aside(self, model: nn.Module, forward: Any, inputs: list[Any], spec: Any) -> "Compiled | Refused":
        """Compile unnoticed by autocast, which would keep fake weights, and by who counts or offloads saved tensors."""
        caches = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            with torch.autograd.graph.saved_tensors_hooks(_same, _same):
                self._verify(model, inputs, spec)
                problem = self.verified.get(model.training, "")
                return (
                    Refused(problem, model)
                    if problem
                    else Compiled(model, forward, inputs, self.neurons, self.excluded)
                )
        finally:
            torch.set_autocast_cache_enabled(caches)

    def _verify(self, model: nn.Module, inputs: list[Any], spec: Any) -> None:
        if self.verify and model.training not in self.verified:
            self.verified[model.training] = disagreement(self, model, inputs, spec)


def _same(value: Any) -> Any:
    return value


class Refused:
    """A kind of input for which the network runs as it was written, and why."""

    def __init__(self, reason: str, model: nn.Module) -> None:
        self.reason, self.guards = reason, Guards(model)


def _told(error: Exception) -> str:
    what = (str(error).splitlines() or [""])[0]
    return f"the compiler of snn_sparse failed ({type(error).__name__}: {what}); please report this"


def _key(inputs: list[Any], spec: Any) -> Any:
    device = _device(inputs)
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if casts else None
    return (spec, *[_kind(v) for v in inputs], dtype)


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _device(inputs: list[Any]) -> str:
    return next((v.device.type for v in inputs if isinstance(v, Tensor)), "cpu")
