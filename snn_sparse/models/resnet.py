"""ResNet19 for SNNs, as published: blocks 3-3-2 of 128, 256 and 512 channels at strides 2-2-2."""

import torch
from torch import nn

from snn_sparse.models.base import NeuronFactory, SpikingNetwork, check_positive, scale_channels
from snn_sparse.nn import BatchNorm2d, Conv2d
from snn_sparse.specs import BatchNormStatistics


def _conv(in_channels: int, out_channels: int, size: int, stride: int) -> Conv2d:
    return Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut (batch-normed where the shape changes) is added before the last neuron."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        make_neuron: NeuronFactory,
        bn_statistics: BatchNormStatistics = "per_step",
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = BatchNorm2d(out_channels, bn_statistics=bn_statistics)
        self.conv2 = _conv(out_channels, out_channels, 3, 1)
        self.bn2 = BatchNorm2d(out_channels, bn_statistics=bn_statistics)
        self.lif1 = make_neuron()
        self.lif2 = make_neuron()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(_conv(in_channels, out_channels, 1, stride))
            self.shortcut.append(BatchNorm2d(out_channels, bn_statistics=bn_statistics))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes ``[T, N, C, H, W]`` in, spikes out."""
        y = self.lif1(self.bn1(self.conv1(x)))
        return self.lif2(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet19(SpikingNetwork):
    """The published ResNet19: no convolution bias, global average pool, ``Linear`` - neuron - ``Linear``.

    Args:
        num_classes: K.
        in_channels: 1 or 3 for images, any number for sequences.
        timesteps: T of a constant image.
        make_neuron: makes one neuron layer.
        bn_statistics: ``per_step`` or ``pooled``.
        width: factor of all numbers of channels and of the hidden ``Linear``, as :func:`scale_channels` rounds them.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        timesteps: int,
        make_neuron: NeuronFactory,
        bn_statistics: BatchNormStatistics = "per_step",
        width: float = 1.0,
    ) -> None:
        super().__init__(in_channels, timesteps)
        c64, c128, c256, c512 = (scale_channels(channels, width) for channels in (64, 128, 256, 512))
        self.conv1 = _conv(in_channels, c64, 3, 1)
        self.bn1 = BatchNorm2d(c64, bn_statistics=bn_statistics)
        self.lif_input = make_neuron()

        def stage(before: int, channels: int, blocks: int) -> nn.Sequential:
            first = BasicBlock(before, channels, 2, make_neuron, bn_statistics)
            rest = (BasicBlock(channels, channels, 1, make_neuron, bn_statistics) for _ in range(blocks - 1))
            return nn.Sequential(first, *rest)

        self.layer1 = stage(c64, c128, 3)
        self.layer2 = stage(c128, c256, 3)
        self.layer3 = stage(c256, c512, 2)
        self.fc1 = nn.Linear(c512, c256)
        self.lif_fc = make_neuron()
        self.fc2 = nn.Linear(c256, check_positive("num_classes", num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]``.

        Raises:
            ValueError: wrong shape. TypeError: no floating-point tensor.
        """
        self.check_input(x)
        x = self.lif_input(self.repeat(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.lif_fc(self.fc1(x.mean((-2, -1))))
        return self.fc2(x)
