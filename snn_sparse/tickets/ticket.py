"""Ticket files: a mask, its live weights (trained, and where training starts from), and how to build the network."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.tickets.mask import Mask
from snn_sparse.training.files import write_atomic

FORMAT = "snn_sparse.ticket/1"
State = dict[str, torch.Tensor]


def _pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Pack a bool tensor into uint8, eight entries a byte, the first entry in the highest bit."""
    return torch.from_numpy(np.packbits(mask.numpy()))


def _unpack_bits(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits).bool().view(shape)


@dataclass
class Ticket:
    """A pruned subnetwork that can be built, evaluated and trained.

    Attributes:
        config: arguments of :func:`snn_sparse.build_model`.
        mask: the live weights.
        trained: ``state_dict`` after training.
        rewind: ``state_dict`` that training starts from (the rewound or initial weights).
        meta: what else is worth keeping (method, level, accuracy, data set, seed ...); must fit JSON.
    """

    config: dict[str, Any]
    mask: Mask
    trained: State
    rewind: State
    meta: dict[str, Any] = field(default_factory=dict)

    def build(
        self, weights: Literal["trained", "rewind"] = "trained", device: torch.device | str = "cpu"
    ) -> SpikingNetwork:
        """Build the network, load these weights and apply the mask.

        Raises:
            ValueError: ``weights`` is neither ``trained`` nor ``rewind``.
        """
        if weights not in ("trained", "rewind"):
            raise ValueError(f"weights must be 'trained' or 'rewind', got {weights!r}")
        with torch.random.fork_rng(devices=[]):  # building must not disturb the caller's random numbers
            model = build_model(**self.config)
        model.load_state_dict(self.trained if weights == "trained" else self.rewind)
        model.to(device)
        self.mask.apply_(model)
        return model

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, atomically: the mask packed to bits, of the weights the live ones."""
        tensors: State = {}
        for name, m in self.mask.items():
            tensors[f"mask/{name}"] = _pack_bits(m.cpu())
        for group, state in (("trained", self.trained), ("rewind", self.rewind)):
            for name, value in state.items():
                value = value.detach().cpu()
                live = value[self.mask[name].cpu()] if name in self.mask else value
                tensors[f"{group}/{name}"] = live.contiguous().clone()
        header = {
            "format": FORMAT,
            "config": json.dumps(self.config),
            "meta": json.dumps(self.meta),
            "shapes": json.dumps({name: list(m.shape) for name, m in self.mask.items()}),
        }
        write_atomic(path, save(tensors, header))

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Read a ticket file.

        Raises:
            FileNotFoundError: no such file. ValueError: not a ticket file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no ticket file at {path}")
        try:
            with safe_open(path, framework="pt") as f:
                header: Mapping[str, str] = f.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError(f"{path} is not a ticket file of format {FORMAT}")
                tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - safe_open is no mapping
        except SafetensorError as error:
            raise ValueError(f"{path} is not a ticket file: {error}") from error
        shapes = {name: tuple(shape) for name, shape in json.loads(header["shapes"]).items()}
        mask = Mask({name: _unpack_bits(tensors[f"mask/{name}"], shape) for name, shape in shapes.items()})
        states: dict[str, State] = {"trained": {}, "rewind": {}}
        for key, value in tensors.items():
            group, name = key.split("/", 1)
            if group == "mask":
                continue
            if name in mask:
                full = torch.zeros(mask[name].shape, dtype=value.dtype)
                full[mask[name]] = value
                value = full
            states[group][name] = value
        return cls(json.loads(header["config"]), mask, **states, meta=json.loads(header["meta"]))
