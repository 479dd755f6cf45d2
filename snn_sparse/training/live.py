"""Optimizers that touch the live weights of masked parameters only, with the numbers of the ordinary ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from snn_sparse.ops.live import gather_live, live_index, scatter_live
from snn_sparse.specs import check_kind

DENSE_ENOUGH = 0.5  # above this density gathering costs more than the dense update


class _Live:
    """Mixed into an optimizer class: it optimizes vectors of live values, taken from the weights and put back."""

    _masked: list[tuple[nn.Parameter, torch.Tensor, nn.Parameter]]  # weight, indices of live entries, their values

    def step(self, closure: Any = None) -> Any:
        """One step; gradients of pruned entries are never read.

        Raises:
            ValueError: a ``closure`` was given.
        """
        if closure is not None:
            raise ValueError("closure is not supported by optimizers of live weights")
        with torch.no_grad():
            for weight, index, values in self._masked:
                values.grad = None if weight.grad is None else gather_live(weight.grad.reshape(-1), index)
                values.data = gather_live(weight.detach().view(-1), index)
            super().step()  # type: ignore[misc]
            for weight, index, values in self._masked:
                if values.grad is not None:
                    # not through the parameter itself: whoever watches its version need not look at pruned entries
                    scatter_live(weight.data.view(-1), index, values.data)
                    values.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop (or zero) the gradients of the weights."""
        super().zero_grad(set_to_none)  # type: ignore[misc]
        for weight, _, _ in self._masked:
            if weight.grad is not None and not set_to_none:
                weight.grad.zero_()
            elif set_to_none:
                weight.grad = None


def live_optimizer(
    kind: type[torch.optim.Optimizer], model: nn.Module, keep: Mapping[str, torch.Tensor], **options: Any
) -> torch.optim.Optimizer:
    """Make an optimizer of class ``kind`` that updates, and keeps state for, the live entries only.

    It gives the numbers that ``kind`` gives for masked dense weights and gradients. The gradients that it reads are the
    weights' own (``weight.grad``). Parameters without a mask, and masks of more than half, are treated as usual.

    Args:
        kind: such as ``torch.optim.SGD`` or ``torch.optim.Adam``; any optimizer that works element by element.
        model: its parameters are optimized.
        keep: parameter name -> bool tensor (such as a :class:`snn_sparse.Mask`); weights must be zero where false.
        **options: of ``kind``.

    Raises:
        ValueError: a mask without a parameter, or of another shape. TypeError: a mask that is no bool tensor, or an
            argument of another kind.
    """
    check_kind("model", model, nn.Module)
    check_kind("keep", keep, Mapping)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise TypeError(f"kind must be a class of torch.optim.Optimizer, got {kind!r}")
    parameters = dict(model.named_parameters())
    for name, mask in keep.items():
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"keep: {name!r} must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ValueError(f"keep: {name!r} is no parameter of the model, or of another shape")
    masked, optimized = [], []
    for name, p in parameters.items():
        found = keep.get(name)
        mask = torch.ones_like(p, dtype=torch.bool) if found is None else found
        if found is None or int(mask.count_nonzero()) > DENSE_ENOUGH * mask.numel() or not p.is_contiguous():
            optimized.append(p)
            continue
        index = live_index(mask.to(p.device))
        values = nn.Parameter(p.detach().view(-1)[index])
        masked.append((p, index, values))
        optimized.append(values)
    live = type(f"Live{kind.__name__}", (_Live, kind), {})
    optimizer = live(optimized, **options)
    optimizer._masked = masked
    return optimizer
