"""Ticket files on disk: how a mask and its live weights are written, and read back from whoever wrote them.

A file is ``safetensors`` of the format ``snn_sparse.ticket/2``: ``mask/NAME`` are the masks packed to bits (uint8,
eight entries a byte, the first in the highest bit), ``trained/NAME`` and ``rewind/NAME`` the weights, of a masked one
the live values only. The header holds JSON: ``config``, ``meta``, ``shapes`` of the masks and ``layers`` (a summary),
beside ``digest`` (of all tensors) and ``checksum`` (of the header). Format 1 had neither of the two and no ``layers``.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.tickets import ticket_header as headers
from snn_sparse.tickets.layer_summary import layer_summary
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.ticket_header import FORMATS, TicketHeader, short
from snn_sparse.training.files import write_atomic

State = dict[str, torch.Tensor]

_NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class TicketError(ValueError):
    """A ticket file is damaged or makes no sense; the message is one line of path, field and reason."""


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Pack a bool tensor into uint8, eight entries a byte, the first entry in the highest bit."""
    return torch.from_numpy(np.packbits(mask.numpy()))


def unpack_bits(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Unpack what :func:`pack_bits` has packed.

    Raises:
        ValueError: a bit after the last entry is set.
    """
    bits = np.unpackbits(packed.numpy())
    size = math.prod(shape)
    if bits[size:].any():
        raise ValueError("has bits behind its last entry")
    return torch.from_numpy(bits[:size]).bool().view(shape)


def read_header(path: str | Path) -> TicketHeader:
    """Read and check the header of a ticket file, in well under a millisecond; weights are not looked at.

    A file of format 1 has no summary of its layers: there the masks are read too.

    Raises:
        FileNotFoundError: no such file. TicketError: the header is damaged or makes no sense.
    """
    with _opened(path) as file:
        return _header_of(file)


def read_ticket(path: str | Path) -> tuple[TicketHeader, Mask, dict[str, State]]:
    """Read and check a whole ticket file; nothing in it is run, and nothing larger than it says is allocated.

    Returns:
        The header; the mask; the ``state_dict`` of each group of weights in the file, zero where pruned.

    Raises:
        FileNotFoundError: no such file. TicketError: the file is damaged or makes no sense.
    """
    with _opened(path) as file:
        header = _header_of(file)
        tensors = {key: file.get_tensor(key).clone() for key in sorted(file.keys())}
        if header.digest is not None and header.digest != digest_of(tensors):
            raise ValueError("digest is not that of the tensors: the file is damaged")
        mask = _masks(tensors, header.shapes)
        if layer_summary(mask) != header.layers:
            raise ValueError("layers do not agree with the masks")
        states: dict[str, State] = {group: {} for group in header.weights}
        for key, value in tensors.items():
            group, name = key.split("/", 1)
            if group != "mask":
                _check_values(group, name, value)
                states[group][name] = _expand(value, mask[name]) if name in mask else value
        if header.digest is not None:  # a ticket of format 1 may describe no network, and is checked when it is built
            check_network(header.config, mask, states)
        return header, mask, states


def write_ticket(
    path: str | Path, config: Mapping[str, Any], mask: Mask, states: Mapping[str, State], meta: Mapping[str, Any]
) -> None:
    """Write a ticket file, atomically.

    Args:
        path: of the file.
        config: arguments of :func:`snn_sparse.build_model`, or empty.
        mask: live weights.
        states: ``state_dict`` by group, ``trained`` or ``rewind``; one that is empty is left out.
        meta: must fit JSON.

    Raises:
        ValueError: something that :func:`read_ticket` would refuse: a config or meta out of range, a value that is
            not finite, weights that do not fit the mask; named. TypeError: ``config`` or ``meta`` do not fit JSON.
    """
    config = headers.complete_config(config)
    headers.check_config(config)
    headers.check_meta(meta)
    mask = mask.to("cpu")
    tensors = {f"mask/{name}": pack_bits(m) for name, m in mask.items()}
    for group, state in states.items():
        for name in mask if state else ():
            if name not in state or state[name].shape != mask[name].shape:
                raise ValueError(f"{group} weights do not fit the mask: {name!r} is missing or of another shape")
        for name, value in state.items():
            value = value.detach().cpu()
            live = value[mask[name]] if name in mask else value
            _check_values(group, name, live)
            tensors[f"{group}/{name}"] = live.contiguous().clone()
    fields = {
        "format": FORMATS[-1],
        "config": json.dumps(config, allow_nan=False),
        "meta": json.dumps(meta, allow_nan=False),
        "shapes": json.dumps({name: list(m.shape) for name, m in mask.items()}),
        "layers": json.dumps(layer_summary(mask)),
        "digest": digest_of(tensors),
    }
    write_atomic(path, save(tensors, {**fields, "checksum": headers.checksum_of(fields)}))


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype).removeprefix("torch."), list(value.shape)]).encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_network(config: Mapping[str, Any], mask: Mask, states: Mapping[str, State]) -> None:
    """Check mask and weights against the network that ``config`` describes, without building it.

    Raises:
        ValueError: the network has other parameters, or other shapes of them, or a weight is not finite in its dtype;
            named. Nothing is checked where ``config`` is empty.
    """
    if not config:
        return
    model = _described(json.dumps(dict(config), sort_keys=True))
    mask.check(model)
    expected = model.state_dict()
    for group, state in states.items():
        check_state(group, state, expected)
        for name, value in state.items():
            if value.dtype != expected[name].dtype:
                _check_values(group, name, value.to(expected[name].dtype))


def check_state(group: str, state: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> None:
    """Check names and shapes of weights against the ``state_dict`` of a network.

    Raises:
        ValueError: a weight is in only one of the two, or of another shape or kind of number; names it and ``group``.
    """
    for name in [n for n in (*network, *state) if (n in state) != (n in network)]:
        where = "only in the network" if name in network else "not in the network"
        raise ValueError(f"{group} weights do not fit the network: {short(name)} is {where}")
    for name, value in state.items():
        like = network[name]
        if value.shape != like.shape or value.is_floating_point() != like.is_floating_point():
            raise ValueError(
                f"{group} weights do not fit the network: {short(name)} is {value.dtype} {tuple(value.shape)}, "
                f"{like.dtype} {tuple(like.shape)} there"
            )


class _OnlyShapes(TorchFunctionMode):
    """Leaves initialisation out: a network that is only described has no values, and torch needs a second to say so."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name.endswith("normal_"):
            return None
        if name == "empty":  # torch.device("meta") does not see it where somebody has wrapped torch.empty
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@lru_cache(maxsize=32)
def _described(config: str) -> SpikingNetwork:
    """The network of a config (as JSON) on the meta device: shapes and names, no memory."""
    try:
        with torch.device("meta"), _OnlyShapes():
            return build_model(**json.loads(config))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"config describes no network: {error}") from None


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a file; whatever is wrong with it becomes a TicketError of one line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no ticket file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise TicketError(f"{path}: not a ticket file: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise TicketError(f"{path}: {' '.join(str(error).split())}") from error


def _header_of(file: Any) -> TicketHeader:
    fields = file.metadata()
    kind = headers.check_fields(fields)
    config = headers.read_json("config", fields["config"], dict)
    headers.check_config(config, complete=kind != FORMATS[0])
    meta = headers.read_json("meta", fields["meta"], dict)
    headers.check_meta(meta)
    slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    kinds = {key: (s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    shapes = headers.check_shapes(headers.read_json("shapes", fields["shapes"], dict), kinds)
    if kind == FORMATS[0]:
        layers = layer_summary(_masks({key: file.get_tensor(key) for key in kinds if key.startswith("mask/")}, shapes))
    else:
        layers = headers.read_json("layers", fields["layers"], list)
    live = headers.check_layers(layers, shapes)
    size = sum(math.prod(shape) for shape in shapes.values())
    sparsity = 100.0 * (1.0 - sum(live.values()) / size) if size else 0.0
    weights = headers.check_weights(live, kinds)
    return TicketHeader(config, meta, shapes, layers, sparsity, weights, fields.get("digest"), fields.get("checksum"))


def _masks(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Mask:
    keep = {}
    for name, shape in shapes.items():
        try:
            keep[name] = unpack_bits(tensors[f"mask/{name}"], shape)
        except ValueError as error:
            raise ValueError(f"mask {short(name)} {error}") from None
    return Mask(keep)


def _expand(live: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    full = torch.zeros(mask.shape, dtype=live.dtype)
    full[mask] = live
    return full


def _check_values(group: str, name: str, value: torch.Tensor) -> None:
    weight = f"{group} weight {short(name)}"
    if value.dtype not in (*_NUMBERS, *_WHOLE):
        raise ValueError(f"{weight} is {value.dtype}, which no ticket holds")
    if value.dtype in _NUMBERS and not value.isfinite().all():
        raise ValueError(f"{weight} has a value that is not finite")
    if name.endswith("num_batches_tracked") and (value.dtype not in _WHOLE or value.dim() or not value >= 0):
        raise ValueError(f"{weight} must be one integer of at least 0")
