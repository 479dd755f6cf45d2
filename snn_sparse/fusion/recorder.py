"""Recorder: writes down the torch functions, layers and autograd functions that a forward pass calls."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from snn_sparse.fusion import functions, layers
from snn_sparse.fusion.answers import Answers, call_as_written, has_hooks
from snn_sparse.fusion.bystanders import Bystanders

Tensor = torch.Tensor
_ZEROS = (torch.zeros, torch.zeros_like, Tensor.new_zeros)


class CannotCapture(Exception):
    """Why a network cannot be captured, in one line, with the line of its source that was in the way."""


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
        self._answers = Answers()
        self._updated: dict[str, fx.Node] = {}  # batch norms that have been called
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
            path = self._held[id(value)]
            node = self.graph.get_attr(path)
            updated = self._updated.get(path.rpartition(".")[0])
            if updated is not None and "running_" in path:
                node.meta["value"] = value
                node = self.graph.call_function(functions.after, (node, updated))
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
            return call_as_written(module, *args, **kwargs)
        merged = layers.merges(module, args)
        if merged:  # a layer on a sequence is the layer on the merged batch
            return self._on_merged(module, name, args[0])
        fresh = self._was_reset(module, name)
        node = self._record("call_module", name, args, kwargs)
        out, asked = self._quietly(self._answers.ask, module, args, kwargs)
        if asked and name in self._seen:
            self._seen[name] = Bystanders(module)
        node.meta |= {"fresh": fresh, "pure": layers.kind_of(module) in ("conv", "linear") and not has_hooks(module)}
        self._bind_call(node, out)
        self._update(module, name, node)
        return self._cut(out)

    def _update(self, module: nn.Module, name: str, node: fx.Node) -> None:
        """Remember that a batch norm has changed its running statistics: who reads them now reads new ones."""
        if layers.kind_of(module) == "norm":
            self._updated[name] = node
            for buffer in module._buffers.values():
                self._nodes.pop(id(buffer), None)

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
        merged = self._quietly(lambda: self._answers.ask(module, (x,), {})[0].flatten(0, 1))
        node = self._record("call_module", name, (batch,), {})
        node.meta["statistics"] = layers.statistics_of(module)
        node.meta["steps"] = outer[0]
        self.bind(merged, node)
        self._update(module, name, node)
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


class Patched:
    """Inside, calls of modules and autograd functions are told to a recorder."""

    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder
        self._forwards: list[tuple[type, Any]] = []

    def __enter__(self) -> None:
        recorder = self.recorder

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recorder.call_module(module, args, kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        for function in _functions(torch.autograd.Function):
            forward = vars(function)["forward"]
            self._forwards.append((function, forward))
            function.forward = staticmethod(_told(recorder, function, forward.__get__(None, function)))

    def __exit__(self, *_: Any) -> None:
        nn.Module.__call__ = call_as_written  # type: ignore[method-assign]
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
