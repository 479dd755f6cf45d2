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
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from snn_sparse.fusion import layers
from snn_sparse.fusion.answers import Answers, call_as_written
from snn_sparse.fusion.bystanders import Bystanders, registered
from snn_sparse.fusion.recorder import CannotCapture, Patched, Recorder

__all__ = ["Calls", "CannotCapture", "Captured", "Census", "Computed", "capture", "take_census"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Computed:
    """Tensors that ``forward`` sets an attribute to: the graph's outputs from ``first`` on, nested as ``spec`` says."""

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
    """Findings of a first run about a module: shapes of the tensors it is called with, how often, what it keeps."""

    shapes: tuple[torch.Size, ...]
    calls: int = 0
    keeps: bool = False


@dataclass
class Census:
    """A first run: what it calls, by name, what modules keep, and (module's name, attribute) of all that was set."""

    mode: FakeTensorMode
    calls: dict[str, Calls]
    kept: Bystanders
    written: set[tuple[str, str]]

    def keeps(self, name: str) -> bool:
        """Whether a module, without layers inside, keeps something from call to call."""
        return name in self.calls and self.calls[name].keeps


class _Counter:
    """Takes the census: which modules are called with what, and which keep something from call to call."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, Calls] = {}
        self._answers = Answers()
        self._names = {id(m): name for name, m in model.named_modules()}
        self._small = {id(m) for m in model.modules() if not any(layers.kind_of(part) for part in m.modules())}

    def call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = self._names.get(id(module))
        small = bool(name) and id(module) in self._small
        before = Bystanders.look(module) if small else None
        if small or layers.kind_of(module) is not None:
            out, asked = self._answers.ask(module, args, kwargs)
        else:
            out, asked = call_as_written(module, *args, **kwargs), True
        if name and not asked:
            for inner in [n for n in self.found if n.startswith(f"{name}.")]:
                self.found[inner].calls += 1
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
    held: list[Any] = [h for m in model.modules() for h in (m._parameters, m._buffers)]
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
        with Patched(recorder):
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

    nn.Module.__getattr__ = look  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__getattr__ = original  # type: ignore[method-assign]


def _side_effects(
    model: nn.Module, bystanders: Bystanders, leaves: set[str], outputs: list[Any]
) -> dict[tuple[str, str], Any]:
    """List what forward sets on modules that were looked into, tensors behind ``outputs``; other things are refused."""
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
