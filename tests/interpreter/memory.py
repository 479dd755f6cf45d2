"""Memory that shows a kernel's mistakes: poisoned allocations, tensors between poisoned borders, recorded accesses."""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from triton.runtime import interpreter

Builder = interpreter.InterpreterBuilder
MARGIN = 4096  # bytes of a border at least; a multiple of every alignment
NAN_BYTE, OTHER_BYTE = 0xFF, 0x55  # NaN in every float format; as a spike word or an index far from all others


# ---- borders ---------------------------------------------------------------------------------------------------------


@dataclass
class Block:
    """Bytes that arguments lie in, and their copy inside a border."""

    names: list
    begin: int
    end: int
    byte: int

    def __post_init__(self):
        self.border = MARGIN + (self.end - self.begin + 63) // 64 * 64
        self.copy = torch.full((self.end - self.begin + 2 * self.border,), self.byte, dtype=torch.uint8)
        ctypes.memmove(self.copy.data_ptr() + self.border, self.begin, self.end - self.begin)

    def moved(self, x):
        """``x`` in the copy."""
        size = x.element_size()
        elements = self.copy.untyped_storage()
        place = (self.border + x.data_ptr() - self.begin) // size
        return torch.tensor([], dtype=x.dtype).set_(elements, place, x.size(), x.stride())

    def finish(self, kernel):
        """Look at the border, and bring back what was written."""
        inside = slice(self.border, self.border + self.end - self.begin)
        for where, part in (("before", self.copy[: inside.start]), ("behind", self.copy[inside.stop :])):
            assert bool((part == self.byte).all()), f"{kernel} writes {where} {', '.join(self.names)}"
        ctypes.memmove(self.begin, self.copy.data_ptr() + self.border, self.end - self.begin)


def _span(x):
    """First byte of a tensor and the one behind its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def fence(arguments):
    """The arguments, each tensor in a block of its own between borders; those that overlap share one."""
    given = {n: x for n, x in arguments.items() if isinstance(x, torch.Tensor) and x.numel()}
    blocks = []
    for name, x in sorted(given.items(), key=lambda item: _span(item[1])):
        begin, end = _span(x)
        if blocks and begin < blocks[-1][2]:
            blocks[-1][0].append(name)
            blocks[-1][2] = max(blocks[-1][2], end)
        else:
            blocks.append([[name], begin, end, NAN_BYTE if x.is_floating_point() else OTHER_BYTE])
    found = [Block(*block) for block in blocks]
    moved = {name: block.moved(given[name]) for block in found for name in block.names}
    return {**arguments, **moved}, found


# ---- accesses --------------------------------------------------------------------------------------------------------


class Accesses:
    """Addresses that each program of a launch reads and writes; ``blocks`` are where it may."""

    def __init__(self, blocks):
        self.read, self.written = {}, {}
        inside = sorted((b.copy.data_ptr() + b.border, b.end - b.begin, b.border) for b in blocks)
        self.starts, self.sizes, self.borders = np.array(inside, dtype=np.int64).reshape(-1, 3).T

    def outside(self, places, borders=0):
        """Whether any address lies in no argument, nor in the border around it if ``borders`` is 1."""
        places = places.astype(np.int64)
        at = np.maximum(np.searchsorted(self.starts - borders * self.borders, places, side="right") - 1, 0)
        end = self.starts[at] + self.sizes[at] + borders * self.borders[at]
        return bool(((places < self.starts[at] - borders * self.borders[at]) | (places >= end)).any())

    def note(self, kind, program, pointers, mask):
        """Note those of one operation; one that would end the process fails now."""
        where = np.broadcast_to(pointers, np.broadcast_shapes(pointers.shape, mask.shape))
        where = where[np.broadcast_to(mask, where.shape)]
        assert not self.outside(where, borders=1), "an address far outside of all arguments"
        kind.setdefault(program, []).append(where)

    def check(self, kernel):
        """Fail where a program reads outside, or writes what another writes, or reads: that depends on their order."""
        for parts in self.read.values():
            assert not self.outside(np.concatenate(parts)), f"{kernel} reads outside of its arguments"
        written = {p: np.unique(np.concatenate(a)) for p, a in self.written.items()}
        if not written:
            return
        places = np.concatenate(list(written.values()))
        owners = np.concatenate([np.full(len(a), p) for p, a in written.items()])
        order = np.argsort(places)
        places, owners = places[order], owners[order]
        assert (places[1:] != places[:-1]).all(), f"{kernel}: two programs write the same place"
        for program, parts in self.read.items():
            seen = np.unique(np.concatenate(parts))
            at = np.minimum(np.searchsorted(places, seen), len(places) - 1)
            others = (places[at] == seen) & (owners[at] != program) if len(places) else np.zeros(1, bool)
            assert not others.any(), f"{kernel}: a program reads what another one writes"


def watch_memory(monkeypatch):
    """Launches run on tensors between borders; no program may read outside, or touch what another one writes."""
    run, load, store = interpreter.InterpretedFunction.run, Builder.create_masked_load, Builder.create_masked_store
    now = []

    def watched(self, *args, grid, warmup, **kwargs):
        given, blocks = fence({**dict(zip(self.arg_names, args, strict=False)), **kwargs})
        now.append(Accesses(blocks))
        try:
            run(self, grid=grid, warmup=warmup, **given)
        finally:
            accesses = now.pop()
        for block in blocks:
            block.finish(self.__name__)
        accesses.check(self.__name__)

    def noted_load(self, ptrs, mask, *rest, **named):
        now[-1].note(now[-1].read, self.grid_idx[0], ptrs.data, mask.data)
        return load(self, ptrs, mask, *rest, **named)

    def noted_store(self, ptrs, value, mask, *rest, **named):
        now[-1].note(now[-1].written, self.grid_idx[0], ptrs.data, mask.data)
        return store(self, ptrs, value, mask, *rest, **named)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", watched)
    monkeypatch.setattr(Builder, "create_masked_load", noted_load)
    monkeypatch.setattr(Builder, "create_masked_store", noted_store)
