"""Networks that NIR can express, and what runs them through a file and back."""

import nir
import torch
from torch import nn

import snn_sparse as ss
from snn_sparse.models.base import SpikingNetwork
from snn_sparse.models.resnet import BasicBlock, ResNet19

T, N = 5, 3


class Narrow(ResNet19):
    """The published ResNet19 at a fraction of its width."""

    def __init__(self):
        SpikingNetwork.__init__(self, 2, T)
        self.conv1 = ss.nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1, self.lif_input = ss.nn.BatchNorm2d(6), ss.nn.LIF()
        self.layer1 = nn.Sequential(BasicBlock(6, 8, 2, ss.nn.LIF), BasicBlock(8, 8, 1, ss.nn.LIF))
        self.layer2, self.layer3 = BasicBlock(8, 8, 1, ss.nn.IF), nn.Sequential()
        self.fc1, self.lif_fc, self.fc2 = nn.Linear(8, 16), ss.nn.LIF(), nn.Linear(16, 4)


class InPlace(nn.Module):
    """A residual written into, and functions instead of layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.lif = ss.nn.Conv2d(2, 2, 3, padding=1), ss.nn.BatchNorm2d(2), ss.nn.LIF()
        self.pool, self.head = ss.nn.AvgPool2d(2, divisor_override=1), nn.Linear(18, 4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += x
        y = self.pool(self.lif(y)).contiguous()
        return self.head(torch.flatten(y, 2)) + self.head(y.reshape(*y.shape[:2], -1))


def conv(**options):
    layer = ss.nn.Conv2d(2, 4, **{"kernel_size": 3, "padding": 1, **options})
    return nn.Sequential(layer, ss.nn.BatchNorm2d(4), ss.nn.LIF())


def neuron(node):
    return nn.Sequential(nn.Flatten(2), nn.Linear(72, 20), node, nn.Linear(20, 4))


NETWORKS = {
    "small": lambda: nn.Sequential(
        *conv(), ss.nn.AvgPool2d(2), nn.Flatten(2), nn.Linear(36, 40), ss.nn.IF(v_threshold=0.2)
    ),
    "nested": lambda: nn.Sequential(conv(), nn.Sequential(nn.Dropout(), nn.Identity(), nn.Flatten(3))),
    "residuals": Narrow,
    "written in place": InPlace,
    "T and N merged": lambda: nn.Sequential(
        nn.Flatten(0, 1),
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.AvgPool2d(2, padding=1),
        nn.Unflatten(0, (T, N)),
        ss.nn.LIF(),
        nn.Flatten(2),
        nn.Flatten(0, 1),
        nn.Linear(36, 40, bias=False),
        nn.BatchNorm1d(40),
        nn.Unflatten(0, (T, N)),
        ss.nn.IF(v_threshold=0.3),
    ),
    "1d": lambda: nn.Sequential(
        nn.Flatten(3), ss.nn.Conv1d(2, 4, 5, stride=2, padding=3, dilation=2), ss.nn.LIF(), ss.nn.Conv1d(4, 2, 1)
    ),
    "stride": lambda: conv(stride=(1, 2)),
    "dilation": lambda: conv(dilation=2),
    "padding": lambda: conv(padding=(0, 2)),
    "padding by name": lambda: conv(padding="same"),
    "kernel": lambda: conv(kernel_size=(1, 2)),
    "groups": lambda: conv(groups=2),
    "no bias": lambda: conv(bias=False),
    "lif": lambda: neuron(ss.nn.LIF(tau=1.7, v_threshold=0.6, v_reset=-0.2)),
    "lif of undivided input": lambda: neuron(ss.nn.LIF(tau=3.0, decay_input=False)),
    "lif of one step": lambda: neuron(ss.nn.LIF(tau=1.0)),
    "parametric lif": lambda: neuron(ss.nn.ParametricLIF(2.2, v_reset=0.1)),
    "if": lambda: neuron(ss.nn.IF(v_threshold=0.4, v_reset=-0.1)),
}
SIZE_MISTAKEN = {"kernel", "groups"}  # by the type check of nir.read


def made(name):
    """A network in float64 with statistics of its own, and an input."""
    model, x = NETWORKS[name]().double(), 2 * torch.randn(T, N, 2, 6, 6, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 1, 2)
                module.weight.data *= torch.randint(0, 2, module.weight.shape) * 2 - 1
                nn.init.normal_(module.bias, 0, 0.5)
    return model.eval(), x


def through_file(graph, folder):
    nir.write(folder / "graph.nir", graph)
    return folder / "graph.nir"
