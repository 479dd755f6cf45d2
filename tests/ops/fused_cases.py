"""Random problems for the fused neuron: the same inputs through the plain definition and through the operator."""

from dataclasses import dataclass, field, replace

import torch

from snn_sparse import ops
from snn_sparse.ops.fused_neuron import Branch, NeuronSpec, Norm, fused_neuron, reference
from snn_sparse.ops.layout import Layout
from snn_sparse.ops.library import cpu_library

assert cpu_library()


@dataclass
class Case:
    """One combination; layouts are of y, spikes, residual, v."""

    shape: tuple = (3, 4, 2, 4, 4)
    static: bool = False
    norm: str | None = "per_step"
    training: bool = True
    affine: bool = True
    tracked: bool = True
    residual: str | None = None  # None | plain | per_step | pooled
    neuron: NeuronSpec = field(default_factory=NeuronSpec)
    v_init: bool = False
    grad_v_final: bool = False
    pool: bool = False
    layouts: tuple = (Layout(),) * 4
    dtype: torch.dtype = torch.float64
    seed: int = 0


def make_norm(mode, case, updates, generator):
    if mode in (None, "plain"):
        return None

    def draw():
        return torch.rand(case.shape[2], generator=generator, dtype=torch.float64).to(case.dtype)

    weight, bias = ((draw() + 0.5).requires_grad_(), (draw() - 0.2).requires_grad_()) if case.affine else (None, None)
    running = (draw(), draw() + 0.5) if case.tracked or not case.training else (None, None)
    factors = tuple(0.1 + 0.05 * i for i in range(updates)) if case.training else (0.0,) * updates
    return Norm(weight, bias, *running, factors, case.training, 1e-3, mode)


def make_inputs(case):
    g = torch.Generator().manual_seed(case.seed)
    t, b, c, h, w = case.shape

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(case.dtype)

    steps = 1 if case.static else t
    inputs = {"y": (draw(steps, b, c, h, w) * 1.5 + 0.3).requires_grad_()}
    inputs["norm"] = make_norm(case.norm, case, steps if case.norm == "per_step" else 1, g)
    if case.residual:
        inputs["residual"] = draw(t, b, c, h, w).requires_grad_()
        inputs["norm_residual"] = make_norm(case.residual, case, t if case.residual == "per_step" else 1, g)
    if case.neuron.kind == "plif":
        inputs["w"] = torch.tensor(0.4, dtype=case.dtype).requires_grad_()
    if case.v_init:
        inputs["v"] = (0.5 * draw(b, c, h, w)).requires_grad_()
    inputs["grad_spikes"] = draw(t, b, c, *((h // 2, w // 2) if case.pool else (h, w)))
    inputs["grad_v"] = draw(b, c, h, w)
    return inputs


def leaves(inputs):
    found = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.requires_grad}
    for key in ("norm", "norm_residual"):
        norm = inputs.get(key)
        if norm is not None and norm.weight is not None:
            found |= {f"{key}.weight": norm.weight, f"{key}.bias": norm.bias}
    return found


def statistics(inputs):
    norms = {k: inputs[k] for k in ("norm", "norm_residual") if inputs.get(k) is not None}
    pairs = {f"{k}.{n}": getattr(v, n) for k, v in norms.items() for n in ("running_mean", "running_var")}
    return {k: v for k, v in pairs.items() if v is not None}


def results(case, inputs, spikes, v):
    loss = (spikes * inputs["grad_spikes"]).sum()
    if case.grad_v_final:
        loss = loss + (v * inputs["grad_v"]).sum()
    wanted = leaves(inputs)
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {"spikes": spikes.detach(), "v": v.detach(), "grads": dict(zip(wanted, grads, strict=True))} | statistics(
        inputs
    )


def run_reference(case):
    inputs = make_inputs(case)
    arguments = {k: v for k, v in inputs.items() if k not in ("y", "grad_spikes", "grad_v")}
    spikes, v = reference(inputs["y"], case.neuron, case.shape[0], pool=case.pool, **arguments)
    return results(case, inputs, spikes, v)


def pack(x, layout):
    """Ordinary tensor -> layout; anything finite in padding lanes and halo, as a convolution may leave it there."""
    if layout.kind != "lanes":
        return x
    lanes = ops.layout.convert(x, tuple(x.shape), Layout(), layout)
    outside = ops.layout.convert(torch.ones_like(x), tuple(x.shape), Layout(), layout) == 0
    return torch.where(outside, torch.full_like(lanes, 1e6), lanes)


def unpack(x, layout, shape):
    """Layout -> ordinary tensor; halo, padding lanes and padding vectors must be exactly zero."""
    if layout.kind != "lanes":
        return x
    value = ops.layout.convert(x, tuple(shape), layout, Layout())
    assert torch.equal(ops.layout.convert(value, tuple(shape), Layout(), layout), x)
    return value


def run_fused(case):
    inputs = make_inputs(case)
    y_layout, out, residual_layout, v_layout = case.layouts
    residual = v = None
    if case.residual:
        residual = Branch(pack(inputs["residual"], residual_layout), residual_layout, inputs["norm_residual"])
    if case.v_init:
        v = Branch(pack(inputs["v"][None], v_layout), v_layout)
    else:
        v_layout = Layout()
    spikes, final = fused_neuron(
        Branch(pack(inputs["y"], y_layout), y_layout, inputs["norm"]),
        case.shape,
        case.neuron,
        static=case.static,
        residual=residual,
        w=inputs.get("w"),
        v=v,
        pool=case.pool,
        out=out,
        final_v=True,
    )
    v_final = unpack(final, v_layout, (1, *case.shape[1:]))[0]
    return results(case, inputs, unpack(spikes, out, inputs["grad_spikes"].shape), v_final)


def assert_near(actual, expected, tolerance, name):
    expected = torch.zeros_like(actual) if expected is None else expected
    actual = torch.zeros_like(expected) if actual is None else actual
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual - expected).detach().abs().max())
    assert error <= tolerance * scale, f"{name}: error {error:.3g} at scale {scale:.3g}"


def check(case, tolerance=1e-10):
    expected, actual = run_reference(case), run_fused(case)
    assert torch.equal(actual["spikes"], expected["spikes"])
    assert_near(actual["v"], expected["v"], tolerance, "v_final")
    for name, grad in expected["grads"].items():
        if grad is not None or actual["grads"][name] is not None:
            assert_near(actual["grads"][name], grad, tolerance, f"gradient of {name}")
    for name in statistics(make_inputs(case)):
        assert_near(actual[name], expected[name], tolerance, name)


def runnable(case):
    """The nearest case that the definition allows: maps to pool, and more than one value a channel."""
    t, b, c, h, w = case.shape
    if case.pool:
        h, w = max(2, h), max(2, w)
    if case.training and b * h * w == 1:
        b = 2
    return replace(case, shape=(t, b, c, h, w))
