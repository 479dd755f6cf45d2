"""Firing rates of a search: looked at before an epoch, without a trace in the network, the same for a resumed run."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

from snn_sparse import build_model, fuse
from snn_sparse.nn.masked import Masked
from snn_sparse.ops.cache import Cache
from snn_sparse.tickets.firing_rates import follow_rates, rates_of, set_rates
from snn_sparse.tuning import choosing, cpu

pytestmark = cpp_case.needs_cpp


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))


@pytest.fixture
def no_races(monkeypatch):
    def race(runs, device, always=1):
        raise AssertionError("layers are timed while rates are looked at")

    monkeypatch.setattr(cpu, "race", race)


@pytest.fixture
def network():
    model = fuse(build_model("vgg_small", timesteps=3), verify=False)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 and name.endswith("bias"):
                p.sub_(1.5)  # batch norms that let few neurons fire
    return model.train()


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, Masked)}


def test_rates_are_those_of_the_inputs_and_nothing_else_changes(network, no_races):
    x, state = torch.randn(6, 3, 32, 32), {k: v.clone() for k, v in network.state_dict().items()}
    inputs = {}
    plain = build_model("vgg_small", timesteps=3).train()
    plain.load_state_dict(state)
    for name, m in plain.named_modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_pre_hook(lambda _m, given, name=name: inputs.update({name: given[0]}))
    with torch.no_grad():
        plain(x)
    with choosing(Cache()):
        follow_rates(network, x)
    rates = rates_of(network)
    found = {n: v for n, v in inputs.items() if set(v.unique().tolist()) <= {0, 1}}
    assert found
    for name, v in found.items():
        share = float(v.count_nonzero()) / v.numel()
        near = min(abs(share - edge) for edge in (0.1, 0.4)) < 0.002  # a spike more or less decides there
        assert near or rates[name] == (
            cpu.nearest_rate(share) if cpu.left_rate(cpu.FIRST_RATE, share) else cpu.FIRST_RATE
        )
    assert set(rates.values()) - {cpu.FIRST_RATE}
    assert network.training
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in state.items())


def test_layers_whose_rate_stays_keep_their_plans(network, no_races):
    x = torch.randn(4, 3, 32, 32)
    follow_rates(network, x)
    first, rates = {n: m.tuner for n, m in layers(network).items()}, rates_of(network)
    follow_rates(network, x)
    assert rates_of(network) == rates
    assert all(m.tuner is first[n] for n, m in layers(network).items())
    moved = next(n for n, rate in rates.items() if rate != cpu.FIRST_RATE)
    set_rates(network, rates | {moved: 60})
    known = {n: m.tuner for n, m in layers(network).items()}
    follow_rates(network, x)
    assert rates_of(network) == rates
    assert {n for n, m in layers(network).items() if m.tuner is not known[n]} == {moved}
    set_rates(network, {})
    assert set(rates_of(network).values()) == {cpu.FIRST_RATE}


def test_what_was_planned_before_does_not_matter(network, monkeypatch):
    x = torch.randn(4, 3, 32, 32)
    follow_rates(network, x)
    rates = rates_of(network)
    set_rates(network, {})
    with choosing(timed=False):
        network(x).sum().backward()
        follow_rates(network, x)
        assert rates_of(network) == rates
        wide = network(x)
    assert all(m.tuner.winners for m in layers(network).values() if m.weight.dim() == 4)
    assert wide.isfinite().all()
