"""How a layer computes under its mask: every way is timed once for the real shape, and the fastest is kept.

The choice is remembered on disk by shape, density and machine (``plan_file.py``).
"""

import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from snn_sparse.nn.fused.plan_file import PlanFile
from snn_sparse.ops.layout import NCHW, NHWC, Layout, convert
from snn_sparse.ops.sparse_conv import Blocking, Structure, sparse_conv2d

MARGIN = 0.97  # a sparse plan must beat the dense one by this factor to be chosen
LINEAR_MARGIN = 0.6  # for a linear layer, whose conversions are not in its time
SHORTLIST = 3  # plans that are timed more than once
REPEATS = 3
FORMAT = 1  # of the file; raised when plans of an older version no longer hold


@dataclass(frozen=True)
class ConvShape:
    """What a plan depends on besides the mask.

    Attributes:
        sizes: (T, N, C, H, W) of the input; T = 1 for a static batch.
        weight: (Cout, Cin, kh, kw).
        stride, padding: of the convolution.
        dtype: float32 or float64.
    """

    sizes: tuple[int, int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: int
    padding: int
    dtype: torch.dtype

    def key(self, density: float | None) -> str:
        """Name of the plan in the file: shape, density to two digits, processor and threads."""
        dense = "dense" if density is None else f"{density:.2g}"
        sizes, weight = "x".join(map(str, self.sizes)), "x".join(map(str, self.weight))
        how = f"s{self.stride}p{self.padding} {str(self.dtype).removeprefix('torch.')}"
        isa = os.environ.get("SNN_SPARSE_ISA", "")
        return f"v{FORMAT} {sizes} {weight} {how} {dense} | {processor()} {isa} {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Plan:
    """How to compute a layer.

    Attributes:
        layout: of input and output.
        blocking: of the sparse convolution; None: dense.
        seconds: of a forward and backward pass as planned, on this machine when it was timed.
        dense_seconds: of the faster dense one.
    """

    layout: Layout
    blocking: Blocking | None
    seconds: float
    dense_seconds: float

    @classmethod
    def read(cls, found: Any) -> "Plan | None":
        """A plan from its dictionary, or None if that is none."""
        try:
            blocking = Blocking(**found["blocking"]) if found["blocking"] is not None else None
            return cls(Layout(**found["layout"]), blocking, found["seconds"], found["dense_seconds"])
        except (KeyError, TypeError):
            return None

    def describe(self) -> str:
        """In a few words, for tables."""
        b = self.blocking
        if b is None:
            return f"dense {self.layout.kind}"
        flags = ("rows " if b.rows_outermost else "") + ("pack" if b.pack else "")
        return f"sparse V={b.vectors} block={b.channel_block or 'all'} {flags}".strip()


@functools.cache
def processor() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class Planner:
    """The plans of one layer under one mask.

    Args:
        mask: bool, of the weight's shape (two dimensions for a linear layer); None: dense.
    """

    def __init__(self, mask: torch.Tensor | None) -> None:
        if mask is not None and mask.dim() == 2:
            mask = mask[..., None, None]
        self.mask = mask
        self.density = None if mask is None else int(mask.count_nonzero()) / mask.numel()
        self.plans: dict[ConvShape, Plan] = {}
        self._structures: dict[tuple[Blocking, int, int], Structure] = {}

    def plan(self, shape: ConvShape) -> Plan:
        """The plan for a shape: from memory, from disk, or timed now."""
        if shape not in self.plans:
            key, file = shape.key(self.density), PlanFile()
            found = Plan.read(file.get(key))
            if found is None:
                with torch.inference_mode(False), torch.enable_grad():
                    found = self._choose(shape)
                file.put(key, asdict(found))
            self.plans[shape] = found
        return self.plans[shape]

    def structure(self, plan: Plan, stride: int, padding: int) -> Structure:
        """Where the live weights are, as ``plan`` walks through them."""
        assert plan.blocking is not None
        assert self.mask is not None
        key = (plan.blocking, stride, padding)
        if key not in self._structures:
            self._structures[key] = Structure(self.mask, stride, padding, plan.blocking)
        return self._structures[key]

    def _choose(self, shape: ConvShape) -> Plan:
        generator = torch.Generator().manual_seed(0)
        x = (torch.rand(shape.sizes, generator=generator) < 0.2).to(shape.dtype)
        weight = torch.randn(shape.weight, generator=generator, dtype=shape.dtype)
        ways: dict[tuple[Layout, Blocking | None], Callable[[], None]] = {
            (layout, None): _dense_step(x, weight, shape, layout) for layout in (NCHW, NHWC)
        }
        if self.mask is not None:
            for blocking in candidates(shape, self.density or 0.0):
                structure = Structure(self.mask, shape.stride, shape.padding, blocking)
                step = _sparse_step(x, weight * self.mask, shape, structure)
                ways[(Layout("lanes", blocking.vectors), blocking)] = step
        seconds = race(ways)
        dense = min(s for (_, blocking), s in seconds.items() if blocking is None)
        margin = LINEAR_MARGIN if shape.sizes[3:] == (1, 1) else MARGIN
        layout, blocking = min(seconds, key=lambda way: seconds[way] / (1 if way[1] is None else margin))
        return Plan(layout, blocking, seconds[(layout, blocking)], dense)


def race(ways: dict[Any, Callable[[], None]]) -> dict[Any, float]:
    """Best time of each way: all run once, the fastest few (and the dense ones) some more."""
    seconds = {way: _seconds(run) for way, run in ways.items()}
    for _ in range(REPEATS):
        for way in sorted(ways, key=lambda w: seconds[w])[:SHORTLIST]:
            seconds[way] = min(seconds[way], _seconds(ways[way]))
    dense = min((way for way in ways if way[1] is None), key=lambda w: seconds[w])
    seconds[dense] = min(seconds[dense], _seconds(ways[dense]))
    return seconds


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def candidates(shape: ConvShape, density: float) -> list[Blocking]:
    """The ways through a layer that were fastest for some mask of such a map and density."""
    if density > 0.6:
        return []
    pixels = max(shape.sizes[-2:])
    vectors = {t * -(-n // 8) for t, n in [shape.sizes[:2]]}.pop()
    if pixels >= 6:
        found = [(8, False, False), (16, True, True), (32, True, True), (64, False, False), (0, False, False)]
        widths = [1, 2]
    elif pixels >= 3:
        found = [(16, False, False), (32, False, False), (64, False, False), (64, True, True), (0, False, False)]
        widths = [2, 3, 5]
    else:
        found, widths = [(32, False, False), (64, False, False), (0, False, False)], [5, 3, 2]
    if density < 0.04:
        found = [f for f in found if f[0] in (0, 64)]
    even = [v for v in widths if vectors % v == 0] or [1]
    channels = shape.weight[1]
    blocks = dict.fromkeys((0 if block >= channels else block, rows, pack) for block, rows, pack in found)
    return [Blocking(v, *block) for v in even for block in blocks]


def _dense_step(x: torch.Tensor, weight: torch.Tensor, shape: ConvShape, layout: Layout) -> Callable[[], None]:
    data = convert(x, shape.sizes, NCHW, layout).flatten(0, 1).requires_grad_()
    w = weight.clone().requires_grad_()
    grad = torch.ones_like(F.conv2d(data, w, None, shape.stride, shape.padding))

    def step() -> None:
        torch.autograd.grad(F.conv2d(data, w, None, shape.stride, shape.padding), (data, w), grad)

    return step


def _sparse_step(x: torch.Tensor, weight: torch.Tensor, shape: ConvShape, structure: Structure) -> Callable[[], None]:
    lanes = Layout("lanes", structure.blocking.vectors)
    data = convert(x, shape.sizes, NCHW, lanes).requires_grad_()
    w, size = weight.clone().requires_grad_(), (shape.sizes[3], shape.sizes[4])
    grad = torch.zeros_like(sparse_conv2d(data, w, None, size, structure))

    def step() -> None:
        torch.autograd.grad(sparse_conv2d(data, w, None, size, structure), (data, w), grad)

    return step
