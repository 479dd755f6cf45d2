"""How a convolution of packed spikes computes on a GPU under its mask: each direction is timed once, the fastest kept.

cuDNN on unpacked spikes is among the ways and is kept unless another beats it. Choices are remembered on disk, like
those for a CPU (``plan.py``), by shape, density and GPU.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from snn_sparse.kernels.conv_candidates import candidates
from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.nn.fused.plan import MARGIN
from snn_sparse.nn.fused.plan_file import PlanFile
from snn_sparse.ops.channel_groups import Grouper
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan, Ways
from snn_sparse.ops.cuda_graphs import CudaGraphs
from snn_sparse.ops.device import kernels_run, triton_version
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.mask_structure import union_fraction
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.packed_conv import run_direction
from snn_sparse.ops.packed_conv_neuron import packed_conv_neuron
from snn_sparse.ops.spike_bits import Packed, packed_shape

FORMAT = 1  # of the plans on disk; raised when older ones no longer hold
REPEATS, CALLS = 5, 4  # timings of a way, and calls in each
UNION = 16  # filters of a group, whose union of columns tells one mask from another of the same density
WORTHWHILE = 0.8  # share of the products of a way by neighbours that one by gathered channels may compute
ROUNDING = 2e-2  # of the largest result, by which a way may differ from torch: bfloat16 rounds to 2^-8
WORDS_OFF = 0.1  # share of words of packed spikes that may differ: a potential within rounding of the threshold


@dataclass(frozen=True)
class Choice:
    """A plan with its times.

    Attributes:
        ways: of the directions.
        seconds, library_seconds: of each direction as planned, and by torch.
    """

    ways: Ways
    seconds: tuple[float, ...]
    library_seconds: tuple[float, ...]


class ConvPlanner:
    """The GPU plans of one convolution under one mask (None: dense)."""

    def __init__(self, mask: torch.Tensor | None) -> None:
        self.mask = mask
        self.density = 1.0 if mask is None else int(mask.count_nonzero()) / mask.numel()
        self.choices: dict[tuple[Geometry, torch.dtype], Choice] = {}
        self._plans: dict[tuple[Geometry, torch.dtype, torch.device], ConvPlan] = {}  # of any number of images

    def plan(self, geometry: Geometry, dtype: torch.dtype, device: torch.device) -> ConvPlan:
        """The plan for a shape: known, from disk, or timed now; by torch alone where our kernels do not run.

        The first batch decides for batches and sequences of other lengths, whose ways hardly differ. While a graph is
        captured or compiled nothing can be timed: what is not known yet is left to torch then.
        """
        if torch.compiler.is_compiling() or not kernels_run(torch.empty(0, dtype=dtype, device=device), "convolution"):
            return ConvPlan()
        key = (replace(geometry, steps=1, images=1), dtype, device)
        if key not in self._plans:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return ConvPlan()
            with torch.inference_mode(False), torch.no_grad():
                grouper = Grouper(self.mask, (geometry.outputs, geometry.inputs, *geometry.kernel))
                choice = self._choose(geometry, grouper, dtype, device)
                self._plans[key] = ConvPlan.make(choice.ways, grouper, device)
            self.choices[(geometry, dtype)] = choice
        return self._plans[key]

    def _choose(self, geometry: Geometry, grouper: Grouper, dtype: torch.dtype, device: torch.device) -> Choice:
        file, key = PlanFile(), self._key(geometry, dtype, device)
        found = _read(file.get(key))
        if found is None:
            found = choose(geometry, grouper, dtype, device)
            file.put(key, asdict(found) | {"ways": [None if way is None else asdict(way) for way in found.ways]})
        return found

    def _key(self, geometry: Geometry, dtype: torch.dtype, device: torch.device) -> str:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
        sizes = "x".join(map(str, geometry.input_shape()))
        how = f"{geometry.outputs} {geometry.kernel} s{geometry.stride}p{geometry.padding} {dtype}"
        union = 1.0 if self.mask is None else union_fraction(self.mask, UNION)
        mask = f"{self.density:.2g} union {union:.2g}"
        exact = "" if torch.backends.cudnn.allow_tf32 else " no tf32"
        built = f"torch {torch.__version__} triton {triton_version()} cudnn {torch.backends.cudnn.version()}{exact}"
        return f"gpu v{FORMAT} {sizes} {how} {mask} | {name} {built}"


def _read(found: Any) -> Choice | None:
    try:
        ways = Ways(*(None if way is None else Way(**way) for way in found["ways"]))
        return Choice(ways, tuple(found["seconds"]), tuple(found["library_seconds"]))
    except (KeyError, TypeError, ValueError):
        return None


def choose(geometry: Geometry, grouper: Grouper, dtype: torch.dtype, device: torch.device) -> Choice:
    """Time every way of every direction on random spikes under the mask of ``grouper``, and keep the fastest."""
    runs = _Runs(geometry, grouper, dtype, device)
    ways: list[Way | None] = []
    seconds, library = [], []
    for direction in DIRECTIONS:
        base = Ways(output=ways[0] if direction == "spikes" else None)  # spikes compete with the best convolution
        offered = _shortlist(direction, geometry, grouper, dtype == torch.float32)
        listed = [base, *(base._replace(**{direction: way}) for way in offered)]
        made = [runs.make(direction, option) for option in listed]
        times = _times(made, device)
        # torch's gradient is not masked, ours is
        best = _fastest_right(made, times, grouper.used.to(device) if direction == "grad_weight" else None)
        ways.append(getattr(listed[best], direction))
        seconds.append(times[best])
        library.append(times[0])
    return Choice(Ways(*ways), tuple(seconds), tuple(library))


def _fastest_right(
    runs: list[Callable[[], torch.Tensor]], times: list[float], alive: torch.Tensor | None = None
) -> int:
    """The fastest way whose result is that of the first, by torch, which any other must beat clearly.

    With ``alive`` the result must be zero where it is false, whatever torch says.
    """
    for i in sorted(range(len(runs)), key=lambda i: times[i] / (MARGIN if i else 1)):
        if i == 0:
            break
        expected = runs[0]() if alive is None else runs[0]() * alive
        if times[i] == float("inf"):
            continue
        if _same(runs[i](), expected):
            return i
        warnings.warn("a GPU kernel of snn_sparse gave a wrong result and is not used; please report it", stacklevel=2)
    return 0


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two results are equal up to rounding; of packed spikes, but for some words."""
    if found.shape != expected.shape:
        return False
    if found.dtype == torch.int32:
        return float((found != expected).float().mean()) < WORDS_OFF
    error = float((found.float() - expected.float()).abs().max())
    return error <= ROUNDING * float(expected.float().abs().max())


def _shortlist(direction: str, geometry: Geometry, grouper: Grouper, exact: bool) -> list[Way]:
    """Candidates without those that would compute far more products than others under this mask."""
    found = candidates(direction, geometry, float(grouper.used.float().mean()), exact)
    shares = {way: grouper.groups(way, direction == "grad_input").fraction for way in found}
    block = min((shares[way] for way in found if not way.gathered), default=float("inf"))
    return [way for way in found if not way.gathered or shares[way] < WORTHWHILE * block]


class _Runs:
    """Random data of one shape, and every direction on it as a function to time."""

    def __init__(self, g: Geometry, grouper: Grouper, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        words = packed_shape(g.input_shape(), True)
        fill = (torch.randint(-(2**31), 2**31, words, generator=generator) for _ in range(2))
        bits = torch.bitwise_and(*fill).to(torch.int32).to(device)  # a quarter of the spikes
        weight = torch.randn(grouper.used.shape, generator=generator) * grouper.used
        self.packed = Packed(torch.zeros(1, dtype=dtype, device=device).expand(g.input_shape()), bits)
        self.weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        t, n, channels, high, wide = g.output_shape
        grad = torch.randn((t, n, high, wide, channels), generator=generator)
        self.grad = grad.to(device, dtype).movedim(-1, 2)
        self.geometry, self.grouper, self.device = g, grouper, device

    def make(self, direction: str, ways: Ways) -> Callable[[], torch.Tensor]:
        """A function that runs one direction."""
        plan = ConvPlan.make(ways, self.grouper, self.device)
        if direction == "spikes":
            return self._spikes(plan)
        return lambda: run_direction(direction, self.packed, self.weight, self.grad, self.geometry, plan)

    def _spikes(self, plan: ConvPlan) -> Callable[[], torch.Tensor]:
        g = self.geometry
        zeros, ones = (f(g.outputs, device=self.device) for f in (torch.zeros, torch.ones))
        norm = Norm(ones, zeros, zeros, ones, (0.0,) * g.steps, False)
        if plan.ways.spikes is not None:
            how = (g.stride, g.padding, plan, norm, NeuronSpec())
            return lambda: packed_conv_neuron(self.packed, self.weight, None, *how).bits

        def one_by_one() -> torch.Tensor:
            y = run_direction("output", self.packed, self.weight, self.grad, g, plan)
            spikes, _ = neuron_sequence(y, NeuronSpec(), g.steps, norm=norm, packed=True)
            assert isinstance(spikes, Packed)
            return spikes.bits

        return one_by_one


def _times(runs: list[Callable[[], torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds of each, of which the first must run; infinite where another cannot, 0 if there is no other."""
    if len(runs) == 1:
        return [0.0]
    found = [_seconds(runs[0], device)]
    for run in runs[1:]:
        try:
            found.append(_seconds(run, device))
        except Exception:  # too much shared memory, or whatever a compiler says: torch still computes
            found.append(float("inf"))
    return found


def _seconds(run: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Median time of a call; on a GPU of its kernels alone, replayed from a graph."""
    if device.type != "cuda":
        return min(_clocked(run) for _ in range(2))
    with torch.cuda.device(device):
        graphs = CudaGraphs(device)
        with graphs.aside():
            run()  # compiles kernels, lets cuDNN choose
        graph = graphs.capture(lambda: [run() for _ in range(CALLS)])
        graph.replay()
        times = []
        for _ in range(REPEATS):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            graph.replay()
            events[1].record()
            events[1].synchronize()
            times.append(events[0].elapsed_time(events[1]) / 1e3 / CALLS)
        return statistics.median(times)


def _clocked(run: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
