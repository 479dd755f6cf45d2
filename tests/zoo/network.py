"""What a network of the zoo is: how it is written, how to build and feed it, and what a compiler should find in it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


def nothing(model):
    """The network keeps no state between calls."""


@dataclass(frozen=True)
class Network:
    """A small spiking network in one of the styles in which people write them; seed torch before ``build``."""

    name: str
    style: str  # how it is written: a line of a table
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    neurons: int  # layers of neurons in it, modules or inline
    fusible: int  # of those, how many a good compiler fuses
    captured: bool = True  # False: control flow on data, side effects, random numbers drawn in Python
    reset: Callable[[nn.Module], None] = nothing  # forgets the state between calls
    float64: bool = True  # False: its neurons spike in float32 whatever they are given, so it runs in float32 only


def forget(model):
    """Reset neurons of no library: each has a ``reset_mem`` or a ``reset``."""
    for module in model.modules():
        for name in ("reset_mem", "reset"):
            if callable(getattr(module, name, None)):
                getattr(module, name)()


def lively(model, gain=3.0):
    """Large weights and norms away from their initial values, so that neurons fire in deep layers too."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(1.2, 2.2)
                module.bias.uniform_(0.0, 0.6)
            elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                module.weight.mul_(gain)
                if module.bias is not None:
                    module.bias.uniform_(0.0, 1.2)
    return model


def draw(*shape):
    """What gives one random tensor of this shape as the inputs of a network."""
    return lambda: (torch.randn(*shape),)
