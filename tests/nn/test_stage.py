"""A stage as a layer of its own, against the plain modules one after the other, in float64."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

import snn_sparse as ss
from snn_sparse.nn.norm import NormSettings
from snn_sparse.nn.stage import Stage, StageSettings
from snn_sparse.ops.convolution import LiveConfiguration, convolution
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.tuning import Winner
from snn_sparse.tuning import cpu as tuning

T, N, C, K = 3, 5, 4, 6
CONVS = {
    "none": (lambda: None, 6, 7),
    "conv2d": (lambda: ss.nn.MaskedConv2d(C, K, 3, padding=1), 6, 7),
    "strided": (lambda: ss.nn.MaskedConv2d(C, K, 3, stride=2, bias=False), 9, 11),
    "grouped": (lambda: nn.Conv2d(C, K, (3, 1), groups=2, dilation=2), 9, 6),
    "conv1d": (lambda: nn.Conv1d(C, K, 3, padding=1), 8, 1),
    "pointwise": (lambda: nn.Conv1d(C, K, 1), 8, 1),
    "linear": (lambda: ss.nn.MaskedLinear(C, K), 1, 1),
    "linear on maps": (lambda: nn.Linear(C, K), 4, 5),
}
NEURONS = {
    "lif": lambda: ss.nn.LIF(v_threshold=0.6),
    "if": lambda: ss.nn.IF(v_reset=None, detach_reset=False),
    "plif": lambda: ss.nn.ParametricLIF(v_threshold=0.4, surrogate="sigmoid"),
    "leaky": lambda: ss.nn.Leaky(learn_beta=True, late_reset=True),
}
NORMS = {
    "none": lambda c: None,
    "ours": ss.nn.BatchNorm2d,
    "ours, pooled": lambda c: ss.nn.BatchNorm2d(c, bn_statistics="pooled"),
    "torch": nn.BatchNorm2d,
    "torch, no affine": lambda c: nn.BatchNorm2d(c, affine=False, momentum=0.3),
}


@pytest.fixture(params=["live", "dense nchw", "dense nhwc", "plain"])
def chosen(request, monkeypatch):
    """Force each way of computing a convolution."""
    if request.param != "plain" and cpp_case._found.name != "cpp":
        pytest.skip("the C++ operators do not run")

    def choose(g, dtype, keep, rate):
        if request.param == "live" and keep is not None:
            return Winner((1.0,), (2.0,), MemoryFormat("lanes", 2), LiveConfiguration(2), rate=rate)
        return Winner((1.0,), (1.0,), NHWC if request.param == "dense nhwc" else NCHW, rate=rate)

    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    monkeypatch.setattr(tuning, "choose", choose)
    if request.param == "plain":
        monkeypatch.setattr("snn_sparse.nn.masked.implementation", lambda *_: "plain")
    return request.param


def draw(*shape, scale=2.0):
    return (torch.randn(shape, dtype=torch.float64) * scale).requires_grad_()


def make(conv="none", norm="none", neuron="lif", norm_residual="none", density=0.4, **options):
    """A stage with random scales and a random mask."""
    layer = CONVS[conv][0]()
    channels = C if layer is None else K
    norms = [NORMS[kind](channels) for kind in (norm, norm_residual)]
    fires = None if neuron is None else NEURONS[neuron]()
    stage = Stage(layer, norms[0], fires, norm_residual=norms[1], **options).double()
    for module in norms:
        if module is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if module is not None and module.affine:
            nn.init.uniform_(module.weight, 0.7, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.3)
    if isinstance(layer, ss.nn.masked.Masked) and density is not None:
        mask = torch.rand(layer.weight.shape) < density
        mask[:, 0] = True  # each filter gets some input, or few neurons would never fire
        layer.set_mask(mask)
    return stage


def images(conv="none", steps=T):
    return draw(steps, N, C, *CONVS[conv][1:], scale=6.0 if conv == "linear" else 2.0)


def convolve(layer, x):
    """The layer by torch's functions, a timestep after the other."""
    if layer is None:
        return x
    weight = layer.weight if getattr(layer, "keep_mask", None) is None else layer.weight * layer.keep_mask
    if isinstance(layer, nn.Linear):
        return F.linear(x.movedim(2, -1), weight, layer.bias).movedim(-1, 2)
    function, flat = (F.conv2d, x) if isinstance(layer, nn.Conv2d) else (F.conv1d, x[..., 0])
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    y = torch.stack([function(step, weight, layer.bias, *options) for step in flat])
    return y if isinstance(layer, nn.Conv2d) else y[..., None]


def normalise(norm, x):
    """The batch norm by torch's function: of each timestep or of all at once."""
    if norm is None:
        return x
    one = nn.BatchNorm2d.forward
    if getattr(norm, "bn_statistics", "pooled") == "per_step":
        return torch.stack([one(norm, step) for step in x])
    return one(norm, x.flatten(0, 1)).unflatten(0, x.shape[:2])


def one_after_the_other(stage, x, residual=None, v=None):
    """What a stage is."""
    y = normalise(stage.norm, convolve(stage.conv, x))
    y = y.expand(stage.settings.timesteps or y.shape[0], *y.shape[1:])
    if residual is not None:
        y = y + normalise(stage.norm_residual, residual)
    if stage.neuron is None:
        return y
    spikes = stage.neuron(y, v)
    return F.max_pool2d(spikes.flatten(0, 1), 2, 2).unflatten(0, spikes.shape[:2]) if stage.pool else spikes


def results(run, stage, inputs):
    """Output of two steps and the gradients, of inputs too; output in eval mode; running statistics."""
    leaves = {f"input {i}": x for i, x in enumerate(inputs) if x is not None} | dict(stage.named_parameters())
    for x in leaves.values():
        x.grad = None
    stage.train()
    found = []
    for _ in range(2):
        out = run(*inputs)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
        found.append(out.detach())
    stage.eval()
    with torch.no_grad():
        found.append(run(*inputs))
    return found, {n: x.grad.clone() for n, x in leaves.items() if x.grad is not None}, dict(stage.named_buffers())


def compare(stage, *inputs):
    twin = copy.deepcopy(stage)
    found = results(stage, stage, inputs)
    expected = results(lambda *given: one_after_the_other(twin, *given), twin, inputs)
    keep = getattr(stage.conv, "keep_mask", None)
    if keep is not None:
        expected[1]["conv.weight"] *= keep
        assert not found[1]["conv.weight"][~keep].any()
    assert all(out.dim() == 5 and type(out) is torch.Tensor for out in found[0])
    if stage.neuron is not None:
        assert 0 < found[0][0].mean() < 1  # some fire, some do not
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("neuron", [None, *NEURONS])
@pytest.mark.parametrize("norm", ["none", "ours", "torch"])
@pytest.mark.parametrize("conv", [c for c in CONVS if c != "none"])
def test_layers(chosen, conv, norm, neuron):
    stage = make(conv, norm, neuron)
    compare(stage, images(conv))


@pytest.mark.parametrize("conv", ["conv2d", "strided", "linear"])
def test_a_masked_layer_computes_at_its_live_weights(chosen, conv, monkeypatch):
    """Where that was measured to be faster, also in a stage on its own."""
    seen = []

    def spy(x, weight, bias, stride, padding, configuration, **options):
        seen.append(configuration.live)
        return convolution(x, weight, bias, stride, padding, configuration, **options)

    monkeypatch.setattr("snn_sparse.nn.convolve.convolution", spy)
    compare(make(conv, "ours"), images(conv))
    assert any(live is not None for live in seen) == (chosen == "live")


PAIRS = [("none", "none"), ("ours", "torch"), ("torch", "ours"), ("none", "ours, pooled"), ("torch, no affine", "none")]


@pytest.mark.parametrize(("norm", "norm_residual"), PAIRS)
@pytest.mark.parametrize("conv", ["none", "conv2d", "linear on maps"])
def test_residuals(chosen, conv, norm, norm_residual):
    stage = make(conv, norm, "lif", norm_residual)
    compare(stage, images(conv), draw(T, N, C if conv == "none" else K, *CONVS[conv][1:]))


@pytest.mark.parametrize("conv", ["none", "conv2d", "strided"])
def test_pool_odd_maps_and_other_strides(chosen, conv):
    stage = make(conv, "ours", pool=True)
    x = images(conv).detach()
    for given in (x, x.transpose(3, 4), x.movedim(2, -1).contiguous().movedim(-1, 2)):
        compare(stage, given.requires_grad_())


@pytest.mark.parametrize("neuron", NEURONS)
def test_a_potential_to_start_from(chosen, neuron):
    compare(make("conv2d", "ours", neuron), images("conv2d"), None, draw(N, K, 6, 7, scale=0.5))


@pytest.mark.parametrize("residual", [False, True])
def test_a_constant_input(chosen, residual):
    settings = StageSettings(timesteps=4, norm=NormSettings("pooled"))
    stage = make("conv2d", "ours, pooled", settings=settings)
    compare(stage, images("conv2d", 1), *([draw(4, N, K, 6, 7)] if residual else []))


@pytest.mark.parametrize("norm", ["none", "ours"])
@pytest.mark.parametrize("before_reset", [False, True])
def test_potentials(chosen, norm, before_reset):
    """Those of each step, against single steps of the neuron."""
    stage = make("conv2d", norm, settings=StageSettings(potentials=True, before_reset=before_reset)).eval()
    x, residual = images("conv2d"), draw(T, N, K, 6, 7)
    spikes, potentials = stage(x, residual)
    current, v, neuron = normalise(stage.norm, convolve(stage.conv, x)) + residual, None, stage.neuron
    rest = torch.zeros(N, K, 6, 7, dtype=torch.float64)
    for t in range(T):
        before = rest if v is None else v
        charged = before + (current[t] - before) / neuron.tau
        fired, v = neuron.sequence(current[t : t + 1], v)
        torch.testing.assert_close(spikes[t], fired[0])
        torch.testing.assert_close(potentials[t], charged if before_reset else v)


def test_one_image_one_timestep_float32(chosen):
    stage = make("conv2d", "torch").float()
    x = torch.randn(1, 1, C, 6, 7)
    with torch.no_grad():
        found, expected = stage.eval()(x), one_after_the_other(stage, x)
    assert (found == expected).float().mean() > 0.98  # a potential may lie on the threshold


def test_copies_and_state_dict(chosen):
    stage, x = make("conv2d", "ours"), images("conv2d")
    twin = copy.deepcopy(stage)
    twin.load_state_dict(stage.state_dict())
    torch.testing.assert_close(twin(x), stage(x))
    assert {n.split(".")[0] for n in stage.state_dict()} == {"conv", "norm"}


def test_modules_of_another_kind():
    for name, wrong in (
        *((name, nn.ReLU()) for name in ("conv", "norm", "neuron", "norm_residual")),
        *((name, 3) for name in ("conv", "norm", "neuron", "norm_residual")),
        ("conv", nn.ConvTranspose2d(2, 2, 3)),
        ("norm", nn.LayerNorm(3)),
    ):
        given = {"neuron": ss.nn.LIF()} if name == "norm_residual" else {}
        with pytest.raises(TypeError, match=rf"^{name} must"):
            Stage(**given, **{name: wrong})
    conv, norm = nn.Conv2d(C, K, 3), nn.BatchNorm2d(K)
    with pytest.raises(ValueError, match=r"^pool needs"):
        Stage(conv, pool=True)
    with pytest.raises(ValueError, match=r"^pool needs"):
        Stage(conv, neuron=ss.nn.LIF(), pool=True, settings=StageSettings(potentials=True))
    with pytest.raises(ValueError, match=r"^norm_residual needs"):
        Stage(conv, norm, norm_residual=nn.BatchNorm2d(K))
    with pytest.raises(ValueError, match=r"^conv, norm or neuron"):
        Stage()


def test_inputs_that_do_not_fit():
    stage = make("conv2d", "ours", pool=True)
    x = images("conv2d")
    for wrong in (x[0], x[..., 0], x[:0], x[:, :, :2], x[:, :, :, :1], "images", None):
        with pytest.raises(ValueError, match=r"^x must"):
            stage(wrong)
    for wrong in (x, x[:1], 3, draw(T, N, K, 3, 3)):
        with pytest.raises(ValueError, match=r"^residual must"):
            stage(x, wrong)
        with pytest.raises(ValueError, match=r"^v must"):
            stage(x, v=wrong)
    with pytest.raises(ValueError, match=r"^residual needs a neuron"):
        make("conv2d", neuron=None)(x, draw(T, N, K, 6, 7))
    with pytest.raises(ValueError, match=r"^x must have 1 or 4 timesteps"):
        make(settings=StageSettings(timesteps=4))(x)
    with pytest.raises(ValueError, match=r"^x must have maps of width 1"):
        make("conv1d")(x)
    with pytest.raises(ValueError, match=r"^x must have 4 channels"):
        make(norm="torch")(x[:, :, :3])
