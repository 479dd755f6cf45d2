"""The convolution from spikes on a CPU, channels last: output and gradients against torch in float64."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.convolution import LayerConfiguration, SpikeConfiguration, convolution, takes_spikes
from snn_sparse.ops.spikes import NCHW, NHWC, format_of, ordered
from snn_sparse.specs import MAX_SPIKE_WIDTH, ConvGeometry

pytestmark = cpp_case.needs_cpp
BOTH = SpikeConfiguration()
EVERY = [BOTH, SpikeConfiguration(grad_weight=False), SpikeConfiguration(output=False)]
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-13}  # of the largest result, or of what random terms add up to


@st.composite
def layers(draw):
    """Layers that the kernels take: any sizes whose spikes fill whole bytes."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    kernel, stride, padding = (pick(1, 2, 3, 5, 7), pick(1, 3, 3, 4, 7)), pick(1, 1, 2, 3, 8), pick(0, 1, 1, 2, 9)
    map_size = [max(draw(st.integers(1, 9)), k - 2 * padding) for k in kernel]
    images, inputs = pick(1, 2, 7, 8, 24), pick(1, 3, 8, 17, 64, 70, 130)
    g = ConvGeometry(pick(1, 2, 3), images, inputs, pick(1, 5, 16, 31, 33, 64, 130), *map_size, kernel, stride, padding)
    return g if takes_spikes(g) else replace(g, steps=8)


def spikes_at(rate, shape, dtype):
    """0 and 1 as rates of exactly none and all; "one": a single spike."""
    if rate != "one":
        return (torch.rand(shape) < rate).to(dtype)
    x = torch.zeros(shape, dtype=dtype)
    x.view(-1)[torch.randint(x.numel(), ())] = 1
    return x


def problem(g, rate, dtype):
    x = ordered(spikes_at(rate, g.input_shape, dtype), NHWC).requires_grad_()
    weight = torch.randn(g.weight_shape, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(g.outputs, dtype=dtype, requires_grad=True)


def exact(g, leaves, keep, grad):
    """Output and gradients in float64, by torch, channels first."""
    x, weight, bias = (t.detach().double().contiguous().requires_grad_() for t in leaves)
    y = F.conv2d(x.flatten(0, 1), weight, bias, g.stride, g.padding).unflatten(0, (g.steps, g.images))
    found = torch.autograd.grad(y, (x, weight, bias), grad.double().contiguous())
    return [y.detach(), found[0], found[1] * keep, found[2]]


def from_spikes(g, leaves, how, grad):
    y, _ = convolution(*leaves, g.stride, g.padding, how, binary=True)
    assert type(y.grad_fn).__name__ == "DifferentiableBackward"
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def typical(grad):
    """Size of a filter's sum of gradients if signs are random: a small result may be the rest of much larger terms."""
    return 0, 0, *[float(grad.double().square().sum((0, 1, 3, 4)).max().sqrt())] * 2


def assert_close(found, expected, dtype, sizes=(0, 0, 0, 0)):
    for a, b, size in zip(found, expected, sizes[: len(found)], strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        largest = max(float(b.abs().max()), size, 1e-30)
        assert float((a.double() - b).abs().max()) <= ROUNDING[dtype] * largest


@settings(max_examples=int(os.environ.get("EXAMPLES", "60")), deadline=None)
@given(
    layers(),
    st.sampled_from([0, "one", 0.05, 0.5, 1]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(EVERY),
)
def test_any_layer(g, rate, dtype, spikes):
    leaves, keep = problem(g, rate, dtype), torch.rand(g.weight_shape) < 0.6
    grad = ordered(torch.randn(g.output_shape, dtype=dtype), NHWC)
    how = LayerConfiguration.of_spikes(keep, spikes)
    assert_close(from_spikes(g, leaves, how, grad), exact(g, leaves, keep, grad), dtype, typical(grad))


WIDE = ConvGeometry(2, 5, 96, 80, 12, 40, (3, 3), 1, 1)
SMALL = ConvGeometry(3, 24, 136, 72, 2, 2, (3, 3), 1, 1)
STRIDED = ConvGeometry(2, 8, 24, 160, 17, 19, (3, 3), 2, 1)
LINEAR = ConvGeometry(4, 30, 300, 10, 1, 1, (1, 1), 1, 0)


@pytest.mark.parametrize("g", [WIDE, SMALL, STRIDED, LINEAR], ids=["wide", "small", "strided", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_number_of_threads(g, dtype):
    leaves, grad = problem(g, 0.15, dtype), ordered(torch.randn(g.output_shape, dtype=dtype), NHWC)
    how = LayerConfiguration.of_spikes(None, BOTH)
    found = cpp_case.with_threads((1, 2, 4, 3), lambda: from_spikes(g, leaves, how, grad))
    assert_close(found[0], exact(g, leaves, torch.ones(g.weight_shape), grad), dtype)
    for other in found[1:]:
        for i in (0, 2, 3):  # torch computes the gradient of the input
            assert torch.equal(found[0][i], other[i])


@pytest.mark.parametrize("isa", cpp_case.ISAS)
def test_every_instruction_set(isa):
    cpp_case.run_again(isa, __file__)


@pytest.mark.parametrize("spikes", EVERY)
@pytest.mark.parametrize(
    "needs", [(True, True, True), (False, True, False), (True, False, False), (False, False, True)]
)
def test_only_what_is_needed(spikes, needs):
    g = STRIDED
    leaves = problem(g, 0.2, torch.float64)
    grad = torch.randn(g.output_shape, dtype=torch.float64)
    given = [t.detach().requires_grad_(need) for t, need in zip(leaves, needs, strict=True)]
    y, _ = convolution(*given, g.stride, g.padding, LayerConfiguration.of_spikes(None, spikes), binary=True)
    wanted = [t for t, need in zip(given, needs, strict=True) if need]
    expected = exact(g, leaves, torch.ones(g.weight_shape), grad)
    expected = [expected[0], *(e for e, need in zip(expected[1:], needs, strict=True) if need)]
    assert_close([y.detach(), *torch.autograd.grad(y, wanted, grad)], expected, torch.float64)


def test_other_memory_formats_are_converted():
    g = WIDE
    leaves = problem(g, 0.2, torch.float64)
    grad = torch.randn(g.output_shape, dtype=torch.float64)
    how = LayerConfiguration.of_spikes(None, BOTH)
    expected = from_spikes(g, leaves, how, ordered(grad, NHWC))
    strided = torch.zeros(*g.input_shape[:-1], 2 * g.width, dtype=torch.float64)[..., ::2]
    for x in (ordered(leaves[0].detach(), NCHW), strided.copy_(leaves[0].detach())):
        found = from_spikes(g, (x.requires_grad_(), *leaves[1:]), how, grad)
        assert format_of(found[0]) == NHWC
        for i in (0, 2, 3):
            assert torch.equal(found[i], expected[i])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("why", ["numbers", "no whole bytes", "autocast", "too wide"])
def test_anything_but_spikes_is_computed_densely(why, monkeypatch):
    """Integers are no spikes, though they are whole: only the caller knows, who says ``binary``."""
    g = {"no whole bytes": ConvGeometry(1, 1, 3, 8, 3, 3, (3, 3), 1, 1)}.get(
        why, ConvGeometry(1, 8, 3, 8, 3, 3, (3, 3), 1, 1)
    )
    if why == "too wide":
        g = ConvGeometry(1, 1, 1, 8, 1, MAX_SPIKE_WIDTH + 8, (1, 1), 1, 0)
    leaves = problem(g, 0.5, torch.float32)
    x = leaves[0].detach() * (3 if why == "numbers" else 1)
    for name in ("spike_convolution", "spike_convolution_grad_weight"):
        monkeypatch.setattr(torch.ops.snn_sparse, name, None)
    found = []
    for how in (LayerConfiguration(), LayerConfiguration.of_spikes(None, BOTH)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=why == "autocast"):
            y, _ = convolution(x, *leaves[1:], g.stride, g.padding, how, binary=why != "numbers")
        found.append((y, *torch.autograd.grad(y.float().square().sum(), leaves[1:])))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_one_bit_of_each_spike_is_kept():
    g = WIDE
    leaves, kept = problem(g, 0.2, torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        convolution(*leaves, 1, 1, LayerConfiguration.of_spikes(None, BOTH), binary=True)
    assert sum(kept) == leaves[0].numel() // 8 + leaves[1].nbytes


def test_without_gradients_nothing_is_kept():
    g = WIDE
    x, weight, bias = problem(g, 0.2, torch.float32)
    how = LayerConfiguration.of_spikes(None, BOTH)
    with torch.no_grad():
        y, _ = convolution(x, weight, bias, 1, 1, how, binary=True)
    assert torch.equal(y, convolution(x, weight, bias, 1, 1, how, binary=True)[0])


def test_a_compiled_graph_computes_densely():
    g = STRIDED
    leaves, keep = problem(g, 0.2, torch.float64), torch.rand(g.weight_shape) < 0.5

    def run(*given):
        return convolution(*given, g.stride, g.padding, LayerConfiguration.of_spikes(keep, BOTH), binary=True)[0]

    y, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves), run(*leaves)
    found = (y, *torch.autograd.grad(y.sin().sum(), leaves))
    for a, b in zip(found, (expected, *torch.autograd.grad(expected.sin().sum(), leaves)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spikes", EVERY)
def test_fake_tensors_lie_in_memory_as_real_ones(spikes):
    g, how = STRIDED, LayerConfiguration.of_spikes(None, spikes)
    leaves = problem(g, 0.2, torch.float32)

    def run(given):
        y, _ = convolution(*given, g.stride, g.padding, how, binary=True)
        return [(t.shape, t.stride(), t.dtype) for t in (y, *torch.autograd.grad(y.sum(), given))]

    expected = run(leaves)
    with FakeTensorMode() as mode:
        assert run([mode.from_tensor(t) for t in leaves]) == expected


@pytest.mark.parametrize(("output", "grad_weight", "error"), [(False, False, ValueError), (1, True, TypeError)])
def test_a_configuration_says_which_directions(output, grad_weight, error):
    with pytest.raises(error, match="output"):
        SpikeConfiguration(output, grad_weight)
    assert EVERY[1].describe() == "spikes: output"
    assert BOTH.describe() == "spikes: output, weight gradient"


BITS = torch.zeros(4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": BITS.float()}, "bits"),
        ({"bits": BITS[::2]}, "bits must be contiguous"),
        ({"bits": BITS[:3]}, "bits must be one for each element"),
        ({"sizes": [2, 4, 2]}, "sizes"),
        ({"sizes": [0, 4, 2, 2]}, "sizes"),
        ({"sizes": [2**40, 2**40, 2**40, 2]}, "sizes"),
        ({"sizes": [2, 2, 2, 4]}, "as many channels"),
        ({"weight": torch.zeros(3, 4, 3, 8)}, "kernel sizes"),
        ({"weight": torch.zeros(3, 4, 3, 3).half()}, "weight"),
        ({"bias": torch.zeros(4)}, "bias"),
        ({"bias": torch.zeros(3).double()}, "bias"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": 0}, "does not fit"),
    ],
)
def test_the_kernels_refuse(changes, message):
    good = {
        "bits": BITS,
        "sizes": [2, 4, 2, 2],
        "weight": torch.zeros(3, 4, 3, 3),
        "bias": None,
        "stride": 1,
        "padding": 1,
    }
    torch.ops.snn_sparse.spike_convolution(*good.values())
    with pytest.raises(RuntimeError, match=message):
        torch.ops.snn_sparse.spike_convolution(*(good | changes).values())


@pytest.mark.parametrize(
    "grad", [torch.zeros(2, 2, 2), torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 2, 3, dtype=torch.int32)]
)
def test_the_weight_gradient_refuses(grad):
    with pytest.raises(RuntimeError, match="grad"):
        torch.ops.snn_sparse.spike_convolution_grad_weight(BITS, [2, 4, 2, 2], grad, 3, 3, 1, 1, False)
