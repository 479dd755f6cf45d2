"""Races of layers whose input spikes: each direction by itself, at the rate of the layer's own input."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

from snn_sparse import fuse
from snn_sparse.nn import LIF, Conv2d
from snn_sparse.nn.masked import Masked
from snn_sparse.ops.cache import Cache
from snn_sparse.ops.convolution import LayerConfiguration, SpikeConfiguration
from snn_sparse.ops.spikes import NHWC
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning import LayerTuner, Winner, choosing, cpu
from snn_sparse.tuning.cpu import FIRST_RATE, RATES, left_rate, nearest_rate, of_spikes

pytestmark = cpp_case.needs_cpp
GEOMETRY = ConvGeometry(2, 8, 16, 24, 8, 8, (3, 3), 1, 1)
F32 = torch.float32
DENSE, CHOICES = 2, of_spikes(GEOMETRY)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))


def times(monkeypatch, *seconds, live=5.0):
    """Seconds of nchw, nhwc and the first choices of directions (others take 9); returns how many ran in each race."""
    races = []

    def race(runs, device, always=1):
        races.append(len(runs))
        return [*seconds, *[9.0] * (DENSE + len(CHOICES) - len(seconds)), *[live] * len(runs)][: len(runs)]

    monkeypatch.setattr(cpu, "race", race)
    return races


def test_choices_leave_winograd_out_where_it_does_not_fit():
    assert len(set(CHOICES)) == len(CHOICES) == 7
    assert set(of_spikes(replace(GEOMETRY, stride=2))) == {c for c in CHOICES if not c.grad_input}


@pytest.mark.parametrize("best", range(7))
def test_each_choice_of_directions_may_win(monkeypatch, best):
    races = times(monkeypatch, 1.0, 0.9, *(0.5 if i == best else 0.7 for i in range(7)))
    tuner = LayerTuner(None)
    memory_format, how = tuner.on_cpu(GEOMETRY, F32, binary=True)
    assert races == [DENSE + len(CHOICES)]
    assert memory_format == NHWC
    assert how.spikes == CHOICES[best]
    assert tuner.winners[(GEOMETRY, F32)] == Winner((0.5,), (0.9,), NHWC, spikes=CHOICES[best], rate=FIRST_RATE)


def test_under_a_mask_gradients_are_masked(monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5, 0.6, 0.6)
    keep = torch.rand(GEOMETRY.weight_shape) < 0.3
    _, how = LayerTuner(keep).on_cpu(GEOMETRY, F32, binary=True)
    assert races[0] > DENSE + len(CHOICES)
    assert how.spikes is not None
    assert how.keep is keep


@pytest.mark.parametrize(("live", "wins"), [(0.58, True), (0.62, False), (0.98, False)])
def test_spikes_must_win_clearly_where_other_layers_are_lanes(monkeypatch, live, wins):
    times(monkeypatch, 1.0, 1.0, 0.5 if live < 0.9 else 0.9, live=live)
    keep = torch.rand(GEOMETRY.weight_shape) < 0.3
    _, how = LayerTuner(keep).on_cpu(GEOMETRY, F32, binary=True)
    assert (how.live is not None) == wins


def test_live_weights_may_win_too(monkeypatch):
    times(monkeypatch, 1.0, 1.0, 0.5, 0.6, 0.6, live=0.2)
    keep = torch.rand(GEOMETRY.weight_shape) < 0.3
    _, how = LayerTuner(keep).on_cpu(GEOMETRY, F32, binary=True)
    assert how.live is not None
    assert how.spikes is None


@pytest.mark.parametrize("seconds", [(1.0, 1.0, 0.99, 2.0, 2.0), (1.0, 0.6, 0.7, 0.7, 0.7)])
def test_what_hardly_wins_is_not_taken(monkeypatch, seconds):
    times(monkeypatch, *seconds)
    _, how = LayerTuner(None).on_cpu(GEOMETRY, F32, binary=True)
    assert how.spikes is None


@pytest.mark.parametrize("binary", [False, True])
def test_an_input_of_any_numbers_is_never_listed(monkeypatch, binary):
    races = times(monkeypatch, 1.0, 0.9, 0.1, 0.1, 0.1)
    g = ConvGeometry(1, 1, 3, 8, 3, 3, (3, 3), 1, 1) if binary else GEOMETRY  # 27 spikes fill no whole bytes
    tuner = LayerTuner(None)
    assert tuner.on_cpu(g, F32, binary)[1].spikes is None
    assert races == [DENSE]
    assert LayerTuner(None).on_cpu(g, F32, binary)[1].spikes is None
    assert races == [DENSE]


def test_binary_and_other_inputs_are_raced_apart(monkeypatch):
    races = times(monkeypatch, 1.0, 0.9, 0.5, 0.6, 0.6)
    tuner = LayerTuner(None)
    found = [tuner.on_cpu(GEOMETRY, F32, binary)[1].spikes for binary in (False, True, False, True)]
    assert found == [None, CHOICES[0]] * 2
    assert races == [DENSE, DENSE + len(CHOICES)]


def test_the_rate_of_the_first_input_decides(monkeypatch):
    rates = []
    times(monkeypatch, 1.0, 1.0, 0.5, 0.6, 0.6)
    choose = cpu.choose
    monkeypatch.setattr(cpu, "choose", lambda g, dtype, keep, rate: rates.append(rate) or choose(g, dtype, keep, rate))
    tuner = LayerTuner(None)
    tuner.on_cpu(GEOMETRY, F32, binary=True)
    tuner.see((torch.rand(GEOMETRY.input_shape) < 0.055).float())
    assert (tuner.rate, tuner.moved) == (5, True)
    tuner.on_cpu(GEOMETRY, F32, binary=True)
    assert tuner.winners[(GEOMETRY, F32)].rate == 5
    assert not tuner.moved
    tuner.see(torch.ones(GEOMETRY.input_shape))  # only when asked to
    assert not tuner.moved
    tuner.watching = True
    tuner.see(torch.ones(GEOMETRY.input_shape))
    assert (tuner.rate, tuner.moved) == (60, True)
    tuner.on_cpu(GEOMETRY, F32, binary=True)
    assert rates == [FIRST_RATE, 5, 60]
    other = LayerTuner(None)
    other.see((torch.rand(GEOMETRY.input_shape) < 0.055).float())
    other.on_cpu(GEOMETRY, F32, binary=True)
    assert len(rates) == 3  # known from the disk


@pytest.mark.parametrize("how", [{"timed": False}, {"store": Cache()}], ids=["by rule", "of a run"])
def test_where_plans_are_to_stay_no_rate_moves(monkeypatch, how):
    times(monkeypatch, 1.0, 1.0, 0.5, 0.6, 0.6)
    keep = torch.ones(GEOMETRY.weight_shape, dtype=torch.bool)
    keep[0] = False
    tuner = LayerTuner(keep)
    with choosing(**how):
        memory_format, found = tuner.on_cpu(GEOMETRY, F32, binary=True)
        tuner.see(torch.ones(GEOMETRY.input_shape))
    assert (tuner.rate, tuner.moved) == (FIRST_RATE, False)
    assert (memory_format, found.spikes) == (NHWC, CHOICES[0])
    assert found.keep is keep


def test_by_rule_other_inputs_are_computed_densely():
    with choosing(timed=False):
        assert LayerTuner(None).on_cpu(GEOMETRY, F32) == (NHWC, LayerConfiguration())


def test_a_rate_moves_beyond_half_or_double_only():
    for rate in RATES:
        assert nearest_rate(rate / 100) == rate
        for factor in (0.51, 0.9, 1.2, 1.9):
            assert not left_rate(rate, rate * factor / 100)
    assert nearest_rate(0) == RATES[0]
    assert nearest_rate(1) == RATES[-1]
    assert not left_rate(RATES[0], 0)
    assert not left_rate(RATES[-1], 1)
    assert left_rate(20, 0.09)
    assert left_rate(20, 0.45)
    assert left_rate(5, 0.2)


def test_a_winner_of_another_rate_is_not_believed(monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5, 0.6, 0.6)
    wrong = Winner((0.1,), (1.0,), NHWC, spikes=SpikeConfiguration(), rate=60)
    Cache().put(cpu.key(GEOMETRY, F32, None, FIRST_RATE), wrong.as_dict())
    LayerTuner(None).on_cpu(GEOMETRY, F32, binary=True)
    assert races == [DENSE + len(CHOICES)]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Conv2d(3, 16, 3, padding=1), Conv2d(16, 8, 3, padding=1)
        self.fires, self.fires_too = LIF(), LIF()

    def forward(self, x):
        return self.fires_too(self.second(self.fires(self.first(x))))


def test_a_fused_network_is_planned_again_for_its_rates(monkeypatch):
    times(monkeypatch, 1.0, 0.9, 0.5, 0.6, 0.6)
    network, x = Network(), torch.randn(4, 2, 3, 8, 8) - 2
    with torch.no_grad():
        network.first.bias -= 4
    fused = fuse(network, verify=False)
    outputs = [fused(x) for _ in range(3)]
    first, second = (m.tuner for m in fused.modules() if isinstance(m, Masked))
    assert (first.rate, first.winners.popitem()[1].spikes) == (FIRST_RATE, None)  # images are no spikes
    winner = second.winners.popitem()[1]
    assert (second.rate, winner.rate, winner.spikes) == (RATES[0], RATES[0], CHOICES[0])
    for y in outputs:
        assert torch.equal(y, outputs[0])


def test_many_images_are_raced_as_few(monkeypatch):
    """Evaluation takes large batches: whatever their size, they share one short race."""
    races = times(monkeypatch, 1.0, 0.9, 0.5)
    sizes = []
    step = cpu._step
    monkeypatch.setattr(cpu, "_step", lambda x, *others: sizes.append(x.shape[:2]) or step(x, *others))
    for images in (500, 1000, 96):
        _, how = LayerTuner(None).on_cpu(replace(GEOMETRY, images=images), F32, binary=True)
        assert how.spikes == CHOICES[0]
    assert len(races) == 1
    assert set(sizes) == {(2, 80)}
    assert cpu.raced(replace(GEOMETRY, images=72)).images == 72
    assert cpu.raced(replace(GEOMETRY, steps=300, images=9)).images == 8
    odd = ConvGeometry(1, 333, 3, 8, 3, 3, (3, 3), 1, 1)  # whose spikes fill no whole bytes
    assert cpu.raced(odd) == odd
