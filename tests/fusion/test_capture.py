"""Capture: what can be captured is, what cannot is refused with the line, and nothing changes either way."""

import copy
import inspect
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fusion import wild
from fusion.wild import Net, captured
from torch import nn
from torch.utils._pytree import tree_unflatten

from snn_sparse.fusion.bystanders import Bystanders
from snn_sparse.fusion.capture import CannotCapture


def refused(body):
    with pytest.raises(CannotCapture) as error:
        captured(Net(body), torch.randn(3, 5))
    return str(error.value)


# ---- what is refused


REASONS = {
    wild.data_if: "control flow depends on the data",
    wild.data_while: "control flow depends on the data",
    wild.item: "control flow depends on the data",
    wild.length_of_what_is_found: "control flow depends on the data",
    wild.to_numpy: "",
    wild.to_list: "",
    wild.python_random: "random numbers in Python",
    wild.numpy_random: "random numbers in Python",
    wild.counts: "the attribute (count|seen)",
    wild.appends: "list",
    wild.keeps_in_a_dictionary: "table|x",
    wild.writes_a_parameter: "writes into a parameter or buffer",
    wild.writes_a_buffer: "writes into a parameter or buffer",
    wild.view_then_write: "reads a view of it afterwards",
    wild.write_through_a_view: "reads a view of it afterwards",
    wild.a_foreign_tensor: "neither the network's nor computed from its input",
    wild.no_tensor: "returns no tensor",
    wild.mistake: "RuntimeError: .*invalid for input of size",
}
LINES = {
    wild.data_if: "if x.sum() > 0:",
    wild.data_while: "while x.abs().max() > 1:",
    wild.item: "scale = x.max().item()",
    wild.to_numpy: "scale = x.detach().numpy().mean()",
    wild.to_list: "first = x.tolist()",
    wild.writes_a_parameter: "net.scale.mul_(0.9)",
    wild.writes_a_buffer: "net.offset += 1",
    wild.a_foreign_tensor: "return net.fc(x) + OUTSIDE",
    wild.mistake: "return net.fc(x.reshape(7, 7))",
}


@pytest.mark.parametrize("body", REASONS, ids=lambda f: f.__name__)
def test_refused(body):
    reason = refused(body)
    assert re.search(REASONS[body], reason), reason
    assert "\n" not in reason


@pytest.mark.parametrize("body", LINES, ids=lambda f: f.__name__)
def test_the_line_that_is_in_the_way(body):
    found = re.search(r"\((\S+):(\d+): (.*)\)$", refused(body))
    assert found
    path, number, line = found.groups()
    assert line == LINES[body]
    source, start = inspect.getsourcelines(body)
    assert start <= int(number) < start + len(source)
    assert Path(path).samefile(wild.__file__)


# ---- what is not


def same_numbers(net, x):
    net.count, net.T, net.mode = 7, len(x), "train"
    return net.fc(x)


def functional_in_place(net, x):
    y = net.fc(x)
    y = F.relu(y, inplace=True)
    y += 1
    y.mul_(net.scale).clamp_(max=3)
    return y - net.offset


def into_zeros(net, x):
    out = torch.zeros(net.T, 3, 4, dtype=x.dtype)
    for t in range(net.T):
        out[t] = net.fc(x) * (t + 1)
    return out


def into_a_part(net, x):
    y = net.fc(x)
    y[:, 0] = 0.0
    y[1:, 1:3] = x[1:, :2]
    return y


def masked_write(net, x):
    y = net.fc(x)
    y[y > 0] = 1.0
    return y


def shapes(net, x):
    n, c = x.shape
    y = net.fc(x.view(n, -1)).new_zeros(x.size(0), 4) + n
    return y if x.dim() == 2 and c == 5 and len(x) < 10 else None


def nested(net, x):
    y = net.fc(x)
    return {"out": [y, (y + 1, 3)], "none": None, "in": x}


def twice_the_same(net, x):
    y = net.fc(x)
    return y, y, y.contiguous()


def time_loop(net, x):
    return torch.stack([net.node(net.bn(net.fc(x))) for _ in range(net.T)]).mean(0)


def operators(net, x):
    y = net.fc(x)
    z = -(2 - y) / 3 + (1 / (y.abs() + 1)) ** 2
    return torch.where((z > 0) & ~(y >= 1) | (y != y), z @ z.T @ z, 0.0 * z)


def no_grad_part(net, x):
    with torch.no_grad():
        y = net.fc(x) * 2
    return y + net.fc(x)


FINE = [
    same_numbers, functional_in_place, into_zeros, into_a_part, masked_write, shapes, nested, twice_the_same, time_loop,
    operators,
]  # fmt: skip


@pytest.mark.parametrize("body", FINE, ids=lambda f: f.__name__)
def test_the_graph_computes_what_forward_does(body):
    model = Net(body).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    found = captured(model, x)
    found.graph.lint()
    twin = copy.deepcopy(model)
    for _ in range(2):
        twin_out = torch.fx.GraphModule(twin, found.graph)(x.clone())
        actual, expected = tree_unflatten(twin_out, found.spec), model(x.clone())
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        for (name, a), b in zip(twin.named_buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(a, b, msg=name)


def test_numbers_that_forward_sets():
    found = captured(Net(same_numbers), torch.randn(3, 5))
    assert found.attributes == {("", "count"): 7, ("", "mode"): "train"}  # T was 3 before


def test_a_reset_within_forward_is_seen():
    def body(net, x):
        y = [net.node(net.fc(x)) for _ in range(net.T)]
        net.node.v = 0.0
        return torch.stack(y)

    assert captured(Net(body), torch.randn(3, 5)).forgotten == {"node"}
    model = Net(lambda net, x: net.node(net.fc(x)))
    model.node.v = torch.ones(3, 4)
    found = captured(model, torch.randn(3, 5))
    assert not found.forgotten
    assert not any(n.meta.get("fresh") for n in found.graph.nodes)

    def reset_first(net, x):
        net.node.v = 0.0
        return net.node(net.fc(x))

    (node,) = [n for n in captured(Net(reset_first), torch.randn(3, 5)).graph.nodes if n.target == "node"]
    assert node.meta["fresh"]


def test_another_state_than_rest_is_refused():
    def body(net, x):
        y = net.node(net.fc(x))
        net.node.v = y
        return net.node(net.fc(x))

    assert "sets the state of node" in refused(body)


def test_shapes_and_functions_are_written_down():
    found = captured(Net(time_loop), torch.randn(3, 5))
    assert [n.target for n in found.graph.nodes if n.op == "call_module"] == ["fc", "bn", "node"] * 3
    assert all(n.meta["value"].shape == (3, 4) for n in found.graph.nodes if n.op == "call_module")


# ---- what must not change


def state(model):
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("body", [time_loop, functional_in_place, same_numbers, *REASONS], ids=lambda f: f.__name__)
def test_a_capture_leaves_no_trace(body):
    model = Net(body)
    model.node.v = torch.full((3, 4), 0.25)
    x = torch.randn(3, 5)
    kept, before, given = state(model), Bystanders(model), x.clone()
    potential, seen, table = model.node.v, model.seen, model.table
    dice = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    call, apply = nn.Module.__call__, torch.autograd.Function.apply
    try:
        captured(model, x)
    except CannotCapture:
        assert body in REASONS
    assert not before.changes(model)
    assert model.node.v is potential
    assert bool((potential == 0.25).all())
    assert (model.count, model.T) == (0, 3)
    assert model.seen is seen
    assert model.table is table
    assert not seen
    assert not table
    assert not hasattr(model, "last")
    for name, value in state(model).items():
        assert torch.equal(value, kept[name]), name
        assert type(value) is torch.Tensor
    assert torch.equal(x, given)
    assert (nn.Module.__call__, torch.autograd.Function.apply) == (call, apply)
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert now == dice


def test_dropout_draws_nothing_while_it_is_captured():
    model, x = Net(lambda net, x: net.drop(net.fc(x)) + torch.rand(4)), torch.randn(3, 5)
    before = torch.get_rng_state()
    captured(model, x)
    assert torch.equal(torch.get_rng_state(), before)
