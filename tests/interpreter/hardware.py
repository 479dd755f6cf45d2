"""Triton's interpreter made more like a GPU: bf16 arithmetic, fused multiply-add, programs in any order; and quicker.

The interpreter keeps bf16 as uint16 and computes with these integers, and casts float32 to bf16 by cutting it off. Here
every operation on bf16 is done in float32 and its result rounded to the nearest, ties to even.
"""

import functools
import re

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

TensorHandle, Builder = interpreter.TensorHandle, interpreter.InterpreterBuilder
BF16 = tl.bfloat16
# Operations on floating-point numbers; those that only move them (loads, reshapes, selections) need no help.
ARITHMETIC = re.compile(
    r"create_(f(add|sub|mul|div|rem|neg|abs|ma|cmp\w+)|m(in|ax)(imum|num)f|clampf|precise_\w+|dot|cos|sin|exp2?|log2?|"
    r"floor|ceil|r?sqrt|erf)"
)


def from_bf16(data):
    """Float32 values of bf16 in uint16."""
    return (data.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    """Round to bf16 in uint16, to the nearest, ties to even; a NaN stays one."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _is_bf16(x):
    return isinstance(x, TensorHandle) and x.dtype.scalar == BF16


def _widened(x):
    return TensorHandle(from_bf16(x.data), tl.float32) if _is_bf16(x) else x


def _in_float32(method):
    """An operation that takes bf16 too; its result is bf16 where all operands are (not so a dot into float32)."""

    @functools.wraps(method)
    def computed(self, *operands):
        narrow = [_is_bf16(x) for x in operands if isinstance(x, TensorHandle)]
        found = method(self, *map(_widened, operands)) if any(narrow) else method(self, *operands)
        rounds = narrow and all(narrow) and found.data.dtype == np.float32
        return TensorHandle(to_bf16(found.data), BF16) if rounds else found

    return computed


def _cast(method):
    def cast(self, src, dst_type, *rounding):
        nearest = not rounding or rounding[0] in (None, interpreter._ir.ROUNDING_MODE.RTNE)
        if nearest and dst_type.scalar == BF16 and src.dtype.scalar != BF16:
            return TensorHandle(to_bf16(src.data.astype(np.float32)), BF16)
        if _is_bf16(src) and dst_type.scalar in (tl.float32, BF16):
            return src if dst_type.scalar == BF16 else _widened(src)
        return method(self, _widened(src), dst_type, *rounding)

    return cast


def _fma(self, x, y, z):
    """One rounding, as the hardware has: the product of two float32 is exact in float64."""
    exact = x.data.astype(np.float64) * y.data + z.data
    return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)


def _remembered(np_dtype):
    """The interpreter makes its table of types anew for every value."""
    known = {}

    def remembered(dtype):
        name = dtype.scalar.name
        if name not in known:
            known[name] = np_dtype(dtype)
        return known[name]

    return remembered


class Patches(dict):
    """What is patched while a kernel runs, by the modules that its functions see."""

    def restore(self):
        """Undo all of it."""
        for scope in reversed(self.values()):
            scope.restore()
        self.clear()


def _patched_once(patch):
    """Functions that a kernel calls would patch ``triton.language`` again, which takes most of the time."""
    patches = Patches()

    @functools.cache
    def modules(fn):
        return tuple(m for m in (tl, tl.core) if any(value is m for value in fn.__globals__.values()))

    def patch_once(fn):
        outermost = not patches
        if modules(fn) not in patches:
            patches[modules(fn)] = patch(fn)
        return patches if outermost else Patches()

    return patch_once


def shuffle_programs(monkeypatch, generator):
    """The programs of a grid run in an order that ``generator`` draws for each launch."""
    set_dim, set_index = Builder.set_grid_dim, Builder.set_grid_idx

    def dim(self, x, y, z):
        set_dim(self, x, y, z)
        self.order = generator.permutation(x)

    monkeypatch.setattr(Builder, "set_grid_dim", dim)
    monkeypatch.setattr(Builder, "set_grid_idx", lambda self, x, y, z: set_index(self, int(self.order[x]), y, z))


def compute_as_hardware(monkeypatch):
    """Patch the interpreter's arithmetic, as far as this version of it has the operation."""
    monkeypatch.setattr(Builder, "create_fma", _fma)
    for name in filter(ARITHMETIC.fullmatch, dir(Builder)):
        monkeypatch.setattr(Builder, name, _in_float32(getattr(Builder, name)))
    for name in ("cast_impl", "create_fp_to_fp"):
        monkeypatch.setattr(Builder, name, _cast(getattr(Builder, name)))
    constant = lambda self, value: TensorHandle(to_bf16(np.array([value])), BF16)  # noqa: E731
    monkeypatch.setattr(Builder, "get_bf16", constant, raising=False)
    monkeypatch.setattr(interpreter, "_get_np_dtype", _remembered(interpreter._get_np_dtype))
    monkeypatch.setattr(interpreter, "_patch_lang", _patched_once(interpreter._patch_lang))
