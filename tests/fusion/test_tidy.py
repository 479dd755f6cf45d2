"""Tidy: many spellings, one node; the graph computes the same before and after."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from snn_sparse.fusion.capture import capture, take_census
from snn_sparse.fusion.functions import getitem, set_item
from snn_sparse.fusion.tidy import stack, tidy, total

X = (4, 3, 5)


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.forward = body


def tidied(body, shape=X):
    """Nodes of the tidied graph of a function, once it computes what the function does, values and shapes."""
    x = torch.randn(shape, dtype=torch.float64)
    model = Body(body)
    census = take_census(model, model.forward, (x,))
    graph = capture(model, model.forward, (x,), lambda *_: False, census).graph
    tidy(graph)
    graph.lint()
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    (actual,), expected = fx.GraphModule(model, graph)(x), body(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    return nodes


def calls(body, shape=X):
    return [(n.target, n.args[1:]) for n in tidied(body, shape)]


ENTRIES = {
    "x[1]": (lambda x: x[1], (0, 1)),
    "x[-1]": (lambda x: x[-1], (0, 3)),
    "x[:, 2]": (lambda x: x[:, 2], (1, 2)),
    "x[:, -1, :]": (lambda x: x[:, -1, :], (1, 2)),
    "x[..., 4]": (lambda x: x[..., 4], (2, 4)),
    "x[..., 1, :]": (lambda x: x[..., 1, :], (1, 1)),
    "x[1, ...]": (lambda x: x[1, ...], (0, 1)),
    "select": (lambda x: x.select(1, 2), (1, 2)),
    "unbind": (lambda x: x.unbind(1)[2], (1, 2)),
    "unbind from behind": (lambda x: torch.unbind(x, dim=-1)[0], (2, 0)),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_are_select(name):
    body, arguments = ENTRIES[name]
    assert calls(body) == [(torch.select, arguments)]


OTHER = {
    "slice": lambda x: x[1:3],
    "two numbers": lambda x: x[1, 2],
    "a list": lambda x: x[[0, 2]],
    "a new dimension": lambda x: x[:, None],
    "a number and a slice": lambda x: x[0, 1:],
}


@pytest.mark.parametrize("name", OTHER)
def test_other_indices_stay(name):
    assert [target for target, _ in calls(OTHER[name])] == [getitem]


RESHAPES = {
    "flatten": lambda x: x.flatten(0, 1),
    "torch.flatten": lambda x: torch.flatten(x, end_dim=1),
    "view": lambda x: x.view(-1, 5),
    "view of a shape": lambda x: x.view(torch.Size((12, 5))),
    "reshape": lambda x: x.reshape(12, -1),
    "reshape of a list": lambda x: torch.reshape(x, [12, 5]),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_reshapes_say_all_sizes(name):
    assert calls(RESHAPES[name]) == [(torch.reshape, ((12, 5),))]


def test_unflatten():
    assert calls(lambda x: x.unflatten(0, (2, -1))) == [(torch.reshape, ((2, 2, 3, 5),))]
    assert calls(lambda x: torch.unflatten(x, dim=-1, sizes=(5, 1))) == [(torch.reshape, ((4, 3, 5, 1),))]


STACKS = {
    "stack": (lambda x: torch.stack([x[0], x[1]], dim=-1), 2),
    "cat of unsqueeze": (lambda x: torch.cat([x[0].unsqueeze(1), x[1].unsqueeze(-2)], 1), 1),
    "written, out of order": (lambda x: written(x, (1, 0)), 0),
}


def written(x, order):
    out = torch.zeros(2, 3, 5, dtype=x.dtype)
    for t in order:
        out[t] = x[t]
    return out


@pytest.mark.parametrize("name", STACKS)
def test_stacks(name):
    body, dim = STACKS[name]
    nodes = tidied(body)
    (node,) = [n for n in nodes if n.target is stack]
    assert [part.args[2] for part in node.args[0]] == [0, 1]
    assert node.args[1] == dim
    assert {n.target for n in nodes} == {stack, torch.select}


def test_a_cat_of_other_parts_stays():
    for body in (
        lambda x: torch.cat([x[0], x[1]]),
        lambda x: torch.cat([x[0].unsqueeze(0), x[1].unsqueeze(0)], 1),
        lambda x: torch.cat([x[0].unsqueeze(0), x[1:3]]),
    ):
        assert torch.cat in [t for t, _ in calls(body)]


def test_what_is_written_in_part_stays_written():
    def some(x):
        out = torch.zeros(3, 3, 5, dtype=x.dtype)
        out[0], out[2] = x[0], x[2]
        return out

    def broadcast(x):
        out = torch.zeros(2, 3, 5, dtype=x.dtype)
        out[0], out[1] = x[0], x[1, 0]
        return out

    for body in (some, broadcast):
        assert [t for t, _ in calls(body)].count(set_item) == 2


def test_of_two_writes_the_last_counts():
    def twice(x):
        out = torch.zeros(2, 3, 5, dtype=x.dtype)
        out[0], out[1], out[0] = x[0], x[1], x[2]
        return out

    (node,) = [n for n in tidied(twice) if n.target is stack]
    assert [part.args[2] for part in node.args[0]] == [2, 1]


SUMS = {
    "sum()": lambda x: sum(x[t] for t in range(4)),
    "chain": lambda x: x[0] + x[1] + x[2] + x[3],
    "from zeros": lambda x: total_from(x, torch.zeros(3, 5, dtype=x.dtype)),
    "from zeros_like": lambda x: total_from(x, torch.zeros_like(x[0])),
    "in place": lambda x: in_place(x),
    "the other way round": lambda x: x[3] + (x[2] + (x[1] + x[0])),
}


def total_from(x, out):
    for t in range(4):
        out = out + x[t]
    return out


def in_place(x):
    out = torch.zeros(3, 5, dtype=x.dtype)
    for t in range(4):
        out += x[t]
    return out


@pytest.mark.parametrize("name", SUMS)
def test_sums(name):
    nodes = tidied(SUMS[name])
    (node,) = [n for n in nodes if n.target is total]
    assert sorted(part.args[2] for part in node.args[0]) == [0, 1, 2, 3]
    assert {n.target for n in nodes} == {total, torch.select}


def test_sums_that_are_none():
    for body in (
        lambda x: torch.add(x[0] + x[1], x[2], alpha=2),
        lambda x: (x[0] + x[1, 0]) + x[2],  # of other shapes
        lambda x: x[0] + 1 + x[1],
        lambda x: torch.zeros(3, 5, dtype=torch.float64) + x[0, 0],
    ):
        nodes = tidied(body)
        assert [n for n in nodes if n.target is torch.add]
        assert all(len(n.args[0]) < 3 for n in nodes if n.target is total)


def test_a_sum_that_is_read_before_its_end_keeps_both():
    def body(x):
        y = x[0] + x[1]
        z = y + x[2] + x[3]
        return y * z

    tidied(body)


def test_zero_is_nothing():
    assert [t for t, _ in calls(lambda x: F.relu(0 + x))] == [torch.relu]


def test_zero_that_widens_is_something():
    for body in (lambda x: 0 + (x > 0), lambda x: torch.zeros(4, 3, 5, dtype=torch.float64) + (x > 0)):
        tidied(body)


def test_dead_code_is_gone():
    def body(x):
        _ = x.sum() * 3
        return x * 2

    assert [t for t, _ in calls(body)] == [torch.mul]
