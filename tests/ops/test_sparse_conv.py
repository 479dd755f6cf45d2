"""Direct sparse convolution against torch's dense convolution and its autograd."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snn_sparse.ops.layout import NCHW, Layout, convert
from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.sparse_conv import Blocking, Structure, reference, sparse_conv2d

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

ops = torch.ops.snn_sparse
EXAMPLES = int(os.environ.get("EXAMPLES", 80))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
FILES = ("test_sparse_conv.py", "test_sparse_conv_errors.py", "test_lanes.py")  # what each instruction set must pass


def dense(x, weight, bias, mask, stride, padding, grad_seed=1):
    """Output, its random gradient, and the gradients of input, weight and bias, all in float64."""
    x, weight, bias = (t.double().detach().requires_grad_() for t in (x, weight, bias))
    y = reference(x.flatten(0, 1), weight, bias, mask, stride, padding).unflatten(0, x.shape[:2])
    generator = torch.Generator().manual_seed(grad_seed)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return y, grad, torch.autograd.grad(y, (x, weight, bias), grad)


def assert_close(got, expected, dtype):
    scale = expected.abs().max().clamp(min=1.0)
    assert got.shape == expected.shape
    assert (got.double() - expected).abs().max() <= TOLERANCE[dtype] * scale


class Layer:
    """The three operators and the conversions around them, as a caller would use them."""

    def __init__(self, mask, stride=1, padding=0, vectors=1, halos=(0, 0), block=0, rows=False, tile=0, band=0, pack=0):
        self.mask, self.stride, self.padding, self.vectors = mask, stride, padding, vectors
        (self.halo_in, self.halo_out), self.options = halos, (tile, band, bool(pack))
        self.structure = ops.sparse_conv2d_structure(mask, stride, block, False, rows)
        self.transposed = ops.sparse_conv2d_structure(mask, stride, block, True, rows)

    def forward(self, x, weight, bias):
        lanes, window = ops.to_lanes(x, self.vectors, self.halo_in), (self.stride, self.padding)
        halos = self.halo_in, self.halo_out
        y = ops.sparse_conv2d_forward(lanes, weight, bias, self.structure, *window, *halos, *self.options)
        assert halo_is_zero(y, self.halo_out)
        return ops.from_lanes(y, *x.shape[:2], self.halo_out)

    def grad_input(self, x, weight, grad):
        lanes, window = ops.to_lanes(grad, self.vectors, self.halo_out), (*x.shape[-2:], self.stride, self.padding)
        halos = self.halo_out, self.halo_in
        g = ops.sparse_conv2d_grad_input(lanes, weight, self.transposed, *window, *halos, *self.options)
        assert halo_is_zero(g, self.halo_in)
        return ops.from_lanes(g, *x.shape[:2], self.halo_in)

    def grad_weight(self, x, grad, out, with_bias=True):
        lanes = ops.to_lanes(x, self.vectors, self.halo_in), ops.to_lanes(grad, self.vectors, self.halo_out)
        how = self.stride, self.padding, self.halo_in, self.halo_out, with_bias, *self.options
        return ops.sparse_conv2d_grad_weight(*lanes, self.structure, out, *how)


def halo_is_zero(lanes, halo):
    inside = torch.zeros(lanes.shape[2:4], dtype=torch.bool)
    inside[halo : lanes.shape[2] - halo, halo : lanes.shape[3] - halo] = True
    return not lanes[:, :, ~inside].any()


def check(x, mask, dtype, **layer):
    weight = torch.randn(mask.shape, dtype=dtype)  # pruned entries are not zero: only live ones may be read
    bias = torch.randn(mask.shape[0], dtype=dtype)
    conv = Layer(mask, **layer)
    y, grad, (gx, gw, gb) = dense(x, weight, bias, mask, conv.stride, conv.padding)
    grad = grad.to(dtype)
    assert_close(conv.forward(x, weight, bias), y, dtype)
    assert_close(conv.grad_input(x, weight, grad), gx, dtype)
    got, again = torch.zeros_like(weight), torch.full_like(weight, torch.nan)
    assert_close(conv.grad_weight(x, grad, got), gb, dtype)
    assert_close(got, gw, dtype)
    assert not got[~mask].any()
    assert conv.grad_weight(x, grad, again, with_bias=False).shape == (0,)
    assert torch.equal(again.isnan(), ~mask)  # pruned entries stay as they were
    assert torch.equal(again[mask], got[mask])


@st.composite
def problems(draw):
    def one_of(*choices):
        return draw(st.sampled_from(choices))

    kernel, padding = one_of((1, 1), (3, 3), (3, 3), (2, 3), (5, 1)), draw(st.integers(0, 2))
    maps = [draw(st.integers(max(1, k - 2 * padding), 9)) for k in kernel]
    return {
        "sizes": (draw(st.integers(1, 5)), draw(st.integers(1, 17)), draw(st.integers(1, 17)), *maps),
        "mask": (draw(st.integers(1, 17)), kernel, one_of(0.0, 0.05, 0.3, 1.0)),
        "strided": one_of("contiguous", "channels_last", "sliced", "expanded"),
        "seed": draw(st.integers(0, 999)),
        "layer": {
            "stride": draw(st.integers(1, 2)),
            "padding": padding,
            "vectors": draw(st.integers(1, 5)),
            "halos": (one_of(0, 0, 1, 2), one_of(0, 0, 1)),
            "block": one_of(0, 1, 5, 8),
            "rows": draw(st.booleans()),
            "tile": one_of(0, 0, 1, 3),
            "band": one_of(0, 0, 1, 2, 7),
            "pack": draw(st.booleans()),
        },
    }


def make_input(sizes, strided, dtype):
    t, b, c, h, w = sizes
    if strided == "channels_last":
        return torch.randn(t, b, h, w, c, dtype=dtype).permute(0, 1, 4, 2, 3)
    if strided == "sliced":
        return torch.randn(b, t, c + 1, h, 2 * w, dtype=dtype).transpose(0, 1)[:, :, 1:, :, ::2]
    if strided == "expanded":
        return torch.randn(b, c, h, w, dtype=dtype).expand(t, b, c, h, w)
    return torch.randn(t, b, c, h, w, dtype=dtype)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_against_dense(problem, dtype):
    torch.manual_seed(problem["seed"])
    x = make_input(problem["sizes"], problem["strided"], dtype)
    filters, kernel, density = problem["mask"]
    mask = torch.rand(filters, problem["sizes"][2], *kernel) < density
    mask[0] = density == 1.0  # an empty filter, unless all is full
    check(x, mask, dtype, **problem["layer"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("vectors", range(1, 9))
def test_every_vector_count(vectors, dtype):
    torch.manual_seed(vectors)
    for pack in (False, True):
        x, mask = torch.randn(2, 9, 6, 17, 16, dtype=dtype), torch.rand(5, 6, 3, 3) < 0.4
        check(x, mask, dtype, padding=1, vectors=vectors, block=4, rows=pack, pack=pack)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(7, 1, 3), (7, 2, 6), (5, 3, 2), (4, 4, 0), (1, 5, 1), (3, 2, 20), (2, 8, 0)]
)
def test_unusual_windows(kernel, stride, padding, pack):
    torch.manual_seed(0)
    for rows in (False, True):
        x, mask = torch.randn(2, 3, 4, 11, 8, dtype=torch.float64), torch.rand(6, 4, kernel, kernel) < 0.5
        check(x, mask, torch.float64, stride=stride, padding=padding, vectors=2, rows=rows, pack=pack)


def test_linear_is_a_pointwise_convolution_on_one_pixel():
    torch.manual_seed(0)
    x, mask = torch.randn(5, 16, 512, 1, 1), torch.rand(100, 512, 1, 1) < 0.1
    for vectors in (1, 5, 8):
        check(x, mask, torch.float32, vectors=vectors, block=64)


def test_structure_lists_every_live_weight_once():
    torch.manual_seed(0)
    mask = torch.rand(7, 10, 3, 3) < 0.3
    for transposed in (False, True):
        channels, pointers, taps = ops.sparse_conv2d_structure(mask, 2, 4, transposed, False)
        filters, blocks = (10, 2) if transposed else (7, 3)
        assert pointers.numel() == blocks * filters * 9 + 1
        assert sorted(taps.tolist()) == list(range(9))
        found = torch.zeros_like(mask)
        for row in range(pointers.numel() - 1):
            filter_, tap = row // 9 % filters, taps[row % 9]
            for channel in channels[pointers[row] : pointers[row + 1]]:
                index = (channel, filter_) if transposed else (filter_, channel)
                found[index[0], index[1], tap // 3, tap % 3] = True
        assert torch.equal(found, mask)


def test_same_result_on_any_number_of_threads():
    torch.manual_seed(0)
    x, mask = torch.randn(3, 16, 24, 9, 9), torch.rand(40, 24, 3, 3) < 0.2
    weight, bias, grad = torch.randn(mask.shape), torch.randn(40), torch.randn(3, 16, 40, 9, 9)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            layer = Layer(mask, padding=1, block=8)
            out = torch.zeros_like(weight)
            gradients = layer.grad_input(x, weight, grad), layer.grad_weight(x, grad, out), out
            results.append((layer.forward(x, weight, bias), *gradients))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_padding_lanes_stay_finite_and_pruned_weights_unread():
    mask = torch.zeros(4, 3, 3, 3, dtype=torch.bool)
    weight = torch.full(mask.shape, float("nan"))
    x = ops.to_lanes(torch.randn(1, 3, 3, 4, 4), 2, 0)
    y = ops.sparse_conv2d_forward(x, weight, None, ops.sparse_conv2d_structure(mask, 1, 0, False, False), 1, 1, 0, 0)
    assert torch.equal(y, torch.zeros_like(y))


# ---- the differentiable function ------------------------------------------------------------------------------------


def small_problem(stride=1, with_bias=True):
    sizes, mask = (1, 9, 2, 4, 3), torch.rand(3, 2, 3, 3) < 0.5
    x, weight = torch.randn(sizes, dtype=torch.float64), torch.randn(mask.shape, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64).requires_grad_() if with_bias else None
    return x.requires_grad_(), weight.requires_grad_(), bias, Structure(mask, stride, 1, Blocking(2, 1))


def through_lanes(x, weight, bias, structure):
    lanes, sizes = Layout("lanes", structure.blocking.vectors), tuple(x.shape)
    y = sparse_conv2d(convert(x, sizes, NCHW, lanes), weight, bias, sizes[3:], structure)
    height, width = ((d + 2 - 3) // structure.stride + 1 for d in sizes[3:])
    return convert(y, (*sizes[:2], weight.shape[0], height, width), lanes, NCHW)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_finite_differences(stride, with_bias):
    x, weight, bias, structure = small_problem(stride, with_bias)
    y, expected = through_lanes(x, weight, bias, structure), reference(x[0], weight, bias, structure.mask, stride, 1)
    torch.testing.assert_close(y[0], expected, rtol=1e-12, atol=1e-12)
    torch.autograd.gradcheck(lambda *given: through_lanes(*given, structure), (x, weight, bias))


def test_strided_arguments_are_taken():
    x, weight, bias, structure = small_problem()
    expected = through_lanes(x, weight, bias, structure)
    sliced = [torch.stack((t, t), -1)[..., 0] for t in (weight, bias)]
    assert torch.equal(through_lanes(x, *sliced, structure), expected)
    lanes = ops.to_lanes(x.detach(), 2, 0).transpose(1, 2).contiguous().transpose(1, 2)
    y = sparse_conv2d(lanes, weight, bias, (4, 3), structure)
    assert torch.equal(ops.from_lanes(y, 1, 9, 0), expected)


@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: y.square().sum()], ids=["linear", "square"])
def test_a_second_derivative_is_refused(loss):
    x, weight, bias, structure = small_problem()
    with pytest.raises(RuntimeError, match=r"sparse_conv2d can be differentiated only once"):
        torch.autograd.grad(loss(through_lanes(x, weight, bias, structure)), (x, weight), create_graph=True)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """The environment variable is read once, so each instruction set gets its own process."""
    if os.environ.get("SNN_SPARSE_ISA"):
        pytest.skip("already inside such a process")
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text().split() if processor.exists() else []
    if isa != "portable" and {"avx2": "avx2", "avx512": "avx512bw"}[isa] not in flags:
        pytest.skip(f"this processor has no {isa}")
    environment = {**os.environ, "SNN_SPARSE_ISA": isa, "EXAMPLES": str(min(EXAMPLES, 25))}
    files = [str(Path(__file__).parent / name) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2])
