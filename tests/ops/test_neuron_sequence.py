"""The public neuron operator without a GPU: C++ and plain PyTorch against the definition, errors, first-use record."""

import json
import warnings

import pytest
import torch

from snn_sparse.ops import self_check
from snn_sparse.ops.device import kernels_run
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.ops.neuron import Firing
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.packed_conv import packed_conv2d
from snn_sparse.ops.spike_bits import Packed, packed_shape, plain_pack, plain_unpack, unpack_spikes

T, SHAPE = 4, (3, 5, 6, 7)


def norm(channels, steps, dtype, training=True):
    weight, bias = torch.rand(2, channels, dtype=dtype).add_(0.5).unbind()
    running = torch.rand(2, channels, dtype=dtype).add_(0.5).unbind()
    return Norm(weight.requires_grad_(), bias.requires_grad_(), *running, (0.1,) * steps, training)


def clone(n):
    leaves = [x.detach().clone() for x in (n.weight, n.bias, n.running_mean, n.running_var)]
    return Norm(*(x.requires_grad_() for x in leaves[:2]), *leaves[2:], n.factors, n.training)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_against_the_definition(dtype, static, training, pool):
    """float64 runs in C++, float16 on the CPU in plain PyTorch."""
    y = torch.randn(1 if static else T, *SHAPE, dtype=dtype).requires_grad_()
    residual = None if static else (torch.randn(T, *SHAPE) > 1).to(dtype).requires_grad_()
    v, w = torch.randn(SHAPE, dtype=dtype).requires_grad_(), torch.tensor(0.3, dtype=dtype, requires_grad=True)
    first = norm(SHAPE[1], 1 if static else T, dtype, training)
    second = clone(first)
    spec = NeuronSpec("plif", firing=Firing(v_reset=None, detach_reset=False))
    results = []
    for n in (first, second):
        call = {"norm": n, "residual": residual, "w": w, "v": v, "pool": pool}
        run = (
            neuron_sequence(y, spec, T, **call, final_v=True)
            if n is second
            else reference(y, spec, T, n, residual, None, w, v, pool)
        )
        leaves = [y, w, v, n.weight, n.bias, *([residual] if residual is not None else [])]
        loss = sum((o * torch.linspace(-1, 1, o.numel(), dtype=dtype).view(o.shape)).sum() for o in run)
        results.append((*run, *torch.autograd.grad(loss, leaves), n.running_mean, n.running_var))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a)


def test_more_timesteps_than_the_kernels_know():
    y = torch.randn(40, 2, 3, 1, 1, dtype=torch.float64)
    assert torch.equal(neuron_sequence(y, NeuronSpec(), 40)[0], reference(y, NeuronSpec(), 40)[0])


def test_packed_is_dense_without_kernels_and_takes_packed_residuals():
    y = torch.randn(T, *SHAPE).requires_grad_()
    spikes, v = neuron_sequence(y, NeuronSpec(), T, packed=True)
    assert isinstance(spikes, torch.Tensor)
    assert v is None
    residual = Packed(torch.zeros(1).expand(spikes.shape).requires_grad_(), plain_pack(spikes))
    out, _ = neuron_sequence(y, NeuronSpec(), T, residual=residual)
    expected, _ = reference(y, NeuronSpec(), T, None, spikes.detach().requires_grad_())
    assert torch.equal(out, expected)


def test_compiles_into_one_graph_on_a_cpu():
    y, spec = torch.randn(T, *SHAPE), NeuronSpec()

    def run(x):
        return neuron_sequence(x, spec, T, pool=True)[0]

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(y), run(y))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sizes", [(2, 1, 33, 4, 8), (1, 3, 64, 1, 1), (3, 2, 7, 9, 5)])
def test_bits(channels_last, sizes):
    t, n, c, h, w = sizes
    spikes = (torch.rand(t, n, h, w, c).movedim(-1, 2) if channels_last else torch.rand(sizes)).gt(0.6).float()
    bits = plain_pack(spikes)
    assert bits.shape == packed_shape(sizes, channels_last and not spikes.is_contiguous())
    assert torch.equal(plain_unpack(bits, sizes, torch.float32), spikes)
    carrier = torch.zeros(1).expand(sizes).requires_grad_()
    weight, bias = torch.randn(3, c, 1, 1, requires_grad=True), torch.randn(3, requires_grad=True)
    y, _ = packed_conv2d(Packed(carrier, bits), weight, bias, [2, 1], [0, 1])
    dense = spikes.clone().requires_grad_()
    expected = torch.nn.functional.conv2d(dense.flatten(0, 1), weight, bias, (2, 1), (0, 1)).unflatten(0, (t, n))
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(expected)
    found = torch.autograd.grad(y, (carrier, weight, bias), grad)
    for a, b in zip(found, torch.autograd.grad(expected, (dense, weight, bias), grad), strict=True):
        torch.testing.assert_close(a, b)
    unpacked = unpack_spikes(Packed(carrier, bits))
    assert torch.equal(torch.autograd.grad(unpacked, carrier, torch.ones(sizes))[0], torch.ones(sizes))


def test_wrong_arguments():
    y = torch.randn(T, *SHAPE)
    for error, match, call in [
        (ValueError, "timesteps must be at least 1", {"timesteps": 0}),
        (ValueError, "y must be", {"timesteps": 3}),
        (ValueError, "not empty", {"y": y[:, :0]}),
        (ValueError, "2x2 for pool", {"y": y[..., :1], "pool": True}),
        (ValueError, "residual must be", {"residual": y[:, :1]}),
        (ValueError, "norm_residual", {"norm_residual": norm(5, T, torch.float32)}),
        (ValueError, "v must be", {"v": y[0, :1]}),
        (ValueError, "w must be", {"w": torch.zeros(1)}),
        (ValueError, "w must be", {"spec": NeuronSpec("plif")}),
        (TypeError, "y must be", {"y": y.int()}),
        (TypeError, "y must be", {"y": None}),
    ]:
        with pytest.raises(error, match=match):
            neuron_sequence(**{"y": y, "spec": NeuronSpec(), "timesteps": T, **call})
    for call in (lambda: unpack_spikes(y), lambda: packed_conv2d(y, torch.zeros(1, 5, 1, 1), None, [1, 1], [0, 0])):
        with pytest.raises(TypeError, match="packed must be"):
            call()


@pytest.fixture
def card(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "plans.json"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(self_check, "_trusted", {})
    return tmp_path / "kernel_checks.json"


def test_a_passed_check_is_remembered(card, monkeypatch):
    calls = []
    monkeypatch.setattr(self_check, "find_problem", lambda device, family: calls.append((device, family)))
    for family in ("neuron", "optimizer", "neuron"):
        assert self_check.trusted(torch.device("cuda", 0), family)
        self_check._trusted.clear()  # as in another process
    assert [family for _, family in calls] == ["neuron", "optimizer"]
    assert set(json.loads(card.read_text()).values()) == {"ok"}


def test_a_failed_check_warns_once_and_means_plain_pytorch(card, monkeypatch):
    monkeypatch.setattr(self_check, "find_problem", lambda device, family: "spikes differ")
    with pytest.warns(UserWarning, match="spikes differ.*report"):
        assert not self_check.trusted(torch.device("cuda", 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not self_check.trusted(torch.device("cuda", 0))
    card.write_text("not json")
    self_check._trusted.clear()
    with pytest.warns(UserWarning, match="spikes differ"):
        assert not self_check.trusted(torch.device("cuda", 0))


def test_a_check_that_raises_is_not_remembered_on_disk(card, monkeypatch):
    def out_of_memory(device, family):
        raise torch.OutOfMemoryError("no memory\nnow")

    monkeypatch.setattr(self_check, "find_problem", out_of_memory)
    with pytest.warns(UserWarning, match="the check failed: OutOfMemoryError: no memory"):
        assert not self_check.trusted(torch.device("cuda", 0))
    assert not card.exists()
    self_check._trusted.clear()  # as in another process
    monkeypatch.setattr(self_check, "find_problem", lambda device, family: None)
    assert self_check.trusted(torch.device("cuda", 0))


def test_nothing_is_checked_while_a_graph_is_captured(card, monkeypatch):
    monkeypatch.setattr(self_check, "find_problem", lambda device, family: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not self_check.trusted(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert self_check.trusted(torch.device("cuda", 0))


def test_no_kernels_on_a_cpu():
    assert not kernels_run(torch.zeros(1))
