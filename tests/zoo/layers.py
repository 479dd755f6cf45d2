"""Layers of all kinds between neurons: depthwise, grouped, dilated, one-dimensional, linear, dropout."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, lively


def lif(**changes):
    return neuron.LIFNode(**{"surrogate_function": surrogate.ATan(), "detach_reset": True, **changes})


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, grouped ones, dropout with one mask for all steps."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            layer.BatchNorm2d(8),
            lif(),
            layer.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            layer.BatchNorm2d(8),
            layer.Conv2d(8, 12, 1, bias=False),
            layer.BatchNorm2d(12),
            lif(),
            layer.Dropout(0.25),
            layer.Conv2d(12, 12, 3, padding=1, groups=3),
            layer.BatchNorm2d(12),
            lif(tau=1.2),
            layer.Flatten(),
            layer.Linear(12 * 16, 5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.net(x)


class DropoutLoop(nn.Module):
    """``nn.Dropout`` in the loop: a fresh mask each step."""

    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv, self.bn, self.sn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), lif()
        self.drop = nn.Dropout(0.3)
        self.fc1, self.sn2 = nn.Linear(6 * 16, 10), lif()
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x):
        y = []
        for _ in range(self.T):
            h = torch.max_pool2d(self.sn1(self.bn1(x)), 2)
            h = self.sn2(self.fc1(self.drop(h.flatten(1))))
            y.append(self.fc2(h))
        return sum(y) / len(y)

    def bn1(self, x):
        return self.bn(self.conv(x))


class Stretched(nn.Module):
    """Dilated, asymmetric and strided kernels; rectangular maps."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv2d(2, 6, (1, 5), padding=(0, 2), bias=False),
            layer.Conv2d(6, 6, (5, 1), padding=(2, 0), bias=False),
            layer.BatchNorm2d(6),
            lif(),
            layer.Conv2d(6, 7, 3, padding=2, dilation=2),
            layer.BatchNorm2d(7),
            lif(v_reset=None),
            layer.Conv2d(7, 7, 3, stride=(2, 1), padding=(1, 0), padding_mode="circular"),
            lif(),
            layer.AdaptiveAvgPool2d((2, 2)),
            layer.Flatten(),
            layer.Linear(28, 5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.net(x).mean(0)


class Audio(nn.Module):
    """One-dimensional convolutions of [T, N, C, L]."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = layer.Conv1d(2, 6, 5, stride=2, padding=2, bias=False), layer.BatchNorm1d(6)
        self.sn1, self.pool = lif(), layer.MaxPool1d(2)
        self.conv2, self.bn2, self.sn2 = layer.Conv1d(6, 8, 3), layer.BatchNorm1d(8), lif()
        self.fc = layer.Linear(8, 5)
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = self.pool(self.sn1(self.bn1(self.conv1(x))))
        x = self.sn2(self.bn2(self.conv2(x)))
        return self.fc(x.mean(-1))


class Linears(nn.Module):
    """Nothing but linear layers, on flattened images."""

    def __init__(self, T=5):
        super().__init__()
        self.T = T
        self.layer = nn.Sequential(
            layer.Flatten(), layer.Linear(64, 16, bias=False), lif(), layer.Linear(16, 10, bias=False), lif()
        )

    def forward(self, x):
        out_fr = 0.0
        for _t in range(self.T):
            out_fr += self.layer(x)
        return out_fr / self.T


class FixedLIF(neuron.LIFNode):
    """A subclass that only fixes arguments."""

    def __init__(self):
        super().__init__(tau=1.8, v_threshold=0.9, surrogate_function=surrogate.ATan(alpha=3.0), detach_reset=True)


class Subclassed(nn.Module):
    """Dense connections (concatenated spikes), subclassed nodes."""

    def __init__(self, T=3):
        super().__init__()
        self.T = T
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), FixedLIF()
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), FixedLIF()
        self.conv3, self.bn3, self.sn3 = nn.Conv2d(9, 6, 1), nn.BatchNorm2d(6), FixedLIF()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        logits = []
        for _ in range(self.T):
            a = self.sn1(self.bn1(self.conv1(x)))
            b = self.sn2(self.bn2(self.conv2(a)))
            c = self.sn3(self.bn3(self.conv3(torch.cat([a, b], dim=1))))
            logits.append(self.head(c.mean((2, 3))).unsqueeze(0))
        return torch.cat(logits, dim=0)


def _network(name, style, build, shape, neurons, gain=3.0):
    return Network(
        name, style, lambda: lively(build(), gain), draw(*shape), neurons, neurons, reset=functional.reset_net
    )


NETWORKS = (
    _network(
        "separable", "depthwise-separable and grouped convolutions, one dropout mask", Separable, (4, 3, 3, 8, 8), 3
    ),
    _network("dropout_loop", "nn.Dropout in a loop: a mask a step", DropoutLoop, (3, 3, 8, 8), 2),
    _network("stretched", "dilated, asymmetric, circular convolutions, odd maps", Stretched, (3, 3, 2, 9, 11), 3),
    _network("audio", "Conv1d of [T, N, C, L]", Audio, (4, 3, 2, 33), 2),
    _network("linears", "linear layers only, spikes counted in a loop", Linears, (3, 1, 8, 8), 2, 8.0),
    _network(
        "subclassed", "subclass of LIFNode, concatenated spikes, torch.cat over time", Subclassed, (3, 3, 8, 8), 3
    ),
)
