"""Roll up time: T isomorphic pieces of an unrolled loop become one piece on the sequence [T, N, ...].

``packs.py`` finds the pieces. Sums over time, stacks and lists of outputs become operations on the sequence, and what
is the same at every step is computed once.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map

from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.lift import Steps, is_random, lift
from snn_sparse.fusion.order import in_order
from snn_sparse.fusion.packs import Inline, KindOf, Pack, Packer, operands
from snn_sparse.fusion.tidy import shape_of, stack, total


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
        """Write a node that is in no pack."""
        if old.op == "call_module":
            return self._once(old) if self._is_lone(old) else self._new.graph.node_copy(old, self._read)
        first = old.args[0] if old.args else None
        if old.target is getitem and first in self._packer.of and isinstance(first.meta["value"], tuple):  # type: ignore[union-attr]
            return self._part(old)
        pack = self._joins(old)
        if pack is None:
            return self._new.graph.node_copy(old, self._read)
        return self._joined(old, self._new.packs[pack], len(pack.nodes))

    def _is_lone(self, old: fx.Node) -> bool:
        """Whether a node is the only call of a neuron that takes one timestep."""
        if self._kind_of(old) != "neuron" or len(old.args) != 1 or shape_of(old) is None:
            return False
        return sum(n.op == "call_module" and n.target == old.target for n in self._packer.graph.nodes) == 1

    def _joins(self, old: fx.Node) -> Pack | None:
        """The pack of which a node stacks, adds up or concatenates all steps."""
        if old.target in (stack, total) or (old.target is torch.cat and old.args[1:] in ((), (0,)) and not old.kwargs):
            return self._packer.pack_of(old.args[0])  # type: ignore[arg-type]
        if old.target is torch.add and not old.kwargs:
            return self._packer.pack_of(old.args)
        return None

    def _joined(self, old: fx.Node, steps: Steps, count: int) -> fx.Node:
        """All steps stacked, added up or concatenated."""
        if old.target in (total, torch.add):
            if steps.constant:
                return self.emit(torch.mul, (steps.node, count))
            return self.emit(torch.sum, (steps.node, 0))
        x = self.sequence(steps, count)
        if old.target is torch.cat:
            return self.emit(torch.reshape, (x, tuple(shape_of(old) or ())))
        return x if old.args[1] == 0 else self.emit(torch.movedim, (x, 0, old.args[1]))

    def sequence(self, steps: Steps, count: int) -> fx.Node:
        """A value of all steps as a sequence, also one that is the same at each."""
        if not steps.constant:
            return steps.node
        shape = shape_of(steps.node)
        assert shape is not None
        return self.emit(torch.Tensor.expand, (self.emit(torch.unsqueeze, (steps.node, 0)), (count, *shape)))

    # ---- packs

    def _operand(self, pack: Pack, elements: tuple[Any, ...]) -> Any:
        """Tell what one argument of a pack has become: :class:`Steps`, or the constant that it is."""
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
        new = self._new.graph.create_node("call_module", str(pack.neuron), (x,))
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
