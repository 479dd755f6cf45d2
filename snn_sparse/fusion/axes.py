"""Axes: which dimension of a tensor is time, batch, channel or pixel, seen through every reshape and transpose.

A dimension is a list of *atoms*, outermost first, as in an einops expression: ``[T N] C H W`` is a merged batch. Views
only regroup and permute atoms, so two arrangements of the same atoms are the same value. Atoms may be split later, when
somebody unflattens what was merged outside, and made equal, when two values are added.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion import lift as lifts
from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.tidy import shape_of

Tensor = torch.Tensor


class Atom:
    """A piece of a dimension.

    Attributes:
        size: number of entries, more than 1.
        time: whether a neuron counts its timesteps along it.
    """

    def __init__(self, size: int) -> None:
        self.size, self.time = size, False
        self._parts: tuple[Atom, ...] = ()

    def leaves(self) -> "list[Atom]":
        """List what it has been split into, or made equal to; itself if neither."""
        if not self._parts:
            return [self]
        return [leaf for part in self._parts for leaf in part.leaves()]

    def become(self, parts: "Sequence[Atom]") -> None:
        """Stand for other atoms from now on."""
        self._parts = tuple(parts)


Dim = list[Atom]
Form = list[Dim]


def resolve(dim: Iterable[Atom]) -> Dim:
    """Replace atoms by what they stand for."""
    return [leaf for atom in dim for leaf in atom.leaves()]


def size_of(dim: Iterable[Atom]) -> int:
    """Number of entries of a dimension."""
    return math.prod(atom.size for atom in dim)


def fresh(shape: Iterable[int]) -> Form:
    """Atoms of their own for each dimension; none for one of size 1."""
    return [[Atom(n)] if n > 1 else [] for n in shape]


def regroup(form: Form, shape: Sequence[int]) -> Form | None:
    """The dimensions after a ``reshape``; None: an atom would have to be cut unevenly."""
    waiting, found = resolve(a for dim in form for a in dim), []
    if math.prod(shape) == 0 or size_of(waiting) != math.prod(shape):
        return None
    for size in shape:
        dim: Dim = []
        while size_of(dim) < size:
            atom, need = waiting.pop(0), size // size_of(dim)
            if atom.size > need:
                if need * size_of(dim) != size or atom.size % need:
                    return None
                parts = Atom(need), Atom(atom.size // need)
                parts[0].time = parts[1].time = False
                atom.become(parts)
                atom = parts[0]
                waiting.insert(0, parts[1])
            dim.append(atom)
        if size_of(dim) != size:
            return None
        found.append(dim)
    return found


def unify(a: Dim, b: Dim) -> bool:
    """Make the atoms of two dimensions of one size the same; False: they are cut differently."""
    left, right = resolve(a), resolve(b)
    while left and right:
        x, y = left[0], right[0]
        if x is y:
            left.pop(0), right.pop(0)
        elif x.size == y.size:
            x.time |= y.time
            y.become([x])
            left.pop(0), right.pop(0)
        else:
            large, small = (left, right) if x.size > y.size else (right, left)
            if large[0].size % small[0].size:
                return False
            rest = Atom(large[0].size // small[0].size)
            large[0].become([small[0], rest])
            large[:1] = [small[0], rest]
    return not left and not right


class Axes:
    """The forms of all values of a rolled-up graph.

    Attributes:
        forms: node -> its dimensions.
        missing: node -> atoms along which the value is constant, since it was expanded.
    """

    def __init__(self, graph: fx.Graph, kind_of: Any) -> None:
        self.forms: dict[fx.Node, Form] = {}
        self.missing: dict[fx.Node, set[Atom]] = {}
        self._missing: set[Atom] = set()
        self._kind_of = kind_of
        self._steps: dict[fx.Node, Dim] = {}
        for node in graph.nodes:
            shape = shape_of(node)
            if shape is not None or self._kind(node) == "neuron":
                self._missing = set()
                self.forms[node] = self._form(node)
                self.missing[node] = set(self._missing)

    def form(self, node: fx.Node) -> Form:
        """The dimensions of a value, as they stand now."""
        return [resolve(dim) for dim in self.forms[node]]

    def absent(self, node: fx.Node) -> set[Atom]:
        """Atoms along which a value is constant."""
        return set(resolve(self.missing[node]))

    def _kind(self, node: fx.Node) -> str | None:
        return self._kind_of(node) if node.op == "call_module" else None

    def _form(self, node: fx.Node) -> Form:
        shape, x = shape_of(node), node.args[0] if node.args else None
        found = None
        if isinstance(x, fx.Node) and x in self.forms:
            if node.op == "call_module":
                found = self._layer(node, x)
            elif node.op == "call_function":
                found = self._function(node, x)
        if found is None:
            self._missing = set()
            found = fresh(shape or ())
        return found

    def _keep(self, x: fx.Node) -> None:
        self._missing = set(self.missing[x])

    def _layer(self, node: fx.Node, x: fx.Node) -> Form | None:
        kind, form, shape = self._kind(node), self.forms[x], shape_of(node)
        if kind == "neuron":
            axis = node.meta["time_axis"]
            time = resolve(form[axis]) if axis is not None else []
            if len(time) == 1:
                time[0].time = True
            return form
        if kind is None or shape is None:
            return None
        self._keep(x)
        if kind == "norm":
            if node.meta.get("statistics") == "per_step" and node.meta["steps"] > 1:
                self._step(node, form[0])
            return form
        if kind == "linear":
            return [*form[:-1], *fresh(shape[-1:])]
        self._missing &= set(resolve(form[0]))
        return [form[0], *fresh(shape[1:])]

    def _step(self, node: fx.Node, batch: Dim) -> None:
        """The outermost piece of a merged batch is time, if a batch norm has statistics for each step of it."""
        steps = node.meta["steps"]
        found = regroup([batch], (steps, size_of(resolve(batch)) // steps))
        if found is not None and len(resolve(found[0])) == 1:
            self._steps[node] = found[0]
            resolve(found[0])[0].time = True

    def step_of(self, node: fx.Node) -> Dim:
        """The dimension along which a batch norm has statistics of their own; empty: none."""
        return resolve(self._steps.get(node, []))

    def _function(self, node: fx.Node, x: fx.Node) -> Form | None:
        target, form, shape = node.target, self.forms[x], shape_of(node)
        assert shape is not None
        if target is getitem and self._kind(x) == "neuron":
            return form
        self._keep(x)
        if lifts.is_elementwise(target):
            return self._elementwise(node, shape)
        if lifts.is_per_image(target) and len(shape) == len(form) > 2:
            self._missing &= set(resolve(form[0]))
            convolves = getattr(target, "__name__", "").startswith("conv")  # it makes channels of its own
            kept = 1 if convolves else 2
            return [*form[:kept], *fresh(shape[kept:])]
        return self._view(target, form, node.args, shape)

    def _elementwise(self, node: fx.Node, shape: torch.Size) -> Form | None:
        given = [v for v in tree_flatten((node.args, node.kwargs))[0] if isinstance(v, fx.Node) and v in self.forms]
        full = [v for v in given if shape_of(v) == shape]
        if not full:
            return None
        first = self.forms[full[0]]
        for other in full[1:]:
            if not all(unify(a, b) for a, b in zip(first, self.forms[other], strict=True)):
                return None
        self._missing = set.intersection(*(set(resolve(self.missing[v])) for v in full))
        if any(len(shape_of(v) or ()) > 0 for v in given if v not in full):
            self._missing = set()
        return first

    def _view(self, target: Any, form: Form, args: Any, shape: torch.Size) -> Form | None:
        if target is torch.reshape:
            return regroup(form, shape)
        if target is torch.permute:
            return [form[d] for d in args[1]]
        if target is torch.unsqueeze:
            at = args[1] % len(shape)
            return [*form[:at], [], *form[at:]]
        if target is torch.squeeze:
            return regroup(form, shape)
        if target in (torch.transpose, torch.movedim) and len(args) == 3 and isinstance(args[1], int):
            order = list(range(len(form)))
            a, b = args[1] % len(form), args[2] % len(form)
            if target is torch.transpose:
                order[a], order[b] = b, a
            else:
                order.insert(b, order.pop(a))
            return [form[d] for d in order]
        if target in (Tensor.expand, Tensor.repeat):
            return self._expand(form, shape)
        return self._reduce(target, form, args, shape)

    def _expand(self, form: Form, shape: torch.Size) -> Form | None:
        padded: Form = [[] for _ in range(len(shape) - len(form))] + form
        found: Form = []
        for dim, size in zip(padded, shape, strict=True):
            if size_of(resolve(dim)) == size:
                found.append(dim)
            elif not resolve(dim):
                found.append([Atom(size)])
                self._missing.add(found[-1][0])
            else:
                return None
        return found

    def _reduce(self, target: Any, form: Form, args: Any, shape: torch.Size) -> Form | None:
        """Sums, means and ``select`` over dimensions: the others stay."""
        if target not in (torch.mean, torch.sum, torch.select) or len(args) < 2 or args[1] is None:
            return None
        dims = args[1] if isinstance(args[1], (tuple, list)) else (args[1],)
        gone = {d % len(form) for d in dims}
        kept = [dim for i, dim in enumerate(form) if i not in gone]
        if len(shape) == len(form):
            kept = [[] if i in gone else dim for i, dim in enumerate(form)]
        self._missing &= set(resolve(a for dim in kept for a in dim))
        return kept if len(kept) == len(shape) else None
