"""Masks: which weights of a network are alive."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from snn_sparse.specs import check_kind
from snn_sparse.tickets import foreign_masks
from snn_sparse.tickets.mask_guard import Guard, owner_of


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that pruning may touch: ``weight`` in the name, more than one dimension.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_kind("model", model, nn.Module)
    return {name: p for name, p in model.named_parameters() if "weight" in name and p.dim() > 1}


class Mask(Mapping[str, torch.Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, true where the weight is alive.

    A mask never changes: pruning returns a new one.

    Args:
        keep: the tensors, by parameter name.

    Raises:
        TypeError: an entry is no bool tensor, or its name no text.
    """

    def __init__(self, keep: Mapping[str, torch.Tensor]) -> None:
        check_kind("keep", keep, Mapping)
        for name, tensor in keep.items():
            check_kind("name of a mask", name, str)
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.bool:
                raise TypeError(f"mask {name!r} must be a bool tensor")
        self._keep = dict(keep)

    @classmethod
    def dense(cls, model: nn.Module) -> "Mask":
        """Make the mask under which every prunable weight of ``model`` is alive.

        Raises:
            ValueError: the model has no prunable weight.
        """
        weights = prunable(model)
        if not weights:
            raise ValueError("model has no parameter that pruning may touch (a weight of more than one dimension)")
        return cls({name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()})

    @classmethod
    def from_prune(cls, model: nn.Module, permanent: bool = False) -> "Mask":
        """Take over the masks of ``torch.nn.utils.prune``; weights without one are alive.

        Args:
            model: some of its weights are under ``torch.nn.utils.prune``.
            permanent: whether to take that pruning off, leaving zeros; then :meth:`apply_` can keep them zero.

        Raises:
            ValueError: nothing is pruned so, or a bias is too.
        """
        mask = cls(foreign_masks.read_prune(model, prunable(model)))
        if permanent:
            foreign_masks.remove_prune(model)
        return mask

    @classmethod
    def from_zeros(cls, source: nn.Module | Mapping[str, Any], model: nn.Module | None = None) -> "Mask":
        """Make the mask under which those weights are alive that are not exactly zero.

        Args:
            source: a model, or a ``state_dict``; also one saved under ``torch.nn.utils.prune``, with the prefix
                ``module.``, or inside another dict.
            model: the network that a ``state_dict`` is for; without it, every tensor of the ``state_dict`` counts that
                has ``weight`` in its name and more than one dimension.

        Raises:
            ValueError: a weight is missing or of another shape. TypeError: ``source`` is neither.
        """
        if isinstance(source, nn.Module):
            model, source = source if model is None else model, source.state_dict()
        elif not isinstance(source, Mapping):
            raise TypeError(f"source must be a torch.nn.Module or a state_dict, got {type(source).__name__}")
        return cls(foreign_masks.read_zeros(source, None if model is None else prunable(model)))

    @classmethod
    def from_file(cls, path: str | Path, model: nn.Module) -> "Mask":
        """Read the masks that lottery-ticket code dumps with ``pickle`` or ``torch.save``; nothing in the file is run.

        Args:
            path: a list of numpy arrays or tensors, one for each prunable weight in order, or a dict of them by name;
                0 or 1, of any number type.
            model: the network that they are for.

        Raises:
            FileNotFoundError: no such file. ValueError: it is damaged, asks for code, or does not fit ``model``; named.
        """
        return cls(foreign_masks.read_file(path, model, prunable(model)))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

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
        """Move it to another device."""
        return Mask({name: m.to(device) for name, m in self.items()})

    def equal(self, other: "Mask") -> bool:
        """Whether both masks keep exactly the same weights; masks of different networks are not equal."""
        check_kind("other", other, Mask)
        return self.keys() == other.keys() and all(torch.equal(m.cpu(), other[n].cpu()) for n, m in self.items())

    def fingerprint(self) -> str:
        """Name it by its content: equal masks have the same 64 hexadecimal digits, others have not."""
        content = hashlib.sha256()
        for name, m in sorted(self.items()):
            content.update(f"{name} {tuple(m.shape)}".encode() + np.packbits(m.cpu().numpy()).tobytes())
        return content.hexdigest()

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

        Fused layers own their mask: they compute under it, and the gradient of a pruned weight is exactly zero; other
        layers are held by hooks. For a new optimizer its state and updates there are zero too, weight decay included. A
        pruned weight that somebody writes, through ``.data`` too, counts as zero in every forward pass.

        Args:
            model: masked in place.
            optimizer: one that has already made steps: its state is zeroed at the pruned weights too.

        Returns:
            ``model``.

        Raises:
            ValueError: the mask does not fit the model. TypeError: an argument of another kind.
        """
        self.check(model)
        if optimizer is not None:
            check_kind("optimizer", optimizer, torch.optim.Optimizer)
        self.remove_(model)
        foreign = {}
        for name, mask in self.items():
            owner = owner_of(model, name)
            if owner is not None:
                owner.set_mask(mask)
            else:
                foreign[name] = mask
        if foreign:
            guard = Guard(foreign)
            guard.handle = model.register_forward_pre_hook(guard)
            guard(model, None)
        if optimizer is not None:
            self._clear_state(model, optimizer)
        return model

    def to_prune_(self, model: nn.Module) -> nn.Module:
        """Hand the mask to ``torch.nn.utils.prune``, in place of :meth:`apply_`; returns ``model``.

        Raises:
            ValueError: the mask does not fit the model.
        """
        self.check(model)
        self.remove_(model)
        for name, mask in self.items():
            prefix, _, own = name.rpartition(".")
            prune.custom_from_mask(model.get_submodule(prefix), own, mask)
        return model

    @torch.no_grad()
    def _clear_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Zero the optimizer's state (momentum, moments) at the pruned weights."""
        for name, weight in prunable(model).items():
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.masked_fill_(~self[name].to(value.device), 0)

    @staticmethod
    def remove_(model: nn.Module) -> None:
        """Let all weights of ``model`` train again; the pruned ones start from zero."""
        check_kind("model", model, nn.Module)
        for module in model.modules():
            if getattr(module, "keep_mask", None) is not None:
                module.set_mask(None)  # type: ignore[operator]
        for hook in list(model._forward_pre_hooks.values()):
            if isinstance(hook, Guard):
                hook.release()


def mask_distance(a: Mask, b: Mask) -> float:
    """Fraction of prunable entries in which two masks differ (Early-Bird tickets, You et al., ICLR 2020).

    Raises:
        ValueError: the masks belong to different networks, or have no entries. TypeError: no :class:`Mask`.
    """
    check_kind("a", a, Mask)
    check_kind("b", b, Mask)
    if a.keys() != b.keys() or any(a[n].shape != b[n].shape for n in a):
        raise ValueError("masks a and b have different parameters: they belong to different networks")
    if not a.size:
        raise ValueError("masks a and b have no entries that could differ")
    differing = sum(int((a[n] != b[n].to(a[n].device)).count_nonzero()) for n in a)
    return differing / a.size
