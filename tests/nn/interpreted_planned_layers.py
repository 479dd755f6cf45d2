"""Channels-last networks whose convolutions run on our kernels as they were raced, in the interpreter."""

import copy
import json
import pickle
import warnings

import pytest
import torch

import snn_sparse as ss
from snn_sparse import nn as snn
from snn_sparse.fusion.table import HEADER, layer_rows
from snn_sparse.models.vgg import VGG
from snn_sparse.nn import stage
from snn_sparse.nn.neuron import make_neuron
from snn_sparse.ops import Packed
from snn_sparse.ops.convolution import Directions, Grouper, TileConfiguration
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning import LayerTuner, gpu

BLOCK, UNION = TileConfiguration(32, 32, 32), TileConfiguration(16, 32, 32, True)
OFFERED = Directions(BLOCK, UNION, UNION, BLOCK)
GEOMETRY = ConvGeometry(2, 2, 40, 20, 3, 4, (3, 3), 1, 1)
CPU, FLOAT = torch.device("cpu"), torch.float32


def on_gpu(tuner, geometry=GEOMETRY, dtype=FLOAT):
    return tuner.on_gpu(geometry, dtype, FLOAT, CPU)


@pytest.fixture
def ours_is_faster(monkeypatch, tmp_path):
    """Every direction has one candidate beside torch, and it is timed as the faster one; gives the cache's file."""
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    monkeypatch.setattr(gpu, "candidates", lambda direction, *_: [getattr(OFFERED, direction)])
    monkeypatch.setattr(gpu, "race", lambda runs, device: [1.0, *[0.5] * (len(runs) - 1)])
    monkeypatch.setattr(gpu, "_same", lambda found, expected: True)
    return tmp_path / "measured.json"


def network(neuron="lif", statistics="per_step"):
    plain = VGG((4, 6, 0, 5), 3, 2, 3, lambda: make_neuron(neuron), statistics)
    return plain.to(memory_format=torch.channels_last)


def masked(model):
    torch.manual_seed(7)
    return ss.Mask({n: torch.rand(p.shape) < 0.5 for n, p in ss.Mask.dense(model).items()})


@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
def test_training_by_our_kernels_is_plain_training(ours_is_faster, statistics):
    torch.manual_seed(1)
    plain = network(statistics=statistics)
    for i in (0, 3, 7):
        torch.nn.init.normal_(plain.features[i].bias)
    fused, mask, x = ss.fuse(copy.deepcopy(plain)), masked(plain), torch.rand(2, 2, 4, 4)
    results = []
    for net in (plain, fused):
        mask.apply_(net)
        out = net(x.contiguous(memory_format=torch.channels_last))
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append((out.detach(), {n: p.grad for n, p in net.named_parameters()}, list(net.buffers())))
    assert all(fused.features[i].bias.grad.eq(0).all() for i in (3, 7))  # the batch's mean takes a bias away again
    (a, grads, buffers), (b, fused_grads, fused_buffers) = results
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(fused_grads[name], grad, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    for p, q in zip(buffers, fused_buffers, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5)
    for name, keep in mask.items():
        assert torch.count_nonzero(fused_grads[name][~keep]) == 0
    assert not fused.features[0].tuner.winners  # an image is no packed spikes
    assert [key.startswith("gpu") for key in json.loads(ours_is_faster.read_text())].count(True) == 2


@pytest.mark.parametrize("neuron", ["lif", "plif"])
def test_evaluation_runs_convolution_and_neuron_in_one_kernel(ours_is_faster, monkeypatch, neuron):
    torch.manual_seed(2)
    plain = network(neuron).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0.2, 0.1)
            torch.nn.init.uniform_(module.weight, 0.8, 1.5)
    fused, calls, real = ss.fuse(copy.deepcopy(plain)), [], stage.convolution_neuron
    monkeypatch.setattr(stage, "convolution_neuron", lambda *a: calls.append(a[-1]) or real(*a))
    x = torch.rand(2, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)
    assert calls == [True, False]  # with the max-pool, without
    assert fused(x).requires_grad  # with gradients everything runs one by one
    assert len(calls) == 2
    fused.train()
    with torch.no_grad():
        fused(x)
    assert len(calls) == 2


def test_winners_are_raced_once_and_kept_on_disk(ours_is_faster, monkeypatch):
    mask = torch.rand(20, 40, 3, 3) < 0.2
    assert on_gpu(LayerTuner(mask)).directions == OFFERED
    monkeypatch.setattr(gpu, "choose", None)
    tuner = LayerTuner(mask)
    found = on_gpu(tuner)
    assert found.directions == OFFERED
    (winner,) = tuner.winners.values()
    assert winner.seconds == (0.5,) * 4
    assert winner.dense_seconds == (1.0,) * 4
    assert on_gpu(tuner, ConvGeometry(5, 3, 40, 20, 3, 4, (3, 3), 1, 1)) is found
    with pytest.raises(TypeError):  # another dtype is another race
        on_gpu(tuner, dtype=torch.float16)


@pytest.mark.parametrize("flag", ["deterministic", "benchmark", "allow_tf32"])
def test_flags_of_cudnn_are_another_race(flag, monkeypatch):
    before = gpu.key(GEOMETRY, FLOAT, FLOAT, None, CPU)
    monkeypatch.setattr(torch.backends.cudnn, flag, not getattr(torch.backends.cudnn, flag))
    assert gpu.key(GEOMETRY, FLOAT, FLOAT, None, CPU) != before


def test_torch_is_kept_where_it_is_faster(ours_is_faster, monkeypatch):
    times = iter([[1.0, 0.99], [0.5, float("inf")], [2.0, 1.0], [1.0, 1.0]])
    monkeypatch.setattr(gpu, "race", lambda runs, device: next(times))
    assert on_gpu(LayerTuner(None)).directions == Directions(grad_weight=UNION)


def test_a_kernel_that_computes_something_else_is_not_kept(ours_is_faster, monkeypatch):
    monkeypatch.undo()
    runs = [lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, 1.1]), lambda: torch.ones(3) * 1.001]
    with pytest.warns(UserWarning, match="wrong result"):
        assert gpu._fastest_right(runs, [1.0, 0.1, 0.2], None) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one that could not run is none that computed something wrong
        assert gpu._fastest_right(runs, [1.0, float("inf"), 0.2], None) == 2
    assert gpu._fastest_right(runs, [1.0, 0.1, 0.99], None) == 0
    assert gpu._fastest_right([runs[0], lambda: torch.full((3,), torch.nan)], [1.0, 0.1], None) == 0
    words = torch.arange(100, dtype=torch.int32)
    assert gpu._same(torch.where(words == 3, -1, words).int(), words)
    assert not gpu._same(torch.where(words < 30, -1, words).int(), words)


def test_kernels_are_held_against_torch_under_the_mask(monkeypatch):
    monkeypatch.setattr(gpu, "candidates", lambda direction, *_: [getattr(OFFERED, direction)])
    monkeypatch.setattr(gpu, "race", lambda runs, device: [1.0, 0.5])
    mask = torch.rand(20, 40, 3, 3) < 0.05
    g = ConvGeometry(1, 2, 40, 20, 3, 3, (3, 3), 1, 1)
    winner = gpu.choose(g, Grouper(mask, g.weight_shape), FLOAT, FLOAT, CPU)
    assert winner.directions == OFFERED
    runs = [lambda: torch.ones(4), lambda: torch.ones(4)]
    assert gpu._fastest_right(runs, [1.0, 0.5], None) == 1
    assert gpu._fastest_right(runs, [1.0, 0.5], torch.tensor([True, True, True, False])) == 0  # a pruned gradient


def test_a_race_in_inference_mode_serves_training(ours_is_faster):
    fused = ss.fuse(network())
    masked(fused).apply_(fused)
    x = torch.rand(2, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        fused(x)
    fused(x).sum().backward()
    assert fused.features[3].weight.grad is not None


def test_gradients_are_masked_whatever_computes_them(ours_is_faster):
    """T beyond what the kernels take: the neuron is plain, its spikes are dense, and torch computes the gradient."""
    fused = ss.fuse(network())
    mask = masked(fused)
    mask.apply_(fused)
    x = torch.rand(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    for timesteps in (2, 33, 2):
        fused.timesteps = timesteps
        fused.zero_grad()
        fused(x).sum().backward()
        for name, keep in mask.items():
            assert torch.count_nonzero(fused.get_parameter(name).grad[~keep]) == 0


def test_tuned_and_masked_networks_can_be_pickled(ours_is_faster):
    fused = ss.fuse(network())
    masked(fused).apply_(fused)
    x = torch.rand(2, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = fused(x)
    twin = pickle.loads(pickle.dumps(fused))
    assert "_tuner" not in twin.features[3].__dict__
    torch.testing.assert_close(twin(x), expected)
    twin(x).sum().backward()
    assert torch.count_nonzero(twin.features[3].weight.grad[~twin.features[3].keep_mask]) == 0


def test_a_1x1_convolution_packs_in_evaluation_too(monkeypatch):
    """Its weight lies both ways in memory; the spikes that it shares with others stay packed."""
    torch.manual_seed(3)
    layers = [snn.Conv2d(2, 4, 3, padding=1), snn.BatchNorm2d(4), make_neuron("lif"), snn.Conv2d(4, 4, 1)]
    fused = ss.fuse(torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)).eval()
    x = torch.rand(2, 2, 5, 4, 2).movedim(-1, 2)
    seen, real = [], stage.convolutions.convolve

    def watch(conv, given, *args, **options):
        seen.append(isinstance(given, Packed))
        return real(conv, given, *args, **options)

    with torch.no_grad():
        fused(x)
        monkeypatch.setattr(stage.convolutions, "convolve", watch)
        fused(x)
    assert seen == [False, True]


def test_nothing_is_raced_without_kernels(monkeypatch):
    monkeypatch.setattr("snn_sparse.tuning.tuner.choose", lambda *_: gpu_choice("plain"))
    assert not on_gpu(LayerTuner(None)).numbers


def gpu_choice(name):
    from snn_sparse.ops.backend import Choice

    return Choice(name)


def test_a_real_race_runs_every_candidate(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    monkeypatch.setattr(gpu, "candidates", lambda direction, *_: [BLOCK])
    g = ConvGeometry(1, 1, 8, 8, 2, 2, (3, 3), 1, 1)
    winner = gpu.choose(g, Grouper(None, g.weight_shape), FLOAT, FLOAT, CPU)
    assert all(0 < a <= b for a, b in zip(winner.seconds, winner.dense_seconds, strict=True))


def test_table(ours_is_faster):
    model = network()
    masked(model).apply_(model)
    rows = layer_rows(model, 2, 2, 4, CPU, FLOAT)
    assert [row[:2] for row in rows] == [("features.3", "3x2x4x4x4"), ("features.7", "3x2x6x2x2")]
    for row in rows:
        assert row[2].endswith(" %")
        assert row[-4] == f"{BLOCK.describe()}, {UNION.describe()}, {UNION.describe()}"
        assert row[-3:] == ("1.5e+03", "3e+03", "2.00x")
        assert len(row) == len(HEADER)
