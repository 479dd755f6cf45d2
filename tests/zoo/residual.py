"""Residual networks: sums of floats before the neuron (MS-ResNet), of spikes after it (SEW), bottlenecks."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, lively
from zoo.surrogates import Rectangle

TIME_WINDOW, THRESHOLD, LENS, DECAY = 4, 0.5, 0.5, 0.25


def act_fun(x):
    return Rectangle.apply(x - THRESHOLD, LENS)


class MemUpdate(nn.Module):
    """Home-made neuron that runs through time itself and writes the spikes into a tensor it made."""

    def __init__(self):
        super().__init__()
        self.act = act_fun

    def forward(self, x):
        mem = torch.zeros_like(x[0])
        spike = torch.zeros_like(x[0])
        output = torch.zeros_like(x)
        for i in range(TIME_WINDOW):
            mem = mem * DECAY * (1 - spike.detach()) + x[i] if i else x[i]
            spike = self.act(mem)
            output[i] = spike
        return output


class SnnConv2d(nn.Conv2d):
    """A convolution of [T, N, C, H, W]."""

    def forward(self, x):
        y = super().forward(x.flatten(0, 1))
        return y.view(x.shape[0], x.shape[1], *y.shape[1:])


class BatchNorm2dT(nn.Module):
    """A 3-d batch norm over [N, C, T, H, W], scaled by the threshold at the start."""

    def __init__(self, num_features, scale=1.0):
        super().__init__()
        self.bn = nn.BatchNorm3d(num_features)
        nn.init.constant_(self.bn.weight, scale * THRESHOLD)

    def forward(self, x):
        y = x.transpose(0, 2).contiguous().transpose(0, 1).contiguous()
        y = self.bn(y)
        return y.contiguous().transpose(0, 1).contiguous().transpose(0, 2)


class MSBlock(nn.Module):
    """Neuron, convolution, norm, twice; the shortcut adds floats."""

    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.residual_function = nn.Sequential(
            MemUpdate(),
            SnnConv2d(cin, cout, kernel_size=3, stride=stride, padding=1, bias=False),
            BatchNorm2dT(cout),
            MemUpdate(),
            SnnConv2d(cout, cout, kernel_size=3, padding=1, bias=False),
            BatchNorm2dT(cout, 0.2),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(SnnConv2d(cin, cout, 1, stride=stride, bias=False), BatchNorm2dT(cout))

    def forward(self, x):
        return self.residual_function(x) + self.shortcut(x)


class MSResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(SnnConv2d(3, 6, kernel_size=3, padding=1, bias=False), BatchNorm2dT(6))
        self.conv2_x = MSBlock(6, 6)
        self.conv3_x = MSBlock(6, 9, 2)
        self.mem_update = MemUpdate()
        self.fc = nn.Linear(9, 5)

    def forward(self, x):
        frames = torch.zeros(TIME_WINDOW, *x.shape, dtype=x.dtype, device=x.device)
        for i in range(TIME_WINDOW):
            frames[i] = x
        y = self.conv3_x(self.conv2_x(self.conv1(frames)))
        y = self.mem_update(y)
        y = torch.nn.functional.adaptive_avg_pool3d(y.transpose(0, 1).transpose(1, 2), (None, 1, 1))
        return self.fc(y.flatten(2).transpose(1, 2).mean(1))


def sew_function(x, y, cnf):
    if cnf == "ADD":
        return x + y
    if cnf == "AND":
        return x * y
    return x * (1.0 - y)  # IAND


def sew_node():
    return neuron.IFNode(v_threshold=0.8, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")


def conv_bn(cin, cout, kernel=3, stride=1):
    padding = kernel // 2
    return layer.SeqToANNContainer(nn.Conv2d(cin, cout, kernel, stride, padding, bias=False), nn.BatchNorm2d(cout))


class SEWBlock(nn.Module):
    def __init__(self, cin, cout, stride, cnf):
        super().__init__()
        self.cnf = cnf
        self.conv1, self.sn1 = conv_bn(cin, cout, stride=stride), sew_node()
        self.conv2, self.sn2 = conv_bn(cout, cout), sew_node()
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(conv_bn(cin, cout, 1, stride), sew_node())

    def forward(self, x):
        identity = x
        out = self.sn2(self.conv2(self.sn1(self.conv1(x))))
        if self.downsample is not None:
            identity = self.downsample(x)
        return sew_function(identity, out, self.cnf)


class SEWResNet(nn.Module):
    def __init__(self, cnf, T=4):
        super().__init__()
        self.T = T
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.sn1 = sew_node()
        self.maxpool = layer.SeqToANNContainer(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        self.layer1 = nn.Sequential(SEWBlock(6, 6, 1, cnf), SEWBlock(6, 6, 1, cnf))
        self.layer2 = SEWBlock(6, 8, 2, cnf)
        self.avgpool = layer.SeqToANNContainer(nn.AdaptiveAvgPool2d((1, 1)))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = self.layer2(self.layer1(self.maxpool(self.sn1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 2).mean(dim=0))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the sum goes through the last neuron."""

    expansion = 2

    def __init__(self, cin, width, stride=1):
        super().__init__()
        cout = width * self.expansion
        node = {"surrogate_function": surrogate.ATan(), "step_mode": "m"}
        self.conv1, self.bn1 = layer.Conv2d(cin, width, 1, bias=False), layer.BatchNorm2d(width)
        self.sn1 = neuron.LIFNode(**node)
        self.conv2, self.bn2 = layer.Conv2d(width, width, 3, stride, 1, bias=False), layer.BatchNorm2d(width)
        self.sn2 = neuron.LIFNode(**node)
        self.conv3, self.bn3 = layer.Conv2d(width, cout, 1, bias=False), layer.BatchNorm2d(cout)
        self.downsample = nn.Sequential(layer.Conv2d(cin, cout, 1, stride, bias=False), layer.BatchNorm2d(cout))
        self.sn3 = neuron.LIFNode(**node)
        functional.set_step_mode(self, "m")

    def forward(self, x):
        out = self.sn1(self.bn1(self.conv1(x)))
        out = self.sn2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.sn3(out + self.downsample(x))


class BottleneckNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Bottleneck(2, 4, 2), Bottleneck(8, 5))
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1), step_mode="m")
        self.fc = layer.Linear(10, 5, step_mode="m")

    def forward(self, x):
        return self.fc(torch.flatten(self.avgpool(self.blocks(x)), 2))


def _sew(cnf, how):
    style = f"SEW-ResNet {cnf}: {how}"
    build = lambda: lively(SEWResNet(cnf))  # noqa: E731
    return Network(f"sew_{cnf.lower()}", style, build, draw(3, 3, 16, 16), 8, 8, reset=functional.reset_net)


NETWORKS = (
    Network(
        "ms_resnet",
        "MS-ResNet: residuals of floats before home-made neurons that loop over time inside",
        lambda: lively(MSResNet()),
        draw(3, 3, 8, 8),
        5,
        5,
    ),
    _sew("ADD", "integer sums of spikes"),
    _sew("AND", "products of spikes"),
    _sew("IAND", "s * (1 - g) of spikes"),
    Network(
        "bottleneck",
        "bottleneck blocks, adaptive average pool and flatten before the head",
        lambda: lively(BottleneckNet()),
        draw(4, 3, 2, 8, 8),
        6,
        6,
        reset=functional.reset_net,
    ),
)
