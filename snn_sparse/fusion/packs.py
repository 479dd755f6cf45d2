"""Packs: T nodes of an unrolled loop that do the same at T steps.

A layer that is called T times is a pack. Packs grow to what their nodes read and to what reads them, as a vectorizing
compiler grows packs of scalar instructions, so loops of any nesting and length are found; a network may hold several.
Packs that depend on themselves are recurrences, and stay unrolled; a neuron's own potential does not count.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.inline import InlineNeuron, cut_out, ends
from snn_sparse.fusion.order import components
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
    """Tell what packed nodes have in common; a neuron's explicit state may be another at the first step."""
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
        stacked = (node.args[0] for node in graph.nodes if node.target is stack)
        for nodes in [*calls.values(), *map(list, stacked)]:
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
