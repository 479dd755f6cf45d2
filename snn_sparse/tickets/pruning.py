"""How a mask is drawn: by magnitude (globally or a layer at a time), by sensitivity (SNIP), or at random."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from snn_sparse.ops import temporal_cross_entropy
from snn_sparse.tickets.mask import Mask, prunable

PruningScope = Literal["global", "local"]


def _check_percent(percent: float) -> float:
    if isinstance(percent, bool) or not isinstance(percent, (int, float)):
        raise TypeError(f"percent must be a number, got {percent!r}")
    if not 0 < percent < 100:
        raise ValueError(f"percent must lie between 0 and 100, both excluded, got {percent!r}")
    return float(percent)


def _global_threshold(magnitudes: torch.Tensor, percent: float) -> torch.Tensor:
    """The element at index ``int(n / (100 / percent))`` of the n sorted magnitudes: the published choice."""
    n = magnitudes.numel()
    if n == 0:
        raise ValueError("model has no live weight left to prune")
    return magnitudes.sort().values[int(float(n) / float(100.0 / percent))]


@torch.no_grad()
def prune_magnitude(model: nn.Module, mask: Mask, percent: float, scope: PruningScope = "global") -> Mask:
    """Prune the smallest ``percent`` of the live weights.

    Args:
        model: its weights are read, not changed (see :meth:`Mask.apply_`).
        mask: what is alive now; the result keeps a subset of it.
        percent: share of the live, non-zero weights to prune, in percent.
        scope: ``global``: one threshold for all layers; ``local``: one a layer (``numpy.percentile``).

    Returns:
        a new mask.

    Raises:
        ValueError: ``percent`` outside (0, 100), unknown ``scope``, no live weight, or a mask that does not fit.
    """
    percent = _check_percent(percent)
    if scope not in get_args(PruningScope):
        raise ValueError(f"scope must be one of {', '.join(get_args(PruningScope))}, got {scope!r}")
    mask.check(model)
    magnitudes = {n: w.abs().masked_fill(~mask[n].to(w.device), 0) for n, w in prunable(model).items()}
    if scope == "global":
        threshold = _global_threshold(torch.cat([m[m != 0] for m in magnitudes.values()]), percent)
        return Mask({n: mask[n].to(m.device) & (m >= threshold) for n, m in magnitudes.items()})
    return Mask({n: mask[n].to(m.device) & _local_survivors(m, percent) for n, m in magnitudes.items()})


def _local_survivors(magnitude: torch.Tensor, percent: float) -> torch.Tensor:
    live = magnitude[magnitude != 0]
    if live.numel() == 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    return magnitude >= float(np.percentile(live.cpu().numpy(), percent))


@torch.no_grad()
def magnitude_mask(model: nn.Module, percent: float) -> Mask:
    """One-shot global mask: prune the smallest ``percent`` of all non-zero weights, whatever any earlier mask says.

    Raises:
        ValueError: ``percent`` outside (0, 100), or no non-zero weight.
    """
    percent = _check_percent(percent)
    magnitudes = {n: w.abs() for n, w in prunable(model).items()}
    if not magnitudes:
        raise ValueError("model has no parameter that pruning may touch (a weight of more than one dimension)")
    threshold = _global_threshold(torch.cat([m[m != 0] for m in magnitudes.values()]), percent)
    return Mask({n: m >= threshold for n, m in magnitudes.items()})


def snip_mask(model: nn.Module, x: torch.Tensor, y: torch.Tensor, percent: float) -> Mask:
    """SNIP (Lee et al., ICLR 2019): prune the ``percent`` of weights with the smallest ``|w * dL/dw|`` on one batch.

    The model is left as it was: parameters, gradients and running statistics.

    Args:
        model: usually at initialisation.
        x: images ``[N, C, H, W]`` or sequences ``[T, N, C, H, W]``.
        y: ``[N]`` class indices.
        percent: share of all prunable weights to prune, in percent.

    Raises:
        ValueError: ``percent`` outside (0, 100).
    """
    percent = _check_percent(percent)
    weights = prunable(model)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    was_training = model.training
    model.train()
    try:
        gradients = torch.autograd.grad(temporal_cross_entropy(model(x), y), list(weights.values()))
    finally:
        model.train(was_training)
        with torch.no_grad():
            for name, b in model.named_buffers():
                b.copy_(buffers[name])
    saliency = {n: (w.detach() * g).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}
    keep = max(1, round(sum(s.numel() for s in saliency.values()) * (1 - percent / 100)))
    flat = torch.cat([s.flatten() for s in saliency.values()])
    alive = torch.zeros_like(flat, dtype=torch.bool)
    alive[flat.topk(keep).indices] = True
    parts = alive.split([s.numel() for s in saliency.values()])
    return Mask({n: part.view_as(saliency[n]) for n, part in zip(saliency, parts, strict=True)})


def random_mask(like: Mask, generator: torch.Generator | None = None) -> Mask:
    """A random mask with as many live weights in each layer as ``like`` has: the control that a ticket must beat."""
    alive = {}
    for name, m in like.items():
        flat = torch.zeros(m.numel(), dtype=torch.bool)
        flat[torch.randperm(m.numel(), generator=generator)[: int(m.count_nonzero())]] = True
        alive[name] = flat.view(m.shape).to(m.device)
    return Mask(alive)
