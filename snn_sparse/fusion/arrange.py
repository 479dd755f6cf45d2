"""Arrange: the same elements in another order of axes, as few tensor operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from snn_sparse.fusion.axes import Atom, Dim, Form, resolve, size_of

Tensor = torch.Tensor


@dataclass(frozen=True)
class Arrangement:
    """How to get from one arrangement to another: reshape, permute, expand and reshape; steps that do nothing are None.

    Called with a tensor (or whatever ``run`` of :meth:`apply` takes) it rearranges it.
    """

    split: tuple[int, ...] | None
    order: tuple[int, ...] | None
    expand: tuple[int, ...] | None
    join: tuple[int, ...] | None

    def apply(self, x: Any, run: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
        """Rearrange ``x`` by ``run(function, arguments)``, such as a graph's ``call_function``."""
        for function, argument in (
            (torch.reshape, self.split),
            (torch.permute, self.order),
            (Tensor.expand, self.expand),
            (torch.reshape, self.join),
        ):
            if argument is not None:
                x = run(function, (x, argument))
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """Rearrange a tensor."""
        return self.apply(x, lambda function, arguments: function(*arguments))

    @property
    def nothing(self) -> bool:
        """Whether it leaves everything as it is."""
        return (self.split, self.order, self.expand, self.join) == (None,) * 4


def arrangement(
    have: Form, want: Form, have_shape: Sequence[int], absent: set[Atom], missing: set[Atom]
) -> Arrangement | None:
    """Find out how to get from the dimensions ``have`` to ``want``; None: they are not made of the same atoms.

    Args:
        have: the dimensions as they lie, without the atoms along which the value is constant.
        want: the dimensions wanted.
        have_shape: the sizes of ``have``.
        absent: atoms along which the value is constant, which ``have`` lacks.
        missing: of those, the ones that may stay away from the result: they count as size 1 in ``want``.
    """
    source = [a for dim in have for a in resolve(dim)]
    target = [[a for a in resolve(dim) if a not in missing] for dim in want]
    flat = [a for dim in target for a in dim]
    if {*flat} - {*source} - absent or {*source} - {*flat} or len(set(flat)) != len(flat):
        return None
    shape = tuple(size_of(dim) for dim in target)
    kept = [a for a in flat if a in source]
    if flat == source and tuple(have_shape) == shape:
        return Arrangement(None, None, None, None)
    if flat == source:
        return Arrangement(None, None, None, shape)
    split: tuple[int, ...] | None = tuple(a.size for a in source)
    order: tuple[int, ...] | None = tuple(source.index(a) for a in kept)
    if order == tuple(range(len(source))):
        order = None
    if tuple(have_shape) == split:
        split = None
    expand = None
    if len(kept) < len(flat):
        ones = tuple(a.size if a in source else 1 for a in flat)
        if order is None:
            split = ones
        else:
            return _with_ones(split, order, ones, tuple(a.size for a in flat), shape)
        expand = tuple(a.size for a in flat)
    join: tuple[int, ...] | None = shape
    if expand is None and order is None:
        return Arrangement(None, None, None, shape)
    before = expand or tuple(a.size for a in kept)
    return Arrangement(split, order, expand, None if before == shape else join)


def _with_ones(split: Any, order: Any, ones: tuple[int, ...], sizes: tuple[int, ...], shape: Any) -> Arrangement:
    """Atoms that are permuted and others that are expanded: dimensions of size 1 stand for these in the permutation."""
    base, places, following = list(split or ()), [], iter(order)
    sources = list(split) if split is not None else None
    if sources is None:
        sources = [0] * len(order)
        for i, o in enumerate(order):
            sources[o] = [s for s in ones if s > 1][i]
    base = list(sources)
    for size in ones:
        if size == 1:
            base.append(1)
            places.append(len(base) - 1)
        else:
            places.append(next(following))
    return Arrangement(tuple(base), tuple(places), sizes, None if sizes == tuple(shape) else tuple(shape))


def dims_of(form: Form, absent: set[Atom]) -> Form:
    """The dimensions of a form without atoms that are absent."""
    return [[a for a in resolve(dim) if a not in absent] for dim in form]


def maps(time: Dim, batch: Dim, channels: Dim, height: Dim, width: Dim) -> Form:
    """The five dimensions of a stage's values."""
    return [time, batch, channels, height, width]
