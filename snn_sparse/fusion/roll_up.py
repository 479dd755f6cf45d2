"""Roll up time: T isomorphic pieces of an unrolled loop become one piece on the sequence [T, N, ...].

A layer that is called T times is a *pack* of T nodes. Packs grow to what their nodes read and to what reads them, as a
vectorizing compiler grows packs of scalar instructions, so loops of any nesting and length are found; a network may
hold several. Packs that depend on themselves are recurrences, and stay unrolled; a neuron's own potential does not
count. Sums over time, stacks and lists of outputs become operations on the sequence, and what is the same at every step
is computed once.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map

from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.inline import InlineNeuron, cut_out, ends
from snn_sparse.fusion.lift import Steps, is_random, lift
from snn_sparse.fusion.order import components, in_order
from snn_sparse.fusion.tidy import shape_of, stack, total

KindOf = Callable[[fx.Node], str | None]
Inline = Callable[[InlineNeuron, torch.Size], str | None]


@dataclass(eq=False)
class Pack:
    """T nodes that do the same at T steps.

    Attributes:
        nodes: in order.
        slices: of ``select`` of one sequence: its dimension.
        neuron: of the answers of a neuron that was written into the loop: its name; ``read`` is what it reads.
        read: at each step.
    """

    nodes: list[fx.Node]
    slices: int | None = None
    neuron: str | None = None
    read: tuple[fx.Node, ...] = ()

    @property
    def first(self) -> fx.Node:
        """The node of the first step."""
        return self.nodes[0]


def operands(node: fx.Node) -> list[Any]:
    """The leaves of a node's arguments, in order."""
    return tree_flatten((node.args, node.kwargs))[0]


def _signature(node: fx.Node, neuron: bool) -> Any:
    """What packed nodes have in common; a neuron's explicit state may be another at the first step."""
    leaves, spec = tree_flatten((node.args[:1] if neuron else node.args, node.kwargs))
    constants = tuple("node" if isinstance(v, fx.Node) else repr(v) for v in leaves)
    return node.op, node.target, constants, str(spec), node.meta.get("statistics"), shape_of(node)


class Packer:
    """Finds the packs of a graph.

    Args:
        graph: tidied.
        kind_of: of a ``call_module`` node: ``conv``, ``linear``, ``norm``, ``neuron``; None: it stays as it is.
    """

    def __init__(self, graph: fx.Graph, kind_of: KindOf, inline: Inline) -> None:
        self.graph, self._kind_of, self._inline = graph, kind_of, inline
        self.inside: dict[fx.Node, Pack] = {}  # nodes of a neuron that nobody else reads
        self._places = {node: i for i, node in enumerate(graph.nodes)}
        self.of: dict[fx.Node, tuple[Pack, int]] = {}
        self._work: list[Pack] = []
        calls: dict[Any, list[fx.Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_module" and kind_of(node):
                calls[node.target].append(node)
        for nodes in calls.values():
            if len(nodes) > 1:
                self._try(nodes)
        while self._work:
            self._grow(self._work.pop())
        self._dissolve_recurrences()

    def packs(self) -> list[Pack]:
        """All packs, each once."""
        return list(dict.fromkeys(pack for pack, _ in self.of.values()))

    def pack_of(self, nodes: Iterable[Any]) -> Pack | None:
        """The pack that consists of exactly these nodes, in this order."""
        nodes = list(nodes)
        found = self.of.get(nodes[0]) if nodes and isinstance(nodes[0], fx.Node) else None
        return found[0] if found is not None and found[0].nodes == nodes else None

    def _try(self, nodes: list[fx.Node]) -> None:
        first = nodes[0]
        if any(n in self.of for n in nodes) or len(set(nodes)) != len(nodes) or first.op not in _PACKED:
            return
        if first.op == "call_module" and not self._kind_of(first):
            return
        slices = _slices(nodes)
        neuron = first.op == "call_module" and self._kind_of(first) == "neuron"
        if slices is None and len({_signature(n, neuron) for n in nodes}) > 1:
            return
        pack = Pack(nodes, slices)
        self.of.update((node, (pack, t)) for t, node in enumerate(nodes))
        self._work.append(pack)

    def _grow(self, pack: Pack) -> None:
        if pack.slices is None:
            for elements in zip(*map(operands, pack.nodes), strict=False):
                if all(isinstance(e, fx.Node) for e in elements):
                    self._try(list(elements))
        readers = [self._readers(node) for node in pack.nodes]
        for key in readers[0]:
            columns = [r.get(key, []) for r in readers]
            if len({len(c) for c in columns}) == 1:
                for users in zip(*columns, strict=True):
                    self._try(list(users))

    def _readers(self, node: fx.Node) -> dict[Any, list[fx.Node]]:
        found: dict[Any, list[fx.Node]] = defaultdict(list)
        for user in node.users:
            if user.op != "output" and user.target not in (stack, total):
                places = tuple(i for i, v in enumerate(operands(user)) if v is node)
                found[user.op, user.target, places].append(user)
        return found

    def unit_of(self, node: fx.Node) -> Any:
        """The pack that a node is in, or the node itself."""
        return self.of[node][0] if node in self.of else self.inside.get(node, node)

    def depends(self) -> dict[Any, set[Any]]:
        """Which units (packs and single nodes) each unit reads; a neuron's own potential apart."""
        found: dict[Any, set[Any]] = {self.unit_of(node): set() for node in self.graph.nodes}
        calls: dict[Any, fx.Node] = {}
        for node in self.graph.nodes:
            unit = self.unit_of(node)
            for operand in operands(node):
                if isinstance(unit, Pack) and unit.neuron is not None and self.unit_of(operand) is unit:
                    continue
                if isinstance(operand, fx.Node) and not (isinstance(unit, Pack) and is_carry(unit, node, operand)):
                    if isinstance(unit, Pack) and unit.slices is None and self.unit_of(operand) is unit:
                        found[unit].add(unit)
                    found[unit].add(self.unit_of(operand))
            if node.op == "call_module":  # what keeps state is called in order
                before = calls.get(node.target)
                if before is not None and self.unit_of(before) is not unit:
                    found[unit].add(self.unit_of(before))
                calls[node.target] = node
        return found

    def _dissolve_recurrences(self) -> None:
        while True:
            depends = self.depends()
            if any(self._take_neuron(part) for part in components(depends) if len(part) > 1):
                continue
            bad = [u for part in components(depends) if len(part) > 1 for u in part if isinstance(u, Pack)]
            bad += [u for u, read in depends.items() if isinstance(u, Pack) and u in read]
            if not bad:
                return
            for pack in bad:
                for node in pack.nodes:
                    self.of.pop(node, None)


    def _take_neuron(self, units: list[Any]) -> bool:
        """Take a circle for a neuron, if it is one."""
        nodes = [n for u in units for n in (u.nodes if isinstance(u, Pack) else [u])]
        circle = dict.fromkeys(sorted(nodes, key=self._places.__getitem__))
        found = ends(circle)
        if found is None or any(isinstance(u, Pack) and u.neuron for u in units):
            return False
        read, answers = found
        shape = shape_of(read[0])
        assert shape is not None
        name = self._inline(cut_out(circle, read, answers), torch.Size((len(read), *shape)))
        if name is None:
            return False
        for node in circle:
            self.of.pop(node, None)
        pack = Pack(answers, None, name, tuple(read))
        self.inside.update((node, pack) for node in circle)
        self.of.update((node, (pack, t)) for t, node in enumerate(answers))
        return True


_PACKED = ("call_module", "call_function")


def _slices(nodes: list[fx.Node]) -> int | None:
    """The dimension of which ``select`` nodes take all entries, in order, of one tensor."""
    if any(n.target is not torch.select or n.args[:2] != nodes[0].args[:2] for n in nodes):
        return None
    base, dim = nodes[0].args[:2]
    shape = shape_of(base) if isinstance(base, fx.Node) else None
    if shape is None or [n.args[2] for n in nodes] != list(range(len(nodes))):
        return None
    return int(dim)  # type: ignore[arg-type]


def is_carry(pack: Pack, node: fx.Node, operand: fx.Node) -> bool:
    """Whether ``operand`` is (part of) the state that the neuron of a pack handed on at the step before."""
    if node.op != "call_module" or operand not in tree_flatten(node.args[1:])[0] or operand is node.args[0]:
        return False
    t = pack.nodes.index(node)
    while operand.target is getitem and t > 0:
        if operand.args == (pack.nodes[t - 1], 1):
            return True
        operand = operand.args[0]  # type: ignore[assignment]
    return False


@dataclass
class _Rolled:
    """The graph that is written."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    nodes: dict[fx.Node, fx.Node] = field(default_factory=dict)
    packs: dict[Pack, Steps] = field(default_factory=dict)


class Roller:
    """Writes the graph whose packs are rolled up."""

    def __init__(self, packer: Packer, kind_of: KindOf) -> None:
        self._packer, self._kind_of, self._new = packer, kind_of, _Rolled()
        self._selected: dict[tuple[fx.Node, int], fx.Node] = {}

    def run(self) -> fx.Graph:
        """All units, in an order in which each comes behind what it reads."""
        places = {node: i for i, node in enumerate(self._packer.graph.nodes)}
        rank = {u: min(places[n] for n in (u.nodes if isinstance(u, Pack) else [u])) for u in self._packer.depends()}
        for unit in in_order(self._packer.depends(), rank):
            if isinstance(unit, Pack):
                self._new.packs[unit] = self._roll(unit)
            else:
                self._new.nodes[unit] = self._copy(unit)
        self._new.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output", "call_module"))
        return self._new.graph

    # ---- nodes

    def emit(self, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        """Write a function's call; its value is computed on fake tensors."""
        node = self._new.graph.call_function(target, tuple(args), dict(kwargs or {}))
        values = tree_map(lambda v: v.meta["value"] if isinstance(v, fx.Node) else v, (tuple(args), dict(kwargs or {})))
        node.meta["value"] = target(*values[0], **values[1])
        return node

    def _read(self, old: fx.Node) -> fx.Node:
        """The value of an old node, wherever it is now."""
        if old not in self._packer.of:
            return self._new.nodes[old]
        pack, t = self._packer.of[old]
        steps = self._new.packs[pack]
        if steps.constant:
            return steps.node
        if isinstance(steps.node.meta["value"], tuple):
            raise KeyError("the parts of a pack are read one by one")
        if (steps.node, t) not in self._selected:
            self._selected[steps.node, t] = self.emit(torch.select, (steps.node, 0, t))
        return self._selected[steps.node, t]

    def _part(self, old: fx.Node) -> fx.Node:
        """One step's spikes or potential of a neuron that answers with both."""
        pack, t = self._packer.of[old.args[0]]  # type: ignore[index]
        key = (self._new.packs[pack].node, -1 - int(old.args[1]))  # type: ignore[arg-type]
        if key not in self._selected:
            self._selected[key] = self.emit(getitem, (key[0], old.args[1]))
        return self.emit(torch.select, (self._selected[key], 0, t))

    def _once(self, old: fx.Node) -> fx.Node:
        """A neuron of one timestep that is called once: a sequence of one step."""
        x = self.emit(torch.unsqueeze, (self._read(old.args[0]), 0))  # type: ignore[arg-type]
        new = self._new.graph.create_node("call_module", old.target, (x,))
        new.meta.update(old.meta)
        new.meta |= {"time_axis": 0, "value": old.meta["value"].unsqueeze(0)}
        return self.emit(torch.select, (new, 0, 0))

    def _copy(self, old: fx.Node) -> fx.Node:
        if old.target is getitem and old.args[0] in self._packer.of and isinstance(old.args[0].meta["value"], tuple):  # type: ignore[union-attr]
            return self._part(old)
        if old.op == "call_module" and self._kind_of(old) == "neuron" and len(old.args) == 1:
            calls = sum(n.op == "call_module" and n.target == old.target for n in self._packer.graph.nodes)
            if calls == 1 and shape_of(old) is not None:
                return self._once(old)
        if old.op == "call_function" and old.target in (stack, total):
            pack = self._packer.pack_of(old.args[0])  # type: ignore[arg-type]
            if pack is not None:
                return self._joined(old, self._new.packs[pack], len(pack.nodes))
        if old.target is torch.add and not old.kwargs:
            pack = self._packer.pack_of(old.args)
            if pack is not None:
                return self.emit(torch.sum, (self.sequence(self._new.packs[pack], 2), 0))
        if old.target is torch.cat and not old.kwargs and old.args[1:] in ((), (0,)):
            pack = self._packer.pack_of(old.args[0])  # type: ignore[arg-type]
            if pack is not None:
                shape = shape_of(old)
                return self.emit(torch.reshape, (self.sequence(self._new.packs[pack], len(pack.nodes)), tuple(shape or ())))
        new = self._new.graph.node_copy(old, self._read)
        return new

    def _joined(self, old: fx.Node, steps: Steps, count: int) -> fx.Node:
        """A ``stack`` or a sum over all steps."""
        if old.target is total:
            if steps.constant:
                return self.emit(torch.mul, (steps.node, count))
            return self.emit(torch.sum, (steps.node, 0))
        x, dim = self.sequence(steps, count), old.args[1]
        return x if dim == 0 else self.emit(torch.movedim, (x, 0, dim))

    def sequence(self, steps: Steps, count: int) -> fx.Node:
        """A value of all steps as a sequence, also one that is the same at each."""
        if not steps.constant:
            return steps.node
        shape = shape_of(steps.node)
        assert shape is not None
        return self.emit(torch.Tensor.expand, (self.emit(torch.unsqueeze, (steps.node, 0)), (count, *shape)))

    # ---- packs

    def _operand(self, pack: Pack, elements: tuple[Any, ...]) -> Any:
        """What one argument of a pack has become: :class:`Steps`, or the constant that it is."""
        if not isinstance(elements[0], fx.Node):
            return elements[0]
        if all(e is elements[0] for e in elements) and elements[0] not in self._packer.of:
            return Steps(self._new.nodes[elements[0]], True)
        found = self._packer.pack_of(elements)
        if found is not None:
            return self._new.packs[found]
        if all(e is elements[0] for e in elements):
            return Steps(self._read(elements[0]), True)
        return Steps(self.emit(stack, ([self._read(e) for e in elements], 0)), False)

    def _roll(self, pack: Pack) -> Steps:
        first, count = pack.first, len(pack.nodes)
        if pack.slices is not None:
            x = self._read(first.args[0])  # type: ignore[arg-type]
            x = x if pack.slices == 0 else self.emit(torch.movedim, (x, pack.slices, 0))
            shape = shape_of(x)
            if shape is not None and shape[0] != count:
                x = self.emit(torch.narrow, (x, 0, 0, count))
            return Steps(x, False)
        if pack.neuron is not None:
            return self._written_neuron(pack)
        kind = self._kind_of(first) if first.op == "call_module" else None
        if kind == "neuron":
            return self._neuron(pack)
        if any(self._apart(e) for e in zip(*map(operands, pack.nodes), strict=True)):
            return Steps(self.emit(stack, ([self._unrolled(n) for n in pack.nodes], 0)), False)
        leaves = [self._operand(pack, e) for e in zip(*map(operands, pack.nodes), strict=True)]
        args, kwargs = tree_flatten((first.args, first.kwargs))[1].unflatten(leaves)
        constant = not any(isinstance(v, Steps) and not v.constant for v in leaves)
        if kind is not None:
            return self._layer(pack, kind, args[0])
        if constant and not is_random(first):
            return Steps(self._new.graph.node_copy(first, self._read), True)
        lifted = None if constant else lift(first, args, kwargs, count, self.emit)
        if lifted is not None:
            return Steps(lifted, False)
        return Steps(self.emit(stack, ([self._unrolled(n) for n in pack.nodes], 0)), False)

    def _apart(self, elements: tuple[Any, ...]) -> bool:
        """Whether what is read are several values in one, of nodes that were not rolled up."""
        first = elements[0]
        several = isinstance(first, fx.Node) and shape_of(first) is None
        return several and self._packer.pack_of(elements) is None

    def _unrolled(self, old: fx.Node) -> fx.Node:
        return self._new.graph.node_copy(old, self._read)

    def _layer(self, pack: Pack, kind: str, x: Steps) -> Steps:
        """A convolution, linear layer or batch norm: once on the merged batch of all steps."""
        first, count = pack.first, len(pack.nodes)
        new = self._new.graph.create_node("call_module", first.target, ())
        new.meta.update(first.meta)
        if kind == "norm":
            new.meta |= {"statistics": "per_step", "steps": 1 if x.constant else count, "updates": count}
        shape = shape_of(x.node)
        assert shape is not None
        if x.constant:
            new.args = (x.node,)
            return Steps(new, True)
        merged = kind == "linear"
        given = x.node if merged else self.emit(torch.reshape, (x.node, (shape[0] * shape[1], *shape[2:])))
        new.args = (given,)
        if given is not new.prev:
            given.append(new) if not merged else None
        value = first.meta["value"]
        if merged:
            new.meta["value"] = value.new_empty((count, *value.shape))
            return Steps(new, False)
        new.meta["value"] = value.new_empty((count * value.shape[0], *value.shape[1:]))
        return Steps(self.emit(torch.reshape, (new, (count, *value.shape))), False)

    def _written_neuron(self, pack: Pack) -> Steps:
        """A neuron that was written into the loop."""
        x = self.sequence(self._operand(pack, pack.read), len(pack.nodes))
        new = self._new.graph.create_node("call_module", pack.neuron, (x,))
        new.meta |= {"time_axis": 0, "value": x.meta["value"]}
        return Steps(new, False)

    def _neuron(self, pack: Pack) -> Steps:
        """A neuron that is called once a step: once on the sequence."""
        first, count = pack.first, len(pack.nodes)
        x = self._operand(pack, tuple(n.args[0] for n in pack.nodes))
        given: list[Any] = [self.sequence(x, count)]
        if len(first.args) > 1:
            given.append(tree_map(lambda v: self._read(v) if isinstance(v, fx.Node) else v, first.args[1]))
        new = self._new.graph.create_node("call_module", first.target, tuple(given))
        new.meta.update(first.meta)
        new.meta["time_axis"] = 0
        value = first.meta["value"]
        new.meta["value"] = tree_map(lambda v: v.new_empty((count, *v.shape)), value)
        return Steps(new, False)


def roll_up(graph: fx.Graph, kind_of: KindOf, inline: Inline = lambda *_: None) -> fx.Graph:
    """Write a tidied graph with its loops over time rolled up.

    Args:
        graph: of :func:`snn_sparse.fusion.capture.capture`, tidied.
        kind_of: of a ``call_module`` node; see :class:`Packer`. A ``neuron`` takes one timestep a call.
        inline: asked whether a circle of functions, cut out as a module, is a neuron for inputs of some shape; answers
            with the name under which it is to be called.

    Returns:
        A graph in which convolutions, linear layers and batch norms of a loop run once on the merged batch (the nodes
        of batch norms say ``statistics``, ``steps`` and how many ``updates`` the running statistics make), and neurons
        on sequences with time first (``time_axis`` 0).
    """
    return Roller(Packer(graph, kind_of, inline), kind_of).run()
