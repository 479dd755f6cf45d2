"""Masks that others have written: ``torch.nn.utils.prune``, the zeros of a checkpoint, pickled arrays."""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

Tensors = dict[str, torch.Tensor]
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a file that torch.save wrote before its zip format
_BYTES_PER_WEIGHT, _BYTES_BESIDE = 64, 2**20  # of a file: more than the most wasteful pickle needs
_DEPTH = 4  # of dicts inside dicts; a pickle may hold one that holds itself


def pruned_by_torch(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Tensors under ``torch.nn.utils.prune``: parameter name, the module that holds it, its name there."""
    found = []
    for prefix, module in model.named_modules():
        for key in list(module._parameters):
            name = key.removesuffix("_orig")
            if name != key and f"{name}_mask" in module._buffers:
                found.append((f"{prefix}.{name}" if prefix else name, module, name))
    return found


def read_prune(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> Tensors:
    """Read the masks of ``torch.nn.utils.prune``, by the names that the parameters have without it.

    Args:
        model: some of its weights are under ``torch.nn.utils.prune``.
        weights: its prunable parameters, as they are named now.

    Raises:
        ValueError: nothing is pruned so, something is that a mask cannot hold (a bias), or an entry is neither 0 nor 1.
    """
    pruned = {name: getattr(module, f"{key}_mask") for name, module, key in pruned_by_torch(model)}
    if not pruned:
        raise ValueError("model has no parameter under torch.nn.utils.prune")
    keep = {}
    for name, weight in weights.items():
        plain = name.removesuffix("_orig")
        if plain in pruned:
            keep[plain] = _as_bool(plain, pruned.pop(plain), weight)
        else:
            keep[name] = torch.ones_like(weight, dtype=torch.bool)
    if pruned:
        raise ValueError(f"{next(iter(pruned))!r} is pruned, but no weight of more than one dimension")
    return keep


def remove_prune(model: nn.Module) -> None:
    """Make the pruning of weights permanent: the parameters have their own names again, with zeros inside."""
    for _, module, name in pruned_by_torch(model):
        prune.remove(module, name)


def read_zeros(state: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None) -> Tensors:
    """Read off which weights of a ``state_dict`` are not exactly zero.

    Args:
        state: tensors by name; also one saved under ``torch.nn.utils.prune`` or ``DataParallel``, or inside a dict.
        weights: the prunable parameters of the model; None: each ``weight`` of more than one dimension in ``state``.

    Raises:
        ValueError: a parameter is missing or of another shape, or there is none; named.
    """
    values = dict(_descend(state))
    for name in [k.removesuffix("_orig") for k in values if k.endswith("_orig")]:
        if f"{name}_mask" in values:
            values[name] = values.pop(f"{name}_orig") * values.pop(f"{name}_mask")
    values = {k: v for k, v in _without_prefix(values, weights).items() if isinstance(v, torch.Tensor)}
    if weights is None:
        found = {name: v for name, v in values.items() if "weight" in name and v.dim() > 1}
        if not found:
            raise ValueError("state_dict has no weight of more than one dimension")
        return {name: v != 0 for name, v in found.items()}
    weights = {name.removesuffix("_orig"): w for name, w in weights.items()}
    for name, weight in weights.items():
        if name not in values:
            raise ValueError(f"state_dict has no parameter {name!r}")
        _check_shape(name, values[name].shape, weight)
    return {name: (values[name] != 0).to(weight.device) for name, weight in weights.items()}


def read_file(path: str | Path, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> Tensors:
    """Read a pickle or a ``torch.save`` file of masks; nothing in it is run.

    Args:
        path: a list of arrays or tensors, one for each of ``weights`` in order (or for each parameter with ``weight``
            in its name; those of one dimension must be all ones), or a dict of them by name. Entries are 0 or 1.
        model: whom the masks are for.
        weights: its prunable parameters.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, asks for anything but arrays and tensors, or does
            not fit ``model``; the message names the file.
    """
    path = Path(path)
    most = _BYTES_BESIDE + _BYTES_PER_WEIGHT * sum(p.numel() for p in model.parameters())
    if path.stat().st_size > most:
        raise ValueError(f"{path} is too large for masks of this model: more than {most} bytes")
    content = _descend(_load(path))
    named = {name: p for name, p in model.named_parameters() if "weight" in name}
    try:
        if isinstance(content, Mapping):
            return _from_names(_without_prefix(dict(content), named), named, weights)
        if isinstance(content, list | tuple):
            return _from_names(_name(content, named, weights), named, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    raise ValueError(f"{path} holds no list and no dict of masks, but one {type(content).__name__}")


def _name(entries: Any, named: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Entries of a list, by name."""
    names = list(named if len(entries) == len(named) else weights)
    if len(entries) != len(names):
        first = f"none for {names[len(entries)]!r}" if len(entries) < len(names) else f"more after {names[-1]!r}"
        raise ValueError(f"{len(entries)} masks for {len(names)} weights: {first}")
    return dict(zip(names, entries, strict=True))


def _from_names(
    entries: Mapping[str, Any], named: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> Tensors:
    missing = [name for name in weights if name not in entries]
    if missing:
        raise ValueError(f"no mask for {missing[0]!r}")
    keep = {}
    for name, entry in entries.items():
        if name not in named:
            raise ValueError(f"the model has no weight {name!r}")
        mask = _as_bool(name, entry, named[name])
        if name in weights:
            keep[name] = mask
        elif not mask.all():
            raise ValueError(f"{name!r} is pruned, but has one dimension only: no mask holds it")
    return {name: keep[name] for name in weights}


def _as_bool(name: str, entry: Any, weight: torch.Tensor) -> torch.Tensor:
    """One mask as a bool tensor on the device of its weight."""
    if isinstance(entry, _Array):
        entry = torch.from_numpy(entry.value)
    if not isinstance(entry, torch.Tensor):
        raise ValueError(f"mask of {name!r} is no array, but a {type(entry).__name__}")
    _check_shape(name, entry.shape, weight)
    if not ((entry == 0) | (entry == 1)).all():
        raise ValueError(f"mask of {name!r} has entries that are neither 0 nor 1")
    return (entry != 0).to(weight.device)


def _check_shape(name: str, shape: torch.Size, weight: torch.Tensor) -> None:
    if shape != weight.shape:
        raise ValueError(f"{name!r} is {tuple(shape)} there, {tuple(weight.shape)} in the model")


def _descend(content: Any) -> Any:
    """Find what lies inside dicts that hold one dict or list and no tensor themselves, as checkpoints often are."""
    for _ in range(_DEPTH):
        values = list(content.values()) if isinstance(content, Mapping) else []
        inner = [v for v in values if isinstance(v, Mapping | list | tuple)]
        if len(inner) != 1 or any(isinstance(v, torch.Tensor | _Array) for v in values):
            break
        content = inner[0]
    return content


def _without_prefix(entries: dict[str, Any], named: Mapping[str, Any] | None) -> dict[str, Any]:
    """Take away ``module.``, which ``DataParallel`` puts before each name, unless the model's names have it too."""
    names = [str(name) for name in entries]
    if not all(name.startswith("module.") for name in names) or any(n.startswith("module.") for n in named or ()):
        return entries
    return {name.removeprefix("module."): v for name, v in zip(names, entries.values(), strict=True)}


def _load(path: Path) -> Any:
    """The content of a file, whoever wrote it."""
    try:
        with path.open("rb") as f:
            if f.read(2) != b"PK":
                f.seek(0)
                content = _Reader(f, encoding="latin1").load()  # latin1: what Python 2 wrote
                if not (isinstance(content, int) and content == _TORCH_MAGIC):
                    return content
        return torch.load(path, map_location="cpu", weights_only=True)
    except _Refused as error:
        raise ValueError(f"{path} asks for {error}, which masks do not need; nothing of it was run") from None
    except Exception as error:  # a damaged or hostile pickle can raise anything
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(f"{path} asks for {asked[1]}, which masks do not need; nothing of it was run") from None
        raise ValueError(f"{path} is damaged, or no file of masks ({type(error).__name__})") from None


class _Refused(Exception):
    """A pickle asks for something that is no array."""


class _Dtype:
    """Stand-in for ``numpy.dtype`` of plain numbers, so that a file reaches no code of numpy's."""

    def __init__(self, text: Any) -> None:
        if not (isinstance(text, str) and re.fullmatch(r"[<>|=]?[biuf][1-8]", text)):
            raise _Refused(f"numpy.dtype {str(text)[:20]!r}")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stand-in for ``numpy.ndarray``; ``value`` is the array."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> "_Array":
        """Take over bytes as an array; raises ValueError where their number does not fit."""
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if math.prod(shape) * dtype.value.itemsize != len(data) or min(shape, default=0) < 0:
            raise ValueError("array of the wrong size")
        value = np.frombuffer(data, dtype.value).reshape(shape, order=order)
        self.value = np.array(value, dtype.value.newbyteorder("="), order="C")
        return self


class _Reader(pickle.Unpickler):
    """Reads pickles of arrays and tensors: every other class or function that one asks for is refused by name.

    Bound methods stand for the functions: unlike classes, a pickle cannot overwrite what is in them.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a class or function that the pickle names."""
        module = module.replace("numpy._core", "numpy.core")
        known: dict[str, Callable | str] = {
            "numpy.ndarray": "ndarray",
            "numpy.dtype": self._dtype,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._frombuffer,
            "_codecs.encode": self._encode,
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.storage._load_from_bytes": self._storage,
        }
        found = known.get(f"{module}.{name}")
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def _dtype(self, text: Any, *_: Any) -> _Dtype:
        return _Dtype(text)

    def _reconstruct(self, *_: Any) -> _Array:
        return _Array()

    def _frombuffer(self, data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
        return _Array().fill(data, dtype, shape, order)

    def _scalar(self, dtype: _Dtype, data: Any) -> Any:
        return _Array().fill(data, dtype, (), "C").value.item()

    def _encode(self, text: str, _encoding: str) -> bytes:
        return text.encode("latin1")  # how protocols up to 2 write bytes

    def _storage(self, data: bytes) -> Any:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        return torch.as_strided(flat, size, stride, offset)

    def _parameter(self, data: torch.Tensor, *_: Any) -> torch.Tensor:
        return data
