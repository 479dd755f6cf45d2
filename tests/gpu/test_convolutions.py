"""The convolution kernels on hardware: the configurations on offer, against float64 and against cuDNN's time."""

import copy

import pytest
import torch
import torch.nn.functional as F

import snn_sparse as ss
from snn_sparse.nn.masked import Masked
from snn_sparse.ops import Norm, Packed, convolution, neuron_sequence, unpack_spikes
from snn_sparse.ops.backend import interpreted
from snn_sparse.ops.convolution import (
    Directions,
    Grouper,
    TileConfiguration,
    convolution_neuron,
    run_direction,
    tiled,
)
from snn_sparse.ops.spikes import NHWC, ordered, packed_shape, plain_pack
from snn_sparse.specs import BatchNormSpec, ConvGeometry, NeuronSpec
from snn_sparse.tuning import gpu_candidates

pytestmark = pytest.mark.gpu
hardware = pytest.mark.skipif(interpreted(), reason="needs the hardware itself")
DEVICE = torch.device("cpu" if interpreted() else "cuda:0")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES = {
    "large maps": ConvGeometry(2, 8, 64, 64, 32, 32, (3, 3), 1, 1),
    "4x4": ConvGeometry(2, 160, 128, 130, 4, 4, (3, 3), 1, 1),
    "2x2": ConvGeometry(3, 70, 512, 512, 2, 2, (3, 3), 1, 1),
    "stride 2": ConvGeometry(2, 9, 100, 256, 9, 11, (3, 3), 2, 1),
    "1x1": ConvGeometry(2, 40, 256, 70, 8, 8, (1, 1), 2, 0),
}
if interpreted():  # the same logic on sizes that take seconds
    SHAPES = {
        "large maps": ConvGeometry(2, 1, 32, 32, 4, 6, (3, 3), 1, 1),
        "stride 2": ConvGeometry(2, 1, 20, 32, 5, 4, (3, 3), 2, 1),
    }


@pytest.fixture(autouse=True)
def _exact_library(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "plans.json"))
    owners = (torch.backends.cudnn, torch.backends.cuda.matmul)  # whose settings monkeypatch cannot bring back
    allowed = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = False
    yield
    for owner, before in zip(owners, allowed, strict=True):
        owner.allow_tf32 = before


def draw(g, density, dtype):
    """Packed spikes, weight, gradient of the output and mask."""
    spikes = ordered((torch.rand(g.input_shape, device=DEVICE) < 0.25).to(dtype), NHWC)
    mask = torch.rand(g.weight_shape) < density
    weight = (torch.randn(mask.shape) * mask).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(g.output_shape, device=DEVICE).to(dtype)
    packed = Packed(torch.zeros(1, dtype=dtype, device=DEVICE).expand(spikes.shape), plain_pack(spikes))
    return spikes, packed, weight, grad, mask


def exact(g, spikes, weight, grad, mask):
    leaves = [x.double().requires_grad_() for x in (spikes, weight)]
    y = F.conv2d(leaves[0].flatten(0, 1), leaves[1], None, g.stride, g.padding).unflatten(0, spikes.shape[:2])
    grads = torch.autograd.grad((y * grad.double()).sum(), leaves)
    return {"output": y.detach(), "grad_input": grads[0], "grad_weight": grads[1] * mask.to(DEVICE)}


def some_of(direction, g, density, dtype):
    """A configuration by neighbours and one by gathered channels, other ones in every run: each takes a second."""
    found = gpu_candidates.candidates(direction, g, density, dtype == torch.float32)
    kinds = [[c for c in found if c.gathered == gathered] for gathered in (False, True)]
    return [offered[int(torch.randint(len(offered), ()))] for offered in kinds if offered]


def tiled_for(mask, **directions):
    return tiled(Directions(**directions), Grouper(mask, tuple(mask.shape)), DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("g", SHAPES.values(), ids=SHAPES.keys())
def test_configurations_against_float64(g, dtype):
    density = 0.1
    spikes, packed, weight, grad, mask = draw(g, density, dtype)
    for direction, wanted in exact(g, spikes, weight, grad, mask).items():
        for c in some_of(direction, g, density, dtype):
            how = tiled_for(mask, **{direction: c})
            found = run_direction(direction, packed, weight, grad, g, how)
            error = float((found.double() - wanted).abs().max()) / float(wanted.abs().max())
            assert error < TOLERANCE[dtype], f"{direction} {c.describe()}: {error}"
            assert torch.equal(found, run_direction(direction, packed, weight, grad, g, how))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_in_the_epilogue(dtype):
    g = SHAPES["stride 2"]
    _, packed, weight, _, mask = draw(g, 0.3, dtype)
    how = tiled_for(mask, output=gpu_candidates.candidates("output", g, 0.3, dtype == torch.float32)[-1])
    y, (count, mean, m2) = convolution(packed, weight, None, 2, 1, how, statistics=True)
    whole = (count * mean).sum(-1) / count.sum(-1)
    variance = (m2 + count * (mean - whole[..., None]) ** 2).sum(-1) / count.sum(-1)
    torch.testing.assert_close(whole.T.double(), y.double().mean((1, 3, 4)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variance.T.double(), y.double().var((1, 3, 4), correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [False, True])
def test_convolution_and_neuron_in_one_kernel(pool):
    g = SHAPES["large maps"]
    _, packed, weight, _, mask = draw(g, 0.3, torch.float32)
    mean, variance = torch.zeros(g.outputs, device=DEVICE), torch.full((g.outputs,), 30.0, device=DEVICE)
    norm = Norm(BatchNormSpec(frozen=True), running_mean=mean, running_var=variance)
    y, _ = convolution(packed, weight, None, 1, 1)
    expected, _ = neuron_sequence(y, NeuronSpec(), g.steps, norm=norm, pool=pool)
    for c in some_of("spikes", g, 0.3, torch.float32):
        how = tiled_for(mask, spikes=c)
        found = unpack_spikes(convolution_neuron(packed, weight, None, 1, 1, how, norm, NeuronSpec(), pool=pool))
        assert float((found != expected).double().mean()) < 1e-4
    assert 0.01 < float(expected.mean()) < 0.99


@hardware
@pytest.mark.parametrize("density", [1.0, 0.02])
def test_a_plan_is_never_slower_than_cudnn(density):
    from snn_sparse.tuning.gpu import choose

    g = SHAPES["2x2"]
    mask = None if density == 1 else torch.rand(g.outputs, g.inputs, *g.kernel) < density
    choice = choose(g, Grouper(mask, (g.outputs, g.inputs, *g.kernel)), torch.bfloat16, torch.float32, DEVICE)
    assert all(0 < a <= b for a, b in zip(choice.seconds, choice.dense_seconds, strict=True))


@hardware
def test_a_masked_network_trains_like_the_plain_one():
    torch.manual_seed(0)
    plain = ss.build_model("vgg11", 10, 3, 4).to(DEVICE, memory_format=torch.channels_last)
    mask = ss.Mask({n: torch.rand(m.shape, device=DEVICE) < 0.1 for n, m in ss.Mask.dense(plain).items()})
    x = torch.rand(32, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (32,), device=DEVICE)
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
    planned = [m for m in net.modules() if isinstance(m, Masked) and m.tuner.winners]
    assert len(planned) == 7  # all convolutions but the first


@hardware
def test_large_tensor_with_offsets_beyond_32_bits():
    g, dtype = ConvGeometry(1, 40, 64, 1024, 256, 256, (1, 1), 1, 0), torch.float16
    if torch.cuda.mem_get_info()[0] < 3 * g.images * g.outputs * 256 * 256:
        pytest.skip("not enough memory")
    bits = torch.randint(-(2**31), 2**31, packed_shape(g.input_shape, True), device=DEVICE).to(torch.int32)
    packed = Packed(torch.zeros(1, dtype=dtype, device=DEVICE).expand(g.input_shape), bits)
    weight = torch.randn(g.outputs, g.inputs, 1, 1, device=DEVICE).to(dtype)
    directions = Directions(TileConfiguration(128, 128, 64, num_warps=8))
    how = tiled(directions, Grouper(None, tuple(weight.shape)), DEVICE)
    y, _ = convolution(packed, weight, None, 1, 0, how)
    last = Packed(packed.carrier[:, -1:], bits[:, -1:].contiguous())
    expected = F.conv2d(unpack_spikes(last)[0], weight)
    torch.testing.assert_close(y[0, -1:], expected, rtol=3e-3, atol=3e-2)
