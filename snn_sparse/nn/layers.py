"""torch's own layers, taking a sequence ``[T, N, C, H, W]`` (1d: ``[T, N, C, L]``) as well as a batch ``[N, C, H, W]``.

Parameters, buffers and ``state_dict`` keys are those of the torch layer of the same name.
"""

import torch
from torch import nn

from snn_sparse import ops
from snn_sparse.nn.norm import update_factors
from snn_sparse.specs import BatchNormStatistics, check_statistics


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` that also takes ``[T, N, C, H, W]``; every timestep sees the same weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve a batch or a sequence."""
        if x.dim() == 5:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return super().forward(x)


class Conv1d(nn.Conv1d):
    """``torch.nn.Conv1d`` that also takes ``[T, N, C, L]``; every timestep sees the same weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve a batch or a sequence."""
        if x.dim() == 4:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return super().forward(x)


class AvgPool2d(nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` that also takes ``[T, N, C, H, W]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch or a sequence."""
        if x.dim() == 5:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return super().forward(x)


class MaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` that also takes ``[T, N, C, H, W]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch or a sequence."""
        if x.dim() == 5:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm of a batch ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``.

    Args:
        num_features: channels C.
        bn_statistics: ``per_step`` (each timestep its own batch statistics, the running statistics move T times; the
            published networks) or ``pooled`` (one set over T and N; SpikingJelly's multi-step layers).
        eps, momentum, affine, track_running_stats: as ``torch.nn.BatchNorm2d``.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bn_statistics: BatchNormStatistics = "per_step",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.bn_statistics = check_statistics(bn_statistics)

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if x.dim() not in (4, 5):
            raise ValueError(f"x must be [N, C, H, W] or [T, N, C, H, W], got shape {tuple(x.shape)}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch or a sequence."""
        self._check_input_dim(x)
        if x.dim() == 4:
            return super().forward(x)
        return ops.batch_norm_sequence(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            factors=update_factors(self, x.shape[0] if self.bn_statistics == "per_step" else 1),
            eps=self.eps,
            statistics=self.bn_statistics,
        )

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"{super().extra_repr()}, bn_statistics={self.bn_statistics}"
