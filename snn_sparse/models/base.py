"""Base of the networks: the time axis of their input and the record of how they were built."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

NeuronFactory = Callable[[], nn.Module]

MOST_WIDTH = 16.0  # ResNet19 has 3 billion weights then; more is a slip, or an attack on the memory
CHANNEL_STEP = 8  # scaled numbers of channels are multiples of it: what vectors and matrix units take at once


def check_positive(name: str, value: Any) -> int:
    """``value`` if it is an integer of at least 1; otherwise an error that names the argument.

    Raises:
        TypeError: no integer. ValueError: less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check_width(width: Any) -> float:
    """``width`` as a float if it is a factor that numbers of channels can be scaled by.

    Raises:
        TypeError: no number. ValueError: not above 0, or above :data:`MOST_WIDTH`.
    """
    if isinstance(width, bool) or not isinstance(width, int | float):
        raise TypeError(f"width must be a number, got {width!r}")
    if not 0 < width <= MOST_WIDTH:
        raise ValueError(f"width must lie above 0 and at most at {MOST_WIDTH:g}, got {width}")
    return float(width)


def scale_channels(channels: int, width: float) -> int:
    """``channels`` times ``width``, to the nearest multiple of 8 (halves go up) and at least 8."""
    return max(CHANNEL_STEP, CHANNEL_STEP * math.floor(channels * width / CHANNEL_STEP + 0.5))


class SpikingNetwork(nn.Module):
    """A network over time: ``[N, C, H, W]`` or ``[T, N, C, H, W]`` in, one set of logits a timestep ``[T, N, K]`` out.

    A constant image is shown ``timesteps`` times; the first convolution and its batch norm then run once, since their
    input is the same at every step. A sequence brings its own T.

    Attributes:
        config: the arguments that :func:`snn_sparse.build_model` needs to build this network again.
    """

    def __init__(self, in_channels: int, timesteps: int) -> None:
        super().__init__()
        self.in_channels = check_positive("in_channels", in_channels)
        self.timesteps = timesteps
        self.config: dict[str, Any] = {}

    @property
    def timesteps(self) -> int:
        """T of a constant image; may be set at any time."""
        return self._timesteps

    @timesteps.setter
    def timesteps(self, value: int) -> None:
        self._timesteps = check_positive("timesteps", value)

    def check_input(self, x: torch.Tensor) -> None:
        """Raise a ValueError or TypeError unless ``x`` is an image batch or a sequence of them."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"x must be a floating-point tensor, got {kind}")
        if x.dim() not in (4, 5) or x.shape[0] == 0 or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"x must be [N, C, H, W] or [T, N, C, H, W] with C = {self.in_channels}, got shape {tuple(x.shape)}"
            )

    def repeat(self, x: torch.Tensor) -> torch.Tensor:
        """A constant batch as a sequence of T equal steps (a view); a sequence as it is."""
        return x if x.dim() == 5 else x.unsqueeze(0).expand(self.timesteps, *x.shape)
