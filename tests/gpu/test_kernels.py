"""What only hardware can show of the kernels. `make gpu-check` runs this folder; elsewhere it is skipped."""

import copy
import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss
from snn_sparse.ops import Norm, Packed, neuron_sequence, plain_stage, unpack_spikes
from snn_sparse.ops.backend import find_problem, implementation, interpreted
from snn_sparse.ops.spikes import NCHW, NHWC, ordered
from snn_sparse.specs import BatchNormSpec, NeuronSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
import golden_case

pytestmark = pytest.mark.gpu
hardware = pytest.mark.skipif(interpreted(), reason="needs the hardware itself")
DEVICE = torch.device("cpu" if interpreted() else "cuda:0")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _exact_convolutions():
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("operator", ["neuron", "convolution"])
def test_the_first_use_check_finds_nothing(operator):
    assert find_problem(operator, DEVICE) is None
    assert implementation(operator, torch.zeros(1, device=DEVICE)) == "triton"


def leaves(t, n, c, h, w, memory_format, dtype):
    """Values that ``dtype`` holds exactly."""
    y = ordered(torch.randn(t, n, c, h, w), memory_format)
    tensors = {"y": y.to(dtype), "residual": torch.randn(t, n, c, h, w).to(dtype)}
    tensors |= {"weight": torch.rand(c) + 0.5, "bias": torch.randn(c) * 0.2}
    return {name: x.to(DEVICE) for name, x in tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("timesteps", [3] if interpreted() else [1, 2, 3, 4, 5, 6, 7, 8, 12, 19, 32])
@pytest.mark.parametrize("pool", [False, True])
def test_against_float64(dtype, memory_format, timesteps, pool):
    sizes = (2, 3, 5, 4) if interpreted() else (3, 70, 9, 11)
    values = leaves(timesteps, *sizes, memory_format, dtype)
    given = {name: x.clone().requires_grad_() for name, x in values.items()}
    exact = {name: x.double().requires_grad_() for name, x in values.items()}

    def norm(tensors):
        return Norm(BatchNormSpec(), tensors["weight"], tensors["bias"], factors=(0.1,) * timesteps)

    call = {"norm": norm(given), "residual": given["residual"], "pool": pool}
    spikes, v = neuron_sequence(given["y"], NeuronSpec(), timesteps, final_v=True, **call)
    packed, _ = neuron_sequence(given["y"], NeuronSpec(), timesteps, packed=True, **call)
    expected, v_expected = plain_stage(exact["y"], NeuronSpec(), timesteps, norm(exact), exact["residual"], pool=pool)
    assert isinstance(packed, Packed)
    assert torch.equal(unpack_spikes(packed), spikes)
    assert spikes.stride() == torch.empty_like(spikes, memory_format=torch.preserve_format).stride()
    assert float((spikes != expected).double().mean()) < 1e-4  # h within rounding of the threshold
    assert float(((v - v_expected).abs() > 1e-3).double().mean()) < 1e-3
    weights = torch.randn_like(spikes)
    found = torch.autograd.grad((spikes * weights).sum(), list(given.values()))
    wanted = torch.autograd.grad((expected * weights.double()).sum(), list(exact.values()))
    tolerance = 2e-4 if dtype == torch.float32 else 2e-2
    for name, a, b in zip(values, found, wanted, strict=True):
        off = (a.double() - b).abs() > tolerance * b.abs().max()
        assert float(off.double().mean()) < 2e-3, name


def test_potentials_on_the_threshold_fire():
    y = (torch.randint(0, 5, (4, 2, 3, 4, 5)) / 4).to(DEVICE)
    neuron = NeuronSpec("if", v_reset=None, surrogate="triangle", alpha=1.0)
    results = []
    for x in (y.double().requires_grad_(), y.requires_grad_()):
        run = plain_stage if x.dtype == torch.float64 else neuron_sequence
        spikes, _ = run(x, neuron, 4, pool=True)
        weights = (torch.arange(spikes.numel(), device=DEVICE) % 4 - 1).view(spikes.shape).to(x.dtype)
        results.append((spikes, *torch.autograd.grad((spikes * weights).sum(), x)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b.double())


@hardware
def test_golden_in_float32():
    """As near to the published figures as plain PyTorch in float32 is, whose spikes flip by rounding too."""
    case = "vgg16_T5_dense"  # the kernels do not see the other one's masks
    figures, meta = golden_case.load(case)
    x, y = golden_case.inputs(case, meta)
    errors = []
    for fused in (False, True):
        model = golden_case.fill_(ss.build_model("vgg16", 10, meta["in_ch"], meta["T"])).cuda()
        model = ss.fuse(model) if fused else model
        logits = model.train()(x.float().cuda())
        loss = ss.temporal_cross_entropy(logits, y.cuda())
        loss.backward()
        grads = {n: float(p.grad.double().norm()) for n, p in model.named_parameters() if p.dim() > 1}
        off = [abs(g / float(figures[f"gradnorm:{n}"]) - 1) for n, g in grads.items()]
        errors.append((abs(float(loss.detach()) - float(figures["loss0"])), max(off)))
    plain, fused = errors
    assert fused[0] <= 3 * plain[0] + 1e-3
    assert fused[1] <= 3 * plain[1] + 1e-2


@hardware
@pytest.mark.parametrize("channels_last", [False, True])
def test_training_follows_plain_for_200_steps(channels_last):
    torch.manual_seed(0)
    plain = ss.build_model("vgg_small", 10, 1, 4).cuda()
    fused = ss.fuse(copy.deepcopy(plain))
    if channels_last:
        fused = fused.to(memory_format=torch.channels_last)
    x, y = torch.rand(256, 1, 8, 8, device="cuda"), torch.randint(0, 10, (256,), device="cuda")
    losses = []
    for net in (plain, fused):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        total = []
        for step in range(200):
            part = slice(step % 4 * 64, step % 4 * 64 + 64)
            optimizer.zero_grad()
            loss = ss.temporal_cross_entropy(net(x[part]), y[part])
            loss.backward()
            optimizer.step()
            total.append(loss.detach())
        losses.append(torch.stack(total).view(10, 20).mean(1))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.05)


def network_and_batch():
    torch.manual_seed(0)
    fused = ss.fuse(ss.build_model("vgg_small", 10, 3, 4).cuda())
    return fused, torch.rand(8, 3, 16, 16, device="cuda")


@hardware
def test_cuda_graph():
    fused, x = network_and_batch()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fused.zero_grad(set_to_none=True)
            fused(x).sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    fused.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused(x)
        out.sum().backward()
    x.copy_(torch.rand_like(x))
    graph.replay()
    grads = [p.grad.clone() for p in fused.parameters()]
    fused.zero_grad(set_to_none=True)
    again = fused(x)
    again.sum().backward()
    assert torch.equal(out, again)
    for p, g in zip(fused.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-3)


@hardware
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    fused, x = network_and_batch()
    with torch.autocast("cuda", dtype=dtype):
        out = fused(x)
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fused.parameters())


@hardware
def test_compile_inductor():
    fused, x = network_and_batch()
    fused.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fused, fullgraph=True)(x), fused(x), rtol=1e-3, atol=1e-3)


@hardware
def test_ddp_of_one_process(tmp_path):
    fused, x = network_and_batch()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        twin = torch.nn.parallel.DistributedDataParallel(fused)
        twin(x).sum().backward()
        assert all(p.grad is not None for p in fused.parameters())
    finally:
        torch.distributed.destroy_process_group()


@hardware
def test_large_tensor_with_offsets_beyond_32_bits():
    y = torch.randn(2, 1, 1, 1, 1, device="cuda", dtype=torch.float16).expand(2, 1100, 64, 128, 128).contiguous()
    if torch.cuda.mem_get_info()[0] < 6 * y.numel():
        pytest.skip("not enough memory")
    spikes, _ = neuron_sequence(y, NeuronSpec(), 2)
    small, _ = neuron_sequence(y[:, :1].contiguous(), NeuronSpec(), 2)
    assert torch.equal(spikes[:, -1], small[:, 0])


@hardware
def test_layer_counts_one_kernel_forward():
    stage, x = ss.nn.Stage(neuron=ss.nn.LIF()).cuda(), torch.randn(4, 8, 16, 8, 8, device="cuda")
    stage(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        stage(x)
        torch.cuda.synchronize()
    assert sum(e.count for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA) == 1
