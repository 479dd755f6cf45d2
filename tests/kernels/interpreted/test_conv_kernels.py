"""The convolution kernels against torch's convolution in float64, under masks, in the interpreter."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.kernels import conv_weight
from snn_sparse.kernels.conv import convolve
from snn_sparse.kernels.conv_neuron import conv_neuron
from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.kernels.conv_weight import weight_gradient
from snn_sparse.kernels.settings import Neuron, Normalisation
from snn_sparse.kernels.spike_bits import pack, unpack
from snn_sparse.ops.channel_groups import group_channels
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.ops.neuron import Firing

pytestmark = pytest.mark.usefixtures("poison")


@dataclass(frozen=True)
class Case:
    """Sizes T, N, Cin, Cout, H, W, kernel, stride, padding; density of the mask; way; packed input or dense."""

    sizes: tuple
    density: float
    way: Way
    packed: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def geometry(self):
        t, n, inputs, outputs, h, w, kernel, stride, padding = self.sizes
        return Geometry(t, n, inputs, outputs, h, w, (kernel, kernel), stride, padding)


CASES = {
    "block, odd sizes": Case((2, 2, 40, 20, 3, 4, 3, 1, 1), 0.3, Way(16, 16, 32)),
    "block, empty chunks": Case((1, 3, 70, 18, 3, 3, 3, 1, 1), 0.01, Way(16, 32, 32)),
    "block by pixel": Case((1, 17, 33, 16, 2, 2, 3, 1, 1), 0.5, Way(16, 16, 32, pixel_major=True)),
    "block by pixel, stride 2": Case((1, 3, 40, 20, 3, 4, 3, 2, 1), 0.5, Way(16, 32, 32, pixel_major=True), False),
    "union": Case((2, 2, 40, 20, 3, 3, 3, 1, 1), 0.1, Way(16, 16, 32, True)),
    "union, reordered": Case((1, 4, 40, 20, 4, 3, 3, 1, 1), 0.1, Way(16, 16, 32, True, True)),
    "union by pixel, reordered": Case((2, 3, 40, 20, 2, 2, 3, 1, 1), 0.1, Way(16, 16, 32, True, True, True)),
    "union, stride 2, dense input": Case((1, 2, 40, 20, 5, 6, 3, 2, 1), 0.2, Way(16, 32, 32, True, True), False),
    "empty mask": Case((2, 3, 33, 20, 3, 4, 1, 1, 0), 0.0, Way(16, 16, 32, True)),
    "full mask, 1x1, stride 2": Case((1, 5, 33, 20, 7, 4, 1, 2, 0), 1.0, Way(16, 16, 32)),
    "half precision": Case((2, 2, 40, 20, 3, 3, 3, 1, 1), 0.3, Way(16, 32, 32), True, torch.float16),
    "one step, one image": Case((1, 1, 2, 1, 1, 2, 3, 1, 1), 1.0, Way(16, 16, 32)),
}


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    monkeypatch.setattr(conv_weight, "_PROGRAMS", 12)


def channels_last(x):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def draw(case):
    """Spikes, weight (not in the kernels' memory format), bias, mask and the output's gradient."""
    g = case.geometry
    mask = torch.rand(g.outputs, g.inputs, *g.kernel) < case.density
    x = channels_last((torch.rand(g.input_shape()) < 0.3).to(case.dtype))
    weight = (torch.randn(mask.shape) * mask).to(case.dtype)
    return x, weight, torch.randn(g.outputs), mask, torch.randn(g.output_shape).to(case.dtype)


def lists(mask, case, transposed=False):
    return group_channels(mask, case.way, transposed=transposed).lists()


def exact(case, x, weight, bias, grad):
    """Output and gradients of input and weight in float64, and the output's statistics of each step."""
    g = case.geometry
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv2d(x.flatten(0, 1), weight, bias.double(), g.stride, g.padding).unflatten(0, x.shape[:2])
    grads = torch.autograd.grad((y * grad.double()).sum(), (x, weight))
    return y.detach(), *grads


def near(found, expected, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    assert float((found.double() - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_float64(case):
    x, weight, bias, mask, grad = draw(case)
    y, grad_x, grad_weight = exact(case, x, weight, bias, grad)
    data = pack(x) if case.packed else x
    found, none = convolve(data, weight, bias, case.geometry, lists(mask, case), case.way)
    assert none is None
    assert found.dtype == case.dtype
    near(found, y, case.dtype)
    transposed = lists(mask, case, transposed=True)
    found, _ = convolve(grad, weight, None, case.geometry, transposed, case.way, transposed=True)
    near(found, grad_x, case.dtype)
    found = weight_gradient(data, grad, case.geometry, lists(mask, case), case.way, mask)
    near(found, grad_weight * mask, torch.float32)
    assert torch.count_nonzero(found[~mask]) == 0


@pytest.mark.parametrize("name", ["block, odd sizes", "union by pixel, reordered", "half precision"])
def test_statistics_in_the_epilogue_are_those_of_what_is_stored(name):
    case = CASES[name]
    x, weight, bias, mask, _ = draw(case)
    y, (count, mean, m2) = convolve(pack(x), weight, bias, case.geometry, lists(mask, case), case.way, statistics=True)
    assert count.shape[:2] == (case.geometry.outputs, case.geometry.steps)
    whole = (count * mean).sum(-1) / count.sum(-1)
    variance = (m2 + count * (mean - whole[..., None]) ** 2).sum(-1) / count.sum(-1)
    steps = y.double().transpose(0, 2).flatten(1)[..., None].view(y.shape[2], y.shape[1], y.shape[0], -1)
    near(whole, steps.mean((1, 3)), torch.float32)
    near(variance, steps.var((1, 3), correction=0), torch.float32)


def test_the_same_input_gives_the_same_bits():
    case = CASES["union, reordered"]
    x, _, _, mask, grad = draw(case)
    runs = [weight_gradient(pack(x), grad, case.geometry, lists(mask, case), case.way, mask) for _ in range(2)]
    assert torch.equal(*runs)


def test_without_a_mask_all_listed_weights_get_their_gradient():
    case = CASES["block, odd sizes"]
    x, weight, bias, _, grad = draw(case)
    everything = torch.ones_like(weight, dtype=torch.bool)
    found = weight_gradient(pack(x), grad, case.geometry, lists(everything, case), case.way)
    near(found, exact(case, x, weight, bias, grad)[2], torch.float32)


NEURONS = {
    "pool, packed": ((3, 2, 40, 36, 5, 6, 3, 1, 1), Way(16, 32, 32), Neuron(), True, True),
    "by pixel, packed": (
        (3, 17, 33, 40, 2, 2, 3, 1, 1),
        Way(16, 32, 32, True, pixel_major=True),
        Neuron(),
        False,
        True,
    ),
    "stride 2, dense": ((2, 2, 40, 20, 5, 6, 3, 2, 1), Way(16, 16, 32), Neuron("if", v_reset=None), False, False),
    "T = 1": ((1, 3, 20, 36, 3, 3, 3, 1, 1), Way(16, 32, 32), Neuron("plif", decay_input=False), True, True),
}


@pytest.mark.parametrize(("sizes", "way", "neuron", "pool", "bits"), NEURONS.values(), ids=NEURONS.keys())
def test_convolution_and_neuron_in_one_kernel(sizes, way, neuron, pool, bits):
    case = Case(sizes, 0.3, way)
    x, weight, bias, mask, _ = draw(case)
    g, outputs = case.geometry, case.geometry.outputs
    mean, var, gain, shift = (
        torch.randn(outputs),
        torch.rand(outputs) + 4,
        torch.rand(outputs) + 0.5,
        torch.randn(outputs),
    )
    norm = Normalisation(mean, running_var=var, weight=gain, bias=shift)
    rate = torch.tensor([0.6]) if neuron.kind == "plif" else None
    found = conv_neuron(pack(x), weight, bias, g, lists(mask, case), way, norm, neuron, rate=rate, pool=pool, bits=bits)
    y = F.conv2d(x.flatten(0, 1).double(), weight.double(), bias.double(), g.stride, g.padding).unflatten(
        0, x.shape[:2]
    )
    plain = Norm(*(p.double() for p in (gain, shift, mean, var)), (0.0,) * g.steps, False)
    w = None if rate is None else torch.logit(rate.double())
    spec = NeuronSpec(neuron.kind, neuron.tau, neuron.decay_input, Firing(v_reset=neuron.v_reset))
    spikes, _ = reference(y, spec, g.steps, plain, w=w, pool=pool)
    found = unpack(found, tuple(spikes.shape), torch.float32) if bits else found
    assert 0 < float(spikes.mean()) < 1
    assert float((found != spikes).double().mean()) <= 2e-3  # a potential within rounding of the threshold


def test_wrong_arguments():
    case = CASES["block, odd sizes"]
    x, weight, bias, mask, grad = draw(case)
    g, found = case.geometry, lists(mask, case)
    with pytest.raises(ValueError, match="data"):
        convolve(x[:1], weight, bias, g, found, case.way)
    with pytest.raises(ValueError, match="weight"):
        convolve(x, weight[:1], bias, g, found, case.way)
    with pytest.raises(TypeError, match="data"):
        convolve(x.double(), weight, bias, g, found, case.way)
    with pytest.raises(ValueError, match="grad"):
        weight_gradient(x, grad[:1], g, found, case.way)
    norm = Normalisation(torch.zeros(g.outputs), running_var=torch.ones(g.outputs))
    with pytest.raises(ValueError, match="words"):
        conv_neuron(x, weight, bias, g, found, case.way, norm, Neuron())
    with pytest.raises(ValueError, match="norm"):
        conv_neuron(
            x, weight, bias, g, found, case.way, Normalisation(torch.zeros(3), running_var=torch.ones(3)), Neuron()
        )
    with pytest.raises(ValueError, match="rate"):
        conv_neuron(x, weight, bias, g, found, case.way, norm, Neuron("plif"), bits=False)
    way = Way(16, 16, 32, pixel_major=True)
    with pytest.raises(ValueError, match="pixel-major"):
        conv_neuron(x, weight, bias, g, found, way, norm, Neuron(), pool=True, bits=False)
