"""Tidy: spellings that mean the same become one, so that the passes behind see few kinds of nodes."""

from typing import Any

import torch
from torch import fx

from snn_sparse.fusion.functions import getitem, set_item

Tensor = torch.Tensor


def stack(values: list[Tensor], dim: int = 0) -> Tensor:
    """Join values of several timesteps along a new dimension."""
    return torch.stack(values, dim)


def total(values: list[Tensor]) -> Tensor:
    """Add values up, from the first to the last."""
    found = values[0]
    for value in values[1:]:
        found = found + value
    return found


def shape_of(node: fx.Node) -> torch.Size | None:
    """Shape of the tensor that a node computes; None if it is none."""
    value = node.meta.get("value")
    return value.shape if isinstance(value, Tensor) else None


def has_effects(node: fx.Node) -> bool:
    """Whether a node stays if nobody reads it: a module may keep something, unless it is known to keep nothing."""
    return node.op in ("placeholder", "output") or (node.op == "call_module" and not node.meta.get("pure"))


def _replace(node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    node.target, node.args, node.kwargs = target, args, {}


def _index(node: fx.Node) -> None:
    """``x[t]``, ``x[:, t]``, ``x[..., t]`` and pieces of ``unbind`` become ``select``."""
    base, key = node.args
    if not isinstance(base, fx.Node):
        return
    if base.target is torch.unbind and isinstance(key, int):
        dim = base.args[1] if len(base.args) > 1 else base.kwargs.get("dim", 0)
        base, key, at = base.args[0], key, int(dim)  # type: ignore[arg-type]
        shape = shape_of(base)  # type: ignore[arg-type]
        assert shape is not None
        _replace(node, torch.select, (base, at % len(shape), key))
        return
    shape = shape_of(base)
    if shape is None:
        return
    place = _one_entry(key, shape)
    if place is not None:
        _replace(node, torch.select, (base, *place))


def _one_entry(key: Any, shape: torch.Size) -> tuple[int, int] | None:
    """The dimension and entry of ``x[t]``, ``x[:, t]`` or ``x[..., t]``; None: another kind of index."""
    keys = key if isinstance(key, tuple) else (key,)
    whole = [k for k in keys if k is not Ellipsis and k != slice(None)]
    if len(whole) != 1 or isinstance(whole[0], bool) or not isinstance(whole[0], int):
        return None
    place = next(i for i, k in enumerate(keys) if k is not Ellipsis and k != slice(None))
    dim = place if Ellipsis not in keys[:place] else len(shape) - (len(keys) - place)
    return dim, whole[0] % shape[dim]


def _reshape(node: fx.Node) -> None:
    """Sizes of ``reshape`` are written out; ``flatten`` and ``unflatten`` are ``reshape`` too."""
    shape = shape_of(node)
    if shape is not None:
        _replace(node, torch.reshape, (node.args[0], tuple(shape)))


def _cat(node: fx.Node) -> None:
    """A ``cat`` of ``unsqueeze`` is a ``stack``."""
    parts = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    shape = shape_of(node)
    if not isinstance(parts, (list, tuple)) or shape is None or len(parts) < 2:
        return
    at = int(dim) % len(shape)  # type: ignore[arg-type]
    for part in parts:
        if not isinstance(part, fx.Node) or part.target is not torch.unsqueeze:
            return
        if int(part.args[1]) % len(shape) != at:  # type: ignore[arg-type]
            return
    _replace(node, stack, ([p.args[0] for p in parts], at))  # type: ignore[union-attr]


def _stack(node: fx.Node) -> None:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    shape = shape_of(node)
    if isinstance(node.args[0], (list, tuple)) and shape is not None:
        _replace(node, stack, (list(node.args[0]), int(dim) % len(shape)))  # type: ignore[arg-type]


_RULES = {
    getitem: _index, torch.reshape: _reshape, torch.flatten: _reshape, torch.unflatten: _reshape, torch.cat: _cat,
    torch.stack: _stack,
}  # fmt: skip


def _addends(node: fx.Node) -> list[fx.Node]:
    """List what a chain of additions adds up, whose inner sums nobody else reads; without zeros that it starts from."""
    found: list[fx.Node] = []
    while True:
        left, right = node.args
        if not isinstance(left, fx.Node) and left == 0:
            return [right, *found]  # type: ignore[list-item]
        if not isinstance(right, fx.Node) and right == 0:
            return [left, *found]  # type: ignore[list-item]
        if _is_sum(right) and not _is_sum(left):
            left, right = right, left
        found.insert(0, right)  # type: ignore[arg-type]
        if not _is_sum(left) or len(left.users) > 1:  # type: ignore[union-attr]
            return found if _is_zeros(left, node) else [left, *found]  # type: ignore[list-item]
        node = left  # type: ignore[assignment]


def _is_sum(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is torch.add and len(node.args) == 2 and not node.kwargs


def _like(part: Any, node: fx.Node) -> bool:
    """Whether a part of a sum has its shape and dtype, so that leaving out zeros changes neither."""
    same = isinstance(part, fx.Node) and shape_of(part) == shape_of(node)
    return same and part.meta["value"].dtype == node.meta["value"].dtype


def _is_zeros(node: Any, like: fx.Node) -> bool:
    zeros = (torch.zeros, torch.zeros_like, Tensor.new_zeros)
    same = isinstance(node, fx.Node) and shape_of(node) == shape_of(like)
    return same and node.target in zeros and node.meta["value"].dtype == like.meta["value"].dtype


def _sums(graph: fx.Graph) -> None:
    """Chains of at least two additions, or of one to zero, become one ``total``."""
    for node in reversed(list(graph.nodes)):
        if not _is_sum(node) or not node.users:
            continue
        if len(node.users) == 1 and _is_sum(next(iter(node.users))):
            user = next(iter(node.users))
            if shape_of(user) == shape_of(node):
                continue  # the inner part of a longer chain
        parts = _addends(node)
        if parts != list(node.args) and all(_like(p, node) for p in parts):
            if len(parts) == 1:
                node.replace_all_uses_with(parts[0])
            else:
                _replace(node, total, (parts,))


def _writes(graph: fx.Graph) -> None:
    """``out[t] = y_t``, or ``out[..., t] = y_t``, for all t is a ``stack``."""
    for node in reversed(list(graph.nodes)):
        shape = shape_of(node)
        if node.target is not set_item or shape is None:
            continue
        if any(u.target is set_item and u.args[0] is node for u in node.users):
            continue
        written: dict[tuple[int, int], Any] = {}
        at: Any = node
        while isinstance(at, fx.Node) and at.target is set_item:
            place = _one_entry(at.args[1], shape)
            if place is None:
                break
            written.setdefault(place, at.args[2])
            at = at.args[0]
        for dim in {d for d, _ in written}:
            values = [written.get((dim, t)) for t in range(shape[dim])]
            if len(written) == len(values) and all(_fits(v, node, dim) for v in values):
                _replace(node, stack, (values, dim))


def _fits(value: Any, node: fx.Node, dim: int) -> bool:
    """Whether a value is one entry of the tensor of ``node`` along ``dim``."""
    shape = shape_of(node) or torch.Size()
    one = shape[:dim] + shape[dim + 1 :]
    return (
        isinstance(value, fx.Node) and shape_of(value) == one and value.meta["value"].dtype == node.meta["value"].dtype
    )


def tidy(graph: fx.Graph) -> None:
    """Rewrite a captured graph in place."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _RULES:
            _RULES[node.target](node)
    _sums(graph)
    _writes(graph)
    graph.eliminate_dead_code(has_effects)
