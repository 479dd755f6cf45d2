"""Forward passes that cannot be captured, each of which does one thing that is in the way."""

import random

import numpy as np
import torch
from fusion.loops import Node
from torch import nn

from snn_sparse.fusion.capture import capture, take_census


class Net(nn.Module):
    """A layer, a batch norm, a neuron, dropout; ``body`` is the forward pass."""

    def __init__(self, body):
        super().__init__()
        self.fc, self.bn, self.node, self.drop = nn.Linear(5, 4), nn.BatchNorm1d(4), Node(), nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("offset", torch.ones(4))
        self.body, self.count, self.seen, self.table = body, 0, [], {}
        self.T, self.generator = 3, None

    def forward(self, x):
        return self.body(self, x)


def captured(model, *inputs):
    census = take_census(model, model.forward, inputs)
    return capture(model, model.forward, inputs, lambda m, _: isinstance(m, (nn.Linear, nn.BatchNorm1d, Node)), census)


def data_if(net, x):
    if x.sum() > 0:
        x = -x
    return net.fc(x)


def data_while(net, x):
    while x.abs().max() > 1:
        x = x / 2
    return net.fc(x)


def item(net, x):
    scale = x.max().item()
    return net.fc(x) * int(scale)


def length_of_what_is_found(net, x):
    found = x[x > 0]
    return net.fc(x) * len(found)


def to_numpy(net, x):
    scale = x.detach().numpy().mean()
    return net.fc(x) * scale


def to_list(net, x):
    first = x.tolist()
    return net.fc(x) * first[0][0]


def python_random(net, x):
    return net.fc(x) * random.random()


def numpy_random(net, x):
    return net.fc(x) * float(np.random.rand())  # noqa: NPY002


def counts(net, x):
    net.count = net.count + 1
    net.seen = x
    return net.fc(x)


def appends(net, x):
    net.seen.append(1)
    return net.fc(x)


def keeps_in_a_dictionary(net, x):
    net.table["x"] = x
    return net.fc(x)


def writes_a_parameter(net, x):
    with torch.no_grad():
        net.scale.mul_(0.9)
    return net.fc(x) * net.scale


def writes_a_buffer(net, x):
    net.offset += 1
    return net.fc(x) + net.offset


def view_then_write(net, x):
    y = net.fc(x)
    row = y[0]
    y.mul_(2)
    return row


def write_through_a_view(net, x):
    y = net.fc(x)
    y[0].zero_()
    return y


def a_foreign_tensor(net, x):
    return net.fc(x) + OUTSIDE


def no_tensor(net, x):
    net.fc(x)
    return 3.0


def mistake(net, x):
    return net.fc(x.reshape(7, 7))


OUTSIDE = torch.ones(4)


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).float()

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return gradient * (u.abs() < 0.5).float()
