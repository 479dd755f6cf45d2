"""Everything that goes into the neuron, for the forward and the backward pass alike, checked once."""

from dataclasses import dataclass
from typing import Any

import torch

from snn_sparse.kernels.settings import Neuron, Normalisation, branch_arguments, norm_code
from snn_sparse.kernels.tiles import in_layout, is_channels_last

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_TIMESTEPS = 32
MAX_EXACT_TIMESTEPS = 8
_SEGMENT = 4  # the compiler's time grows with the cube of unrolled steps


@dataclass(frozen=True)
class Inputs:
    """What the neuron is fed with. All tensors are on one device.

    Args:
        y: ``[T, N, C, H, W]``, or ``[1, N, C, H, W]``: one map that is shown ``timesteps`` times; float32, float16 or
            bfloat16, NCHW or NHWC in memory (else it is copied); its layout is that of all results.
        neuron: its settings.
        timesteps: T, 1 to 32.
        norm: batch norm of ``y``.
        residual: added after ``norm``: ``[T, N, C, H, W]`` of a dtype as above, or its packed spikes (int32).
        norm_residual: batch norm of ``residual``, which then is dense.
        rate: ``1 / tau`` of ``plif``, a tensor with one entry.
        v: membrane potential ``[N, C, H, W]`` before the first step; None: the potential at rest.
        pool: whether a 2x2 max-pool of stride 2 follows.

    Raises:
        ValueError: sizes that do not fit. TypeError: a dtype that is not supported.
    """

    y: torch.Tensor
    neuron: Neuron
    timesteps: int
    norm: Normalisation | None = None
    residual: torch.Tensor | None = None
    norm_residual: Normalisation | None = None
    rate: torch.Tensor | None = None
    v: torch.Tensor | None = None
    pool: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.timesteps <= MAX_TIMESTEPS:
            raise ValueError(f"timesteps must be 1 to {MAX_TIMESTEPS}, got {self.timesteps}")
        if self.y.dim() != 5 or self.y.shape[0] not in (1, self.timesteps):
            raise ValueError(f"y must be [{self.timesteps} or 1, N, C, H, W], got {tuple(self.y.shape)}")
        if self.v is not None and self.v.shape != self.y.shape[1:]:
            raise ValueError(f"v must be {tuple(self.y.shape[1:])}, got {tuple(self.v.shape)}")
        if (self.neuron.kind == "plif") != (self.rate is not None) or (
            self.rate is not None and self.rate.numel() != 1
        ):
            raise ValueError("rate must be a tensor with one entry for plif, and None for other neurons")
        for name, x in (("y", self.y), ("residual", self.residual), ("v", self.v)):
            if x is not None and x.dtype not in DTYPES and not (name == "residual" and self.packed):
                raise TypeError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}")
        self._check_residual()

    def _check_residual(self) -> None:
        if self.norm_residual is not None and (self.residual is None or self.packed):
            raise ValueError("norm_residual needs a dense residual")
        if self.residual is None:
            return
        shape = (self.timesteps, *self.y.shape[1:])
        if self.packed:
            shape = packed_shape(shape, self.channels_last)
        if self.residual.shape != shape:
            raise ValueError(f"residual must be {shape}, got {tuple(self.residual.shape)}")

    @property
    def packed(self) -> bool:
        """Whether the residual is packed spikes."""
        return self.residual is not None and self.residual.dtype == torch.int32

    @property
    def channels_last(self) -> bool:
        """Memory layout of ``y`` and of all results."""
        return is_channels_last(self.y)

    def tiled_channels_last(self, bits: bool = False) -> bool:
        """The layout that kernels read: dense 1x1 maps lie either way, and neighbouring channels are read at once."""
        single = self.y.shape[-1] * self.y.shape[-2] == 1
        return self.channels_last or (single and not self.packed and not bits)

    @property
    def static(self) -> bool:
        """Whether ``y`` is one map that all steps see."""
        return self.y.shape[0] == 1

    @property
    def output_shape(self) -> tuple[int, int, int, int, int]:
        """Of the dense spikes."""
        _, n, c, h, w = self.y.shape
        return (self.timesteps, n, c, h // 2, w // 2) if self.pool else (self.timesteps, n, c, h, w)

    @property
    def differentiable(self) -> dict[str, torch.Tensor]:
        """The given tensors that have a gradient, by their names in ``Gradients``; statistics are not among them."""
        tensors = {"y": self.y, "residual": self.residual, "v": self.v, "rate": self.rate}
        for suffix, norm in (("", self.norm), ("_residual", self.norm_residual)):
            if norm is not None:
                tensors |= {"weight" + suffix: norm.weight, "bias" + suffix: norm.bias}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def norm_codes(self) -> tuple[int, int]:
        """How kernels normalise ``y`` and the residual."""
        channels = self.y.shape[2]
        return (
            norm_code(self.norm, self.y.shape[0], channels),
            norm_code(self.norm_residual, self.timesteps, channels),
        )

    @property
    def segments(self) -> int:
        """Parts that the timesteps are cut into; few counts serve all, steps that do not exist are masked."""
        if self.timesteps <= MAX_EXACT_TIMESTEPS:
            return 1
        return next(n for n in (3, 4, 6, 8) if self.timesteps <= n * _SEGMENT)

    @property
    def segment_steps(self) -> int:
        """Steps of a segment, which kernels unroll and whose potentials the backward pass keeps in registers."""
        return self.timesteps if self.timesteps <= MAX_EXACT_TIMESTEPS else _SEGMENT

    def arguments(self) -> dict[str, Any]:
        """What both kernels are told, by the names of their parameters."""
        norm, norm_residual = self.norm_codes
        residual = self.residual
        if residual is not None:
            residual = residual.contiguous() if self.packed else in_layout(residual, self.channels_last)
        return {
            "y": in_layout(self.y, self.channels_last),
            "residual": residual,
            "rate": self.rate,
            "v_init": None if self.v is None else in_layout(self.v, self.channels_last),
            "steps": self.timesteps,
            "NORM": norm,
            "STATIC": self.static,
            "NORM_R": norm_residual,
            "BITS_R": self.packed,
            "STEPS": self.segment_steps,
            "SEGMENTS": self.segments,
            "EXACT": self.segments == 1,
            **branch_arguments(self.norm),
            **branch_arguments(self.norm_residual, "_r"),
            **self.neuron.arguments(),
        }


def packed_shape(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Of the packed form of spikes ``[T, N, C, H, W]``: ``[T, N, H, W, words]`` (NHWC) or ``[T, N, C, words]``."""
    t, n, c, h, w = shape
    return (t, n, h, w, (c + 31) // 32) if channels_last else (t, n, c, (h * w + 31) // 32)
