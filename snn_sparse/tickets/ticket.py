"""Tickets: a mask, its live weights (trained, and where training starts from), and the network that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.ticket_file import State, check_network, check_state, read_ticket, write_ticket
from snn_sparse.tickets.ticket_header import GROUPS, Weights, check_config, check_meta


@dataclass
class Ticket:
    """A pruned subnetwork that can be built, evaluated, trained and shared.

    Attributes:
        config: arguments of :func:`snn_sparse.build_model`; empty where the network is not one of ours.
        mask: the live weights.
        trained: ``state_dict`` after training; empty where the ticket has none.
        rewind: ``state_dict`` that training starts from (the rewound or initial weights); empty where it has none.
        meta: what else is worth keeping (method, level, accuracy, data set, seed ...); must fit JSON.
    """

    config: dict[str, Any]
    mask: Mask
    trained: State
    rewind: State
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls, model: nn.Module, mask: Mask, *, rewind: Mapping[str, torch.Tensor] | None = None, **meta: Any
    ) -> "Ticket":
        """Make a ticket of any network: its weights as they are now, zero where ``mask`` prunes them.

        Args:
            model: its ``state_dict`` becomes the ``trained`` weights, copied to the CPU; ``model`` is not changed.
            mask: live weights of ``model``.
            rewind: ``state_dict`` that training started from, if the ticket is to have it.
            **meta: what else is worth keeping, such as ``accuracy=93.1`` (percent) or ``dataset="cifar10"``.

        Raises:
            ValueError: mask or ``rewind`` do not fit ``model``, or an entry of ``meta`` is out of range. TypeError: an
                entry of a ``state_dict`` is no tensor.
        """
        check_meta(meta)
        mask.check(model)
        mask = mask.to("cpu")
        trained = _under(mask, model.state_dict())
        start = {} if rewind is None else _under(mask, rewind)
        if rewind is not None:
            check_state("rewind", start, trained)
        return cls(_config_of(model, mask, trained), mask, trained, start, meta)

    def state(self, weights: Weights = "trained") -> State:
        """Return a group of weights, as a ``state_dict``.

        Raises:
            ValueError: ``weights`` is neither ``trained`` nor ``rewind``, or the ticket does not have them.
        """
        if weights not in GROUPS:
            raise ValueError(f"weights must be 'trained' or 'rewind', got {weights!r}")
        state = self.trained if weights == "trained" else self.rewind
        if not state:
            raise ValueError(f"this ticket has no {weights!r} weights: it was made or saved without them")
        return state

    def build(self, weights: Weights = "trained", device: torch.device | str = "cpu") -> SpikingNetwork:
        """Build the network, load these weights and apply the mask.

        Raises:
            ValueError: ``weights`` is neither ``trained`` nor ``rewind``, the ticket does not have them, mask and
                weights are not those of the network that ``config`` describes, or there is no ``config``, since the
                network is not one of ours: make it yourself, then :meth:`apply_to`.
        """
        state = self.state(weights)
        if not self.config:
            raise ValueError(
                "this ticket is of a network that is not ours: make that network, then ticket.apply_to(it)"
            )
        check_config(self.config, complete=False)
        check_network(self.config, self.mask, {weights: state})  # before anything is allocated
        with torch.random.fork_rng(devices=[]):  # building must not disturb the caller's random numbers
            model = build_model(**self.config)
        model.load_state_dict(state)
        model.to(device)
        self.mask.apply_(model)
        return model

    def apply_to(self, model: nn.Module, weights: Weights = "trained") -> nn.Module:
        """Load these weights into a network that is there already, in place, and apply the mask.

        Args:
            model: any network whose ``state_dict`` has the names and shapes of the ticket's; a fused one too. A mask
                that it has is replaced.
            weights: ``trained`` or ``rewind``.

        Returns:
            ``model``.

        Raises:
            ValueError: a weight of the ticket or of ``model`` has no counterpart of its shape, named; or as
                :meth:`state`. ``model`` is unchanged then.
        """
        state = self.state(weights)
        check_state(weights, state, model.state_dict())
        self.mask.check(model)
        model.load_state_dict(state)
        self.mask.apply_(model)
        return model

    def save(self, path: str | Path, weights: Sequence[Weights] = GROUPS) -> None:
        """Write a ``.safetensors`` file, atomically: the mask packed to bits, of the weights the live ones.

        Args:
            path: of the file.
            weights: which weights go into it, of those that the ticket has; ``("trained",)`` halves a file to share.

        Raises:
            ValueError: ``weights`` names none, or :meth:`load` would refuse the file: a weight is not finite or does
                not fit the mask, or ``config`` or ``meta`` is out of range. TypeError: ``config`` or ``meta`` does not
                fit JSON.
        """
        if isinstance(weights, str) or not weights or not set(weights) <= set(GROUPS):
            raise ValueError(f"weights must be some of 'trained' and 'rewind' in a tuple, got {weights!r}")
        states = {"trained": self.trained, "rewind": self.rewind}
        write_ticket(path, self.config, self.mask, {group: states[group] for group in weights}, self.meta)

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Read a ticket file and check all of it; it may come from a stranger: nothing in it is run.

        Raises:
            FileNotFoundError: no such file. TicketError: it is damaged or makes no sense.
        """
        header, mask, states = read_ticket(path)
        return cls(header.config, mask, states.get("trained", {}), states.get("rewind", {}), header.meta)


def _config_of(model: nn.Module, mask: Mask, state: State) -> dict[str, Any]:
    """Arguments that build ``model`` again; empty where there are none, or it was changed since."""
    if not isinstance(model, SpikingNetwork) or not model.config:
        return {}
    config = {**model.config, "timesteps": model.timesteps}
    check_config(config)
    try:
        check_network(config, mask, {"trained": state})
    except ValueError:
        return {}
    return config


def _under(mask: Mask, state: Mapping[str, Any]) -> State:
    """A copy of a ``state_dict`` on the CPU, zero where the mask prunes."""
    copy = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"state_dict entry {name!r} is no tensor, but a {type(value).__name__}")
        value = value.detach().to("cpu", copy=True)
        fits = name in mask and mask[name].shape == value.shape
        copy[name] = value.masked_fill_(~mask[name], 0) if fits else value
    return copy
