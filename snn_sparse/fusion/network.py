"""A fused network: of a subclass of the original's class, made on the fly, that runs compiled forward passes."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from snn_sparse.fusion import layers
from snn_sparse.fusion.bystanders import register
from snn_sparse.fusion.capture import CannotCapture
from snn_sparse.fusion.compiled import Compiled, Guards, original_forward
from snn_sparse.fusion.tracing import meet_traced
from snn_sparse.fusion.verify import disagreement
from snn_sparse.nn.masked import Masked
from snn_sparse.nn.masked_layers import foreign_class, masked_class
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor
MAX_KEYS = 32  # compiled forward passes that are kept, the last used


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
            what = (str(error).splitlines() or [""])[0]
            return Refused(
                f"the compiler of snn_sparse failed ({type(error).__name__}: {what}); please report this", model
            )

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
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
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


class FusedNetwork(nn.Module):
    """Mixed into the class of a network that was fused."""

    original: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the original, compiled for this kind of input; as it was written where that cannot be."""
        compiler: Compiler = self.__dict__["_fused_compiler"]
        if torch.compiler.is_compiling():
            from torch._dynamo.comptime import comptime  # slow, and loaded by now

            comptime(meet_traced)
            traced, inputs = compiler.find_traced(args, kwargs)
            return original_forward(self, *args, **kwargs) if traced is None else traced.traced(inputs)
        entry, inputs = compiler.find(self, args, kwargs)
        if isinstance(entry, Compiled) and not entry.has_run:
            try:
                entry.prepare(inputs)
            except Exception as error:
                entry = compiler.refuse(self, entry, error)
        compiler.took(entry)
        return original_forward(self, *args, **kwargs) if isinstance(entry, Refused) else entry(inputs)

    @property
    def graph(self) -> Any:
        """The graph of stages that ran last, as ``torch.fx`` prints it; None: none ran yet."""
        last = self.__dict__["_fused_compiler"].last
        return None if last is None or last.module is None else last.module.graph

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_fused_compiler"].forget()
        return super()._apply(*args, **kwargs)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """For copies and pickles: the class is made again, and the network is compiled anew."""
        return _rebuild, (type(self).original,), {**self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self)


_classes: dict[Any, type[nn.Module]] = {}


def fused_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a network's class that runs compiled; always the same for a class."""
    if kind not in _classes:
        _classes[kind] = _subclass(kind)
    return _classes[kind]


def _subclass(kind: type[nn.Module]) -> type[nn.Module]:
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__, "original": kind}
    return type(f"Fused{kind.__name__}", (FusedNetwork, kind), about)


def _rebuild(kind: type[nn.Module]) -> nn.Module:
    made = fused_class(kind)
    return made.__new__(made)


def _shared(model: nn.Module) -> nn.Module:
    """A copy of a network that shares its parameters and buffers."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for value in tree_leaves([m.__dict__ for m in model.modules()]):
        if isinstance(value, Tensor) and not value.is_leaf:  # what neurons keep of the last step
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def fuse(
    model: nn.Module, *example: Any, neurons: Mapping[type, NeuronSpec] | None = None, verify: bool = True
) -> nn.Module:
    """Put any spiking network on fused layers; parameters and buffers are shared with ``model``, not copied.

    The forward pass is captured, its loops over time are rolled up, its neurons are recognised, and convolutions, batch
    norms, residuals, neurons and pools are joined to stages that run over all timesteps at once: in C++ on a CPU, by
    Triton kernels on an NVIDIA GPU, elsewhere in plain PyTorch. Under a mask (:meth:`snn_sparse.Mask.apply_`) a layer
    convolves at its live weights where that was measured to be faster. The first batch is computed both ways and
    compared; what disagrees is put back. What cannot be captured runs as it was written; :func:`snn_sparse.explain`
    says why.

    Args:
        model: any module; not changed.
        *example: inputs of a call, for which it is captured now; left out, the first call captures. Every new shape,
            dtype, mode or number in an attribute (such as ``timesteps``) is captured when it first comes.
        neurons: your own neuron classes, with what they compute; others are recognised by what they do.
        verify: whether to compare the first batch.

    Returns:
        a network of a subclass of ``type(model)``, with the same parameters and ``state_dict``. Neurons keep their
        state between calls as the original's do.

    Raises:
        TypeError: ``model`` is no module, or ``neurons`` no mapping from classes to :class:`snn_sparse.NeuronSpec`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    named = dict(neurons or {})
    for kind, spec in named.items():
        if not isinstance(kind, type) or not isinstance(spec, NeuronSpec):
            raise TypeError(f"neurons must map classes to NeuronSpec, got {kind!r}: {spec!r}")
    if isinstance(model, FusedNetwork):
        named = model.__dict__["_fused_compiler"].neurons | named
        twin = _shared(model)
    else:
        twin = _shared(model)
        for module in twin.modules():
            if module is not twin and layers.kind_of(module) in ("conv", "linear") and not isinstance(module, Masked):
                module.__class__ = masked_class(type(module))
        twin.__class__ = fused_class(type(twin))
    twin.__dict__["_fused_compiler"] = Compiler(named, verify)
    register(twin)
    if example:
        twin.__dict__["_fused_compiler"].meet(twin, example, {})
    return twin


def unfuse(model: nn.Module) -> nn.Module:
    """Give the network back as it was before :func:`fuse`, sharing parameters and buffers.

    Pruned weights are zero in it, but nothing keeps them so: apply the mask again if it is to train.

    Raises:
        TypeError: ``model`` was not fused.
    """
    if not isinstance(model, FusedNetwork):
        raise TypeError(f"model must be a fused network, got {type(model).__name__}")
    twin = _shared(model)
    del twin.__dict__["_fused_compiler"]
    twin.__class__ = type(model).original
    for module in twin.modules():
        if isinstance(module, Masked):
            foreign_class(module)
    return twin
