"""Counts of synaptic operations against loops, the binarised layer, and SpikingJelly's counters."""

import itertools

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, op_counter
from torch import nn

import snn_sparse as ss
from snn_sparse.training.profile_layers import Counter, Operations

CONVOLUTIONS = [
    (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 7)),
    (nn.Conv1d(4, 6, 2, stride=3, groups=2, bias=False), (3, 4, 9)),
    (ss.nn.Conv1d(2, 3, 1), (4, 2, 2, 5)),
    (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 5, 6)),
    (nn.Conv2d(3, 5, 3, padding=1), (3, 1, 1)),
    (nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(0, 2), groups=4), (1, 4, 6, 5)),
    (nn.Conv2d(2, 3, 3, padding=2, dilation=2), (2, 2, 5, 5)),
    (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 2, 5, 5)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 4, 5)),
    (ss.nn.Conv2d(2, 3, 3, padding=1), (3, 2, 2, 4, 4)),
    (ss.nn.MaskedConv2d(2, 3, 3, padding=1), (2, 2, 4, 4)),
    (layer.Conv2d(2, 3, 3, padding=1, step_mode="m"), (3, 2, 2, 4, 4)),
    (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 2, 3)),
    (nn.Conv2d(2, 3, 3, padding=1), (0, 2, 4, 4)),
]
LINEARS = [
    (nn.Linear(7, 5), (3, 7)),
    (nn.Linear(6, 1, bias=False), (6,)),
    (layer.Linear(4, 3), (2, 5, 4)),
    (ss.nn.MaskedLinear(4, 3), (2, 4)),
]
CASES = CONVOLUTIONS + LINEARS
FOREIGN = [(m, s) for m, s in CASES if not isinstance(m, ss.nn.MaskedConv2d | ss.nn.MaskedLinear) and 0 not in s]


def draw(shape, kind):
    """Spikes, spikes of either sign, or numbers; a third of them zero."""
    x = torch.randint(-1, 2, shape).float()
    return x.abs() if kind == "spikes" else x if kind == "ternary" else x * torch.rand(shape)


def thinned(module):
    module.weight.data *= torch.rand_like(module.weight) < 0.6
    return module


def by_loops(module, x):
    """Connections with a non-zero weight and input, and all connections, one by one."""
    weight = module.weight.detach().numpy()
    if isinstance(module, nn.Linear):
        hits = sum(int(w != 0 and v != 0) for row in x.reshape(-1, x.shape[-1]) for w, v in pairs(weight, row))
        return hits, weight.size * (x.numel() // x.shape[-1])
    dims, reach = weight.ndim - 2, [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    around = [
        (r // 2, r - r // 2) if module.padding == "same" else (p, p)
        for r, p in zip(reach, padding(module), strict=True)
    ]
    mode = {"zeros": "constant", "circular": "wrap"}[module.padding_mode]
    maps = x.reshape(-1, *x.shape[-1 - dims :]).numpy()
    found = []
    for given, filters in ((maps != 0, weight), (np.ones_like(maps), np.ones_like(weight))):
        padded = np.pad(given, [(0, 0), (0, 0), *around], mode=mode)
        sizes = [(n - r - 1) // s + 1 for n, r, s in zip(padded.shape[2:], reach, module.stride, strict=True)]
        total = 0
        for n, out, *place in itertools.product(range(len(maps)), range(len(weight)), *map(range, sizes)):
            first = out // (len(weight) // module.groups) * weight.shape[1]
            for channel, *tap in itertools.product(*map(range, weight.shape[1:])):
                at = [p * s + t * d for p, s, t, d in zip(place, module.stride, tap, module.dilation, strict=True)]
                total += int(filters[(out, channel, *tap)] != 0 and padded[(n, first + channel, *at)] != 0)
        found.append(total)
    return tuple(found)


def padding(module):
    return module.padding if not isinstance(module.padding, str) else [0] * len(module.stride)


def pairs(weight, row):
    return ((w, v) for filters in weight for w, v in zip(filters, row, strict=True))


@pytest.mark.parametrize("kind", ["spikes", "ternary", "numbers"])
@pytest.mark.parametrize(("module", "shape"), CASES, ids=[f"{m}{s}" for m, s in CASES])
def test_counts_against_loops(module, shape, kind):
    module, x = thinned(module), draw(shape, kind)
    effective, dense = by_loops(module, x)
    found = Counter(module).count(x)
    assert found.dense == dense
    spikes = kind != "numbers" or not bool((x != 0).any())
    assert (found.acs, found.macs) == ((effective, 0) if spikes else (0, effective))


@pytest.mark.parametrize("kind", ["spikes", "numbers"])
def test_counts_are_the_binarised_layer_summed(kind):
    module, x = thinned(nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4)), draw((5, 16, 15, 13), kind)
    binary = nn.functional.conv2d((x != 0).double(), (module.weight != 0).double(), None, 2, 1, 1, 4)
    found = Counter(module).count(x)
    assert found.acs + found.macs == int(binary.sum())
    assert found.acs * found.macs == 0


def test_counts_beyond_the_integers_of_float32():
    module = nn.Linear(4097, 4099, bias=False)
    nn.init.ones_(module.weight)
    found = Counter(module).count(torch.ones(3, 4097))
    assert found == Operations(3 * 4097 * 4099, 0, 3 * 4097 * 4099, 0, 3 * 4097 * 4099)
    assert torch.tensor(float(3 * 4097 * 4099)).item() != 3 * 4097 * 4099


def test_pruned_weights_under_a_mask_of_the_layers_own():
    module = ss.nn.MaskedConv2d(2, 3, 3, padding=1)
    module.set_mask(torch.rand(module.weight.shape) < 0.5)
    counter = Counter(module)
    assert (counter.weights, counter.live) == (54, int(module.keep_mask.sum()))


def spikingjelly_counts(run):
    """What SpikingJelly's counters count of convolutions and products of matrices."""
    counters = op_counter.MACCounter(), op_counter.SynOpCounter()
    with op_counter.DispatchCounterMode(list(counters)), torch.no_grad():
        run()
    wanted = ("convolution", "addmm", "mm")
    return tuple(
        sum(n for f, n in c.get_counts().get("Global", {}).items() if f._schema.name.split("::")[1] in wanted)
        for c in counters
    )


@pytest.mark.parametrize("kind", ["spikes", "ternary", "numbers"])
@pytest.mark.parametrize("weights", ["numbers", "spikes", "zeros"])
@pytest.mark.parametrize(("module", "shape"), FOREIGN, ids=[f"{m}{s}" for m, s in FOREIGN])
def test_layers_against_spikingjelly(module, shape, weights, kind):
    thinned(module)
    if weights != "numbers":
        module.weight.data = draw(module.weight.shape, "spikes") * (weights == "spikes")
    x = draw(shape, kind)
    found = Counter(module).count(x)
    assert (found.counter_macs, found.counter_acs) == spikingjelly_counts(lambda: module(x))
    nn.init.uniform_(module.weight)


class TimeLoop(nn.Module):
    """SpikingJelly's layers in a loop over time, in groups and with a bias."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.body = nn.Sequential(
            layer.Conv2d(2, 8, 3, padding=1, bias=False), neuron.LIFNode(v_threshold=0.2),
            layer.Conv2d(8, 8, 3, stride=2, groups=2), neuron.IFNode(v_threshold=0.2),
            nn.Flatten(), layer.Linear(32, 5),
        )  # fmt: skip

    def forward(self, x):
        return sum(self.body(x) for _ in range(self.steps))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_network_against_spikingjelly(steps):
    model, x = TimeLoop(steps).eval(), torch.randn(6, 2, 6, 6)
    found = ss.profile_network(model, x)
    functional.reset_net(model)
    macs, acs = spikingjelly_counts(lambda: model(x))
    assert (found.operations.counter_macs * 6, found.operations.counter_acs * 6) == pytest.approx((macs, acs))
    cost = op_counter.SimpleEnergyCostConfig()
    assert found.counter_energy * 6 == pytest.approx(macs * cost.e_mac_pj + acs * cost.e_ac_pj)
    assert found.operations.counter_acs > found.operations.acs * 0.99 > 0


@pytest.mark.parametrize("arch", ["vgg_small", "resnet19"])
def test_our_networks_against_spikingjelly(arch):
    model = ss.build_model(arch, 3, 1, 2).eval()
    ss.magnitude_mask(model, percent=70).apply_(model)
    x = torch.randn(2, 1, 9, 8)
    found = ss.profile_network(model, x).operations
    macs, acs = spikingjelly_counts(lambda: model(x))
    assert (found.counter_macs * 2, found.counter_acs * 2) == pytest.approx((macs, acs))
