"""How a mask is drawn: by magnitude (globally or a layer at a time), by sensitivity (SNIP), or at random."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from snn_sparse.ops import temporal_cross_entropy
from snn_sparse.specs import check_kind
from snn_sparse.tickets.mask import Mask, prunable

PruningScope = Literal["global", "local"]


def _check_percent(percent: float) -> float:
    if isinstance(percent, bool) or not isinstance(percent, (int, float)):
        raise TypeError(f"percent must be a number, got {percent!r}")
    if not 0 < percent < 100:
        raise ValueError(f"percent must lie between 0 and 100, both excluded, got {percent!r}")
    return float(percent)


def _check_finite(name: str, values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, but holds NaN or infinity")


def _magnitudes(model: nn.Module, mask: Mask | None) -> dict[str, torch.Tensor]:
    """``|w|`` of all prunable weights, 0 where they are pruned; at least one is not 0, and all are finite."""
    found = {n: w.abs() for n, w in prunable(model).items()}
    if not found:
        raise ValueError("model has no parameter that pruning may touch (a weight of more than one dimension)")
    if mask is not None:
        found = {n: m.masked_fill(~mask[n].to(m.device), 0) for n, m in found.items()}
    for name, m in found.items():
        _check_finite(f"weight {name!r}", m)
    if not any(bool(m.any()) for m in found.values()):
        raise ValueError("model has no live weight left to prune")
    return found


def _global_threshold(magnitudes: dict[str, torch.Tensor], percent: float) -> torch.Tensor:
    """The element at index ``int(n / (100 / percent))`` of the n sorted magnitudes that are not 0: as published."""
    live = torch.cat([m[m != 0] for m in magnitudes.values()])
    return live.sort().values[int(float(live.numel()) / float(100.0 / percent))]


@torch.no_grad()
def prune_magnitude(model: nn.Module, mask: Mask, percent: float, scope: PruningScope = "global") -> Mask:
    """Prune the smallest ``percent`` of the live weights.

    A weight stays if it is not below the threshold, so all that tie with it stay: where many magnitudes are equal,
    fewer than ``percent`` are pruned. The largest stay however high ``percent`` is.

    Args:
        model: its weights are read, not changed (see :meth:`Mask.apply_`).
        mask: what is alive now; the result keeps a subset of it.
        percent: share of the live, non-zero weights to prune, in percent.
        scope: ``global``: one threshold for all layers; ``local``: one a layer (``numpy.percentile``).

    Returns:
        a new mask.

    Raises:
        ValueError: ``percent`` outside (0, 100), unknown ``scope``, no live weight, one that is NaN or infinite, or a
            mask that does not fit. TypeError: an argument of another kind.
    """
    percent = _check_percent(percent)
    if scope not in get_args(PruningScope):
        raise ValueError(f"scope must be one of {', '.join(get_args(PruningScope))}, got {scope!r}")
    check_kind("mask", mask, Mask)
    mask.check(model)
    magnitudes = _magnitudes(model, mask)
    if scope == "global":
        threshold = _global_threshold(magnitudes, percent)
        return Mask({n: mask[n].to(m.device) & (m >= threshold) for n, m in magnitudes.items()})
    return Mask({n: mask[n].to(m.device) & _local_survivors(m, percent) for n, m in magnitudes.items()})


def _local_survivors(magnitude: torch.Tensor, percent: float) -> torch.Tensor:
    live = magnitude[magnitude != 0]
    if live.numel() == 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    exact = live.float() if live.dtype in (torch.float16, torch.bfloat16) else live
    return magnitude >= float(np.percentile(exact.cpu().numpy(), percent))


@torch.no_grad()
def magnitude_mask(model: nn.Module, percent: float) -> Mask:
    """One-shot global mask: prune the smallest ``percent`` of all non-zero weights, whatever any earlier mask says.

    Weights that tie with the threshold stay, as in :func:`prune_magnitude`.

    Raises:
        ValueError: ``percent`` outside (0, 100), no non-zero weight, or one that is NaN or infinite.
    """
    percent = _check_percent(percent)
    magnitudes = _magnitudes(model, None)
    threshold = _global_threshold(magnitudes, percent)
    return Mask({n: m >= threshold for n, m in magnitudes.items()})


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable weights; there are some, and all have gradients."""
    weights = prunable(model)
    if not weights:
        raise ValueError("model has no parameter that pruning may touch (a weight of more than one dimension)")
    frozen = [name for name, w in weights.items() if not w.requires_grad]
    if frozen:
        raise ValueError(f"weight {frozen[0]!r} must require a gradient, which SNIP ranks weights by")
    return weights


def _loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss, labels looked at on the host first: SNIP runs once, and a failed assertion would cost the GPU."""
    if isinstance(y, torch.Tensor) and y.is_cuda and isinstance(logits, torch.Tensor):
        temporal_cross_entropy(logits.detach().cpu(), y.cpu())
    return temporal_cross_entropy(logits, y)


def snip_mask(model: nn.Module, x: torch.Tensor, y: torch.Tensor, percent: float) -> Mask:
    """SNIP (Lee et al., ICLR 2019): prune the ``percent`` of weights with the smallest ``|w * dL/dw|`` on one batch.

    The model is left as it was: parameters, gradients and running statistics.

    Args:
        model: usually at initialisation.
        x: images ``[N, C, H, W]`` or sequences ``[T, N, C, H, W]``.
        y: ``[N]`` class indices, int64.
        percent: share of all prunable weights to prune, in percent; one weight stays at least.

    Raises:
        ValueError: ``percent`` outside (0, 100), images or saliencies that are NaN or infinite, labels that do not
            fit, a frozen weight, or no weight that the loss depends on. TypeError: an argument of another kind.
    """
    percent = _check_percent(percent)
    weights = _trainable(model)
    check_kind("x", x, torch.Tensor)
    _check_finite("x", x)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    was_training = model.training
    model.train()
    try:
        with torch.enable_grad():
            loss = _loss(model(x), y)
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    finally:
        model.train(was_training)
        with torch.no_grad():
            for name, b in model.named_buffers():
                b.copy_(buffers[name])
    saliency = {n: (w.detach() * g).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}
    for name, s in saliency.items():
        _check_finite(f"saliency |w * dL/dw| of {name!r}", s)
    if not any(bool(s.any()) for s in saliency.values()):
        raise ValueError("x has no gradient at any weight of the model: all saliencies are 0")
    keep = max(1, round(sum(s.numel() for s in saliency.values()) * (1 - percent / 100)))
    flat = torch.cat([s.flatten() for s in saliency.values()])
    alive = torch.zeros_like(flat, dtype=torch.bool)
    alive[flat.topk(keep).indices] = True
    parts = alive.split([s.numel() for s in saliency.values()])
    return Mask({n: part.view_as(saliency[n]) for n, part in zip(saliency, parts, strict=True)})


def random_mask(like: Mask, generator: torch.Generator | None = None) -> Mask:
    """A random mask with as many live weights in each layer as ``like`` has: the control that a ticket must beat.

    Raises:
        TypeError: ``like`` is no :class:`Mask`.
    """
    check_kind("like", like, Mask)
    alive = {}
    for name, m in like.items():
        flat = torch.zeros(m.numel(), dtype=torch.bool)
        flat[torch.randperm(m.numel(), generator=generator)[: int(m.count_nonzero())]] = True
        alive[name] = flat.view(m.shape).to(m.device)
    return Mask(alive)
