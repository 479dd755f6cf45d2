"""What `fuse` gives back: a subclass, shared parameters, the same state_dict, and what one does with a network."""

import copy
import io
import pickle
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from network_case import Looped, gradients, images, masked

import snn_sparse as ss

STAGES = (("conv", "bn", "lif"), ("conv2", "bn2", "lif2"), ("fc",))


@pytest.fixture
def pair():
    """A network and its fused twin, with parameters of their own."""
    plain = Looped()
    return plain, ss.fuse(copy.deepcopy(plain))


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def stages(fast):
    return ss.explain(fast).stages


def reset(*models):
    for model in models:
        functional.reset_net(model)


def test_a_subclass_that_shares_everything():
    plain, x = Looped(), images()
    state = {k: v.clone() for k, v in plain.state_dict().items()}
    fast = ss.fuse(plain, x)
    explanation = ss.explain(fast)
    assert explanation.stages == STAGES
    assert set(explanation.fused) == {name for names in STAGES for name in names}
    assert not explanation.left
    assert isinstance(fast, Looped)
    assert type(plain) is Looped
    for module, theirs in zip(list(fast.modules())[1:], list(plain.modules())[1:], strict=True):
        assert isinstance(module, type(theirs))
    assert list(fast.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in fast.state_dict().items())  # verifying left no trace
    for a, b in ((fast.parameters(), plain.parameters()), (fast.buffers(), plain.buffers())):
        assert all(p is q for p, q in zip(a, b, strict=True))
    back = ss.unfuse(fast)
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert back.conv.weight is plain.conv.weight
    reset(back, fast)
    assert_same(back.eval()(x), fast.eval()(x))


def test_wrong_arguments():
    for call, name in ((ss.fuse, "model"), (ss.unfuse, "model"), (ss.explain, "model")):
        with pytest.raises(TypeError, match=f"^{name} must"):
            call("vgg16")
    with pytest.raises(TypeError, match=r"^model must"):
        ss.explain(Looped())
    with pytest.raises(ValueError, match=r"^model has not been called"):
        ss.explain(ss.fuse(Looped()))
    for neurons in ({"lif": ss.NeuronSpec()}, {neuron.LIFNode: "lif"}):
        with pytest.raises(TypeError, match=r"^neurons must"):
            ss.fuse(Looped(), neurons=neurons)


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


def test_attributes_and_submodules_may_change(pair):
    plain, fast = pair
    x = images()
    for change in (
        lambda m: setattr(m, "timesteps", 4),
        lambda m: m.eval(),
        lambda m: setattr(m, "fc", nn.Linear(6, 4, bias=False)),
        lambda m: setattr(m, "gain", nn.Parameter(torch.full((4,), 3.0))),
        lambda m: m.lif.__dict__.update(v_threshold=0.5),
        lambda m: m.train(),
    ):
        fast(x)
        for model in pair:
            torch.manual_seed(0)
            change(model)
        plain.load_state_dict(fast.state_dict())
        reset(*pair)
        assert_same(fast(x), plain(x))
        assert stages(fast)


def test_parameters_from_elsewhere(pair):
    """``load_state_dict`` and ``functional_call`` count."""
    plain, fast = (m.eval() for m in pair)
    x = images()
    before = fast(x)
    other = Looped().state_dict()
    for model in pair:
        model.load_state_dict(other)
    reset(*pair)
    assert_same(fast(x), plain(x))
    values = {n: 1.5 * p.detach() for n, p in plain.named_parameters()}
    reset(*pair)
    found = torch.func.functional_call(fast, values, (x,))
    assert not torch.equal(found, before)
    reset(plain)
    assert_same(found, torch.func.functional_call(plain, values, (x,)))


def test_hooks(pair):
    _, fast = pair
    x, seen = images(), []
    fast(x)
    handles = [m.register_forward_hook(lambda _m, _x, y, n=n: seen.append((n, y))) for n, m in
               (("network", fast), ("conv2", fast.conv2))]  # fmt: skip
    reset(fast)
    y = fast(x)
    assert seen[-1][0] == "network"
    assert seen[-1][1] is y
    assert {n for n, _ in seen} == {"network", "conv2"}
    assert "hooks" in ss.explain(fast).left["conv2"]
    for handle in handles:
        handle.remove()
    reset(fast)
    del seen[:]
    fast(x)
    assert not seen
    assert stages(fast) == STAGES


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


def test_what_is_not_known_stays():
    """Neurons without an operator run as they were written, and are named."""
    for odd in (
        neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False), step_mode="m"),
        neuron.QIFNode(step_mode="m"),
        nn.Softplus(),
    ):
        plain = nn.Sequential(layer.Linear(3, 4, step_mode="m"), odd)
        fast, x = ss.fuse(copy.deepcopy(plain)), torch.randn(2, 3, 3)
        assert_same(fast(x), plain(x))
        assert "1" not in ss.explain(fast).fused
