"""The table of providers: each trains as its name says, and none under the name of a faster one."""

import functools
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import snn_sparse as ss
from benchmarks import providers, refusals
from benchmarks.masks import load_tickets
from benchmarks.providers import PROVIDERS, choose_providers, make_step, of_ticket, prepare
from benchmarks.refusals import Refused, attempt, insist
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop, use_triton
from snn_sparse.ops.backend import Choice
from snn_sparse.training import make_optimizer

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_case import FUSED_DENSE, REFERENCE, ticket_file

BY_NAME = {p.name: p for p in PROVIDERS}


def steps_at_large_logits(*names):
    images = prepare("vgg_small", 2, 32, "cpu")
    torch.nn.init.normal_(images[0].classifier.weight)
    return [make_step(BY_NAME[name], images) for name in names]


@pytest.mark.parametrize("arch", ["vgg11", "resnet19"])
def test_spikingjelly_networks_compute_the_same(arch):
    model = ss.build_model(arch, 5, 1, 3).double()
    loop, multi = TimeLoop(model).double(), MultiStep(model).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64) * 3
    torch.testing.assert_close(loop(x), model(x))
    pooled = ss.build_model(arch, 5, 1, 3, bn_statistics="pooled").double()
    pooled.load_state_dict(ss.build_model(arch, 5, 1, 3).double().state_dict() | dict(model.named_parameters()))
    torch.testing.assert_close(multi(x), pooled(x))


def test_the_table():
    assert len(BY_NAME) == len(PROVIDERS)
    for p in PROVIDERS:
        assert p.fused == p.name.startswith("fused")
        assert (p.mask is not None) == ("%" in p.name)
        words = {torch.float32: ("fp32",), torch.float16: ("fp16",), torch.bfloat16: ("bf16", "compiled")}[p.dtype]
        assert p.name.split()[-1] in words or p.device == "cpu"
    for device in ("cpu", "cuda:1"):
        assert choose_providers((), device)[0].published
        assert [p.name for p in choose_providers((), device)] == [p.name for p in PROVIDERS if p.device in device]
    assert [p.name for p in choose_providers([FUSED_DENSE, REFERENCE], "cuda")] == [REFERENCE, FUSED_DENSE]


def test_all_float32_providers_train_alike():
    names = ("SpikingJelly time loop", "plain", "fused dense", "fused dense fp32", REFERENCE)
    losses = [[float(step()) for _ in range(2)] for step in steps_at_large_logits(*names)]
    for first, second in losses[1:]:
        assert first == pytest.approx(losses[0][0], rel=1e-2)
        assert second == pytest.approx(losses[0][1], rel=5e-2)  # rounding decides some spikes
    assert losses[0][1] < 0.9 * losses[0][0]


def test_what_a_user_would_pick_trains_alike(monkeypatch):
    compiled, layouts = [], []

    class Multi(MultiStep):
        def forward(self, x):
            first = next(p for p in self.parameters() if p.dim() == 4)
            layouts.append([t.is_contiguous(memory_format=torch.channels_last) for t in (x, first)])
            return super().forward(x)

    traced = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda f, **how: compiled.append(how) or traced(f, **how))
    lying = replace(BY_NAME["SpikingJelly multi-step channels-last"], network=Multi)
    monkeypatch.setitem(BY_NAME, lying.name, lying)
    names = ("SpikingJelly multi-step", lying.name, "plain", "plain compiled")
    losses = [float(step()) for step in steps_at_large_logits(*names)]
    assert layouts == [[True, True]]
    assert compiled == [{"dynamic": False}]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[3] == pytest.approx(losses[2], rel=1e-2)


@pytest.mark.parametrize("name", ["plain bf16", "SpikingJelly time loop autocast fp16", FUSED_DENSE])
def test_low_precision_changes_little(name, monkeypatch):
    monkeypatch.setattr(providers, "insist", lambda *operators, **where: None)  # bfloat16 is plain on a CPU
    exact, low = (float(step()) for step in steps_at_large_logits(REFERENCE, name))
    assert low == pytest.approx(exact, rel=0.1)
    assert low != exact


@pytest.mark.parametrize("kind", ["uniform", "magnitude"])
def test_masked_providers_train_live_weights_only(kind, monkeypatch):
    images = prepare("vgg_small", 2, 4, "cpu")
    torch.nn.init.normal_(images[0].classifier.weight, std=0.05)  # else magnitude prunes all of it
    provider = BY_NAME[f"fused 90 % {kind}"]
    mask, nets = provider.mask(images[0]), []
    assert mask.sparsity == pytest.approx(90, abs=0.5)
    assert mask.equal(provider.mask(images[0]))
    monkeypatch.setattr(providers, "make_optimizer", lambda net, *a: nets.append(net) or make_optimizer(net, *a))
    step = make_step(provider, images)
    step()
    step()
    assert len(nets) == 1
    for name, alive in mask.items():
        before, after = images[0].get_parameter(name), nets[0].get_parameter(name)
        assert (before != after)[alive].any(), name
        assert not after[~alive].any(), name


def test_a_fused_network_on_plain_pytorch_is_refused(monkeypatch):
    images = prepare("vgg_small", 2, 2, "cpu")
    with pytest.raises(Refused, match=r"neuron would run on plain PyTorch: .*bfloat16"):
        make_step(BY_NAME[FUSED_DENSE], images)
    with pytest.raises(Refused, match="neuron runs in cpp on cpu, not in triton"):
        insist("neuron", device="cpu", dtype=torch.float32, on="triton")
    asked = []
    choice = Choice("plain", "the check failed")
    monkeypatch.setattr(
        refusals, "choose", lambda op, *_: asked.append(op) or (choice if op == "live" else Choice("cpp"))
    )
    make_step(BY_NAME["fused dense"], images)
    with pytest.raises(Refused, match="live would run on plain PyTorch: the check failed"):
        make_step(BY_NAME["fused 90 % uniform"], images)
    assert asked == ["neuron", "convolution", "neuron", "convolution", "live"]


def test_what_falls_back_while_it_runs_is_left_out_too(capsys):
    def falls_back(message):
        warnings.warn(message, stacklevel=2)
        return 1

    skipped = {}
    assert attempt("a", lambda: falls_back("training goes on without CUDA graphs: why"), skipped) is None
    assert attempt("b", lambda: falls_back("the GPU kernels of snn_sparse are not used"), skipped) is None
    with pytest.warns(UserWarning, match="something else"):
        assert attempt("c", lambda: falls_back("something else"), skipped) == 1
    assert skipped == {
        "a": "training goes on without CUDA graphs: why",
        "b": "the GPU kernels of snn_sparse are not used",
    }
    assert capsys.readouterr().err.splitlines() == [f"left out: {name}: {why}" for name, why in skipped.items()]


def test_multi_step_networks_compile_without_a_break(monkeypatch):
    traced = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    net, x = MultiStep(ss.build_model("vgg_small", timesteps=3)), torch.randn(4, 3, 16, 16) * 3
    plain = MultiStep(net.net)
    plain.load_state_dict(net.state_dict())
    expected = [plain(x), plain(x)]
    net.compile_logits()
    torch.testing.assert_close([net(x), net(x)], expected)  # twice: the state is reset in between


def test_triton_neurons_are_asked_for_in_low_precision_only():
    net = MultiStep(ss.build_model("vgg_small"))
    assert use_triton(net, torch.device("cpu"), torch.float32) is net
    with pytest.raises(ValueError, match="dtype must be"):
        use_triton(net, torch.device("cpu"), torch.float64)
    with pytest.raises(Exception, match=r"(?i)cuda"):
        use_triton(net, torch.device("cpu"), torch.bfloat16)


def test_tickets_are_providers_of_their_network(tmp_path):
    path, mask = ticket_file(tmp_path)
    (found,) = load_tickets([path], ["vgg11", "vgg_small"])
    provider = of_ticket(found)
    assert (provider.name, provider.device) == (f"fused {mask.sparsity:.2f} % ticket bf16", "cuda")
    assert provider.mask(ss.build_model("vgg_small")).equal(mask)


def test_tickets_that_do_not_fit_are_refused(tmp_path):
    path, _ = ticket_file(tmp_path)
    with pytest.raises(ValueError, match="is for vgg_small, which is not among --arch vgg16"):
        load_tickets([path], ["vgg16"])
    with pytest.raises(ValueError, match="same sparsity"):
        load_tickets([path, path], ["vgg_small"])
    other, _ = ticket_file(tmp_path, percent=50.0, num_classes=7)
    with pytest.raises(ValueError, match=r"--ticket .*does not fit"):
        of_ticket(*load_tickets([other], ["vgg_small"])).mask(ss.build_model("vgg_small"))
    Path(path).write_text("no ticket")
    with pytest.raises(ValueError, match="ticket file"):
        load_tickets([path], ["vgg_small"])
