"""Masks: which weights of a network are alive."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that pruning may touch: ``weight`` in the name, more than one dimension."""
    return {name: p for name, p in model.named_parameters() if "weight" in name and p.dim() > 1}


class Mask(Mapping[str, torch.Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, true where the weight is alive.

    A mask never changes: pruning returns a new one.

    Args:
        alive: the tensors, by parameter name.

    Raises:
        TypeError: an entry is no bool tensor.
    """

    def __init__(self, alive: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in alive.items():
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.bool:
                raise TypeError(f"mask {name!r} must be a bool tensor")
        self._alive = dict(alive)

    @classmethod
    def dense(cls, model: nn.Module) -> "Mask":
        """The mask under which every prunable weight of ``model`` is alive.

        Raises:
            ValueError: the model has no prunable weight.
        """
        weights = prunable(model)
        if not weights:
            raise ValueError("model has no parameter that pruning may touch (a weight of more than one dimension)")
        return cls({name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._alive[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._alive)

    def __len__(self) -> int:
        return len(self._alive)

    def __repr__(self) -> str:
        return f"Mask({len(self)} layers, {self.live} of {self.size} weights alive, {self.sparsity:.2f} % pruned)"

    @property
    def size(self) -> int:
        """Number of entries."""
        return sum(m.numel() for m in self.values())

    @property
    def live(self) -> int:
        """Number of live weights."""
        return sum(int(m.count_nonzero()) for m in self.values())

    @property
    def sparsity(self) -> float:
        """Share of pruned weights in percent."""
        return 100.0 * (1.0 - self.live / self.size) if self.size else 0.0

    def to(self, device: torch.device | str) -> "Mask":
        """The same mask on another device."""
        return Mask({name: m.to(device) for name, m in self.items()})

    def equal(self, other: "Mask") -> bool:
        """Whether both masks keep exactly the same weights."""
        return self.keys() == other.keys() and all(torch.equal(m.cpu(), other[n].cpu()) for n, m in self.items())

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError unless the mask fits the prunable parameters of ``model``."""
        weights = prunable(model)
        if self.keys() != weights.keys():
            wrong = sorted(self.keys() ^ weights.keys())
            raise ValueError(f"mask does not fit the model: {wrong[0]!r} is in only one of the two")
        for name, m in self.items():
            if m.shape != weights[name].shape:
                raise ValueError(
                    f"mask does not fit the model: {name!r} is {tuple(m.shape)} in the mask, "
                    f"{tuple(weights[name].shape)} in the model"
                )

    def apply_(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Zero the pruned weights of ``model`` and keep them zero while it trains; replaces an earlier mask.

        From then on the gradient of a pruned weight is exactly zero, and so, for a new optimizer, are its state and its
        updates, weight decay included. Each forward pass makes sure of the weights themselves.

        Args:
            model: masked in place.
            optimizer: one that has already made steps: its state is zeroed at the pruned weights too.

        Returns:
            ``model``.

        Raises:
            ValueError: the mask does not fit the model.
        """
        self.check(model)
        self.remove_(model)
        keeper = _Keeper(self)
        keeper.handle = model.register_forward_pre_hook(keeper)
        keeper(model, None)
        if optimizer is not None:
            keeper.clear_state(model, optimizer)
        return model

    @staticmethod
    def remove_(model: nn.Module) -> None:
        """Let all weights of ``model`` train again; the pruned ones start from zero."""
        for hook in list(model._forward_pre_hooks.values()):
            if isinstance(hook, _Keeper):
                hook.release(model)


def _owner(model: nn.Module, name: str) -> Any:
    """The layer that holds a weight, if it can compute by a mask; else None."""
    module = model.get_submodule(name.rpartition(".")[0])
    return module if name.endswith(".weight") and hasattr(module, "set_mask") else None


class _Keeper:
    """Forward pre-hook that keeps pruned weights and their gradients at zero."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.handle: Any = None
        self._guarded: dict[str, tuple[nn.Parameter, Any, torch.Tensor, int]] = {}

    def __deepcopy__(self, memo: dict) -> "_Keeper":
        # A copied model has new parameters: the copy guards those, from its first forward pass on.
        return _Keeper(self.mask)

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: hooks are registered again by the first forward pass."""
        return {"mask": self.mask}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.mask, self.handle, self._guarded = state["mask"], None, {}

    def __call__(self, model: nn.Module, _inputs: Any) -> None:
        """Zero what an optimizer may have moved since the last call; guard parameters that are new."""
        weights = prunable(model)
        for name in self.mask:
            weight, owner = weights[name], _owner(model, name)
            if getattr(owner, "live_mask", owner) is not self.mask[name] and owner is not None:
                owner.set_mask(self.mask[name])
            known = self._guarded.get(name)
            if known is None or known[0] is not weight or known[2].device != weight.device:
                known = self._guard(name, weight, owner)
            if weight._version != known[3]:
                with torch.no_grad():
                    weight.masked_fill_(known[2], 0)
                self._guarded[name] = (*known[:3], weight._version)

    def _guard(self, name: str, weight: nn.Parameter, owner: Any) -> tuple[nn.Parameter, Any, torch.Tensor, int]:
        if name in self._guarded and self._guarded[name][1] is not None:
            self._guarded[name][1].remove()
        pruned = ~self.mask[name].to(weight.device)

        def gradient_hook(grad: torch.Tensor) -> torch.Tensor:
            return grad if owner is not None and owner.gradient_is_masked else grad.masked_fill(pruned, 0)

        handle = weight.register_hook(gradient_hook) if weight.requires_grad else None
        self._guarded[name] = (weight, handle, pruned, -1)
        if weight.grad is not None:
            weight.grad.masked_fill_(pruned, 0)
        return self._guarded[name]

    def clear_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Zero the optimizer's state (momentum, moments) at the pruned weights."""
        for name, weight in prunable(model).items():
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.masked_fill_(self._guarded[name][2], 0)

    def release(self, model: nn.Module) -> None:
        """Remove all hooks; layers that compute by the mask forget it."""
        for name in self.mask:
            owner = _owner(model, name)
            if owner is not None:
                owner.set_mask(None)
        for _, handle, _, _ in self._guarded.values():
            if handle is not None:
                handle.remove()
        if self.handle is not None:
            self.handle.remove()


def mask_distance(a: Mask, b: Mask) -> float:
    """Fraction of prunable entries in which two masks differ (Early-Bird tickets, You et al., ICLR 2020).

    Raises:
        ValueError: the masks belong to different networks.
    """
    if a.keys() != b.keys() or any(a[n].shape != b[n].shape for n in a):
        raise ValueError("masks a and b have different parameters: they belong to different networks")
    differing = sum(int((a[n] != b[n].to(a[n].device)).count_nonzero()) for n in a)
    return differing / a.size
