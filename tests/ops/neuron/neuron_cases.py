"""Random problems for the neuron's operator: the same inputs through the plain definition and through the operator."""

from dataclasses import dataclass, field, replace

import torch

from snn_sparse.ops import Norm, neuron_sequence, plain_stage
from snn_sparse.ops.spikes import NCHW, MemoryFormat, convert, ordered
from snn_sparse.specs import BatchNormSpec, NeuronSpec


@dataclass
class Case:
    """One combination; ``formats`` are those of y, spikes, residual and v."""

    shape: tuple = (3, 4, 2, 4, 4)
    constant: bool = False
    norm: str | None = "per_step"  # None | per_step | pooled
    frozen: bool = False
    affine: bool = True
    tracked: bool = True
    shift: bool = False
    residual: str | None = None  # None | plain | per_step | pooled
    neuron: NeuronSpec = field(default_factory=NeuronSpec)
    learnt: bool = False  # the decay of a leaky neuron
    v: bool = False
    grad_v: bool = False
    pool: bool = False
    formats: tuple = (NCHW,) * 4
    dtype: torch.dtype = torch.float64
    seed: int = 0


def make_norm(mode, case, updates, generator):
    if mode in (None, "plain"):
        return None

    def draw():
        return torch.rand(case.shape[2], generator=generator, dtype=torch.float64).to(case.dtype)

    weight, bias = ((draw() + 0.5).requires_grad_(), (draw() - 0.2).requires_grad_()) if case.affine else (None, None)
    running = (draw(), draw() + 0.5) if case.tracked or case.frozen else (None, None)
    factors = () if case.frozen else tuple(0.1 + 0.05 * i for i in range(updates))
    shift = draw() if case.shift and not case.frozen else None
    return Norm(BatchNormSpec(mode, 1e-3, case.frozen), weight, bias, *running, factors, shift=shift)


def make_inputs(case):
    g = torch.Generator().manual_seed(case.seed)
    t, n, c, h, w = case.shape

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(case.dtype)

    steps = 1 if case.constant else t
    inputs = {"y": (draw(steps, n, c, h, w) * 1.5 + 0.3).requires_grad_()}
    inputs["norm"] = make_norm(case.norm, case, steps if case.norm == "per_step" else 1, g)
    if case.residual:
        inputs["residual"] = draw(t, n, c, h, w).requires_grad_()
        inputs["norm_residual"] = make_norm(case.residual, case, t if case.residual == "per_step" else 1, g)
    if case.neuron.kind == "plif" or (case.neuron.kind == "leaky" and case.learnt):
        inputs["rate"] = torch.tensor(0.4, dtype=case.dtype).requires_grad_()
    if case.v:
        inputs["v"] = (0.5 * draw(n, c, h, w)).requires_grad_()
    inputs["grad_spikes"] = draw(t, n, c, *((h // 2, w // 2) if case.pool else (h, w)))
    inputs["grad_v"] = draw(n, c, h, w)
    return inputs


def leaves(inputs):
    found = {k: x for k, x in inputs.items() if isinstance(x, torch.Tensor) and x.requires_grad}
    for key in ("norm", "norm_residual"):
        norm = inputs.get(key)
        if norm is not None and norm.weight is not None:
            found |= {f"{key}.weight": norm.weight, f"{key}.bias": norm.bias}
    return found


def statistics(inputs):
    norms = {k: inputs[k] for k in ("norm", "norm_residual") if inputs.get(k) is not None}
    pairs = {f"{k}.{n}": getattr(x, n) for k, x in norms.items() for n in ("running_mean", "running_var")}
    return {k: x for k, x in pairs.items() if x is not None}


def results(case, inputs, spikes, v):
    loss = (spikes * inputs["grad_spikes"]).sum()
    if case.grad_v:
        loss = loss + (v * inputs["grad_v"]).sum()
    wanted = leaves(inputs)
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    found = {"spikes": spikes.detach(), "v": v.detach(), "grads": dict(zip(wanted, grads, strict=True))}
    return found | statistics(inputs)


def run_plain(case):
    inputs = make_inputs(case)
    given = {k: x for k, x in inputs.items() if k not in ("y", "grad_spikes", "grad_v")}
    return results(case, inputs, *plain_stage(inputs["y"], case.neuron, case.shape[0], pool=case.pool, **given))


def stored(x, memory_format):
    """Ordinary tensor -> format; anything finite in padding lanes, as a convolution may leave it there."""
    if memory_format.kind != "lanes":
        return ordered(x, memory_format)  # also of four dimensions
    lanes, ones = (convert(a, tuple(x.shape), NCHW, memory_format) for a in (x, torch.ones_like(x)))
    return torch.where(ones == 0, torch.full_like(lanes, 1e6), lanes)


def read(x, memory_format, shape):
    """Format -> ordinary tensor; padding lanes must be exactly zero, strides those of the format."""
    if memory_format.kind != "lanes":
        assert ordered(x, memory_format) is x or ordered(x, memory_format).data_ptr() == x.data_ptr()
        return x
    value = convert(x, tuple(shape), memory_format, NCHW)
    assert torch.equal(convert(value, tuple(shape), NCHW, memory_format), x)
    return value


def run_operator(case):
    inputs = make_inputs(case)
    main, out, other, potential = case.formats
    call = {k: inputs[k] for k in ("norm", "norm_residual", "rate") if k in inputs}
    if case.residual:
        call |= {"residual": stored(inputs["residual"], other), "residual_format": other}
    if case.v:
        call["v"] = stored(inputs["v"], potential)
    y = stored(inputs["y"], main)
    steps, images = case.shape[:2]
    call |= {"memory_format": main, "out_format": out, "images": images, "constant": case.constant}
    spikes, v = neuron_sequence(y, case.neuron, steps, **call, pool=case.pool, final_v=True)
    return results(case, inputs, read(spikes, out, inputs["grad_spikes"].shape), v)


def assert_near(actual, expected, tolerance, name):
    expected = torch.zeros_like(actual) if expected is None else expected
    actual = torch.zeros_like(expected) if actual is None else actual
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual - expected).detach().abs().max())
    assert error <= tolerance * scale, f"{name}: error {error:.3g} at scale {scale:.3g}"


def check(case, tolerance=1e-10):
    """Everything is that of the definition, in float64, where spikes do not differ by rounding."""
    expected, actual = run_plain(case), run_operator(case)
    assert torch.equal(actual["spikes"], expected["spikes"])
    assert_near(actual["v"], expected["v"], tolerance, "final v")
    assert set(actual["grads"]) == set(expected["grads"])
    for name, grad in expected["grads"].items():
        if grad is not None or actual["grads"][name] is not None:
            assert_near(actual["grads"][name], grad, tolerance, f"gradient of {name}")
    for name in statistics(make_inputs(case)):
        assert_near(actual[name], expected[name], tolerance, name)


def runnable(case):
    """The nearest case that the definition allows: maps to pool, and more than one value a channel."""
    t, n, c, h, w = case.shape
    if case.pool:
        h, w = max(2, h), max(2, w)
    if not case.frozen and n * h * w == 1:
        n = 2
    formats = tuple(f if f.kind != "lanes" else NCHW for f in case.formats[3:])  # a potential has no lanes
    return replace(case, shape=(t, n, c, h, w), formats=(*case.formats[:3], *formats))


def lanes(vectors):
    return MemoryFormat("lanes", vectors)


def norm_of(channels, updates, dtype=torch.float64, mode="per_step", frozen=False):
    weight, bias, mean, var = torch.rand(4, channels, dtype=dtype).add_(0.5).unbind()
    factors = (0.1,) * updates
    return Norm(BatchNormSpec(mode, 1e-5, frozen), weight.requires_grad_(), bias.requires_grad_(), mean, var, factors)


def twin_of(n):
    leaves = [x.detach().clone() for x in (n.weight, n.bias, n.running_mean, n.running_var)]
    return Norm(n.spec, *(x.requires_grad_() for x in leaves[:2]), *leaves[2:], n.factors)
