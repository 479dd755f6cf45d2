"""Tickets: a mask, its live weights (trained, and where training starts from), and how to build the network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.ticket_file import State, check_network, read_ticket, write_ticket
from snn_sparse.tickets.ticket_header import GROUPS, check_config

Weights = Literal["trained", "rewind"]


@dataclass
class Ticket:
    """A pruned subnetwork that can be built, evaluated and trained.

    Attributes:
        config: arguments of :func:`snn_sparse.build_model`.
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

    def build(self, weights: Weights = "trained", device: torch.device | str = "cpu") -> SpikingNetwork:
        """Build the network, load these weights and apply the mask.

        Raises:
            ValueError: ``weights`` is neither ``trained`` nor ``rewind``, or mask and weights are not those of the
                network that ``config`` describes.
        """
        state = self._weights(weights)
        check_config(self.config, complete=False)
        check_network(self.config, self.mask, {weights: state})  # before anything is allocated
        with torch.random.fork_rng(devices=[]):  # building must not disturb the caller's random numbers
            model = build_model(**self.config)
        model.load_state_dict(state)
        model.to(device)
        self.mask.apply_(model)
        return model

    def _weights(self, weights: Weights) -> State:
        if weights not in GROUPS:
            raise ValueError(f"weights must be 'trained' or 'rewind', got {weights!r}")
        return self.trained if weights == "trained" else self.rewind

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, atomically: the mask packed to bits, of the weights the live ones.

        Raises:
            ValueError: :meth:`load` would refuse the file: a weight is not finite or does not fit the mask, or
                ``config`` or ``meta`` is out of range. TypeError: ``config`` or ``meta`` does not fit JSON.
        """
        write_ticket(path, self.config, self.mask, {"trained": self.trained, "rewind": self.rewind}, self.meta)

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Read a ticket file and check all of it; it may come from a stranger: nothing in it is run.

        Raises:
            FileNotFoundError: no such file. TicketError: it is damaged or makes no sense.
        """
        header, mask, states = read_ticket(path)
        return cls(header.config, mask, states.get("trained", {}), states.get("rewind", {}), header.meta)
