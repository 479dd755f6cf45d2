"""Random numbers that are none: so that two ways of computing one thing can be compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_FILL = {
    _aten.bernoulli_.float: 1.0, _aten.bernoulli_.Tensor: 1.0, _aten.uniform_.default: 0.5, _aten.normal_.default: 0.5,
}  # fmt: skip
_LIKE = {
    _aten.bernoulli.default: 1.0, _aten.bernoulli.p: 1.0, _aten.rand_like.default: 0.5, _aten.randn_like.default: 0.5,
}  # fmt: skip


class Repeatable(TorchDispatchMode):
    """Inside, dropout keeps (and scales) everything, and other random numbers are one half."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILL:
            return args[0].fill_(_FILL[func])
        if func in _LIKE:
            return torch.full_like(args[0], _LIKE[func])
        if func is _aten.native_dropout.default:
            x, p, training = args
            scale = 1 / (1 - p) if training and p < 1 else 1.0
            return x * scale, torch.ones_like(x, dtype=torch.bool)
        if func in (_aten.rand.default, _aten.randn.default):
            return torch.full(args[0], 0.5, **kwargs)
        return func(*args, **kwargs)


class _Double(TorchFunctionMode):
    """Inside, whoever asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            return torch.Tensor.double(*args, **kwargs)
        return func(*(torch.float64 if v is torch.float32 else v for v in args), **kwargs)


@contextmanager
def in_double(wanted: bool) -> Iterator[None]:
    """Run networks in float64 that write float32 out, by ``.float()`` or ``torch.zeros``, if ``wanted``."""
    if not wanted:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)
