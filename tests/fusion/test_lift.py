"""Lift: each function on a sequence equals the function step by step, stacked."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from snn_sparse.fusion import lift as lifts
from snn_sparse.fusion.functions import canonical, getitem
from snn_sparse.fusion.lift import Steps, is_random, lift
from snn_sparse.fusion.tidy import stack, tidy, total

Tensor = torch.Tensor
T = 3


class Player:
    """Builds the graph of one step, lifts it, and runs what was emitted."""

    def __init__(self):
        self.graph, self.values = fx.Graph(), {}

    def given(self, value, like):
        """A node with a value; its ``meta`` has a tensor of the shape of ``like``."""
        node = self.graph.placeholder(f"x{len(self.values)}")
        node.meta["value"], self.values[node] = like, value
        return node

    def emit(self, target, args, kwargs=None):
        node = self.graph.call_function(target, tuple(args), dict(kwargs or {}))
        given = tree_map(lambda v: self.values[v] if isinstance(v, fx.Node) else v, (node.args, node.kwargs))
        self.values[node] = node.meta["value"] = target(*given[0], **given[1])
        return node


def lifted(function, *values, constant=(), **kwargs):
    """(what the lifted function answers, what the steps stacked answer); the first None: there is no rule.

    Args:
        function: of one step.
        *values: [T, ...] tensors, or lists of them; anything else is an argument as it is.
        constant: places of tensors that are the same at every step, and have no T.
    """
    leaves, spec = tree_flatten(values)
    places = [i for i, v in enumerate(leaves) if isinstance(v, Tensor)]
    steps = [[v[t] if i in places and i not in constant else v for i, v in enumerate(leaves)] for t in range(T)]
    expected = [function(*tree_unflatten(step, spec), **kwargs) for step in steps]
    player = Player()
    nodes = [player.given(v, v) if i in places else v for i, v in enumerate(steps[0])]
    target, args, kw = canonical(function, tree_unflatten(nodes, spec), kwargs)
    node = player.graph.call_function(target, args, kw)
    node.meta["value"] = expected[0]
    player.graph.output([node])
    tidy(player.graph)
    sequences = {nodes[i]: Steps(player.given(leaves[i], leaves[i]), i in constant) for i in places}
    swapped = tree_map(lambda v: sequences.get(v, v) if isinstance(v, fx.Node) else v, (node.args, node.kwargs))
    found = lift(node, *swapped, T, player.emit)
    return None if found is None else player.values[found], torch.stack(expected)


def check(function, *values, **options):
    found, expected = lifted(function, *values, **options)
    assert found is not None
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def draw(*shape):
    return torch.randn(T, *shape, dtype=torch.float64)


ELEMENTWISE = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "neg": torch.neg, "abs": torch.abs,
    "exp": torch.exp, "clone": torch.clone, "leaky_relu": F.leaky_relu, "elu": F.elu, "silu": F.silu,
    "relu6": F.relu6, "gelu": F.gelu, "double": Tensor.double, "contiguous": Tensor.contiguous,
    "ones": torch.ones_like, "float": Tensor.float,
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_of_one_value(name):
    check(ELEMENTWISE[name], draw(2, 5))


BINARY = [
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.ge, torch.gt, torch.le, torch.lt,
]  # fmt: skip


@settings(max_examples=40)
@given(st.sampled_from(BINARY), st.data())
def test_functions_of_two_values(function, data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    other = [n if data.draw(st.booleans()) else 1 for n in shape]
    constant = data.draw(st.sampled_from([(), (0,), (1,)]))
    cut = data.draw(st.integers(0, len(other))) if constant == (1,) else 0
    values = [torch.rand(shape, dtype=torch.float64) + 1, torch.rand(other[cut:], dtype=torch.float64) + 1]
    values = [v if i in constant else torch.rand(T, *v.shape, dtype=torch.float64) + 1 for i, v in enumerate(values)]
    check(function, *values, constant=constant)


def test_a_number_beside():
    check(torch.add, draw(2, 5), 2.0, alpha=0.5)
    check(torch.sub, 1.0, draw(2, 5))
    check(torch.clamp, draw(2, 5), min=0.0)
    check(torch.where, draw(2, 5) > 0, draw(2, 5), torch.zeros(5, dtype=torch.float64), constant=(2,))
    check(torch.masked_fill, draw(2, 5), draw(2, 5) > 0, 0.0)


def test_values_of_fewer_dimensions_are_not_stretched_over_the_wrong_ones():
    """[N, C] + [C] at each step is [T, N, C] + [T, C] on sequences, which would add along N."""
    found, _ = lifted(torch.add, draw(T, 5), draw(5))
    assert found is None
    check(torch.add, draw(T, 5), torch.randn(5, dtype=torch.float64), constant=(1,))
    assert lifted(torch.add, draw(5), torch.randn(T, 5, dtype=torch.float64), constant=(1,))[0] is None


def test_functions_of_images():
    x, weight = draw(2, 4, 6, 6), torch.randn(3, 4, 3, 3, dtype=torch.float64)
    check(F.max_pool2d, x, 2)
    check(F.avg_pool2d, x, 3, 1)
    check(F.adaptive_avg_pool2d, x, (1, 2))
    check(F.interpolate, x, scale_factor=2)
    check(F.conv2d, x, weight, constant=(1,))
    check(F.group_norm, x, 2)
    assert lifted(F.conv2d, x, draw(3, 4, 3, 3))[0] is None  # other weights at each step


def test_products():
    check(F.linear, draw(2, 5), torch.randn(4, 5, dtype=torch.float64), constant=(1,))
    check(torch.matmul, draw(2, 4, 5), draw(2, 5, 3))
    check(torch.bmm, draw(2, 4, 5), draw(2, 5, 3))
    check(F.layer_norm, draw(2, 5), (5,))
    check(F.pad, draw(2, 5), (1, 2))


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=40)
@given(shapes, st.data())
def test_views(shape, data):
    x, rank = draw(*shape), len(shape)
    place = st.integers(-rank, rank - 1)
    check(torch.unsqueeze, x, data.draw(st.integers(-rank - 1, rank)))
    check(torch.transpose, x, data.draw(place), data.draw(place))
    check(torch.movedim, x, data.draw(place), data.draw(place))
    check(torch.permute, x, tuple(data.draw(st.permutations(range(-rank, 0)))))
    check(torch.permute, x, tuple(data.draw(st.permutations(range(rank)))))
    check(torch.flatten, x, start := data.draw(st.integers(0, rank - 1)), data.draw(st.integers(start, rank - 1)))
    check(torch.reshape, x, (-1,))
    check(torch.squeeze, x, data.draw(place))
    check(Tensor.expand, x, tuple(-1 if n > 1 else 3 for n in shape))
    check(Tensor.repeat, x, tuple(data.draw(st.integers(1, 2)) for _ in shape))


def test_views_with_more_dimensions():
    check(Tensor.expand, draw(5), (2, 5))
    check(Tensor.expand, draw(1, 5), (4, 2, -1, 5))
    check(Tensor.repeat, draw(5), (2, 3))


@settings(max_examples=40)
@given(shapes, st.data())
def test_indexing(shape, data):
    x, rank = draw(*shape), len(shape)
    dim = data.draw(st.integers(-rank, rank - 1))
    check(torch.select, x, dim, data.draw(st.integers(-shape[dim], shape[dim] - 1)))
    check(torch.narrow, x, dim, 0, data.draw(st.integers(1, shape[dim])))
    keys = [slice(0, data.draw(st.integers(1, n))) if data.draw(st.booleans()) else slice(None) for n in shape]
    if data.draw(st.booleans()):
        keys = [Ellipsis, *keys[data.draw(st.integers(0, rank - 1)) :]]
    check(getitem, x, tuple(keys))
    check(getitem, x, slice(0, 1))
    check(getitem, x, (Ellipsis, 0))
    check(getitem, x, (slice(None), None))


@settings(max_examples=40)
@given(shapes, st.data())
def test_reductions(shape, data):
    x, rank = draw(*shape), len(shape)
    dim = data.draw(st.integers(-rank, rank - 1))
    keepdim = data.draw(st.booleans())
    check(torch.mean, x, dim, keepdim=keepdim)
    check(torch.sum, x, dim=dim, keepdim=keepdim)
    check(torch.amax, x, dim, keepdim)
    check(torch.argmax, x, dim)
    check(torch.softmax, x, dim)
    check(F.log_softmax, x, dim=dim)
    check(torch.cumsum, x, dim)
    dims = tuple(data.draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    check(torch.mean, x, dims)


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_joins(dim):
    a, b = draw(2, 5), draw(2, 5)
    check(torch.cat, [a, b], dim)
    check(torch.stack, [a, b], dim=dim)
    check(torch.cat, [a, b])
    check(torch.stack, [a, b])


def test_what_has_no_rule():
    for function, *values in (
        (torch.mean, draw(2, 5)),  # over everything, time too
        (torch.squeeze, draw(1, 5)),
        (torch.sort, draw(2, 5)),
    ):
        player = Player()
        node = player.graph.call_function(function, (player.given(values[0][0], values[0][0]),))
        node.meta["value"] = function(values[0][0])
        assert lift(node, (Steps(player.given(values[0], values[0]), False),), {}, T, player.emit) is None


def test_random_functions():
    def node(function, *args, **kwargs):
        graph = fx.Graph()
        return graph.call_function(function, (graph.placeholder("x"), *args), kwargs)

    assert is_random(node(F.dropout, 0.5))
    assert is_random(node(F.dropout, training=True))
    assert not is_random(node(F.dropout, 0.5, False))
    assert is_random(node(torch.rand_like))
    assert not is_random(node(torch.relu))


def test_the_tables_name_functions_that_exist():
    assert all(callable(f) for f in lifts._ELEMENTWISE | lifts._DIRECT | lifts._REDUCTIONS)
    assert all(hasattr(F, name) for name in lifts._MERGED)
    assert all(inspect.isroutine(f) for f in (stack, total))
