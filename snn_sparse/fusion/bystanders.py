"""Traces that a forward pass leaves: attributes of modules, looked at before and after, and put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_OWN = {"_parameters", "_modules", "_non_persistent_buffers_set"}
_NESTS = (list, dict, set)


def _items(module: nn.Module) -> dict[tuple[str, str], Any]:
    """The attributes and buffers of one module; dictionaries such as the memories of SpikingJelly by their entries."""
    found: dict[tuple[str, str], Any] = {}
    for key, value in module.__dict__.items():
        if key in _OWN or key.startswith("_fused"):
            continue
        if isinstance(value, dict):
            found.update({(key, str(k)): v for k, v in value.items() if isinstance(k, str)})
        else:
            found["", key] = value
    return found


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) or type(a) is not type(b):
        return False
    try:
        return bool(a == b)
    except Exception:  # arrays and whatever else answers a comparison with something strange
        return False


class Bystanders:
    """The attributes of a module and all below it, as they were."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = {name: dict(m.__dict__) for name, m in module.named_modules()}
        self._nests = [
            (value, value.copy())
            for kept in self._attributes.values()
            for key, value in kept.items()
            if isinstance(value, _NESTS) and key not in _OWN
        ]
        self._items = {name: _items(m) for name, m in module.named_modules()}
        self._lengths = [(value, len(value)) for value, _ in self._nests]

    @classmethod
    def look(cls, module: nn.Module) -> "Bystanders":
        """Remember how things are."""
        return cls(module)

    def changes(self, module: nn.Module) -> list[tuple[str, str, Any]]:
        """List (module's name, attribute, new value) of what is not as it was."""
        found = []
        for name, m in module.named_modules():
            before, after = self._items.get(name, {}), _items(m)
            for (where, key), value in after.items():
                if (where, key) not in before or not _same(before[where, key], value):
                    found.append((name, key, value))
        return found + [
            ("", "a list", nest) for nest, length in self._lengths if isinstance(nest, list) and len(nest) != length
        ]

    def restore(self, module: nn.Module, only: set[str] | None = None) -> None:
        """Put everything back, or what belongs to the named modules and what is below them."""
        if only is None:
            for nest, copy in self._nests:
                nest.clear()
                nest.extend(copy) if isinstance(nest, list) else nest.update(copy)
        for name, m in module.named_modules():
            if only is None:
                m.__dict__.clear()
                m.__dict__.update(self._attributes[name])
            elif any(name == o or name.startswith(f"{o}.") for o in only):
                for (where, key), value in self._items[name].items():
                    if not where:
                        m.__dict__[key] = value
                    elif where != "_buffers":
                        m.__dict__[where][key] = value

    @classmethod
    @contextmanager
    def restored(cls, module: nn.Module) -> Iterator["Bystanders"]:
        """Inside, attributes may change; afterwards they are as before."""
        before = cls(module)
        try:
            yield before
        finally:
            before.restore(module)


def register(model: nn.Module) -> None:
    """Make snnTorch know the neurons of a copy: its ``utils.reset`` goes through a list that each class holds."""
    for module in model.modules():
        known = getattr(type(module), "instances", None)
        if isinstance(known, list) and not any(m is module for m in known):
            known.append(module)


@contextmanager
def registered(model: nn.Module) -> Iterator[None]:
    """Inside, snnTorch knows no neurons but those of ``model``."""
    holders = {c for m in model.modules() for c in type(m).__mro__ if isinstance(vars(c).get("instances"), list)}
    before = {c: vars(c)["instances"] for c in holders}
    for c in holders:
        c.instances = [m for m in model.modules() if isinstance(m, c)]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for c, known in before.items():
            c.instances = known  # type: ignore[attr-defined]
