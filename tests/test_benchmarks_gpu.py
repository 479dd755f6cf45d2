"""The GPU providers of the training step's benchmark, as far as a machine without a GPU can run them."""

import argparse
import functools
import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss
import snn_sparse.kernels
from benchmarks import gpu_providers, gpu_train_step, train_step
from benchmarks.__main__ import main
from benchmarks.gpu_providers import FUSED_DENSE, PROVIDERS, REFERENCE, make_step
from benchmarks.masks import load_tickets, masks_of
from benchmarks.spikingjelly_nets import MultiStep, use_triton
from snn_sparse.training import make_optimizer

sys.path.insert(0, str(Path(__file__).parent))
from gpu_benchmark_case import small_args, ticket_file


def test_without_a_gpu_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["train-step", "--device", "cuda"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "benchmarks: error: --device cuda, but torch sees no GPU\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--providers", "plain"], "unknown provider 'plain': choose from SpikingJelly time loop fp32, "),
        (["--ticket", "no/such/file"], "no ticket file at no/such/file"),
        (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(flags, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as stop:
        main(["train-step", "--device", "cuda", *flags])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"benchmarks: error: {said}")
    assert line.count("\n") == 1


def test_defaults_follow_the_device(monkeypatch):
    seen = []
    monkeypatch.setattr(gpu_train_step, "run", lambda args, prepare: seen.append(args) or [])
    monkeypatch.setattr(train_step, "_run_on_cpu", lambda args: seen.append(args) or [])
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    train_step.add_flags(parser)
    for flags in ([], ["--device", "cuda:0"], ["--device", "cuda", "--batch_size", "3", "--providers", FUSED_DENSE]):
        train_step.run(parser.parse_args(flags))
    assert [args.batch_size for args in seen] == [16, 128, 3]
    assert [args.providers for args in seen] == [list(train_step.PROVIDERS), list(PROVIDERS), [FUSED_DENSE]]


def test_precisions_of_the_providers():
    kinds = {torch.float32: 2, torch.float16: 1, torch.bfloat16: len(PROVIDERS) - 3}
    assert {d: [gpu_providers.dtype_of(p) for p in PROVIDERS].count(d) for d in kinds} == kinds


def test_all_float32_providers_train_alike():
    model, x, y = train_step.prepare(small_args(batch_size=64), "vgg_small")
    torch.nn.init.normal_(model.classifier.weight)
    losses = {}
    for provider in (REFERENCE, "fused dense fp32"):
        step = make_step(provider, model, x.contiguous(memory_format=torch.channels_last), y)
        losses[provider] = torch.stack([step() for _ in range(2)])
    first, second = (losses["fused dense fp32"] / losses[REFERENCE]).tolist()
    assert first == pytest.approx(1, rel=1e-2)
    assert second == pytest.approx(1, rel=3e-2)  # rounding decides some spikes, and each a little of the update
    assert losses[REFERENCE][1] < 0.9 * losses[REFERENCE][0]


@pytest.mark.parametrize("provider", [gpu_providers.PLAIN, gpu_providers.AUTOCAST, FUSED_DENSE])
def test_low_precision_changes_little(provider):
    model, x, y = train_step.prepare(small_args(batch_size=64), "vgg_small")
    torch.nn.init.normal_(model.classifier.weight)
    exact, low = (float(make_step(p, model, x, y)()) for p in (REFERENCE, provider))
    assert low == pytest.approx(exact, rel=0.05)
    assert low != exact


def test_masked_providers_train_live_weights_only(monkeypatch):
    model, x, y = train_step.prepare(small_args(), "vgg_small")
    provider = "fused 90 % uniform bf16"
    mask = masks_of(model, [provider])[provider]
    nets = []
    monkeypatch.setattr(
        gpu_providers, "make_optimizer", lambda net, *a, **o: nets.append(net) or make_optimizer(net, *a, **o)
    )
    step = make_step(provider, model, x, y, mask)
    step()
    step()
    assert len(nets) == 1
    for name, alive in mask.items():
        before, after = model.get_parameter(name), nets[0].get_parameter(name)
        assert (before != after)[alive].any(), name
        assert not after[~alive].any(), name


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
    assert found.provider == f"fused {mask.sparsity:.2f} % ticket bf16"
    masks = masks_of(ss.build_model("vgg_small"), [found.provider, FUSED_DENSE, "fused 95 % uniform bf16"], [found])
    assert list(masks) == [found.provider, "fused 95 % uniform bf16"]
    assert all(torch.equal(masks[found.provider][n], mask[n]) for n in mask)
    assert masks["fused 95 % uniform bf16"].sparsity == pytest.approx(95, abs=0.5)


def test_tickets_that_do_not_fit_are_refused(tmp_path):
    path, _ = ticket_file(tmp_path)
    with pytest.raises(ValueError, match="is for vgg_small, which is not among --arch vgg16"):
        load_tickets([path], ["vgg16"])
    with pytest.raises(ValueError, match="same sparsity"):
        load_tickets([path, path], ["vgg_small"])
    other, _ = ticket_file(tmp_path, percent=50.0, num_classes=7)
    with pytest.raises(ValueError, match=r"--ticket .*does not fit"):
        masks_of(ss.build_model("vgg_small"), [], load_tickets([other], ["vgg_small"]))
    Path(path).write_text("no ticket")
    with pytest.raises(ValueError, match="ticket file"):
        load_tickets([path], ["vgg_small"])
