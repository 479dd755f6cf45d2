"""Guard of pruned weights in layers that do not own their mask: they, and their gradients, stay zero."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def owner_of(model: nn.Module, name: str) -> Any:
    """The layer that holds a weight, if it owns its mask; else None."""
    module = model.get_submodule(name.rpartition(".")[0])
    return module if name.endswith(".weight") and hasattr(module, "set_mask") else None


class Guard:
    """Forward pre-hook that keeps pruned weights of foreign layers, and their gradients, at zero."""

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        self.masks = dict(masks)
        self.handle: Any = None
        self._guarded: dict[str, tuple[nn.Parameter, Any]] = {}

    def __deepcopy__(self, memo: dict) -> "Guard":
        # A copied model has new parameters: the copy guards those, from its first forward pass on.
        return Guard(self.masks)

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: hooks are registered again by the first forward pass."""
        return {"masks": self.masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.masks, self.handle, self._guarded = state["masks"], None, {}

    def __call__(self, model: nn.Module, _inputs: Any) -> None:
        """Zero what anybody has written to pruned weights; guard parameters that are new."""
        for name in [n for n in self.masks if owner_of(model, n) is not None]:  # the network was fused since
            self._release(name)
            owner_of(model, name).set_mask(self.masks.pop(name))
        weights = dict(model.named_parameters())
        for name, mask in self.masks.items():
            weight = weights[name]
            if mask.device != weight.device:
                mask = self.masks[name] = mask.to(weight.device)
            weight.data.masked_fill_(~mask, 0)
            if self._guarded.get(name, (None,))[0] is not weight:
                self._guard(name, weight)

    def _guard(self, name: str, weight: nn.Parameter) -> None:
        if name in self._guarded and self._guarded[name][1] is not None:
            self._guarded[name][1].remove()
        handle = (
            weight.register_hook(lambda grad: grad.masked_fill(~self.masks[name], 0)) if weight.requires_grad else None
        )
        self._guarded[name] = (weight, handle)
        if weight.grad is not None:
            weight.grad.masked_fill_(~self.masks[name], 0)

    def _release(self, name: str) -> None:
        _, handle = self._guarded.pop(name, (None, None))
        if handle is not None:
            handle.remove()

    def release(self) -> None:
        """Remove all hooks."""
        for name in list(self._guarded):
            self._release(name)
        if self.handle is not None:
            self.handle.remove()
