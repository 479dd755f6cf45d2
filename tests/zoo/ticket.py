"""Python loops over single-step nodes of SpikingJelly, as in the lottery-ticket paper's networks."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, lively


def lif():
    return neuron.LIFNode(tau=4.0 / 3.0, surrogate_function=surrogate.ATan(), detach_reset=True)


def conv3x3(cin, cout, stride=1):
    return layer.Conv2d(cin, cout, kernel_size=3, stride=stride, padding=1, bias=False)


class LoopVGG(nn.Module):
    """VGG: every layer inside the loop, on a static image."""

    def __init__(self, cfg=(6, 8, "M", 12, "M"), num_classes=5, total_timestep=4):
        super().__init__()
        self.total_timestep = total_timestep
        layers, cin = [], 3
        for v in cfg:
            if v == "M":
                layers.append(layer.MaxPool2d(kernel_size=2, stride=2))
            else:
                layers += [layer.Conv2d(cin, v, kernel_size=3, padding=1), layer.BatchNorm2d(v), lif()]
                cin = v
        self.features = nn.Sequential(*layers)
        self.classifier = layer.Linear(cin * 4, num_classes)

    def forward(self, x):
        mem_out = 0
        for _ in range(self.total_timestep):
            out = self.features(x)
            out = out.view(out.size(0), -1)
            mem_out += self.classifier(out)
        return mem_out / self.total_timestep


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = conv3x3(cin, cout, stride)
        self.bn1 = layer.BatchNorm2d(cout)
        self.lif1 = lif()
        self.conv2 = conv3x3(cout, cout)
        self.bn2 = layer.BatchNorm2d(cout)
        self.lif2 = lif()
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                layer.Conv2d(cin, cout, kernel_size=1, stride=stride, bias=False), layer.BatchNorm2d(cout)
            )

    def forward(self, x):
        out = self.lif1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.lif2(out)


class LoopResNet(nn.Module):
    """ResNet19: the stem before the loop, residual blocks, two linear layers with a neuron between."""

    def __init__(self, num_classes=5, total_timestep=3):
        super().__init__()
        self.total_timestep = total_timestep
        self.conv1 = conv3x3(3, 6)
        self.bn1 = layer.BatchNorm2d(6)
        self.lif_input = lif()
        self.layer1 = nn.Sequential(BasicBlock(6, 8, 2), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 12, 2))
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1))
        self.fc1 = layer.Linear(12, 10)
        self.lif_fc = lif()
        self.fc2 = layer.Linear(10, num_classes)

    def forward(self, x):
        acc = 0
        static_x = self.bn1(self.conv1(x))
        for _ in range(self.total_timestep):
            out = self.lif_input(static_x)
            out = self.layer2(self.layer1(out))
            out = torch.flatten(self.avgpool(out), 1)
            acc += self.fc2(self.lif_fc(self.fc1(out)))
        return acc / self.total_timestep


class StackedLogits(nn.Module):
    """The logits of each step are collected in a list."""

    def __init__(self, T=4, stacked=True):
        super().__init__()
        self.T, self.stacked = T, stacked
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), lif()
        self.pool = nn.AvgPool2d(2)
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), lif()
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x):
        outputs = []
        for _t in range(self.T):
            h = self.pool(self.sn1(self.bn1(self.conv1(x))))
            h = self.sn2(self.bn2(self.conv2(h)))
            outputs.append(self.fc(torch.flatten(h, start_dim=1)))
        return torch.stack(outputs) if self.stacked else outputs


class Sequence(nn.Module):
    """Frames of a sequence, one a step."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), lif(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3)
        )
        self.bn, self.node = nn.BatchNorm2d(8), lif()
        self.fc = nn.Linear(8 * 4, 5)

    def step(self, x):
        return self.fc(self.node(self.bn(self.conv(x))).flatten(1))


class TimeFirst(Sequence):
    def forward(self, x):
        y = self.step(x[0])
        for t in range(1, x.shape[0]):
            y = y + self.step(x[t])
        return y / x.shape[0]


class BatchFirst(Sequence):
    def forward(self, x):
        logits = [self.step(x[:, t]) for t in range(x.size(1))]
        return torch.stack(logits, dim=1)


class TimeLast(Sequence):
    """STBP style: time is the last axis, and spikes are appended."""

    def forward(self, x):
        spike = []
        for t in range(x.shape[-1]):
            spike.append(self.step(x[..., t]))
        return torch.stack(spike, dim=-1).mean(-1)


def _network(name, style, build, shape, neurons):
    return Network(name, style, lambda: lively(build()), draw(*shape), neurons, neurons, reset=functional.reset_net)


NETWORKS = (
    _network("loop_vgg", "lottery-ticket VGG: loop over T on a static image", LoopVGG, (3, 3, 8, 8), 3),
    _network("loop_resnet19", "lottery-ticket ResNet19: stem before the loop", LoopResNet, (3, 3, 16, 16), 8),
    _network("loop_stack", "loop, list of logits, torch.stack", StackedLogits, (3, 3, 8, 8), 2),
    _network("loop_list", "loop, a list of logits is returned", lambda: StackedLogits(3, False), (3, 3, 8, 8), 2),
    _network("loop_time_first", "loop over x[t] of [T, N, ...]", TimeFirst, (4, 3, 2, 8, 8), 2),
    _network("loop_batch_first", "loop over x[:, t] of [N, T, ...]", BatchFirst, (3, 5, 2, 8, 8), 2),
    _network("loop_time_last", "loop over x[..., t] of [N, C, H, W, T]", TimeLast, (3, 2, 8, 8, 4), 2),
)
