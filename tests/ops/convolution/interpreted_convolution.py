"""The convolution kernels against torch's convolution in float64, under masks, in the interpreter."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.ops import Norm, Packed, convolution, plain_stage
from snn_sparse.ops.convolution import Directions, Grouper, TileConfiguration, convolution_neuron, tiled, triton_weight
from snn_sparse.ops.convolution.channel_groups import group_channels
from snn_sparse.ops.convolution.triton_conv import convolve
from snn_sparse.ops.convolution.triton_conv_neuron import conv_neuron
from snn_sparse.ops.convolution.triton_weight import weight_gradient
from snn_sparse.ops.neuron.call import Settings
from snn_sparse.ops.spikes import NHWC, ordered, plain_pack, plain_unpack
from snn_sparse.specs import BatchNormSpec, ConvGeometry, NeuronSpec

DTYPES = (torch.float32, torch.bfloat16)
HALF_ULP = {torch.float32: 2e-7, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Case:
    """Sizes T, N, Cin, Cout, H, W, kernel, stride, padding; density of the mask; configuration; packed or dense."""

    sizes: tuple
    density: float
    configuration: TileConfiguration
    packed: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def geometry(self):
        t, n, inputs, outputs, h, w, kernel, stride, padding = self.sizes
        return ConvGeometry(t, n, inputs, outputs, h, w, (kernel, kernel), stride, padding)


# Large tiles, since the interpreter takes as long for each program; small ones where there are to be several.
BLOCK, UNION = TileConfiguration(32, 32, 32), TileConfiguration(32, 32, 32, True)
CASES = {
    "block, odd sizes": Case((2, 2, 40, 20, 3, 4, 3, 1, 1), 0.3, replace(BLOCK, width=16)),
    "block, empty chunks": Case((1, 3, 70, 18, 3, 3, 3, 1, 1), 0.01, BLOCK),
    "block by pixel": Case((1, 17, 20, 16, 2, 2, 3, 1, 1), 0.5, replace(BLOCK, rows=16, pixel_major=True)),
    "block by pixel, stride 2": Case((1, 3, 20, 20, 3, 4, 3, 2, 1), 0.5, replace(BLOCK, pixel_major=True), False),
    "union": Case((2, 2, 40, 20, 3, 3, 3, 1, 1), 0.1, replace(UNION, width=16)),
    "union, reordered": Case((1, 4, 40, 20, 4, 3, 3, 1, 1), 0.1, replace(UNION, width=16, reorder=True)),
    "union by pixel, reordered": Case(
        (2, 3, 40, 20, 2, 2, 3, 1, 1), 0.1, replace(UNION, reorder=True, pixel_major=True)
    ),
    "union, stride 2, dense input": Case((1, 2, 40, 20, 5, 6, 3, 2, 1), 0.2, replace(UNION, reorder=True), False),
    "empty mask": Case((2, 3, 33, 20, 3, 4, 1, 1, 0), 0.0, UNION),
    "full mask, 1x1, stride 2": Case((1, 5, 33, 20, 7, 4, 1, 2, 0), 1.0, BLOCK),
    "one step, one image": Case((1, 1, 2, 1, 1, 2, 3, 1, 1), 1.0, BLOCK),
}


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    monkeypatch.setattr(triton_weight, "_PROGRAMS", 12)


def draw(case):
    """Spikes, weight (not in the kernels' memory format), bias, mask and the output's gradient."""
    g = case.geometry
    mask = torch.rand(g.weight_shape) < case.density
    x = ordered((torch.rand(g.input_shape) < 0.3).to(case.dtype), NHWC)
    weight = (torch.randn(mask.shape) * mask).to(case.dtype)
    return x, weight, torch.randn(g.outputs), mask, torch.randn(g.output_shape).to(case.dtype)


def lists(mask, case, transposed=False):
    return group_channels(mask, case.configuration, transposed=transposed).lists()


def packed_of(x):
    return Packed(x.new_zeros(1).expand(x.shape).requires_grad_(), plain_pack(x))


def exact(case, x, weight, bias, grad):
    """Output and gradients of input and weight in float64."""
    g = case.geometry
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    bias = None if bias is None else bias.double()
    y = F.conv2d(x.flatten(0, 1), weight, bias, g.stride, g.padding).unflatten(0, x.shape[:2])
    grads = torch.autograd.grad((y * grad.double()).sum(), (x, weight))
    return y.detach(), *grads


def near(found, expected, dtype=torch.float32):
    """Sums in float32, rounded once to ``dtype``."""
    assert found.dtype == dtype
    off = (found.double() - expected).abs() - HALF_ULP[dtype] * expected.abs()
    assert float(off.max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_float64(case, dtype):
    case = replace(case, dtype=dtype)
    x, weight, bias, mask, grad = draw(case)
    y, grad_x, grad_weight = exact(case, x, weight, bias, grad)
    data = plain_pack(x) if case.packed else x
    found, none = convolve(data, weight, bias, case.geometry, lists(mask, case), case.configuration)
    assert none is None
    near(found, y, dtype)
    transposed = lists(mask, case, transposed=True)
    found, _ = convolve(grad, weight, None, case.geometry, transposed, case.configuration, transposed=True)
    near(found, grad_x, dtype)
    found = weight_gradient(data, grad, case.geometry, lists(mask, case), case.configuration, mask)
    near(found, grad_weight * mask)
    assert torch.count_nonzero(found[~mask]) == 0


ALL = Directions(*[BLOCK] * 2, replace(UNION, reorder=True), None)
SOME = Directions(output=UNION)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("directions", [ALL, SOME, Directions()], ids=["all", "output", "torch"])
def test_the_operator(directions, dtype):
    """Packed spikes, a float32 weight that autocast lowers, a bias; gradients of all three."""
    case = Case((1, 2, 40, 20, 3, 4, 3, 1, 1), 0.2, BLOCK, dtype=dtype)
    x, weight, bias, mask, grad = draw(case)
    y, grad_x, grad_weight = exact(case, x, weight, bias, grad)
    how, packed = tiled(directions, Grouper(mask, mask.shape), x.device), packed_of(x)
    leaves = [packed.carrier, weight.float().requires_grad_(), bias.requires_grad_()]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        found, parts = convolution(packed, *leaves[1:], 1, 1, how, statistics=True)
    assert (parts is not None) == (directions.output is not None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # torch rounds a bias, and what it adds up
    torch.testing.assert_close(found.double(), y, rtol=tolerance, atol=tolerance)
    odd = torch.stack([grad, grad], -1)[..., 0]
    wanted = (grad_x, grad_weight * mask, grad.double().sum((0, 1, 3, 4)))
    grads = torch.autograd.grad(found, leaves, odd)
    assert grads[1][~mask].eq(0).all()
    for a, b in zip(grads, wanted, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * scale)
    y, _ = convolution(packed, *leaves[1:], 1, 1, how, adds_bias=False)
    assert torch.autograd.grad(y.sum(), leaves[2])[0].eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["block, odd sizes", "union by pixel, reordered"])
def test_statistics_in_the_epilogue_are_those_of_what_is_stored(name, dtype):
    case = replace(CASES[name], dtype=dtype)
    x, weight, bias, mask, _ = draw(case)
    y, (count, mean, m2) = convolve(
        plain_pack(x), weight, bias, case.geometry, lists(mask, case), case.configuration, statistics=True
    )
    assert count.shape[:2] == (case.geometry.outputs, case.geometry.steps)
    whole = (count * mean).sum(-1) / count.sum(-1)
    variance = (m2 + count * (mean - whole[..., None]) ** 2).sum(-1) / count.sum(-1)
    near(whole.T, y.double().mean((1, 3, 4)))
    near(variance.T, y.double().var((1, 3, 4), correction=0))


def test_the_same_input_gives_the_same_bits():
    case = CASES["union, reordered"]
    x, _, _, mask, grad = draw(case)
    given = (plain_pack(x), grad, case.geometry, lists(mask, case), case.configuration, mask)
    assert torch.equal(weight_gradient(*given), weight_gradient(*given))


def test_without_a_mask_all_listed_weights_get_their_gradient():
    case = CASES["block, odd sizes"]
    x, weight, bias, _, grad = draw(case)
    everything = torch.ones_like(weight, dtype=torch.bool)
    found = weight_gradient(plain_pack(x), grad, case.geometry, lists(everything, case), case.configuration)
    near(found, exact(case, x, weight, bias, grad)[2])


LATE = NeuronSpec("leaky", v_reset=None, decay=0.8, strict=True, late_reset=True)
NEURONS = {
    "pool, packed": ((2, 2, 40, 36, 5, 6, 3, 1, 1), BLOCK, NeuronSpec(), True, True),
    "by pixel, packed": (
        (2, 5, 33, 40, 2, 2, 3, 1, 1),
        replace(UNION, pixel_major=True),
        NeuronSpec(),
        False,
        True,
    ),
    "stride 2, dense": (
        (2, 2, 40, 20, 5, 6, 3, 2, 1),
        replace(BLOCK, width=16),
        NeuronSpec("if", v_reset=None),
        False,
        False,
    ),
    "late reset": ((3, 2, 20, 36, 4, 4, 3, 1, 1), BLOCK, LATE, True, True),
    "T = 1": ((1, 3, 20, 36, 3, 3, 3, 1, 1), BLOCK, NeuronSpec("plif", decay_input=False), True, True),
}


def frozen_norm(outputs):
    mean, var = torch.randn(outputs), torch.rand(outputs) + 4
    return Norm(BatchNormSpec(frozen=True), torch.rand(outputs) + 0.5, torch.randn(outputs), mean, var)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "configuration", "neuron", "pool", "bits"), NEURONS.values(), ids=NEURONS.keys())
def test_convolution_and_neuron_in_one_kernel(sizes, configuration, neuron, pool, bits, dtype):
    case = Case(sizes, 0.3, configuration, dtype=dtype)
    x, weight, bias, mask, grad = draw(case)
    g, norm = case.geometry, frozen_norm(case.geometry.outputs)
    rate = torch.tensor([0.6]) if neuron.kind == "plif" else None
    y, *_ = exact(case, x, weight, bias, grad)
    exactly = replace(norm, **{n: getattr(norm, n).double() for n in ("weight", "bias", "running_mean", "running_var")})
    spikes, _ = plain_stage(y, neuron, g.steps, exactly, rate=None if rate is None else rate.double(), pool=pool)
    if bits:
        how = tiled(Directions(spikes=configuration), Grouper(mask, mask.shape), x.device)
        packed = convolution_neuron(packed_of(x), weight, bias, g.stride, g.padding, how, norm, neuron, rate, pool)
        assert packed.carrier.dtype == dtype
        found = plain_unpack(packed.bits, tuple(packed.carrier.shape), torch.float32)
        unused = (packed.bits.unsqueeze(-1) >> torch.arange(32) & 1).flatten(-2)[..., g.outputs :]
        assert unused.eq(0).all()
    else:
        s = Settings.of(neuron, g.steps, g.images, norm=norm, pool=pool)
        statistics, affine = (norm.running_mean, norm.running_var), (norm.weight, norm.bias)
        found = conv_neuron(
            plain_pack(x),
            weight,
            bias,
            g,
            lists(mask, case),
            configuration,
            statistics,
            affine,
            s,
            rate=rate,
            bits=False,
        )
        assert found.dtype == dtype
    assert 0 < float(spikes.mean()) < 1
    assert float((found != spikes).double().mean()) <= 2e-3  # a potential within rounding of the threshold


def test_a_fused_potential_on_the_threshold_fires():
    """All weights are 1, so that spikes under the kernel are counted, and 3 of them reach the threshold."""
    case = Case((2, 2, 32, 32, 4, 4, 3, 1, 1), 1.0, BLOCK)
    g, weight = case.geometry, torch.ones(case.geometry.weight_shape)
    x = ordered((torch.rand(g.input_shape) < 0.01).float(), NHWC)
    x[0, 0] = 0
    x[0, 0, :3, 1, 1] = 1
    norm = Norm(BatchNormSpec(frozen=True, eps=0.0), running_mean=torch.zeros(32), running_var=torch.ones(32))
    neuron = NeuronSpec("if", v_threshold=3.0)
    y = F.conv2d(x.flatten(0, 1), weight, None, 1, 1).unflatten(0, x.shape[:2])
    expected, _ = plain_stage(y, neuron, 2)
    how = tiled(Directions(spikes=case.configuration), Grouper(None, weight.shape), x.device)
    found = convolution_neuron(packed_of(x), weight, None, 1, 1, how, norm, neuron)
    assert y[0, 0].eq(3).any()
    assert torch.equal(plain_unpack(found.bits, tuple(y.shape), torch.float32), expected)


def test_wrong_arguments():
    case = CASES["block, odd sizes"]
    x, weight, bias, mask, grad = draw(case)
    g, found, c = case.geometry, lists(mask, case), case.configuration
    norm, zeros = frozen_norm(g.outputs), torch.zeros(g.outputs)

    def fused(statistics=(zeros, zeros), configuration=c, kind="lif", bits=False, pool=False):
        s = Settings.of(NeuronSpec(kind), g.steps, g.images, pool=pool)
        return conv_neuron(x, weight, bias, g, found, configuration, statistics, (None, None), s, bits=bits)

    for error, match, call in [
        (ValueError, "data", lambda: convolve(x[:1], weight, bias, g, found, c)),
        (ValueError, "weight", lambda: convolve(x, weight[:1], bias, g, found, c)),
        (TypeError, "data", lambda: convolve(x.double(), weight, bias, g, found, c)),
        (ValueError, "grad", lambda: weight_gradient(x, grad[:1], g, found, c)),
        (ValueError, "words", lambda: fused(bits=True)),
        (ValueError, "statistics", lambda: fused((zeros[1:], zeros[1:]))),
        (ValueError, "rate", lambda: fused(kind="plif")),
        (ValueError, "pixel-major", lambda: fused(configuration=replace(c, pixel_major=True), pool=True)),
    ]:
        with pytest.raises(error, match=match):
            call()
    how = tiled(Directions(), Grouper(mask, mask.shape), x.device)
    with pytest.raises(ValueError, match="configuration has none"):
        convolution_neuron(packed_of(x), weight, bias, 1, 1, how, norm, NeuronSpec())
    how = tiled(Directions(spikes=BLOCK), Grouper(mask, mask.shape), x.device)
    with pytest.raises(ValueError, match="frozen"):
        convolution_neuron(packed_of(x), weight, bias, 1, 1, how, Norm(BatchNormSpec()), NeuronSpec())
