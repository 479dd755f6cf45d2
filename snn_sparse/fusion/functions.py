"""One name a function: torch's operators, methods and functions that do the same become the same node of a graph."""

import operator
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
getitem = operator.getitem

_OPERATORS = {
    "add": torch.add, "radd": torch.add, "iadd": torch.add, "sub": torch.sub, "isub": torch.sub, "mul": torch.mul,
    "rmul": torch.mul, "imul": torch.mul, "truediv": torch.div, "itruediv": torch.div, "div": torch.div,
    "idiv": torch.div, "matmul": torch.matmul, "neg": torch.neg, "pow": torch.pow, "getitem": getitem, "ge": torch.ge,
    "gt": torch.gt, "le": torch.le, "lt": torch.lt, "eq": torch.eq, "ne": torch.ne, "and": torch.bitwise_and,
    "or": torch.bitwise_or, "floordiv": torch.floor_divide, "invert": torch.bitwise_not, "abs": torch.abs,
}  # fmt: skip
_METHODS = {
    "view": torch.reshape, "reshape": torch.reshape, "flatten": torch.flatten, "unflatten": torch.unflatten,
    "permute": torch.permute, "transpose": torch.transpose, "swapaxes": torch.transpose, "swapdims": torch.transpose,
    "movedim": torch.movedim, "squeeze": torch.squeeze, "unsqueeze": torch.unsqueeze, "select": torch.select,
    "unbind": torch.unbind, "add": torch.add, "sub": torch.sub, "mul": torch.mul, "multiply": torch.mul,
    "div": torch.div, "divide": torch.div, "true_divide": torch.div, "mean": torch.mean, "sum": torch.sum,
    "matmul": torch.matmul, "softmax": torch.softmax, "sigmoid": torch.sigmoid, "relu": torch.relu,
    "clamp": torch.clamp,
    "neg": torch.neg, "abs": torch.abs, "pow": torch.pow, "ge": torch.ge, "gt": torch.gt, "clone": torch.clone,
    "detach": torch.detach, "chunk": torch.chunk, "split": torch.split, "max": torch.max, "tanh": torch.tanh,
    "exp": torch.exp, "sqrt": torch.sqrt, "bmm": torch.bmm, "masked_fill": torch.masked_fill,
}  # fmt: skip
_SAME = {
    torch.swapaxes: torch.transpose, torch.swapdims: torch.transpose, torch.multiply: torch.mul, F.relu: torch.relu,
    torch.divide: torch.div, torch.true_divide: torch.div, torch.moveaxis: torch.movedim, F.sigmoid: torch.sigmoid,
    torch.subtract: torch.sub, operator.add: torch.add, operator.mul: torch.mul, operator.sub: torch.sub,
    torch.rsub: torch.sub, F.tanh: torch.tanh, F.softmax: torch.softmax,
    Tensor.unflatten: torch.unflatten, Tensor.split: torch.split, Tensor.__rsub__: torch.sub,
}  # fmt: skip
_REVERSED = {
    "rsub": torch.sub, "rtruediv": torch.div, "rdiv": torch.div, "rpow": torch.pow, "rmatmul": torch.matmul,
    "rfloordiv": torch.floor_divide,
}  # fmt: skip
_INPLACE = ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "hardtanh", "hardswish", "mish", "dropout")
_KEYWORDS = {"axis": "dim", "keepdims": "keepdim"}  # NumPy's, which torch takes too
_QUERIES = {"requires_grad_", "retain_grad", "register_hook", "_is_view", "is_contiguous"}


class Apply:
    """The call of an ``autograd.Function``, as a function with a name; equal for equal classes."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__, self.__module__ = f"{function.__name__}_apply", __name__
        self.__qualname__ = self.__name__

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function.apply(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Apply) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)


def name_of(func: Any) -> str:
    """The bare name of a function or method: ``add`` for ``Tensor.__iadd__`` is ``iadd``."""
    return (
        getattr(func, "__name__", "").strip("_")
        if getattr(func, "__name__", "").startswith("__")
        else str(getattr(func, "__name__", ""))
    )


def is_query(func: Any) -> bool:
    """Whether a function answers with a tensor that it was given, or about one, and computes nothing."""
    owner = getattr(func, "__self__", None)  # the getter of a property such as ``Tensor.grad``
    named = getattr(owner, "__name__", "")
    return name_of(func) in _QUERIES or (name_of(func) == "get" and named not in ("T", "mT", "data", "H", "mH", "real"))


def writes(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a function writes into its first argument."""
    name, dunder = name_of(func), getattr(func, "__name__", "").startswith("__")
    if dunder:
        return name == "setitem" or (name.startswith("i") and name[1:] in _OPERATORS and name in _OPERATORS)
    if name in _QUERIES or name in ("detach_", "share_memory_"):
        return False
    if name.endswith("_"):
        return True
    return bool(kwargs.get("inplace")) or (name in _INPLACE and len(args) > 1 and args[-1] is True)


def set_item(x: Tensor, key: Any, value: Any) -> Tensor:
    """``x`` with ``x[key] = value``, as a new tensor."""
    x = x.clone()
    x[key] = value
    return x


class OnCopy:
    """A method that writes in place, such as ``copy_`` or ``uniform_``, on a copy; equal for equal methods."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.__name__, self.__module__ = f"copied_{method}", __name__
        self.__qualname__ = self.__name__

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Write into a copy of ``x``."""
        return getattr(x.clone(), self.method)(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnCopy) and other.method == self.method

    def __hash__(self) -> int:
        return hash(self.method)


def after(x: Tensor, _done: Tensor) -> Tensor:
    """``x``, which is read only after something else has been computed that changes it."""
    return x


def out_of_place(func: Any) -> Any:
    """The function that computes what an operation in place writes."""
    name = name_of(func)
    if name == "setitem":
        return set_item
    if name in _OPERATORS or not name.endswith("_"):
        return func
    bare = name.rstrip("_")
    if bare in ("zero", "fill"):
        return torch.zeros_like if bare == "zero" else torch.full_like
    return _METHODS.get(bare) or getattr(torch, bare, None) or getattr(Tensor, bare, None) or OnCopy(name)


def canonical(func: Any, args: Any, kwargs: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """(function, args, kwargs) of the one spelling that this package knows; unknown functions stay as they are."""
    args, name = tuple(args), name_of(func)
    kwargs = {_KEYWORDS.get(k, k): v for k, v in dict(kwargs).items() if k != "inplace"}
    if name == "get":
        return getattr, (args[0], func.__self__.__name__), {}
    dunder = getattr(func, "__name__", "").startswith("__")
    if dunder and name in _REVERSED:
        return _REVERSED[name], args[::-1], kwargs
    if dunder:
        return _OPERATORS.get(name, func), args, kwargs
    if func is torch.rsub:
        return torch.sub, args[::-1], kwargs
    if name == "view" and len(args) > 1 and isinstance(args[1], torch.dtype):
        return Tensor.view, args, kwargs
    if name == "relu":  # torch.nn.functional.relu(x, inplace)
        return torch.relu, args[:1], kwargs
    return _function(func, name), _joined(func, name, args), kwargs


def _function(func: Any, name: str) -> Any:
    func = _SAME.get(func, func)
    if _is_method(func, name) and name in _METHODS:
        return _METHODS[name]
    if getattr(func, "__module__", "") == "torch._tensor" and hasattr(torch, name):  # written in Python, as ``**``
        return getattr(torch, name)
    return func


def _is_method(func: Any, name: str) -> bool:
    return isinstance(func, type(Tensor.add)) and getattr(Tensor, name, None) is func


def _joined(func: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with sizes in one tuple: ``x.view(2, 3)`` as ``x.view((2, 3))``."""
    sizes = name in ("view", "reshape", "permute") or (name in ("expand", "repeat") and _is_method(func, name))
    if sizes and len(args) > 1 and not isinstance(args[1], (tuple, list, torch.Size)):
        return args[0], tuple(args[1:])
    return args
