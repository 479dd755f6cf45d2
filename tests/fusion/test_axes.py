"""Axes: what they say about a chain of views gives, by an arrangement, exactly the tensor that torch computes."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import fx

from snn_sparse.fusion.arrange import arrangement
from snn_sparse.fusion.axes import Atom, Axes, fresh, regroup, resolve, size_of, unify
from snn_sparse.fusion.tidy import tidy

Tensor = torch.Tensor
shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5)


@st.composite
def grouped(draw, shape):
    """A shape of as many elements: neighbours merged, or a dimension split."""
    sizes = list(shape)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sizes) - 1))
        if draw(st.booleans()) and at + 1 < len(sizes):
            sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
        else:
            size = sizes[at]
            part = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            sizes[at : at + 1] = [part, size // part]
    return tuple(sizes)


@st.composite
def view(draw, shape):
    """(function, arguments behind the tensor) of a view of a tensor of this shape."""
    rank = len(shape)
    if rank == 0:
        return torch.unsqueeze, (0,)
    kind = draw(st.sampled_from(["reshape", "permute", "transpose", "movedim", "unsqueeze", "squeeze", "flatten"]))
    if kind == "reshape":
        return torch.reshape, (draw(grouped(shape)),)
    if kind == "permute":
        return torch.permute, (tuple(draw(st.permutations(range(rank)))),)
    place = st.integers(-rank, rank - 1)
    if kind in ("transpose", "movedim"):
        return getattr(torch, kind), (draw(place), draw(place))
    if kind == "unsqueeze":
        return torch.unsqueeze, (draw(st.integers(-rank - 1, rank)),)
    if kind == "squeeze":
        return torch.squeeze, (draw(place),)
    start = draw(st.integers(0, rank - 1))
    return torch.flatten, (start, draw(st.integers(start, rank - 1)))


def traced(x, steps):
    """A graph of these views, each with its value, tidied; and its nodes, the input first."""
    graph = fx.Graph()
    node = graph.placeholder("x")
    node.meta["value"] = x
    nodes = [node]
    for function, arguments in steps:
        x = function(x, *arguments)
        node = graph.call_function(function, (node, *arguments))
        node.meta["value"] = x
        nodes.append(node)
    graph.output([node])
    tidy(graph)
    return graph, nodes


@given(st.data())
def test_chains_of_views(data):
    shape = tuple(data.draw(shapes))
    x = torch.arange(math.prod(shape)).reshape(shape)
    steps, y = [], x
    for _ in range(data.draw(st.integers(1, 6))):
        function, arguments = data.draw(view(tuple(y.shape)))
        y = function(y, *arguments)
        assume(y.dim() <= 7)
        steps.append((function, arguments))
    graph, nodes = traced(x, steps)
    axes = Axes(graph, lambda _: None)
    have, want = axes.form(nodes[0]), axes.form(nodes[-1])
    assert [size_of(d) for d in want] == list(y.shape)
    assert not axes.absent(nodes[-1])
    how = arrangement(have, want, shape, set(), set())
    if how is None:  # a reshape cut across what was merged before: then the axes are new
        assert not {a for d in have for a in d} & {a for d in want for a in d}
        return
    assert torch.equal(how(x), y)
    back = arrangement(want, have, y.shape, set(), set())
    assert torch.equal(back(y), x)
    assert how.nothing == (y.shape == x.shape and torch.equal(x, y))


@given(st.data())
def test_permuted_then_regrouped(data):
    """What a transformer's heads do; never new axes unless a cut is uneven."""
    shape = tuple(data.draw(shapes))
    x = torch.arange(math.prod(shape)).reshape(shape)
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    y = x.permute(order)
    merged = tuple(data.draw(grouped(y.shape)))
    before = fresh(shape)
    after = regroup([before[d] for d in order], merged)
    assume(after is not None)
    how = arrangement(before, after, shape, set(), set())
    assert torch.equal(how(x), y.reshape(merged))


@pytest.mark.parametrize(
    ("shape", "other"), [((4, 6), (3, 8)), ((2, 3), (3, 2)), ((6,), (4,)), ((2, 3), (7,)), ((2, 2), (0,))]
)
def test_uneven_cuts_are_refused(shape, other):
    assert regroup(fresh(shape), other) is None


def test_a_merged_batch_is_split_again_in_one_place():
    form = fresh((4, 3, 8))
    merged = regroup(form, (12, 8))
    assert regroup(merged, (4, 3, 8)) == form
    assert regroup(merged, (2, 2, 3, 8))[0] == resolve(form[0])[:1]  # T itself is split
    assert [a.size for a in resolve(form[0])] == [2, 2]


class TestUnify:
    def test_equal_cuts(self):
        a, b = [Atom(4), Atom(3)], [Atom(4), Atom(3)]
        b[0].time = True
        assert unify(a, b)
        assert resolve(a) == resolve(b)
        assert resolve(a)[0].time
        assert not resolve(a)[1].time

    def test_a_finer_cut_wins(self):
        whole, parts = [Atom(12)], [Atom(2), Atom(6)]
        assert unify(whole, parts)
        assert resolve(whole) == resolve(parts)
        assert [atom.size for atom in resolve(whole)] == [2, 6]

    @pytest.mark.parametrize(("a", "b"), [((4, 3), (3, 4)), ((2, 3), (2, 2)), ((2,), (2, 2))])
    def test_others_are_refused(self, a, b):
        assert not unify([Atom(n) for n in a], [Atom(n) for n in b])


def test_values_that_are_added_have_the_same_axes():
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    x, y = torch.zeros(12, 5), torch.zeros(4, 3, 5)
    a.meta["value"], b.meta["value"] = x, y
    flat = graph.call_function(torch.reshape, (b, (12, 5)))
    total = graph.call_function(torch.add, (a, flat))
    flat.meta["value"] = total.meta["value"] = x
    axes = Axes(graph, lambda _: None)
    assert [[atom.size for atom in dim] for dim in axes.form(a)] == [[4, 3], [5]]
    assert axes.form(total) == axes.form(a) == axes.form(flat)
    assert axes.form(b) == [axes.form(a)[0][:1], axes.form(a)[0][1:], axes.form(a)[1]]


def test_expanded_axes_are_absent():
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["value"] = torch.zeros(3, 5)
    one = graph.call_function(torch.unsqueeze, (x, 0))
    one.meta["value"] = torch.zeros(1, 3, 5)
    many = graph.call_function(Tensor.expand, (one, (4, 3, 5)))
    merged = graph.call_function(torch.reshape, (many, (12, 5)))
    summed = graph.call_function(torch.sum, (many, 0))
    for node, shape in ((many, (4, 3, 5)), (merged, (12, 5)), (summed, (3, 5))):
        node.meta["value"] = torch.zeros(shape)
    axes = Axes(graph, lambda _: None)
    (time,) = axes.absent(many)
    assert time.size == 4
    assert axes.absent(merged) == {time}
    assert axes.form(merged)[0] == [time, *axes.form(x)[0]]
    assert not axes.absent(summed)
    assert axes.form(summed) == axes.form(x)
