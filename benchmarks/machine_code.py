"""Machine code (SASS) of compiled kernels: instructions, loops, widths of loads and stores, barriers; needs no GPU."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import triton

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_WIDTH = re.compile(r"\.(128|64|U16|S16|U8|S8)(?:\.|$)")
_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def cuobjdump(cubin: bytes, flag: str) -> str:
    """Text that NVIDIA's ``cuobjdump``, which ships with Triton, prints about a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, flag, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(cubin: bytes) -> dict[str, int]:
    """Registers (REG) and bytes of stack (STACK, LOCAL) of a thread, bytes of shared memory (SHARED)."""
    found = re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", cuobjdump(cubin, "-res-usage"))
    return {name: int(value) for name, value in found}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its address, name, operands, and whether a predicate guards it."""

    address: int
    name: str
    operands: str
    guarded: bool

    @property
    def width(self) -> int:
        """Bytes that a load or store moves for each thread."""
        found = _WIDTH.search(self.name)
        return _BYTES[found[1]] if found else 4


@dataclass(frozen=True)
class Code:
    """A kernel's instructions up to its end, without the subroutines behind it, which rare values need.

    Attributes:
        instructions: in order.
        loop: those of the one loop; none without a loop.
    """

    instructions: tuple[Instruction, ...]
    loop: tuple[Instruction, ...]

    def executed(self, passes: float) -> float:
        """Instructions that a thread issues if its loop runs ``passes`` times."""
        return len(self.instructions) + (passes - 1) * len(self.loop)


def read_code(sass: str) -> Code:
    """Parse what ``cuobjdump -sass`` prints of one kernel.

    Raises:
        ValueError: no kernel's end, or several loops, whose numbers of passes are not known.
    """
    found = [
        Instruction(int(address, 16), name, operands.strip(), bool(guard))
        for address, guard, name, operands in _LINE.findall(sass)
    ]
    ends = [i for i, x in enumerate(found) if x.name == "EXIT"]
    if not ends:
        raise ValueError("the machine code has no end")
    body = [x for x in found[: ends[-1] + 1] if x.name != "NOP"]
    loops = [(to, x.address) for x in body if x.name == "BRA" and (to := _target(x)) < x.address]
    if len(loops) > 1:
        raise ValueError(f"the machine code has {len(loops)} loops")
    inside = tuple(x for x in body if any(first <= x.address <= last for first, last in loops))
    return Code(tuple(body), inside)


def _target(branch: Instruction) -> int:
    return int(branch.operands.split(",")[-1].strip(), 16)


def widths(code: Iterable[Instruction], name: str) -> str:
    """Widths in bytes of the instructions ``LDG`` or ``STG``, the widest first, as in ``16 x 10, 4 x 2``."""
    counts = Counter(x.width for x in code if x.name.split(".")[0] == name)
    return ", ".join(f"{width} x {counts[width]}" for width in sorted(counts, reverse=True))


def barriers(code: Iterable[Instruction]) -> int:
    """Number of instructions at which the threads of a block wait for each other."""
    return sum(x.name.split(".")[0] == "BAR" for x in code)
