"""Answers of layers on fake tensors: what has answered once is not asked again for the same shapes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion import layers

Tensor = torch.Tensor
call_as_written = nn.Module.__call__


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has hooks on a module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class Answers:
    """Shapes and dtypes that modules have answered with; on fake tensors nothing else counts."""

    def __init__(self) -> None:
        self._known: dict[Any, Tensor] = {}

    def ask(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, bool]:
        """The answer of a module, and whether it was asked for it; hooks of the user's are not called."""
        given = tree_flatten((args, kwargs))[0]
        tensors = [v for v in given if isinstance(v, Tensor)]
        if layers.kind_of(module) == "norm" and len(given) == 1:
            return torch.empty_like(tensors[0]), False
        key = (id(module), torch.is_grad_enabled(), *((v.shape, v.dtype) for v in tensors), len(given))
        if key in self._known:
            return torch.empty_like(self._known[key]), False
        run: Callable = module.forward if has_hooks(module) else call_as_written
        out = run(*args, **kwargs) if has_hooks(module) else run(module, *args, **kwargs)
        if isinstance(out, Tensor) and len(tensors) == len(given) == 1 and out is not tensors[0]:
            self._known[key] = out
        return out, True
