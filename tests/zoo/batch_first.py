"""[N, T, ...] networks with home-made neurons and norms over time: TET, tdBN, TEBN."""

import torch
from torch import nn

from zoo.network import Network, draw, lively
from zoo.surrogates import Triangle


class SeqToANNContainer(nn.Module):
    """Layers without time run on N and T merged."""

    def __init__(self, *args):
        super().__init__()
        self.module = args[0] if len(args) == 1 else nn.Sequential(*args)

    def forward(self, x_seq):
        y_shape = [x_seq.shape[0], x_seq.shape[1]]
        y_seq = self.module(x_seq.flatten(0, 1).contiguous())
        y_shape.extend(y_seq.shape[1:])
        return y_seq.view(y_shape)


class LIFSpike(nn.Module):
    """Decay, add, fire strictly above the threshold, reset to zero through the spike's gradient."""

    def __init__(self, thresh=1.0, tau=0.5, gamma=1.0):
        super().__init__()
        self.act = Triangle.apply
        self.thresh, self.tau, self.gamma = thresh, tau, gamma

    def forward(self, x):
        mem = 0
        spike_pot = []
        T = x.shape[1]
        for t in range(T):
            mem = mem * self.tau + x[:, t, ...]
            spike = self.act(mem - self.thresh, self.gamma)
            mem = (1 - spike) * mem
            spike_pot.append(spike)
        return torch.stack(spike_pot, dim=1)


def add_dimention(x, T):
    x = x.unsqueeze(1)
    return x.repeat(1, T, 1, 1, 1)


class Layer(nn.Module):
    def __init__(self, cin, cout, kernel=3, stride=1, padding=1):
        super().__init__()
        self.fwd = SeqToANNContainer(nn.Conv2d(cin, cout, kernel, stride, padding), nn.BatchNorm2d(cout))
        self.act = LIFSpike()

    def forward(self, x):
        return self.act(self.fwd(x))


class TETVGG(nn.Module):
    """VGG for events: average pools between layers; the loss wants the logits of every step."""

    def __init__(self):
        super().__init__()
        pool = SeqToANNContainer(nn.AvgPool2d(2))
        self.features = nn.Sequential(Layer(2, 6), Layer(6, 8), pool, Layer(8, 8), pool)
        self.classifier = SeqToANNContainer(nn.Linear(8 * 4, 5))

    def forward(self, x):
        x = torch.flatten(self.features(x), 2)
        return self.classifier(x)


class NormedLayer(nn.Module):
    """A layer whose norm takes T and N together, with the threshold in its scale (tdBN)."""

    def __init__(self, layer, bn):
        super().__init__()
        self.layer = SeqToANNContainer(layer)
        self.bn = bn

    def forward(self, x):
        return self.bn(self.layer(x))


class TdBatchNorm(nn.Module):
    """tdBN: one batch norm over [N * T, C, H, W] whose weight starts at alpha * V_th."""

    def __init__(self, out_plane, alpha=1.0, v_th=1.0):
        super().__init__()
        self.bn = SeqToANNContainer(nn.BatchNorm2d(out_plane))
        nn.init.constant_(self.bn.module.weight, alpha * v_th)

    def forward(self, x):
        return self.bn(x)


class TEBN(nn.Module):
    """TEBN: a batch norm over time, times a learnt scale of each timestep."""

    def __init__(self, out_plane, T):
        super().__init__()
        self.bn = nn.BatchNorm3d(out_plane)
        self.p = nn.Parameter(torch.linspace(0.8, 1.2, T).view(T, 1, 1, 1, 1))

    def forward(self, x):
        y = x.transpose(1, 2).contiguous()
        y = self.bn(y)
        y = y.contiguous().transpose(1, 2)
        y = y.transpose(0, 1).contiguous()
        y = y * self.p
        return y.contiguous().transpose(0, 1)


class Block(nn.Module):
    """Convolutions with tdBN; the shortcut is added before the second neuron."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = NormedLayer(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), TdBatchNorm(cout))
        self.spike1 = LIFSpike(gamma=1.5)
        self.conv2 = NormedLayer(nn.Conv2d(cout, cout, 3, 1, 1, bias=False), TdBatchNorm(cout, alpha=0.7071))
        self.downsample = NormedLayer(nn.Conv2d(cin, cout, 1, stride, bias=False), TdBatchNorm(cout, alpha=0.7071))
        self.spike2 = LIFSpike(gamma=1.5)

    def forward(self, x):
        out = self.conv2(self.spike1(self.conv1(x)))
        out += self.downsample(x)
        return self.spike2(out)


class TETResNet(nn.Module):
    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv1 = NormedLayer(nn.Conv2d(3, 6, 3, 1, 1, bias=False), TdBatchNorm(6))
        self.spike = LIFSpike()
        self.layer1 = Block(6, 8, 2)
        self.avgpool = SeqToANNContainer(nn.AdaptiveAvgPool2d((1, 1)))
        self.fc1, self.fc1_s = SeqToANNContainer(nn.Linear(8, 10)), LIFSpike()
        self.fc2 = SeqToANNContainer(nn.Linear(10, 5))

    def forward(self, x):
        x = add_dimention(x, self.T)
        x = self.layer1(self.spike(self.conv1(x)))
        x = torch.flatten(self.avgpool(x), 2)
        return self.fc2(self.fc1_s(self.fc1(x))).mean(1)


class TEBNNet(nn.Module):
    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv1 = NormedLayer(nn.Conv2d(3, 6, 3, 1, 1), TEBN(6, T))
        self.spike1 = LIFSpike()
        self.conv2 = NormedLayer(nn.Conv2d(6, 8, 3, 2, 1), TEBN(8, T))
        self.spike2 = LIFSpike()
        self.fc = SeqToANNContainer(nn.Linear(8 * 16, 5))

    def forward(self, x):
        x = add_dimention(x, self.T)
        x = self.spike2(self.conv2(self.spike1(self.conv1(x))))
        return self.fc(torch.flatten(x, 2))


def _network(name, style, build, shape, neurons):
    return Network(name, style, lambda: lively(build()), draw(*shape), neurons, neurons)


NETWORKS = (
    _network(
        "tet_vgg", "TET: [N, T, ...], home-made container and LIF, triangle surrogate", TETVGG, (3, 5, 2, 8, 8), 3
    ),
    _network("tdbn_resnet", "tdBN ResNet of TET: static image repeated on axis 1", TETResNet, (3, 3, 8, 8), 4),
    _network("tebn", "TEBN: batch norm over time, a learnt scale of each step", TEBNNet, (3, 3, 8, 8), 2),
)
