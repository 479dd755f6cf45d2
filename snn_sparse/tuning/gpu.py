"""The race of a convolution of packed spikes on a GPU: each direction of it, cuDNN among the candidates."""

import warnings
from collections.abc import Callable, Sequence

import torch

from snn_sparse.ops import Norm, neuron_sequence
from snn_sparse.ops.backend import triton_version
from snn_sparse.ops.convolution import (
    Directions,
    Grouper,
    LayerConfiguration,
    TileConfiguration,
    convolution,
    convolution_neuron,
    run_direction,
    tiled,
)
from snn_sparse.ops.convolution.mask_structure import union_fraction
from snn_sparse.ops.neuron.statistics import batch_statistics
from snn_sparse.ops.spikes import NHWC, Packed, ordered, packed_shape
from snn_sparse.specs import BatchNormSpec, ConvGeometry, NeuronSpec
from snn_sparse.tuning.gpu_candidates import candidates
from snn_sparse.tuning.race import race
from snn_sparse.tuning.winner import Winner

Tensor = torch.Tensor
FORMAT = 2  # of the cache; raised when winners of an older version no longer hold
MARGIN = 0.97  # a kernel must beat cuDNN by this factor to be chosen
UNION = 16  # filters of a group, whose union of columns tells one mask from another of the same density
WORTHWHILE = 0.8  # share of the products by neighbours that a configuration by gathered channels may compute
ROUNDING = 2e-2  # of the largest result, by which a kernel may differ from torch: bfloat16 rounds to 2^-8
WORDS_OFF = 0.1  # share of words of packed spikes that may differ: a potential within rounding of the threshold


def key(g: ConvGeometry, dtype: torch.dtype, weight: torch.dtype, keep: Tensor | None, device: torch.device) -> str:
    """Name of a race in the cache: shape, mask, precision, GPU, versions, and cuDNN's flags."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    sizes = "x".join(map(str, g.input_shape))
    how = f"{g.outputs} {g.kernel} s{g.stride}p{g.padding} {dtype} of {weight}"
    density = 1.0 if keep is None else int(keep.count_nonzero()) / keep.numel()
    union = 1.0 if keep is None else union_fraction(keep, UNION)
    cudnn = torch.backends.cudnn
    flags = f"{'deterministic ' * cudnn.deterministic}{'benchmark ' * cudnn.benchmark}{'tf32 ' * cudnn.allow_tf32}"
    built = f"torch {torch.__version__} triton {triton_version()} cudnn {cudnn.version()} {flags}"
    return f"gpu v{FORMAT} {sizes} {how} {density:.2g} union {union:.2g} | {name} {built}"


def choose(g: ConvGeometry, grouper: Grouper, dtype: torch.dtype, weight: torch.dtype, device: torch.device) -> Winner:
    """Race every direction on random spikes under the mask of ``grouper``.

    Args:
        g: sizes of the layer.
        grouper: of its mask.
        dtype: of the products.
        weight: dtype of the parameter, to which cuDNN's gradient must be cast.
        device: where it computes.
    """
    course, best = _Course(g, grouper, dtype, weight, device), Directions()
    seconds, dense = [], []
    for direction in Directions._fields:
        base = best if direction == "spikes" else Directions()  # spikes compete with the best convolution
        listed = [None, *_shortlist(direction, g, grouper, dtype == torch.float32)]
        runs = [course.run(direction, base._replace(**{direction: c})) for c in listed]
        times = race(runs, device) if len(runs) > 1 else [0.0]
        keep = grouper.used.to(device) if direction == "grad_weight" else None
        i = _fastest_right(runs, times, keep)
        best = best._replace(**{direction: listed[i]})
        seconds.append(times[i])
        dense.append(times[0])
    return Winner(tuple(seconds), tuple(dense), NHWC, directions=best)


def _fastest_right(runs: Sequence[Callable[[], Tensor]], seconds: Sequence[float], keep: Tensor | None) -> int:
    """The fastest run whose result is that of the first, by torch, which any other must beat clearly.

    With ``keep`` the result must be zero where it is false, whatever torch says.
    """
    for i in sorted(range(len(runs)), key=lambda i: seconds[i] / (MARGIN if i else 1)):
        if i == 0:
            break
        expected = runs[0]() if keep is None else runs[0]() * keep
        if seconds[i] == float("inf"):
            continue
        if _same(runs[i](), expected):
            return i
        warnings.warn("a GPU kernel of snn_sparse gave a wrong result and is not used; please report it", stacklevel=2)
    return 0


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding; of packed spikes, but for some words."""
    if found.shape != expected.shape:
        return False
    if found.dtype == torch.int32:
        return float((found != expected).float().mean()) < WORDS_OFF
    error = float((found.float() - expected.float()).abs().max())
    return error <= ROUNDING * float(expected.float().abs().max())


def _shortlist(direction: str, g: ConvGeometry, grouper: Grouper, exact: bool) -> list[TileConfiguration]:
    """Candidates without those that would compute far more products than others under this mask."""
    found = candidates(direction, g, float(grouper.used.float().mean()), exact)
    shares = {c: grouper.groups(c, direction == "grad_input").fraction for c in found}
    block = min((shares[c] for c in found if not c.gathered), default=float("inf"))
    return [c for c in found if not c.gathered or shares[c] < WORTHWHILE * block]


class _Course:
    """Random data of one shape, and every direction on it as a training step (or evaluation) runs it."""

    def __init__(
        self, g: ConvGeometry, grouper: Grouper, dtype: torch.dtype, weight: torch.dtype, device: torch.device
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        fill = (torch.randint(-(2**31), 2**31, packed_shape(g.input_shape, True), generator=generator) for _ in "ab")
        bits = torch.bitwise_and(*fill).to(torch.int32).to(device)  # a quarter of the spikes
        w = torch.randn(grouper.used.shape, generator=generator) * grouper.used
        self.packed = Packed(torch.zeros(1, dtype=dtype, device=device).expand(g.input_shape), bits)
        self.weight = w.to(device, weight).contiguous(memory_format=torch.channels_last)
        self.grad = ordered(torch.randn(g.output_shape, generator=generator).to(device, dtype), NHWC)
        self.g, self.grouper, self.dtype, self.device = g, grouper, dtype, device
        zeros, ones = (f(g.outputs, device=device) for f in (torch.zeros, torch.ones))
        self.norm = Norm(BatchNormSpec(frozen=True), ones, zeros, zeros, ones)

    def run(self, direction: str, directions: Directions) -> Callable[[], Tensor]:
        """Make a function that runs one direction."""
        how = tiled(directions, self.grouper, self.device)
        if direction == "spikes":
            return lambda: self._autocast(self._spikes, how)
        if direction == "output":
            return lambda: self._autocast(self._output_with_statistics, how)
        given = self.packed, self.weight, self.grad, self.g, how
        return lambda: run_direction(direction, *given)

    def _autocast(self, run: Callable[[LayerConfiguration], Tensor], how: LayerConfiguration) -> Tensor:
        enabled = self.dtype != self.weight.dtype
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled):
            return run(how)

    def _output_with_statistics(self, how: LayerConfiguration) -> Tensor:
        y, parts = convolution(self.packed, self.weight, None, self.g.stride, self.g.padding, how, statistics=True)
        batch_statistics(y, Norm(BatchNormSpec(), parts=parts), NHWC)
        return y

    def _spikes(self, how: LayerConfiguration) -> Tensor:
        g, spec = self.g, NeuronSpec()
        if how.directions.spikes is not None:
            return convolution_neuron(self.packed, self.weight, None, g.stride, g.padding, how, self.norm, spec).bits
        y, _ = convolution(self.packed, self.weight, None, g.stride, g.padding, how)
        spikes, _ = neuron_sequence(y, spec, g.steps, norm=self.norm, packed=True)
        assert isinstance(spikes, Packed)
        return spikes.bits
