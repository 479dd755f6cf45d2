"""What one does with a fused network: keep its state, copy, cast, checkpoint, distribute and train it."""

import copy
import io
import pickle
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from network_case import STAGES, Looped, assert_same, gradients, images, masked, reset

import snn_sparse as ss
from snn_sparse.fusion.compiled import Compiled
from snn_sparse.nn.masked import Masked


@pytest.fixture
def pair():
    """A network and its fused twin, with parameters of their own."""
    plain = Looped()
    return plain, ss.fuse(copy.deepcopy(plain))


def stages(fast):
    return ss.explain(fast).stages


def test_neurons_keep_their_state_and_the_library_forgets_it(pair):
    for model in pair:
        model.eval()
    calls = [images() for _ in range(4)]
    found = []
    for model in pair:
        out = [model(x) for x in calls[:3]]
        functional.reset_net(model)
        found.append([*out, model(calls[0])])
    assert_same(found[1], found[0])
    assert not torch.equal(found[0][0], model(calls[0]))  # state matters


def test_truncated_backward_between_calls(pair):
    for model in pair:
        model(images(generator=1))
        functional.detach_net(model)
    x = images()
    assert_same(gradients(pair[1], pair[1], x), gradients(pair[0], pair[0], x))


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "file": lambda m: torch.load(_file(m), weights_only=False),
}


def _file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("how", COPIES)
def test_copies(pair, how):
    fast, x = pair[1], images()
    mask = masked(fast)
    fast(x)
    reset(fast)
    twin = COPIES[how](fast).eval()
    assert isinstance(twin, Looped)
    assert twin.conv.weight is not fast.conv.weight
    assert torch.equal(twin.conv.keep_mask, mask["conv.weight"])
    found = twin(x)
    assert stages(twin) == STAGES
    assert_same(found, fast.eval()(x))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "masked"])
def test_a_network_that_has_just_trained_can_be_fused_again(pair, sparse):
    fast, x = pair[1], images()
    mask = masked(fast) if sparse else None
    fast(x).sum().backward()  # its neurons hold potentials with gradients
    again = ss.fuse(fast)
    assert type(again) is type(fast)
    assert again.conv.weight is fast.conv.weight
    if mask is not None:
        assert torch.equal(again.conv.keep_mask, mask["conv.weight"])
        ss.Mask.remove_(again)
        assert again.conv.keep_mask is None
        assert fast.conv.keep_mask is not None
    reset(fast, again)
    if mask is None:
        assert_same(again.eval()(x), fast.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_dtype(pair, dtype):
    plain, fast = (m.eval() for m in pair)
    fast(images())
    reset(fast)
    for model in pair:
        model.to(dtype)
    x = images(dtype=torch.float64).to(dtype)
    found, expected = fast(x), plain(x)
    assert found.dtype == dtype
    assert stages(fast)
    if dtype == torch.float64:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    else:
        assert found.isfinite().all()


@pytest.mark.parametrize("style", ["ours", "loop"])
def test_autocast_and_gradient_scaling(style):
    """As plain PyTorch gives under autocast; nothing fake is left in its cache of weights."""
    plain = ss.build_model("vgg_small", 4, 2, 2) if style == "ours" else Looped()
    fast, x = ss.fuse(copy.deepcopy(plain)), images()
    found = []
    for model in (plain, fast):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        scaler.scale(out.float().square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(out)
    assert type(found[1]) is torch.Tensor
    assert found[1].dtype == found[0].dtype
    assert stages(fast)
    torch.testing.assert_close(found[1], found[0], rtol=0.1, atol=0.1)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in fast.parameters())


def test_gradients_add_up(pair):
    x, y = images(), images()
    for model in pair:
        for given in (x, y):
            reset(model)
            model(given).square().sum().backward()
    for p, q in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        assert_same(q.grad, p.grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant):
    """Also when the first pass, which captures and verifies, is the checkpointed one."""
    plain, x = Looped().eval(), images().requires_grad_()
    fast = ss.fuse(copy.deepcopy(plain))

    def forgetful(model):
        return lambda x: (reset(model), model(x))[1]

    expected = gradients(forgetful(plain), plain, x)
    found = gradients(lambda x: checkpoint(forgetful(fast), x, use_reentrant=reentrant), fast, x)
    assert stages(fast)
    assert_same(found, expected)


def test_no_new_plan_inside_a_backward_pass(monkeypatch):
    """There, checkpointed activations are computed again, and must lie in memory as before."""
    fast, x = ss.fuse(Looped().eval()), images().requires_grad_()
    y, plans = fast(x), []
    planned = Compiled._planned
    monkeypatch.setattr(Compiled, "_planned", lambda self, like: plans.append(1) or planned(self, like))
    for module in fast.modules():
        if isinstance(module, Masked):
            module.tuner.moved = True

    def compute_again(grad):
        reset(fast)
        with torch.enable_grad():  # as checkpointing does
            fast(x)

    y.register_hook(compute_again)
    y.sum().backward()
    assert not plans
    reset(fast)
    fast(x)
    assert plans


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(pair, process_group):
    plain, fast = pair
    x = images()
    parallel = torch.nn.parallel.DistributedDataParallel(fast)
    found = gradients(parallel, fast, x)
    assert stages(fast) == STAGES
    assert_same(found, gradients(plain, plain, x))


@pytest.mark.parametrize("known", [True, False], ids=["with an example", "without"])
def test_fully_sharded(pair, process_group, known):
    """Fused with an example before it is sharded; afterwards it cannot be copied, and runs as it was written."""
    from torch.distributed.fsdp import fully_shard

    plain, x = pair[0], images()
    fast = ss.fuse(copy.deepcopy(plain), x) if known else pair[1]
    expected = gradients(plain, plain, x)
    fully_shard(fast, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    out = fast(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert_same(out.detach(), expected[0])
    assert_same({n: p.grad.full_tensor() for n, p in fast.named_parameters()}, expected[1])
    if known:
        assert stages(fast) == STAGES
    else:
        assert "copied" in ss.explain(fast).left[""]


def test_few_compiled_passes_are_kept():
    fast = ss.fuse(nn.Sequential(nn.Linear(3, 4), neuron.IFNode()), verify=False)
    for n in range(1, 37):
        functional.reset_net(fast)
        assert fast(torch.randn(n, 3)).shape == (n, 4)
    assert len(fast.__dict__["_fused_compiler"]._entries) <= 32
