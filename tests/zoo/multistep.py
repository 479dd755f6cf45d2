"""SpikingJelly's multi-step ways: step_mode "m", set_step_mode, containers, and the old clock_driven nodes."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, forget, lively


class MultiStepVGG(nn.Module):
    """Everything in step mode "m"; a static image is repeated T times."""

    def __init__(self, T=4):
        super().__init__()
        self.T = T
        atan = {"surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m"}
        self.features = nn.Sequential(
            layer.Conv2d(3, 6, 3, padding=1, bias=False, step_mode="m"),
            layer.BatchNorm2d(6, step_mode="m"),
            neuron.LIFNode(tau=2.0, **atan),
            layer.MaxPool2d(2, 2, step_mode="m"),
            layer.Conv2d(6, 9, 3, padding=1, bias=False, step_mode="m"),
            layer.BatchNorm2d(9, step_mode="m"),
            neuron.LIFNode(tau=1.5, v_reset=None, **atan),
            layer.MaxPool2d(2, 2, step_mode="m"),
        )
        self.classifier = nn.Sequential(
            layer.Flatten(step_mode="m"),
            layer.Linear(9 * 4, 12, step_mode="m"),
            neuron.LIFNode(tau=2.0, **atan),
            layer.Linear(12, 5, step_mode="m"),
        )

    def forward(self, x):
        x_seq = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        return self.classifier(self.features(x_seq)).mean(0)


class CSNN(nn.Module):
    """Written for single steps, then switched as a whole with ``functional.set_step_mode``."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(
            layer.Conv2d(2, 5, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(5),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.AvgPool2d(2),
            layer.Conv2d(5, 7, kernel_size=5, padding=2, stride=2),
            layer.BatchNorm2d(7),
            neuron.LIFNode(surrogate_function=surrogate.PiecewiseQuadratic(), decay_input=False),
            layer.Flatten(),
            layer.Linear(7 * 4, 5),
            neuron.LIFNode(),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.layer(x).mean(dim=0)


class Contained(nn.Module):
    """``SeqToANNContainer`` around layers without state, multi-step nodes between."""

    def __init__(self):
        super().__init__()
        self.conv1 = layer.SeqToANNContainer(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.sn1 = neuron.LIFNode(tau=2.0, detach_reset=True, surrogate_function=surrogate.Sigmoid(), step_mode="m")
        self.pool = layer.SeqToANNContainer(nn.MaxPool2d(2))
        self.conv2 = layer.SeqToANNContainer(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8))
        self.sn2 = neuron.IFNode(v_threshold=0.7, step_mode="m")
        self.head = layer.SeqToANNContainer(nn.Flatten(), nn.Linear(8 * 4, 5))

    def forward(self, x_seq):
        return self.head(self.sn2(self.conv2(self.pool(self.sn1(self.conv1(x_seq))))))


class MultiStepLIFNode(nn.Module):
    """As in ``spikingjelly.clock_driven.neuron``: takes a sequence, keeps ``v`` and ``v_seq``, has no ``step_mode``."""

    def __init__(
        self, tau=2.0, v_threshold=1.0, v_reset=0.0, surrogate_function=None, detach_reset=False, backend="torch"
    ):
        super().__init__()
        self.tau, self.v_threshold, self.v_reset = tau, v_threshold, v_reset
        self.surrogate_function = surrogate_function or surrogate.Sigmoid()
        self.detach_reset, self.backend = detach_reset, backend
        self.reset()

    def reset(self):
        self.v = 0.0 if self.v_reset is None else self.v_reset
        self.v_seq = None

    def neuronal_charge(self, x):
        if self.v_reset is None or self.v_reset == 0.0:
            self.v = self.v + (x - self.v) / self.tau
        else:
            self.v = self.v + (x - (self.v - self.v_reset)) / self.tau

    def neuronal_reset(self, spike):
        spike_d = spike.detach() if self.detach_reset else spike
        if self.v_reset is None:
            self.v = self.v - spike_d * self.v_threshold
        else:
            self.v = (1.0 - spike_d) * self.v + spike_d * self.v_reset

    def forward(self, x_seq):
        spike_seq, v_seq = [], []
        for t in range(x_seq.shape[0]):
            self.neuronal_charge(x_seq[t])
            spike = self.surrogate_function(self.v - self.v_threshold)
            self.neuronal_reset(spike)
            spike_seq.append(spike.unsqueeze(0))
            v_seq.append(self.v.unsqueeze(0))
        self.v_seq = torch.cat(v_seq, 0)
        return torch.cat(spike_seq, 0)


class ClockDriven(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = layer.SeqToANNContainer(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.lif1 = MultiStepLIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, backend="torch")
        self.conv2 = layer.SeqToANNContainer(nn.Conv2d(6, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6))
        self.lif2 = MultiStepLIFNode(tau=1.6, v_reset=None, surrogate_function=surrogate.ATan(), backend="torch")
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = (x.unsqueeze(0)).repeat(4, 1, 1, 1, 1)
        x = self.lif2(self.conv2(self.lif1(self.conv1(x))))
        return self.fc(x.flatten(3).mean(3)).mean(0)


def _network(name, style, build, shape, neurons):
    reset = forget if build is ClockDriven else functional.reset_net
    return Network(name, style, lambda: lively(build()), draw(*shape), neurons, neurons, reset=reset)


NETWORKS = (
    _network("multi_step_vgg", 'SpikingJelly step_mode="m", static image repeated', MultiStepVGG, (3, 3, 8, 8), 3),
    _network(
        "set_step_mode", "SpikingJelly functional.set_step_mode on a net of [T, N, ...]", CSNN, (5, 3, 2, 8, 8), 3
    ),
    _network(
        "seq_to_ann", "SpikingJelly SeqToANNContainer(conv, bn) and multi-step nodes", Contained, (4, 3, 2, 8, 8), 2
    ),
    _network("clock_driven", "old clock_driven MultiStepLIFNode, no step_mode", ClockDriven, (3, 3, 8, 8), 2),
)
