"""Channels-last networks whose convolutions run by plan on our kernels, in the interpreter, against plain ones."""

import copy
import json
import pickle
import warnings

import pytest
import torch

import snn_sparse as ss
from snn_sparse import nn as snn
from snn_sparse.fusion.plans import HEADER, gpu_plan_rows
from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.models.vgg import VGG
from snn_sparse.nn.deferred import PackedStored
from snn_sparse.nn.fused import convolution, gpu_plan
from snn_sparse.nn.fused.gpu_plan import ConvPlanner
from snn_sparse.nn.neuron import make_neuron
from snn_sparse.ops.channel_groups import Grouper
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan

BLOCK, UNION = Way(32, 32, 32), Way(16, 32, 32, True)
GEOMETRY = Geometry(2, 2, 40, 20, 3, 4, (3, 3), 1, 1)
CPU = torch.device("cpu")


@pytest.fixture
def ours_is_faster(monkeypatch, tmp_path):
    """Every direction has one way beside torch's, and it is timed as the faster one; yields the file of the plans."""
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "plans.json"))
    offered = {"output": BLOCK, "grad_input": UNION, "grad_weight": UNION, "spikes": BLOCK}
    monkeypatch.setattr(gpu_plan, "candidates", lambda direction, *_: [offered[direction]])
    order = iter([1.0, 0.5] * 1000)
    monkeypatch.setattr(gpu_plan, "_seconds", lambda run, device: next(order))
    monkeypatch.setattr(gpu_plan, "_same", lambda found, expected: True)
    return tmp_path / "plans.json"


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
    for name, alive in mask.items():
        assert torch.count_nonzero(fused_grads[name][~alive]) == 0
    layers = [fused.features[i] for i in (3, 7)]
    assert all(layer.gradient_is_masked for layer in layers)
    assert not fused.features[0].gradient_is_masked  # an image is no packed spikes
    assert [key.startswith("gpu") for key in json.loads(ours_is_faster.read_text())].count(True) == 2


@pytest.mark.parametrize("neuron", ["lif", "plif"])
def test_evaluation_runs_convolution_and_neuron_in_one_kernel(ours_is_faster, monkeypatch, neuron):
    torch.manual_seed(2)
    plain = network(neuron).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0.2, 0.1)
            torch.nn.init.uniform_(module.weight, 0.8, 1.5)
    fused, calls, real = ss.fuse(copy.deepcopy(plain)), [], convolution.packed_conv_neuron
    monkeypatch.setattr(convolution, "packed_conv_neuron", lambda *a: calls.append(a[-1]) or real(*a))
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


def test_choices_are_timed_once_and_kept_on_disk(ours_is_faster, monkeypatch):
    mask = torch.rand(20, 40, 3, 3) < 0.2
    plan = ConvPlanner(mask).plan(GEOMETRY, torch.float32, CPU)
    assert dict(zip(DIRECTIONS, plan.ways, strict=True)) == {
        "output": BLOCK, "grad_input": UNION, "grad_weight": UNION, "spikes": BLOCK
    }  # fmt: skip
    monkeypatch.setattr(gpu_plan, "choose", None)
    planner = ConvPlanner(mask)
    assert planner.plan(GEOMETRY, torch.float32, CPU).ways == plan.ways
    (choice,) = planner.choices.values()
    assert choice.seconds == (0.5,) * 4
    assert choice.library_seconds == (1.0,) * 4
    longer = Geometry(5, 3, 40, 20, 3, 4, (3, 3), 1, 1)
    assert planner.plan(longer, torch.float32, CPU) is planner.plan(GEOMETRY, torch.float32, CPU)
    with pytest.raises(TypeError):  # another dtype is another plan
        planner.plan(GEOMETRY, torch.float16, CPU)


@pytest.mark.parametrize("content", ["{", "[]", '{"KEY": 3}', '{"KEY": {"ways": [{"rows": 3}], "seconds": []}}'])
def test_damaged_files_are_ignored(ours_is_faster, content):
    planner = ConvPlanner(torch.rand(20, 40, 3, 3) < 0.2)
    ours_is_faster.write_text(content.replace("KEY", planner._key(GEOMETRY, torch.float32, CPU)))
    assert planner.plan(GEOMETRY, torch.float32, CPU).ways.output == BLOCK


def test_torch_is_kept_where_it_is_faster_or_nothing_else_runs(ours_is_faster, monkeypatch):
    times = iter([1.0, 0.99, 0.5, None, 2.0, 1.0, 1.0, 1.0])

    def seconds(run, device):
        found = next(times)
        if found is None:
            raise OutOfMemoryForThisWay
        return found

    monkeypatch.setattr(gpu_plan, "_seconds", seconds)
    ways = ConvPlanner(None).plan(GEOMETRY, torch.float32, CPU).ways
    assert (ways.output, ways.grad_input, ways.grad_weight, ways.spikes) == (None, None, UNION, None)


class OutOfMemoryForThisWay(Exception):
    """As a compiler raises it."""


def test_an_error_of_torch_itself_is_not_hidden(ours_is_faster, monkeypatch):
    def broken(run, device):
        raise OutOfMemoryForThisWay

    monkeypatch.setattr(gpu_plan, "_seconds", broken)
    with pytest.raises(OutOfMemoryForThisWay):
        ConvPlanner(None).plan(GEOMETRY, torch.float32, CPU)


def test_a_way_that_computes_something_else_is_not_kept(ours_is_faster, monkeypatch):
    monkeypatch.undo()
    runs = [lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, 1.1]), lambda: torch.ones(3) * 1.001]
    with pytest.warns(UserWarning, match="wrong result"):
        assert gpu_plan._fastest_right(runs, [1.0, 0.1, 0.2]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one that could not run is none that computed something wrong
        assert gpu_plan._fastest_right(runs, [1.0, float("inf"), 0.2]) == 2
    assert gpu_plan._fastest_right(runs, [1.0, 0.1, 0.99]) == 0
    assert gpu_plan._fastest_right([runs[0], lambda: torch.full((3,), torch.nan)], [1.0, 0.1]) == 0
    words = torch.arange(100, dtype=torch.int32)
    assert gpu_plan._same(torch.where(words == 3, -1, words).int(), words)
    assert not gpu_plan._same(torch.where(words < 30, -1, words).int(), words)


def test_ways_are_held_against_torch_under_the_mask(monkeypatch):
    offered = {"output": UNION, "grad_input": UNION, "grad_weight": UNION, "spikes": BLOCK}
    monkeypatch.setattr(gpu_plan, "candidates", lambda direction, *_: [offered[direction]])
    monkeypatch.setattr(gpu_plan, "_times", lambda runs, device: [1.0, 0.5])
    mask = torch.rand(20, 40, 3, 3) < 0.05
    choice = gpu_plan.choose(
        Geometry(1, 2, 40, 20, 3, 3, (3, 3), 1, 1), Grouper(mask, tuple(mask.shape)), torch.float32, CPU
    )
    assert choice.ways._asdict() == offered
    runs = [lambda: torch.ones(4), lambda: torch.ones(4)]
    assert gpu_plan._fastest_right(runs, [1.0, 0.5]) == 1
    assert gpu_plan._fastest_right(runs, [1.0, 0.5], torch.tensor([True, True, True, False])) == 0  # a pruned gradient


def test_a_plan_made_in_inference_mode_serves_training(ours_is_faster):
    fused = ss.fuse(network())
    masked(fused).apply_(fused)
    x = torch.rand(2, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        fused(x)
    fused(x).sum().backward()
    assert fused.features[3].weight.grad is not None


def test_one_dense_pass_is_enough_to_mask_gradients_again(ours_is_faster):
    """T beyond what the kernels take: the neuron is plain, its spikes are dense, and torch computes the gradient."""
    fused = ss.fuse(network())
    mask = masked(fused)
    mask.apply_(fused)
    x = torch.rand(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    for timesteps, alone in ((2, True), (33, False), (2, False)):
        fused.timesteps = timesteps
        fused.zero_grad()
        fused(x).sum().backward()
        assert fused.features[3].gradient_is_masked == alone
        for name, alive in mask.items():
            assert torch.count_nonzero(fused.get_parameter(name).grad[~alive]) == 0


def test_planned_and_masked_networks_can_be_pickled(ours_is_faster):
    fused = ss.fuse(network())
    masked(fused).apply_(fused)
    x = torch.rand(2, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = fused(x)
    twin = pickle.loads(pickle.dumps(fused))
    assert "_conv_planner" not in twin.features[3].__dict__
    torch.testing.assert_close(twin(x), expected)
    twin(x).sum().backward()
    assert torch.count_nonzero(twin.features[3].weight.grad[~twin.features[3].live_mask]) == 0


def test_a_1x1_convolution_packs_in_evaluation_too():
    """Its weight lies both ways in memory; the spikes that it shares with others stay packed."""
    torch.manual_seed(3)
    layers = [snn.Conv2d(2, 4, 3, padding=1), snn.BatchNorm2d(4), make_neuron("lif"), snn.Conv2d(4, 4, 1)]
    fused = ss.fuse(torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)).eval()
    x = torch.rand(2, 2, 5, 4, 2).movedim(-1, 2)
    with torch.no_grad():
        spikes = fused[:3](x)
        fused[3](spikes)
    assert isinstance(spikes.stored(), PackedStored)


def test_nothing_is_planned_without_kernels(monkeypatch):
    monkeypatch.setattr(gpu_plan, "kernels_run", lambda x, family: family != "convolution")
    assert ConvPlanner(None).plan(GEOMETRY, torch.float32, CPU) == ConvPlan()


def test_real_timing_runs_every_way(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "plans.json"))
    monkeypatch.setattr(gpu_plan, "candidates", lambda direction, *_: [BLOCK])
    choice = gpu_plan.choose(Geometry(1, 1, 8, 8, 2, 2, (3, 3), 1, 1), Grouper(None, (8, 8, 3, 3)), torch.float32, CPU)
    assert all(0 < a <= b for a, b in zip(choice.seconds, choice.library_seconds, strict=True))


def test_plan_table(ours_is_faster):
    model = network()
    masked(model).apply_(model)
    rows = gpu_plan_rows(model, 2, 2, 4, CPU, torch.float32)
    assert [row[:2] for row in rows] == [("features.3", "3x2x4x4x4"), ("features.7", "3x2x6x2x2")]
    for row in rows:
        assert row[2].endswith(" %")
        assert row[-4] == f"{BLOCK.describe()}, {UNION.describe()}, {UNION.describe()}"
        assert row[-3:] == ("1.5e+03", "3e+03", "2.00x")
        assert len(row) == len(HEADER)
