"""The convolution kernels on hardware: the ways that are offered, against float64 and against cuDNN's time."""

import copy

import pytest
import torch
import torch.nn.functional as F

import snn_sparse as ss
from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.nn.fused import FusedConv2d
from snn_sparse.nn.fused.gpu_plan import candidates, choose
from snn_sparse.ops.channel_groups import Grouper
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan, Ways
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.packed_conv import packed_conv2d, run_direction
from snn_sparse.ops.packed_conv_neuron import packed_conv_neuron
from snn_sparse.ops.self_check import find_problem
from snn_sparse.ops.self_check_cases import CHECKS
from snn_sparse.ops.spike_bits import Packed, packed_shape, plain_pack, unpack_spikes

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES = {
    "large maps": Geometry(2, 8, 64, 64, 32, 32, (3, 3), 1, 1),
    "4x4": Geometry(2, 160, 128, 130, 4, 4, (3, 3), 1, 1),
    "2x2": Geometry(3, 70, 512, 512, 2, 2, (3, 3), 1, 1),
    "stride 2": Geometry(2, 9, 100, 256, 9, 11, (3, 3), 2, 1),
    "1x1": Geometry(2, 40, 256, 70, 8, 8, (1, 1), 2, 0),
}


@pytest.fixture(autouse=True)
def _exact_library(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "plans.json"))
    for owner in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(owner, "allow_tf32", False)


@pytest.mark.parametrize("family", sorted(CHECKS))
def test_the_first_use_check_finds_nothing(family):
    assert find_problem(CUDA, family) is None


def draw(g, density, dtype):
    """Packed spikes, weight, gradient of the output and mask."""
    t, n, c, h, w = g.input_shape()
    spikes = (torch.rand(t, n, h, w, c, device=CUDA) < 0.25).to(dtype).movedim(-1, 2)
    mask = torch.rand(g.outputs, g.inputs, *g.kernel) < density
    weight = (torch.randn(mask.shape) * mask).to(CUDA, dtype).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(g.output_shape, device=CUDA).to(dtype)
    packed = Packed(torch.zeros(1, dtype=dtype, device=CUDA).expand(spikes.shape), plain_pack(spikes))
    return spikes, packed, weight, grad, mask


def exact(g, spikes, weight, grad, mask):
    leaves = [x.double().requires_grad_() for x in (spikes, weight)]
    y = F.conv2d(leaves[0].flatten(0, 1), leaves[1], None, g.stride, g.padding).unflatten(0, spikes.shape[:2])
    grads = torch.autograd.grad((y * grad.double()).sum(), leaves)
    return dict(zip(DIRECTIONS, (y.detach(), grads[0], grads[1] * mask.to(CUDA)), strict=False))


def some_ways(direction, g, density, dtype):
    """One of the ways by neighbours and one by gathered channels, other ones in every run: each takes a second."""
    found = candidates(direction, g, density, dtype == torch.float32)
    kinds = [[way for way in found if way.gathered == gathered] for gathered in (False, True)]
    return [ways[int(torch.randint(len(ways), ()))] for ways in kinds if ways]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("g", SHAPES.values(), ids=SHAPES.keys())
def test_ways_against_float64(g, dtype):
    density = 0.1
    spikes, packed, weight, grad, mask = draw(g, density, dtype)
    expected = exact(g, spikes, weight, grad, mask)
    for direction, wanted in expected.items():
        for way in some_ways(direction, g, density, dtype):
            plan = ConvPlan.make(Ways()._replace(**{direction: way}), Grouper(mask, tuple(mask.shape)), CUDA)
            found = run_direction(direction, packed, weight, grad, g, plan)
            error = float((found.double() - wanted).abs().max()) / float(wanted.abs().max())
            assert error < TOLERANCE[dtype], f"{direction} {way.describe()}: {error}"
            assert torch.equal(found, run_direction(direction, packed, weight, grad, g, plan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_in_the_epilogue(dtype):
    g = SHAPES["stride 2"]
    _, packed, weight, _, mask = draw(g, 0.3, dtype)
    plan = ConvPlan.make(Ways(candidates("output", g, 0.3)[-1]), Grouper(mask, tuple(mask.shape)), CUDA)
    y, (count, mean, m2) = packed_conv2d(packed, weight, None, [2, 2], [1, 1], plan, statistics=True)
    whole = (count * mean).sum(-1) / count.sum(-1)
    variance = (m2 + count * (mean - whole[..., None]) ** 2).sum(-1) / count.sum(-1)
    torch.testing.assert_close(whole.T.double(), y.double().mean((1, 3, 4)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variance.T.double(), y.double().var((1, 3, 4), correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [False, True])
def test_convolution_and_neuron_in_one_kernel(pool):
    g = SHAPES["large maps"]
    _, packed, weight, _, mask = draw(g, 0.3, torch.float32)
    mean, variance = torch.zeros(g.outputs, device=CUDA), torch.full((g.outputs,), 30.0, device=CUDA)
    norm = Norm(None, None, mean, variance, (0.0,) * g.steps, False)
    y, _ = packed_conv2d(packed, weight, None, [1, 1], [1, 1])
    expected, _ = neuron_sequence(y, NeuronSpec(), g.steps, norm=norm, pool=pool)
    for way in some_ways("spikes", g, 0.3, torch.float32):
        plan = ConvPlan.make(Ways(spikes=way), Grouper(mask, tuple(mask.shape)), CUDA)
        found = unpack_spikes(packed_conv_neuron(packed, weight, None, 1, 1, plan, norm, NeuronSpec(), pool=pool))
        assert float((found != expected).double().mean()) < 1e-4
    assert 0.01 < float(expected.mean()) < 0.99


@pytest.mark.parametrize("density", [1.0, 0.02])
def test_a_plan_is_never_slower_than_cudnn(density):
    g = SHAPES["2x2"]
    mask = None if density == 1 else torch.rand(g.outputs, g.inputs, *g.kernel) < density
    choice = choose(g, Grouper(mask, (g.outputs, g.inputs, *g.kernel)), torch.bfloat16, CUDA)
    assert all(0 < a <= b for a, b in zip(choice.seconds, choice.library_seconds, strict=True))


def test_a_masked_network_trains_like_the_plain_one():
    torch.manual_seed(0)
    plain = ss.build_model("vgg11", 10, 3, 4).to(CUDA, memory_format=torch.channels_last)
    mask = ss.Mask({n: torch.rand(m.shape, device=CUDA) < 0.1 for n, m in ss.Mask.dense(plain).items()})
    x = torch.rand(32, 3, 32, 32, device=CUDA).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (32,), device=CUDA)
    losses = []
    for net in (plain, ss.fuse(copy.deepcopy(plain))):
        mask.apply_(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = ss.temporal_cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
        for name, alive in mask.items():
            assert torch.count_nonzero(net.get_parameter(name)[~alive]) == 0
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0.02, atol=0.02)
    planned = [m for m in net.modules() if isinstance(m, FusedConv2d) and m.conv_planner.choices]
    assert len(planned) == 7  # all convolutions but the first


def test_large_tensor_with_offsets_beyond_32_bits():
    g, dtype = Geometry(1, 40, 64, 1024, 256, 256, (1, 1), 1, 0), torch.float16
    if torch.cuda.mem_get_info()[0] < 3 * g.images * g.outputs * 256 * 256:
        pytest.skip("not enough memory")
    bits = torch.randint(-(2**31), 2**31, packed_shape(g.input_shape(), True), device=CUDA).to(torch.int32)
    packed = Packed(torch.zeros(1, dtype=dtype, device=CUDA).expand(g.input_shape()), bits)
    weight = torch.randn(g.outputs, g.inputs, 1, 1, device=CUDA).to(dtype)
    plan = ConvPlan.make(Ways(Way(128, 128, 64, num_warps=8)), Grouper(None, tuple(weight.shape)), CUDA)
    y, _ = packed_conv2d(packed, weight, None, [1, 1], [0, 0], plan)
    last = Packed(packed.carrier[:, -1:], bits[:, -1:].contiguous())
    expected = F.conv2d(unpack_spikes(last)[0], weight)
    torch.testing.assert_close(y[0, -1:], expected, rtol=3e-3, atol=3e-2)
