"""Masks of the benchmarked networks: drawn, or from tickets that a search has found."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

import snn_sparse as ss


def uniform_mask(model: nn.Module, sparsity: float) -> ss.Mask:
    """Each weight pruned with the same probability, in percent; always the same mask."""
    generator = torch.Generator().manual_seed(1)
    weights = ss.tickets.prunable(model)
    return ss.Mask({n: torch.rand(p.shape, generator=generator) >= sparsity / 100 for n, p in weights.items()})


def zero_small(model: nn.Module) -> None:
    """The published code's way of keeping pruned weights at zero: no gradient where ``|w| < 1e-6``."""
    for name, p in model.named_parameters():
        if "weight" in name and p.dim() > 1 and p.grad is not None:
            p.grad.data = torch.where(p.data.abs() < 1e-6, torch.zeros_like(p.grad), p.grad)


@dataclass(frozen=True)
class TicketMask:
    """The mask of a ticket file.

    Attributes:
        path: of the file.
        arch: name of its network.
        mask: live weights.
    """

    path: str
    arch: str
    mask: ss.Mask

    @property
    def provider(self) -> str:
        """Under which its rows go."""
        return f"fused {self.mask.sparsity:.2f} % ticket bf16"

    def of(self, model: nn.Module) -> ss.Mask:
        """The mask, if it fits ``model``.

        Raises:
            ValueError: it does not.
        """
        try:
            self.mask.check(model)
        except ValueError as error:
            raise ValueError(f"--ticket {self.path}: {error}") from error
        return self.mask


def load_tickets(paths: Sequence[str], archs: Sequence[str]) -> list[TicketMask]:
    """The masks of ticket files.

    Raises:
        ValueError: no such file, no ticket, one for none of the networks, or two that would get the same rows.
    """
    found: list[TicketMask] = []
    for path in paths:
        try:
            ticket = ss.Ticket.load(path)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        one = TicketMask(path, str(ticket.config.get("arch")), ticket.mask)
        if one.arch not in archs:
            raise ValueError(f"--ticket {path} is for {one.arch}, which is not among --arch {' '.join(archs)}")
        if any((one.arch, one.provider) == (other.arch, other.provider) for other in found):
            raise ValueError(f"--ticket {path}: a ticket for {one.arch} of the same sparsity was given already")
        found.append(one)
    return found
