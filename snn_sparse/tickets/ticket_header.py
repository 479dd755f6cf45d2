"""Header of a ticket file, and the checks that a stranger's must pass before anything is built or allocated."""

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, get_args

from snn_sparse.models import ARCHITECTURES, build_model, check_width
from snn_sparse.nn import NEURONS
from snn_sparse.specs import BatchNormStatistics
from snn_sparse.tickets.settings import MOST_TIMESTEPS

FORMATS = ("snn_sparse.ticket/1", "snn_sparse.ticket/2")  # read; the last one is written
Weights = Literal["trained", "rewind"]
GROUPS: tuple[Weights, ...] = get_args(Weights)
TensorKinds = Mapping[str, tuple[str, tuple[int, ...]]]  # name in the file -> dtype as safetensors names it, shape

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 60
short = _shortener.repr  # a value in an error message: one line, whatever it is

_FIELDS = {
    FORMATS[0]: {"format", "config", "meta", "shapes"},
    FORMATS[1]: {"format", "config", "meta", "shapes", "layers", "digest", "checksum"},
}
_YOUNGER = ("width",)  # arguments that files of an earlier version do not have: their default is what those mean
_DEFAULTS = {name: p.default for name, p in signature(build_model).parameters.items()}
# The largest numbers that a network is described with. ImageNet-21k has 21,841 classes, and no image a million
# channels. More is damage, or an attack on the memory.
_MOST = {"num_classes": 10**6, "in_channels": 10**6, "timesteps": MOST_TIMESTEPS}
_CHOICES: dict[str, tuple[str, ...]] = {
    "arch": ARCHITECTURES,
    "neuron": tuple(NEURONS),
    "bn_statistics": get_args(BatchNormStatistics),
}
_MOST_DIMENSIONS = 8  # of a weight: a 3d convolution has five
_COUNTS = {"level": 0, "epochs": 0, "timesteps": 1, "timesteps_early": 1}  # fields of meta and their least value
_PERCENTS, _TEXTS = ("accuracy", "sparsity"), ("method", "dataset", "arch")


@dataclass(frozen=True)
class TicketHeader:
    """Header of a ticket file: all that it says of itself, known without reading its weights.

    Attributes:
        config: arguments of :func:`snn_sparse.build_model`; empty where the network is not one of ours.
        meta: what else was kept (method, level, accuracy, data set, seed ...).
        shapes: of the masked parameters, by name.
        layers: density, dead filters and dead channels of each, as :func:`layer_summary` gives them.
        sparsity: share of pruned weights in percent.
        weights: which of ``trained`` and ``rewind`` the file holds.
        digest: SHA-256 of all tensors; None in files of format 1.
        checksum: SHA-256 of the header, ``digest`` included; None in files of format 1.
    """

    config: dict[str, Any]
    meta: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    layers: list[dict[str, Any]]
    sparsity: float
    weights: tuple[str, ...]
    digest: str | None = None
    checksum: str | None = None


def read_json(field: str, text: str, kind: type) -> Any:
    """Read a header field.

    Raises:
        ValueError: no JSON, NaN or infinity in it, or of another type than ``kind``; names ``field``.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits[:20]} is no finite number")
        return value

    try:
        value = json.loads(text, parse_constant=number, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{field} is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{field} must be a JSON {'object' if kind is dict else 'array'}, got {short(value)}")
    return value


def checksum_of(fields: Mapping[str, str]) -> str:
    """SHA-256 of the header fields but ``checksum`` itself; guards against damage, not against forgers."""
    others = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def check_fields(fields: Mapping[str, str] | None) -> str:
    """Check that the header has the fields of its format and their checksum; returns the format.

    Raises:
        ValueError: no ticket, a field missing or too much, or the checksum is wrong.
    """
    kind = (fields or {}).get("format")
    if not fields or kind not in _FIELDS:
        raise ValueError(f"not a ticket file: format is {short(kind)}, must be one of {', '.join(FORMATS)}")
    for name in sorted(_FIELDS[kind] ^ fields.keys()):
        raise ValueError(f"{short(name)} is {'missing' if name in _FIELDS[kind] else 'no header field'} in {kind}")
    if kind != FORMATS[0] and fields["checksum"] != checksum_of(fields):
        raise ValueError("checksum is not that of the header: the file is damaged")
    return kind


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the arguments of :func:`snn_sparse.build_model` that were left to their defaults; empty stays empty."""
    if not config:
        return {}
    defaults = {name: default for name, default in _DEFAULTS.items() if name != "arch"}
    return {**defaults, **config, "neuron_options": config.get("neuron_options") or {}}


def check_config(config: Mapping[str, Any], complete: bool = True) -> None:
    """Check the arguments of :func:`snn_sparse.build_model`; an empty config is that of a network not ours.

    Args:
        config: by name.
        complete: whether all must be there that the first version knew, or ``arch`` only.

    Raises:
        ValueError: an argument is unknown, missing, of the wrong type or out of range; named.
    """
    if not config:
        return
    for name in config.keys() - _DEFAULTS.keys():
        raise ValueError(f"config.{short(name)} is no argument of build_model")
    for name in _DEFAULTS:
        if name in config:
            _check_argument(name, config[name])
        elif (complete and name not in _YOUNGER) or name == "arch":
            raise ValueError(f"config.{name} is missing")


def _check_argument(name: str, value: Any) -> None:
    if name in _MOST:
        _check_integer(f"config.{name}", value, 1, _MOST[name])
    elif name == "width":
        try:
            check_width(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"config.{error}") from None
    elif name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"config.{name} must be one of {', '.join(_CHOICES[name])}, got {short(value)}")
    elif not isinstance(value, dict):
        raise ValueError(f"config.{name} must be an object, got {short(value)}")
    else:
        for option, chosen in value.items():
            if isinstance(chosen, list) or (isinstance(chosen, dict) and option != "surrogate"):
                raise ValueError(f"config.{name}.{short(option)} must be one value, got {short(chosen)}")


def check_meta(meta: Mapping[str, Any]) -> None:
    """Check the types of the fields of ``meta`` that searches write and reports read; any other may be anything.

    Raises:
        ValueError: a field is of the wrong type or out of range; named.
    """
    for name, value in meta.items():
        field = f"meta.{name}"
        if name in _COUNTS and not (name == "timesteps_early" and value is None):
            _check_integer(field, value, _COUNTS[name], _MOST["timesteps"] if "timesteps" in name else 2**63)
        elif name == "seed":
            _check_integer(field, value, -(2**63), 2**64)
        elif name in _PERCENTS or name == "seconds":
            most = math.inf if name == "seconds" else 100
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise ValueError(f"{field} must be a number from 0 to {most}, got {short(value)}")
        elif name in _TEXTS and not isinstance(value, str):
            raise ValueError(f"{field} must be a string, got {short(value)}")
        elif name == "settings" and not isinstance(value, dict):
            raise ValueError(f"{field} must be an object, got {short(value)}")


def check_shapes(shapes: Mapping[str, Any], tensors: TensorKinds) -> dict[str, tuple[int, ...]]:
    """Check the shapes of the masks against the packed bits in the file; returns them as tuples.

    Raises:
        ValueError: no shape, or the file has more or fewer bits for it; named.
    """
    for name, shape in shapes.items():
        field = f"shapes.{short(name)}"
        if not isinstance(shape, list) or not 1 <= len(shape) <= _MOST_DIMENSIONS:
            raise ValueError(f"{field} must be a list of 1 to {_MOST_DIMENSIONS} sizes, got {short(shape)}")
        for size in shape:
            _check_integer(field, size, 1, 2**63)
        packed = tensors.get(f"mask/{name}")
        if packed is None:
            raise ValueError(f"{field} has no mask in the file")
        if packed != ("U8", (-(-math.prod(shape) // 8),)):
            raise ValueError(f"{field} does not agree with the bytes of its mask")
    for key in tensors:
        if key.startswith("mask/") and key.removeprefix("mask/") not in shapes:
            raise ValueError(f"shapes lacks {short(key)}")
    return {name: tuple(shape) for name, shape in shapes.items()}


def check_layers(layers: list[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Check the summary of the layers; returns the number of live weights of each.

    Raises:
        ValueError: it is none, or that of other shapes; names the layer.
    """
    if len(layers) != len(shapes):
        raise ValueError(f"layers must have a row for each of {len(shapes)} masks, got {len(layers)}")
    live = {}
    for row, (name, shape) in zip(layers, shapes.items(), strict=True):
        field, size = f"layers.{short(name)}", math.prod(shape)
        if not isinstance(row, dict) or row.keys() != {"name", "density", "dead_filters", "dead_channels"}:
            raise ValueError(f"{field} must have name, density, dead_filters and dead_channels, got {short(row)}")
        if row["name"] != name.removesuffix(".weight"):
            raise ValueError(f"{field} is called {short(row['name'])}")
        density = row["density"]
        if not isinstance(density, float) or not 0 <= density <= 100:
            raise ValueError(f"{field}.density must be a number from 0 to 100, got {short(density)}")
        live[name] = round(density / 100 * size)
        _check_integer(f"{field}.dead_filters", row["dead_filters"], 0, shape[0])
        _check_integer(f"{field}.dead_channels", row["dead_channels"], 0, math.prod(shape[1:2]))
    return live


def check_weights(live: Mapping[str, int], tensors: TensorKinds) -> tuple[str, ...]:
    """Check that each group of weights has the live values of every mask; returns the groups that are there.

    Raises:
        ValueError: a tensor belongs to no group, is missing, or has another number of values; named.
    """
    names: dict[str, set[str]] = {group: set() for group in ("mask", *GROUPS)}
    for key in tensors:
        group, _, name = key.partition("/")
        if group not in names or not name:
            raise ValueError(f"tensor {short(key)} belongs to none of {', '.join(names)}")
        names[group].add(name)
    found = tuple(group for group in GROUPS if names[group])
    for group in found:
        for name, count in live.items():
            if tensors.get(f"{group}/{name}", ("", None))[1] != (count,):
                raise ValueError(f"tensor {short(f'{group}/{name}')} must have the {count} live values of its mask")
        for name in sorted(names[group] ^ names[found[0]]):
            raise ValueError(f"tensor {short(name)} is in only one of {' and '.join(GROUPS)}")
    return found


def _check_integer(field: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{field} must be an integer from {least} to {most}, got {short(value)}")
