"""VGG11/13/16/19 with batch norm, as published for SNNs, and a small VGG for small images."""

import torch
from torch import nn

from snn_sparse.models.base import NeuronFactory, SpikingNetwork, check_positive
from snn_sparse.nn import BatchNorm2d, Conv2d, MaxPool2d
from snn_sparse.specs import BatchNormStatistics

# Channels of each convolution; 0 stands for a 2x2 max-pool.
VGG_LAYERS: dict[str, tuple[int, ...]] = {
    "vgg11": (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    "vgg13": (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    "vgg16": (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
    "vgg19": (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0),
    "vgg_small": (32, 0, 64, 0, 128, 0),
}


class VGG(SpikingNetwork):
    """Convolution - batch norm - neuron, with max-pools, and one linear layer on top.

    ``features`` is one ``Sequential`` of convolution (with bias), batch norm, neuron and max-pool, counted in that
    order, and ``classifier`` a ``Linear``: the published parameter names. Maps larger than 1x1 are averaged.

    Args:
        layers: output channels of each convolution, 0 for a 2x2 max-pool.
        num_classes: K.
        in_channels: 1 or 3 for images, any number for sequences.
        timesteps: T of a constant image.
        make_neuron: makes one neuron layer.
        bn_statistics: ``per_step`` or ``pooled``.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        timesteps: int,
        make_neuron: NeuronFactory,
        bn_statistics: BatchNormStatistics = "per_step",
    ) -> None:
        super().__init__(in_channels, timesteps)
        self.min_size = 2 ** layers.count(0)
        features: list[nn.Module] = []
        channels = in_channels
        for width in layers:
            if width == 0:
                features.append(MaxPool2d(2, 2))
                continue
            conv = Conv2d(channels, width, kernel_size=3, padding=1)
            features += [conv, BatchNorm2d(width, bn_statistics=bn_statistics), make_neuron()]
            channels = width
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(channels, check_positive("num_classes", num_classes))
        self._initialise()

    def _initialise(self) -> None:
        """The published initialisation: He (fan-out) for convolutions, N(0, 0.01) for the classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]``.

        Raises:
            ValueError: wrong shape, or images too small for the max-pools. TypeError: no floating-point tensor.
        """
        self.check_input(x)
        if min(x.shape[-2:]) < self.min_size:
            raise ValueError(f"x must be at least {self.min_size}x{self.min_size} pixels, got {tuple(x.shape[-2:])}")
        x = self.repeat(self.features[:2](x))
        x = self.features[2:](x)
        return self.classifier(x.mean((-2, -1)) if x.shape[-2:] != (1, 1) else x.flatten(2))
