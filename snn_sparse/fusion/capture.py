"""Capture: a network's forward pass as a ``torch.fx`` graph, with its shapes as numbers and its Python loops unrolled.

The forward pass runs as it is written on fake tensors, so that it costs no arithmetic, while every torch function and
every layer that is called is written down. Only what depends on the values of a tensor, on random numbers drawn in
Python, or on what an earlier call left behind in an attribute cannot be captured.
"""

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from snn_sparse.fusion import functions, layers
from snn_sparse.fusion.bystanders import Bystanders, registered

Tensor = torch.Tensor
_call = nn.Module.__call__
_ZEROS = (torch.zeros, torch.zeros_like, Tensor.new_zeros)


class CannotCapture(Exception):
    """Why a network cannot be captured, in one line, with the line of its source that was in the way."""


@dataclass(frozen=True)
class Computed:
    """Tensors that ``forward`` sets an attribute to: outputs of the graph, from ``first`` on, nested as ``spec`` says."""

    first: int
    spec: Any

    def of(self, outputs: Sequence[Any]) -> Any:
        """The attribute's value after a run of the graph."""
        return tree_unflatten(list(outputs[self.first : self.first + self.spec.num_leaves]), self.spec)


@dataclass
class Captured:
    """A captured forward pass.

    Attributes:
        graph: nodes have ``meta["value"]``, the fake tensor (or a nest of them) that they computed.
        spec: how the outputs nest; the graph's output is a flat list, behind which ``attributes`` may have more.
        attributes: (module's name, attribute) -> number or text that ``forward`` sets, always the same, or the
            :class:`Computed` of tensors.
        forgotten: names of modules that ``forward`` resets before it returns.
    """

    graph: fx.Graph
    spec: Any
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)


@dataclass
class Calls:
    """What a first run finds out about a module: shapes of the tensors it is called with, how often, what it keeps."""

    shapes: tuple[torch.Size, ...]
    calls: int = 0
    keeps: bool = False


@dataclass
class Census:
    """A first run: what it calls, by name, what modules keep afterwards, and (module's name, attribute) of what it set."""

    mode: FakeTensorMode
    calls: dict[str, Calls]
    kept: Bystanders
    written: set[tuple[str, str]]

    def keeps(self, name: str) -> bool:
        """Whether a module, without layers inside, keeps something from call to call."""
        return name in self.calls and self.calls[name].keeps


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has hooks on a module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class Recorder(TorchFunctionMode):
    """Writes down the torch functions and leaf modules that are called while it is entered.

    Args:
        model: whose parameters and buffers become ``get_attr`` nodes.
        is_leaf: whether a module's call becomes one node.
    """

    def __init__(
        self, model: nn.Module, is_leaf: Callable[[nn.Module, str], bool], keeps: Callable[[str], bool]
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.names = {id(m): name for name, m in model.named_modules()}
        self._is_leaf, self._held, self._busy, self._grad = is_leaf, _tensors_of(model), False, True
        self._nodes: dict[int, fx.Node] = {}
        self._keep: list[Any] = []  # so that no other value takes an `id`
        self._storages: dict[int, set[int]] = {}
        self._stale: set[int] = set()
        self._seen = {name: Bystanders(m) for name, m in model.named_modules() if keeps(name)}

    # ---- values and nodes

    def bind(self, value: Any, node: fx.Node) -> None:
        """Remember which node computes the tensors of ``value``; of several, ``getitem`` nodes do."""
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._keep.append(value)
            self._storages.setdefault(value.untyped_storage()._cdata, set()).add(id(value))
            node.meta.setdefault("value", value)
        elif isinstance(value, (tuple, list)):
            node.meta.setdefault("value", value)
            for i, item in enumerate(value):
                if any(isinstance(v, Tensor) for v in tree_flatten(item)[0]):
                    part = self.graph.call_function(functions.getitem, (node, i))
                    self.bind(item, part)
        elif isinstance(value, dict):
            node.meta.setdefault("value", value)
            for key, item in value.items():
                self.bind(item, self.graph.call_function(functions.getitem, (node, key)))

    def node_of(self, value: Any) -> Any:
        """The node that stands for a tensor; anything else is itself.

        Raises:
            CannotCapture: a tensor that belongs neither to the network nor to this call.
        """
        if not isinstance(value, Tensor):
            return value.item() if isinstance(value, np.generic) else value
        if id(value) in self._stale:
            raise CannotCapture("forward writes into a tensor and reads a view of it afterwards")
        if id(value) in self._nodes:
            return self._nodes[id(value)]
        if id(value) in self._held:
            node = self.graph.get_attr(self._held[id(value)])
            self.bind(value, node)
            return node
        raise CannotCapture("a tensor is used that is neither the network's nor computed from its input")

    def _record(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        args, kwargs = tree_map(self.node_of, (tuple(args), dict(kwargs)))
        return self.graph.create_node(op, target, args, kwargs)

    # ---- what is called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self._grad = bool(args[0])
        if self._busy:
            return func(*args, **kwargs)
        if functions.writes(func, args, kwargs):
            return self._written(func, args, kwargs)
        known = {id(v) for v in tree_flatten((args, kwargs))[0] if isinstance(v, Tensor)}
        out = func(*args, **kwargs)
        found = [v for v in tree_flatten(out)[0] if isinstance(v, Tensor)]
        if all(id(v) in known for v in found) or functions.is_query(func):  # contiguous() of what is contiguous
            return out
        target, args, kwargs = functions.canonical(func, args, kwargs)
        self.bind(out, self._record("call_function", target, args, kwargs))
        return self._cut(out)

    def _cut(self, out: Any) -> Any:
        """Under ``no_grad``, what was computed has no gradient: a ``detach`` says so."""
        if not self._grad:
            for value in tree_flatten(out)[0]:
                if isinstance(value, Tensor) and value.is_floating_point() and id(value) in self._nodes:
                    node = self.graph.call_function(torch.detach, (self._nodes[id(value)],))
                    node.meta["value"] = value
                    self._nodes[id(value)] = node
        return out

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation in place: written down as the one out of place, whose result the tensor is from now on."""
        written, before = args[0], args[0].detach()
        out = func(*args, **kwargs)
        if id(written) in self._held:
            raise CannotCapture("forward writes into a parameter or buffer")
        self._stale |= self._storages.get(written.untyped_storage()._cdata, set()) - {id(written)}
        target, args, kwargs = functions.canonical(functions.out_of_place(func), args, kwargs)
        node = self._record("call_function", target, args, kwargs)
        if written.shape != before.shape and id(written) in self._nodes:  # unsqueeze_ and the like
            self._nodes[id(written)].meta["value"] = before
        node.meta["value"] = written
        self._nodes[id(written)] = node
        self._cut(written)
        return out

    def call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module: as one node if it is a leaf, else as what it calls."""
        name = self.names.get(id(module))
        if self._busy or not name or not self._is_leaf(module, name):
            return _call(module, *args, **kwargs)
        merged = layers.merges(module, args)
        if merged:  # a layer on a sequence is the layer on the merged batch
            return self._on_merged(module, name, args[0])
        fresh = self._was_reset(module, name)
        node = self._record("call_module", name, args, kwargs)
        out = self._quietly(_call, module, *args, **kwargs)
        if name in self._seen:
            self._seen[name] = Bystanders(module)
        node.meta |= {"fresh": fresh, "pure": layers.kind_of(module) in ("conv", "linear") and not has_hooks(module)}
        self._bind_call(node, out)
        return self._cut(out)

    def _was_reset(self, module: nn.Module, name: str) -> bool:
        """Whether ``forward`` has put the module to rest since it kept something.

        Raises:
            CannotCapture: it has put something else there.
        """
        changes = self._seen[name].changes(module) if name in self._seen else []
        for _, key, value in changes:
            if isinstance(value, Tensor) and self._nodes.get(id(value), self.graph._root).target in _ZEROS:
                continue
            if not isinstance(value, (int, float, type(None))):
                raise CannotCapture(f"forward sets the state of {name} ({key})")
        return bool(changes)

    def forgotten(self, model: nn.Module) -> set[str]:
        """Names of modules that were put to rest after their last call."""
        return {name for name in self._seen if self._was_reset(model.get_submodule(name), name)}

    def _on_merged(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        outer, batch = tuple(x.shape[:2]), torch.flatten(x, 0, 1)
        merged = self._quietly(lambda: _call(module, x).flatten(0, 1))
        node = self._record("call_module", name, (batch,), {})
        node.meta["statistics"] = layers.statistics_of(module)
        node.meta["steps"] = outer[0]
        self.bind(merged, node)
        self._cut(merged)
        return torch.unflatten(merged, 0, outer)

    def _quietly(self, run: Callable, *args: Any, **kwargs: Any) -> Any:
        self._busy = True
        try:
            return run(*args, **kwargs)
        finally:
            self._busy = False

    def apply(self, function: type, bound: Callable, args: Any, kwargs: Any) -> Any:
        """Run an ``autograd.Function`` as one node."""
        if self._busy or not any(isinstance(a, Tensor) for a in args):
            return bound(*args, **kwargs)
        out = self._quietly(bound, *args, **kwargs)
        self._bind_call(self._record("call_function", functions.Apply(function), args, kwargs), out)
        return self._cut(out)

    def _bind_call(self, node: fx.Node, out: Any) -> None:
        if isinstance(out, Tensor) and id(out) in self._nodes:  # an identity: it answers with its very input
            node.meta["value"] = out
            self._nodes[id(out)] = node
        else:
            self.bind(out, node)


def _tensors_of(model: nn.Module) -> dict[int, str]:
    held: dict[int, str] = {}
    for name, module in model.named_modules():
        for items in (module.__dict__, module._buffers, module._parameters):
            for key, value in items.items():
                if isinstance(value, Tensor):
                    held[id(value)] = f"{name}.{key}" if name else key
    return held


class _Patched:
    """Inside, calls of modules and autograd functions are told to a recorder."""

    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder
        self._forwards: list[tuple[type, Any]] = []

    def __enter__(self) -> None:
        recorder = self.recorder

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recorder.call_module(module, args, kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign, assignment]
        for function in _functions(torch.autograd.Function):
            forward = vars(function)["forward"]
            self._forwards.append((function, forward))
            function.forward = staticmethod(_told(recorder, function, forward.__get__(None, function)))

    def __exit__(self, *_: Any) -> None:
        nn.Module.__call__ = _call  # type: ignore[method-assign]
        for function, forward in self._forwards:
            function.forward = forward  # type: ignore[attr-defined]


def _functions(kind: Any) -> Iterator[Any]:
    """All autograd functions that there are but those of torch."""
    for function in kind.__subclasses__():
        if not function.__module__.startswith("torch.") and isinstance(vars(function).get("forward"), staticmethod):
            yield function
        yield from _functions(function)


def _told(recorder: Any, function: Any, forward: Callable) -> Callable:
    """The ``forward`` of an autograd function: an ``act = Spike.apply`` of long ago cannot be got hold of otherwise."""

    def tell(*args: Any) -> Any:
        context = args[: 0 if function.setup_context is not torch.autograd.Function.setup_context else 1]
        called = getattr(context[0], "_forward_cls", function) if context else function  # may have inherited it
        return recorder.apply(called, lambda *given: forward(*context, *given), args[len(context) :], {})

    return tell


class _Counter:
    """Takes the census: which modules are called with what, and which keep something from call to call."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, Calls] = {}
        self._names = {id(m): name for name, m in model.named_modules()}
        self._small = {id(m) for m in model.modules() if not any(layers.kind_of(part) for part in m.modules())}

    def call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = self._names.get(id(module))
        before = Bystanders.look(module) if name and id(module) in self._small else None
        out = _call(module, *args, **kwargs)
        if name:
            shapes = tuple(v.shape for v in tree_flatten((args, kwargs))[0] if isinstance(v, Tensor))
            census = self.found.setdefault(name, Calls(shapes))
            census.calls += 1
            census.keeps |= before is not None and bool(before.changes(module))
        return out

    def apply(self, _function: type, bound: Callable, args: Any, kwargs: Any) -> Any:
        return bound(*args, **kwargs)


def _fake(mode: FakeTensorMode, inputs: Sequence[Any]) -> Any:
    """Fake inputs, new ones each time: forward may write into them."""
    return tree_map(lambda v: mode.from_tensor(v).clone() if isinstance(v, Tensor) else v, tuple(inputs))


@contextmanager
def _apart(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Inside, fakes are in the place of parameters and buffers, into which forward may write, and dice are others."""
    held = [h for m in model.modules() for h in (m._parameters, m._buffers)]
    before, dice = [dict(h) for h in held], (random.getstate(), np.random.get_state())  # noqa: NPY002
    try:
        for tensors in held:
            tensors.update({name: mode.from_tensor(t) for name, t in tensors.items() if t is not None})
        yield
    finally:
        for tensors, kept in zip(held, before, strict=True):
            tensors.clear()
            tensors.update(kept)
        random.setstate(dice[0])
        np.random.set_state(dice[1])  # noqa: NPY002


def _run(model: nn.Module, forward: Callable, inputs: Any, recorder: Any) -> Any:
    try:
        with _Patched(recorder):
            return forward(*inputs)
    except CannotCapture as error:
        raise CannotCapture(f"{error}{_line(error)}") from None
    except Exception as error:
        what = (str(error).splitlines() or [""])[0]
        unknown = type(error).__name__.startswith(("DataDependent", "DynamicOutput"))
        if unknown or "data-dependent" in what.lower() or "Unbacked" in what:
            what = "control flow depends on the data"
        else:
            what = f"{type(error).__name__}: {what}"
        raise CannotCapture(f"{what}{_line(error)}") from None


def _line(error: BaseException) -> str:
    """The innermost line of the network's own source in a traceback."""
    inside = ("/torch/", "/snn_sparse/fusion/", "<frozen", "<eval_with_key")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in inside):
            return f" ({frame.filename}:{frame.lineno}: {frame.line})"
    return ""


def _randomness() -> Any:
    return random.getstate(), tuple(map(str, np.random.get_state()))  # noqa: NPY002


def take_census(model: nn.Module, forward: Callable, inputs: Sequence[Any]) -> Census:
    """Run ``forward`` once on fake tensors and count what it calls; nothing of the network changes.

    Raises:
        CannotCapture: it does not run so.
    """
    mode, counter = FakeTensorMode(allow_non_fake_inputs=True), _Counter(model)
    with Bystanders.restored(model), registered(model), _apart(model, mode), mode, torch.enable_grad():
        before = Bystanders(model)
        _run(model, forward, _fake(mode, inputs), counter)
        written = {(name, key) for name, key, _ in before.changes(model)}
        return Census(mode, counter.found, Bystanders(model), written)


def capture(
    model: nn.Module,
    forward: Callable,
    inputs: Sequence[Any],
    is_leaf: Callable[[nn.Module, str], bool],
    census: Census,
) -> Captured:
    """Capture ``forward(*inputs)`` as a second run, so that a reset within it shows; nothing of the network changes.

    Args:
        model: that ``forward`` belongs to.
        forward: as its author wrote it.
        inputs: tensors, real or fake, or anything else.
        is_leaf: (module, its name) -> whether its call is one node.
        census: of the first run.

    Raises:
        CannotCapture: control flow on data, side effects, random numbers drawn in Python, or whatever it raises.
    """
    mode, before = census.mode, _randomness()
    with Bystanders.restored(model), registered(model), _apart(model, mode), mode, torch.enable_grad():
        census.kept.restore(model, {name for name, calls in census.calls.items() if calls.keeps})
        leaves = {name for name, m in model.named_modules() if name and is_leaf(m, name)}
        gone = _hidden(model, {place for place in census.written if not _is_below(place[0], leaves)})
        bystanders, recorder = Bystanders(model), Recorder(model, is_leaf, census.keeps)
        fakes = _fake(mode, inputs)
        for i, value in enumerate(tree_flatten(fakes)[0]):
            if isinstance(value, Tensor):
                recorder.bind(value, recorder.graph.placeholder(f"x{i}" if i else "x"))
        with recorder, _missing(gone):
            out = _run(model, forward, fakes, recorder)
        forgotten = recorder.forgotten(model)
        values, spec = tree_flatten(out)
        attributes = _side_effects(model, bystanders, leaves, values)
        if _randomness() != before:
            raise CannotCapture("forward draws random numbers in Python")
    if not any(isinstance(v, Tensor) for v in values[: spec.num_leaves]):
        raise CannotCapture("forward returns no tensor")
    recorder.graph.output([recorder.node_of(v) for v in values])
    recorder.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output", "call_module"))
    return Captured(recorder.graph, spec, attributes, forgotten)


def _is_below(name: str, leaves: set[str]) -> bool:
    return any(name == leaf or name.startswith(f"{leaf}.") for leaf in leaves)


def _tensors_in(value: Any) -> bool:
    return any(isinstance(v, Tensor) for v in tree_flatten(value)[0])


def _hidden(model: nn.Module, places: set[tuple[str, str]]) -> dict[tuple[int, str], str]:
    """Take attributes away that ``forward`` sets: it must not read what an earlier call left in them."""
    for name, key in places:
        model.get_submodule(name).__dict__.pop(key, None)
    return {(id(model.get_submodule(name)), key): f"{name}.{key}" if name else key for name, key in places}


@contextmanager
def _missing(gone: dict[tuple[int, str], str]) -> Iterator[None]:
    """Inside, a look at an attribute that was taken away says that the network cannot be captured."""
    original = nn.Module.__getattr__

    def look(module: nn.Module, key: str) -> Any:
        if (id(module), key) in gone:
            raise CannotCapture(f"forward reads what an earlier call left in the attribute {gone[id(module), key]}")
        return original(module, key)

    nn.Module.__getattr__ = look  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__getattr__ = original  # type: ignore[method-assign]


def _side_effects(
    model: nn.Module, bystanders: Bystanders, leaves: set[str], outputs: list[Any]
) -> dict[tuple[str, str], Any]:
    """What forward sets on modules that were looked into; tensors are put behind ``outputs``. Other things are refused."""
    found: dict[tuple[str, str], Any] = {}
    for name, key, value in bystanders.changes(model):
        if _is_below(name, leaves):
            continue
        plain = isinstance(value, (int, float, str, bool, torch.Size, type(None)))
        held = key in model.get_submodule(name)._buffers or not hasattr(model.get_submodule(name), key)
        if not plain and (held or not _tensors_in(value)):
            raise CannotCapture(f"forward keeps something in the attribute {f'{name}.' if name else ''}{key}")
        if plain:
            found[name, key] = value
        else:
            leaves_of, spec = tree_flatten(value)
            found[name, key] = Computed(len(outputs), spec)
            outputs += leaves_of
    return found
