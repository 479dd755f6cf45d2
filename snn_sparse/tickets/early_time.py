"""Early-Time tickets: how few timesteps tell the same story as all T (Kim et al., ECCV 2022, section 4.2)."""

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import nn

from snn_sparse.specs import check_kind

ROUNDING = 1e-12  # divergences below this are rounding: all steps agree


def early_timestep(logits: torch.Tensor, threshold: float = 0.6) -> tuple[int, dict[int, float]]:
    """Choose T_early from the logits at full T.

    For ``t' = 2 .. T-1``: KL(P_T || P_t') between the class probabilities (softmax) from the mean logits of all T steps
    and of the first t' steps, each divided by the largest. T_early is the first t' below ``threshold``, else T. This is
    the direction that the published code computes; the paper prints the other.

    Args:
        logits: ``[T, N, K]`` at full T, floating point; T >= 3, N and K at least 1.
        threshold: of the normalised divergence, above 0.

    Returns:
        T_early, and the normalised divergence of each candidate t'.

    Raises:
        ValueError: fewer than three timesteps, wrong shape, a threshold that is not positive, or logits not finite.
        TypeError: logits of another dtype, or no tensor; a threshold that is no number.
    """
    check_kind("logits", logits, torch.Tensor)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.dim() != 3 or 0 in logits.shape[1:]:
        raise ValueError(f"logits must be [T, N, K] with N, K >= 1, got {tuple(logits.shape)}")
    timesteps = logits.shape[0]
    if timesteps < 3:
        raise ValueError(f"logits must have T >= 3 timesteps to choose an early one from, got T = {timesteps}")
    check_kind("threshold", threshold, Real)
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"threshold must be a positive number, got {threshold!r}")
    logits = logits.detach().double()
    full = F.softmax(logits.mean(0), dim=-1)
    divergences = {
        t: float(F.kl_div(F.log_softmax(logits[:t].mean(0), dim=-1), full, reduction="batchmean"))
        for t in range(2, timesteps)
    }
    if not all(math.isfinite(d) for d in divergences.values()):
        raise ValueError("logits must be finite")
    largest = max(divergences.values())
    normalised = {t: d / largest if largest > ROUNDING else 0.0 for t, d in divergences.items()}
    early = next((t for t, d in normalised.items() if d < threshold), timesteps)
    return early, normalised


@torch.no_grad()
def find_early_timestep(model: nn.Module, x: torch.Tensor, threshold: float = 0.6) -> tuple[int, dict[int, float]]:
    """:func:`early_timestep` of a network on one batch of training images.

    As published, batch norm uses the statistics of the batch, since the running ones are two epochs old; unlike there,
    the running statistics do not move.
    """
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    was_training = model.training
    model.train()
    try:
        return early_timestep(model(x), threshold)
    finally:
        model.train(was_training)
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
