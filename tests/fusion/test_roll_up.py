"""Rolling up: loops of every kind, each rolled up alone, run, and compared with the loop as it was written."""

import pytest
import torch
import torch.nn.functional as F
from fusion.loops import Cell, Node, check, rolled, run
from torch import nn

T, N = 4, 3


class Net(nn.Module):
    """Layers to write loops with; ``body`` is the loop."""

    def __init__(self, body):
        super().__init__()
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), Node()
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), Node()
        self.cell, self.fc = Cell(), nn.Linear(4 * 16, 5)
        self.body = body

    def forward(self, x):
        return self.body(self, x)

    def first(self, x):
        return self.sn1(self.bn1(self.conv1(x)))

    def second(self, x):
        return self.sn2(self.bn2(self.conv2(x)))


LOOPS = {}


def loop(shape=(T, N, 2, 4, 4), **calls):
    """Add a loop: the shape of its input, and the layers that are called more than once when it is rolled up."""

    def add(body):
        LOOPS[body.__name__] = (body, shape, calls)
        return body

    return add


@loop()
def stacked(net, x):
    return torch.stack([net.fc(net.second(net.first(x[t])).flatten(1)) for t in range(T)])


@loop()
def summed(net, x):
    return sum(net.fc(net.first(x[t]).flatten(1)) for t in range(T)) / T


@loop()
def accumulated(net, x):
    out = torch.zeros(N, 5, dtype=x.dtype)
    for t in range(T):
        out += net.fc(net.first(x[t]).flatten(1))
    return out


@loop()
def written(net, x):
    out = torch.zeros(T, N, 5, dtype=x.dtype)
    for t in range(T):
        out[t] = net.fc(net.first(x[t]).flatten(1))
    return out


@loop()
def listed(net, x):
    return [net.fc(net.first(x[t]).flatten(1)) for t in range(T)]


@loop()
def joined(net, x):
    return torch.cat([net.first(x[t]) for t in range(T)])


@loop()
def joined_elsewhere(net, x):
    return torch.cat([net.first(x[t]) for t in range(T)], 1)


@loop(shape=(N, T, 2, 4, 4))
def batch_first(net, x):
    return torch.stack([net.second(net.first(x[:, t])) for t in range(T)], 1)


@loop(shape=(N, 2, 4, 4, T))
def time_last(net, x):
    return torch.stack([net.first(x[..., t]) for t in range(T)], -1)


@loop()
def unbound(net, x):
    return torch.stack([net.first(part) for part in x.unbind(0)])


@loop(shape=(N, 2, 4, 4))
def constant_input(net, x):
    """The first convolution and batch norm are computed once, and the running statistics still move T times."""
    return torch.stack([net.second(net.first(x)) for _ in range(T)])


@loop(shape=(N, 2, 4, 4))
def constant_outside(net, x):
    x = net.conv1(x)
    return torch.stack([net.sn1(net.bn1(x)) for _ in range(T)])


@loop(shape=(N, 2, 4, 4))
def constant_sum(net, x):
    """A layer without memory on what is the same at every step."""
    return sum(net.conv1(x) * 0.5 for _ in range(T)) / T


@loop()
def layer_by_layer(net, x):
    """A loop a layer instead of a loop a step."""
    y = [net.first(x[t]) for t in range(T)]
    y = [net.second(v) for v in y]
    return sum(net.fc(v.flatten(1)) for v in y)


@loop()
def two_loops(net, x):
    y = torch.stack([net.first(x[t]) for t in range(T)])
    return torch.stack([net.second(y[t]) for t in range(T)]).mean(0)


@loop()
def pools_in_between(net, x):
    return torch.stack([F.max_pool2d(net.second(F.avg_pool2d(net.first(x[t]), 2)), 2) for t in range(T)])


@loop()
def residual(net, x):
    out = []
    for t in range(T):
        y = net.first(x[t])
        out.append(net.sn2(net.bn2(net.conv2(y)) + y) * 0.5 + y)
    return torch.stack(out)


@loop()
def backwards(net, x):
    return torch.stack([net.first(x[T - 1 - t]) for t in range(T)])


@loop()
def every_other_step(net, x):
    return torch.stack([net.first(x[t]) for t in (0, 2)])


@loop(shape=(T + 2, N, 2, 4, 4))
def fewer_steps_than_there_are(net, x):
    return torch.stack([net.first(x[t]) for t in range(T)])


@loop()
def another_factor_each_step(net, x):
    return torch.stack([net.first(x[t] * (t + 1)) for t in range(T)])


@loop()
def the_step_before(net, x):
    """Reads the spikes of the step before too: no recurrence, since the layer that made them does not read them."""
    y = [net.first(x[t]) for t in range(T)]
    return torch.stack([net.second(y[t] + y[max(t - 1, 0)]) for t in range(T)])


@loop(shape=(T, N, 2, 4, 4), conv2=T, bn2=T, sn2=T)
def recurrent(net, x):
    """Its own spikes come back: that layer stays as it is, the others do not."""
    spikes, out = torch.zeros(N, 4, 4, 4, dtype=x.dtype), []
    for t in range(T):
        spikes = net.second(net.first(x[t]) + spikes)
        out.append(net.fc(spikes.flatten(1)))
    return torch.stack(out)


@loop(shape=(T, N, 4, 4, 4), conv2=2 * T)
def shared_within_a_step(net, x):
    """A convolution that is called twice a step, on one thing after the other, is left as it is."""
    return torch.stack([net.sn2(net.conv2(F.relu(net.conv2(x[t])))) for t in range(T)])


@loop()
def explicit_potential(net, x):
    v, out = torch.zeros(N, 4, 4, 4, dtype=x.dtype), []
    for t in range(T):
        spikes, v = net.cell(net.conv1(x[t]), v)
        out.append(spikes)
    return torch.stack(out), v


@loop()
def explicit_potentials_too(net, x):
    v, out, potentials = torch.zeros(N, 4, 4, 4, dtype=x.dtype), [], []
    for t in range(T):
        spikes, v = net.cell(net.conv1(x[t]), v)
        out.append(spikes)
        potentials.append(v)
    return torch.stack(out), torch.stack(potentials)


@loop()
def one_step(net, x):
    return net.first(x[0])


@loop()
def sums_over_two_dimensions(net, x):
    return torch.stack([net.first(x[t]).mean((2, 3)).softmax(-1) for t in range(T)]).argmax(-1)


@loop()
def pieces(net, x):
    out = []
    for t in range(T):
        a, b = net.first(x[t]).chunk(2, 1)
        out.append(a * b)
    return torch.stack(out)


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name):
    body, shape, calls = LOOPS[name]
    model = Net(body).double()
    for module in (model.bn1, model.bn2):
        nn.init.uniform_(module.weight, 1, 2)
    check(model, torch.randn(shape, dtype=torch.float64) * 2, calls=calls)


def rolled_nodes(body, shape=(T, N, 2, 4, 4)):
    model = Net(body).double()
    return list(check(model, torch.randn(shape, dtype=torch.float64)).nodes)


def test_what_is_the_same_at_every_step_is_computed_once():
    nodes = {n.target: n for n in rolled_nodes(constant_input, (N, 2, 4, 4)) if n.op == "call_module"}
    assert nodes["conv1"].meta["value"].shape == (N, 4, 4, 4)
    assert nodes["bn1"].meta["steps"] == 1
    assert nodes["bn1"].meta["updates"] == T
    assert nodes["conv2"].meta["value"].shape == (T * N, 4, 4, 4)
    assert nodes["bn2"].meta["steps"] == nodes["bn2"].meta["updates"] == T
    assert nodes["sn1"].meta["value"].shape == (T, N, 4, 4, 4)


def test_random_numbers_are_drawn_at_every_step():
    def body(net, x):
        x = net.conv1(x)
        return torch.stack([net.sn1(F.dropout(x, 0.5)) for _ in range(T)])

    model, seen = Net(body), []
    x = torch.ones(64, 2, 4, 4)
    graph, spec = rolled(model, x)
    model.sn1.register_forward_hook(lambda _m, args, _y: seen.append(args[0]))
    run(model, graph, spec, x)
    assert len(seen) == T
    assert not torch.equal(seen[0], seen[1])


def test_no_step_is_picked_out_of_what_was_rolled_up():
    """A loop of one piece leaves no trace of single steps."""
    for body in (stacked, summed, written, two_loops, residual, layer_by_layer):
        assert not [n for n in rolled_nodes(body) if n.target is torch.select], body.__name__


def test_lists_of_outputs_are_picked_out():
    nodes = rolled_nodes(listed)
    assert [n.args[1:] for n in nodes if n.target is torch.select] == [(0, t) for t in range(T)]
