"""Lift: a function of one timestep's values, as a function of the whole sequence [T, ...]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map

from snn_sparse.fusion.functions import OnCopy, getitem
from snn_sparse.fusion.tidy import shape_of, stack, total

Tensor = torch.Tensor


@dataclass(frozen=True)
class Steps:
    """Result of rolling up T nodes: a sequence with time first, or one value that is the same at every step."""

    node: fx.Node
    constant: bool


_ELEMENTWISE = {
    torch.relu, torch.sigmoid, torch.tanh, torch.neg, torch.abs, torch.exp, torch.sqrt, torch.pow, torch.clone,
    torch.detach, torch.clamp, torch.add, torch.sub, torch.mul, torch.div, torch.ge, torch.gt, torch.le, torch.lt,
    torch.eq, torch.ne, torch.bitwise_and, torch.bitwise_or, torch.bitwise_not, torch.where, torch.maximum,
    torch.minimum, torch.zeros_like, torch.ones_like, torch.full_like, torch.masked_fill, Tensor.to, Tensor.float,
    Tensor.double, Tensor.contiguous, Tensor.type_as, F.dropout, F.leaky_relu, F.elu, F.silu, F.hardtanh, F.relu6,
    torch._C._nn.gelu, total,
}  # fmt: skip
_RANDOM = {F.dropout, torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.bernoulli, torch.randint}
_DRAWN = {"uniform_", "normal_", "exponential_", "log_normal_", "random_", "geometric_", "cauchy_"}
_MERGED = {
    "conv1d", "conv2d", "conv3d", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "group_norm", "instance_norm",
}  # fmt: skip
_DIRECT = {torch._C._nn.linear, F.layer_norm, torch.matmul, F.pad, torch._C._nn.pad}
_REDUCTIONS = {torch.mean, torch.sum, torch.amax, torch.softmax, F.log_softmax, torch.cumsum, torch.max, torch.argmax}


def is_elementwise(target: Any) -> bool:
    """Whether a function computes each element from those at the same place."""
    return target in _ELEMENTWISE


def is_per_image(target: Any) -> bool:
    """Whether a function takes a batch of images, each by itself."""
    return getattr(target, "__name__", "") in _MERGED


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers."""
    if node.target is F.dropout:
        args = dict(zip(("x", "p", "training"), node.args, strict=False)) | node.kwargs
        return bool(args.get("training", True))
    return node.target in _RANDOM or (isinstance(node.target, OnCopy) and node.target.method in _DRAWN)


def _shift(dim: Any) -> Any:
    if isinstance(dim, (tuple, list)):
        return tuple(_shift(d) for d in dim)
    return dim + 1 if isinstance(dim, int) and dim >= 0 else dim


def _dimension(args: tuple[Any, ...], kwargs: dict[str, Any], place: int = 1) -> tuple[Any, ...] | None:
    """Arguments with the dimension at ``place``, or ``dim``, moved by one; None: there is none."""
    if len(args) > place and args[place] is not None:
        return (*args[:place], _shift(args[place]), *args[place + 1 :]), kwargs
    if kwargs.get("dim") is not None:
        return args, kwargs | {"dim": _shift(kwargs["dim"])}
    return None


def lift(node: fx.Node, args: Any, kwargs: Any, steps: int, emit: Callable[..., fx.Node]) -> fx.Node | None:
    """Emit the function of ``node`` on sequences; None: no rule says how.

    Args:
        node: one of the T nodes.
        args: its arguments, with :class:`Steps` for the nodes among them, of which one at least is a sequence.
        kwargs: likewise.
        steps: T.
        emit: (function, args, kwargs) -> a new node.
    """
    rank = len(shape_of(node) or ())
    plain_args, plain_kwargs = tree_map(_node, (tuple(args), dict(kwargs)))
    target: Any = node.target
    if target in _ELEMENTWISE:
        ranks = [_element_rank(s) for s in tree_flatten((args, kwargs))[0] if isinstance(s, Steps)]
        if any(r != rank for r, s in zip(ranks, _steps(args, kwargs), strict=True) if not s.constant or r > rank):
            return None
        return emit(target, plain_args, plain_kwargs)
    if target in _DIRECT:
        return emit(target, plain_args, plain_kwargs) if rank >= 2 else None
    if target is torch.bmm:
        return emit(torch.matmul, plain_args, plain_kwargs)
    if getattr(target, "__name__", "") in _MERGED:
        return _merged(target, args, plain_args, plain_kwargs, steps, emit)
    return _moved(target, plain_args, plain_kwargs, steps, emit)


def _node(value: Any) -> Any:
    return value.node if isinstance(value, Steps) else value


def _steps(args: Any, kwargs: Any) -> list[Steps]:
    return [s for s in tree_flatten((args, kwargs))[0] if isinstance(s, Steps)]


def _element_rank(s: Steps) -> int:
    return len(shape_of(s.node) or ()) - (0 if s.constant else 1)


def _merged(target: Any, args: Any, plain: Any, kwargs: Any, steps: int, emit: Callable[..., fx.Node]) -> Any:
    """A function of a batch, on the batch of all steps."""
    if any(not s.constant for s in _steps(args[1:], kwargs)):
        return None
    x = plain[0]
    shape = shape_of(x)
    assert shape is not None
    merged = emit(torch.reshape, (x, (shape[0] * shape[1], *shape[2:])), {})
    out = emit(target, (merged, *plain[1:]), kwargs)
    found = shape_of(out)
    assert found is not None
    return emit(torch.reshape, (out, (steps, found[0] // steps, *found[1:])), {})


def _moved(target: Any, args: Any, kwargs: Any, steps: int, emit: Callable[..., fx.Node]) -> fx.Node | None:
    """A function that names dimensions, which are one further behind in a sequence."""
    if target is torch.reshape:
        return emit(target, (args[0], (steps, *args[1])), kwargs)
    if target in (Tensor.expand, Tensor.repeat):
        return _widened(target, args, kwargs, steps, emit)
    if target is torch.permute:
        return emit(target, (args[0], (0, *(_shift(d % len(args[1])) for d in args[1]))), kwargs)
    if target in (torch.transpose, torch.movedim):
        return emit(target, (args[0], _shift(args[1]), _shift(args[2])), kwargs) if len(args) == 3 else None
    if target is getitem:
        return emit(getitem, _key(*args), {})
    moved: Any = None
    if target in (torch.chunk, torch.split):
        moved = _dimension(args, kwargs, 2) or (args, kwargs | {"dim": 1})
    elif target in (torch.cat, stack):
        moved = _dimension(args, kwargs) or (args, kwargs | {"dim": 1})
    elif target in _REDUCTIONS | {torch.unsqueeze, torch.squeeze, torch.select, torch.narrow}:
        moved = _dimension(args, kwargs)
    return None if moved is None else emit(target, *moved)


def _widened(target: Any, args: Any, kwargs: Any, steps: int, emit: Callable[..., fx.Node]) -> fx.Node:
    """``expand`` and ``repeat``, which may add dimensions in front of those of a step."""
    x, shape = args[0], shape_of(args[0]) or torch.Size()
    if len(args[1]) >= len(shape):
        x = emit(torch.reshape, (x, (steps, *[1] * (len(args[1]) - len(shape) + 1), *shape[1:])), {})
    return emit(target, (x, (-1 if target is Tensor.expand else 1, *args[1])), kwargs)


def _key(x: fx.Node, key: Any) -> tuple[Any, ...]:
    """Arguments of ``getitem`` on a sequence; of several values in one it takes the same as before."""
    if isinstance(x.meta["value"], (tuple, list)):
        return x, key
    keys = key if isinstance(key, tuple) else (key,)
    return x, keys if Ellipsis in keys[:1] else (slice(None), *keys)
