"""Parametric LIF, integrate-and-fire with average pools and voting, networks for event cameras (SpikingJelly)."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, lively


def plif(mode="s"):
    return neuron.ParametricLIFNode(
        init_tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode=mode
    )


class PLIFNet(nn.Module):
    """Static convolution before a loop of single steps, spikes are counted, groups of outputs vote."""

    def __init__(self, T=4, classes=4):
        super().__init__()
        self.T = T
        self.static_conv = nn.Sequential(nn.Conv2d(1, 6, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.conv = nn.Sequential(
            plif(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), plif()
        )
        self.fc = nn.Sequential(
            nn.MaxPool2d(2, 2), nn.Flatten(), layer.Dropout(0.3), nn.Linear(8 * 4, classes * 3, bias=False), plif()
        )
        self.boost = nn.AvgPool1d(3, 3)

    def forward(self, x):
        x = self.static_conv(x)
        out_spikes_counter = self.boost(self.fc(self.conv(x)).unsqueeze(1)).squeeze(1)
        for _ in range(1, self.T):
            out_spikes_counter = out_spikes_counter + self.boost(self.fc(self.conv(x)).unsqueeze(1)).squeeze(1)
        return out_spikes_counter / self.T


class PLIFSequence(nn.Module):
    """The same neurons over a whole sequence, the input batch first."""

    def __init__(self):
        super().__init__()
        self.conv_fc = nn.Sequential(
            layer.Conv2d(2, 6, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(6),
            plif(),
            layer.MaxPool2d(2, 2),
            layer.Flatten(),
            layer.Linear(6 * 16, 10),
            plif(),
            layer.Linear(10, 5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = x.permute(1, 0, 2, 3, 4)
        return self.conv_fc(x).mean(0)


class VotingNet(nn.Module):
    """Integrate-and-fire, average pools, voting."""

    def __init__(self, classes=4):
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv2d(1, 5, 3, padding=1),
            neuron.IFNode(surrogate_function=surrogate.Sigmoid(alpha=2.0)),
            layer.AvgPool2d(2),
            layer.Conv2d(5, 6, 3, padding=1),
            neuron.IFNode(v_reset=None, surrogate_function=surrogate.Sigmoid(alpha=2.0)),
            layer.AvgPool2d(2),
            layer.Flatten(),
            layer.Linear(6 * 4, classes * 5),
            neuron.IFNode(surrogate_function=surrogate.Sigmoid(alpha=2.0)),
            layer.VotingLayer(5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.net(x)


class DVSNet(nn.Module):
    """Event frames: the pool stands between the norm and the neuron."""

    def __init__(self, channels=6, classes=5):
        super().__init__()
        conv = []
        for i in range(3):
            conv += [
                layer.Conv2d(channels if i else 2, channels, kernel_size=3, padding=1, bias=False),
                layer.BatchNorm2d(channels),
                layer.MaxPool2d(2, 2),
                neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
            ]
        self.conv_fc = nn.Sequential(
            *conv,
            layer.Flatten(),
            layer.Dropout(0.2),
            layer.Linear(channels * 4, 12),
            neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
            layer.Linear(12, classes),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.conv_fc(x).mean(0)


class Chunks(nn.Module):
    """A long sequence in two calls of the same stateful layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = layer.Conv2d(2, 6, 3, padding=1, step_mode="m"), layer.BatchNorm2d(6, step_mode="m")
        self.node = neuron.LIFNode(tau=3.0, v_threshold=0.6, step_mode="m")
        self.fc = layer.Linear(6 * 25, 4, step_mode="m")

    def part(self, x):
        return self.fc(self.node(self.bn(self.conv(x))).flatten(2))

    def forward(self, x):
        half = x.shape[0] // 2
        return torch.cat([self.part(x[:half]), self.part(x[half:])])


class Stream(nn.Module):
    """One frame a call; whoever calls it goes on without a reset."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6),
            neuron.LIFNode(tau=2.5, v_threshold=0.5, surrogate_function=surrogate.ATan()),
            nn.Flatten(),
            nn.Linear(6 * 9, 8),
            neuron.IFNode(v_threshold=0.8, surrogate_function=surrogate.ATan()),
            nn.Linear(8, 4),
        )

    def forward(self, frame):
        return self.layers(frame)


def events(*shape):
    """Frames with few events, each a small count."""
    return lambda: (torch.poisson(torch.full(shape, 0.5)),)


def _network(name, style, build, inputs, neurons):
    return Network(name, style, lambda: lively(build()), inputs, neurons, neurons, reset=functional.reset_net)


NETWORKS = (
    _network("plif_loop", "parametric LIF, single steps in a loop, dropout, voting", PLIFNet, draw(3, 1, 8, 8), 3),
    _network(
        "plif_sequence",
        "parametric LIF, multi-step, batch-first events permuted",
        PLIFSequence,
        events(3, 4, 2, 8, 8),
        2,
    ),
    _network("if_voting", "IF nodes, average pools, no norm, voting layer", VotingNet, draw(5, 3, 1, 8, 8), 3),
    _network("dvs_pool_first", "event frames [T, N, 2, H, W]: conv, bn, pool, LIF", DVSNet, events(5, 3, 2, 16, 16), 4),
    _network(
        "two_chunks",
        "the same multi-step layers called twice in a forward, state kept",
        Chunks,
        events(6, 3, 2, 5, 5),
        1,
    ),
    _network("stream", "one frame a call, state kept from call to call", Stream, events(3, 2, 8, 8), 2),
)
