"""From a module's responses to the neuron of ours that has them: measure, list candidates, compare on sequences."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from snn_sparse.fusion.neurons.player import Player, Unfit, tensors
from snn_sparse.fusion.neurons.surrogates import Curve, match_curve, nice, rescale
from snn_sparse.ops import plain_neuron
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor


@dataclass(frozen=True)
class Candidate:
    """A neuron of ours with fixed numbers; ``rate`` is that of ``plif``."""

    spec: NeuronSpec
    gain: float = 1.0
    rate: float | None = None

    def __call__(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes ``[T, P]`` and potentials ``[P]`` for inputs ``[T, P]``."""
        rate = None if self.rate is None else torch.tensor(self.rate, dtype=torch.float64)
        return plain_neuron(x if self.gain == 1.0 else x * self.gain, self.spec, rate=rate, v=v)


@dataclass(frozen=True)
class Measured:
    """Responses in units in which the input is added as it is: ``h = decay * v + x``, at rest at zero."""

    low: float  # the largest first input that does not fire
    high: float  # the least one that does
    decay: float
    reset: str  # "zero", "subtract" or "late"
    edges: Tensor  # [2, P]: pairs of inputs at the very edge of firing at the second
    single: bool  # whether it computes in float32, whatever it is given


def bisect(fires: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring floats, ``[P]`` each, of which the upper one fires and the lower one does not."""
    if bool(fires(low).any()) or not bool(fires(high).all()):
        raise Unfit("there is no input from which on it fires")
    for _ in range(100):
        middle = (low + high) / 2
        stuck = (middle == low) | (middle == high)
        if bool(stuck.all()):
            break
        hit = fires(middle)
        low, high = torch.where(hit | stuck, low, middle), torch.where(hit & ~stuck, middle, high)
    return low, high


def measure(player: Player, scale: float) -> Measured:
    """Find threshold, decay and reset from the responses to one and two inputs of about ``scale``."""
    zero = torch.zeros(1, dtype=torch.float64)
    wide = zero + 64 * scale
    low, high = (float(c) for c in bisect(lambda c: player(torch.stack([c, zero]))[0] > 0.5, -wide, wide))
    size = max(abs(high), scale * 1e-3)
    under = high - size * torch.tensor([0.25, 1.5, 9.0], dtype=torch.float64)
    over = high + size * torch.tensor([0.2, 0.7, 2.5], dtype=torch.float64)
    others = torch.rand(58, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 8 - 4
    first = torch.cat([under, over, others * size])
    wide = torch.full_like(first, 64 * scale + 64 * size)
    silent, second = bisect(lambda c: player(torch.stack([first, c]))[1] > 0.5, -wide, wide)
    edges = torch.cat([torch.stack([first, silent]), torch.stack([first, second])], 1)
    near = 1e-6 * size
    decay = float((second[0] - second[2]) / (under[2] - under[0]))
    if not torch.allclose(second[:3], high - decay * under, atol=10 * near, rtol=0):
        raise Unfit("it does not charge linearly in its input")
    kinds = {
        "zero": torch.full_like(over, high),
        "subtract": high - decay * (over - high),
        "late": 2 * high - decay * over,
    }
    for reset, expected in kinds.items():
        if torch.allclose(second[3:6], expected, atol=10 * near, rtol=0):
            single = bool((silent.float() != second.float()).all())  # neighbours in float64, and apart in float32
            low, high = (float(np.float32(c)) if single else c for c in (low, high))
            return Measured(low, high, decay, reset, edges, single)
    raise Unfit("it resets neither to zero nor by subtraction")


def _forms(
    m: Measured, decay: float, threshold: float, tolerance: float, gains: list[float]
) -> Iterator[tuple[NeuronSpec, float, float, float | None]]:
    """Specifications without surrogate, the factor from the measured units to theirs, gain and rate."""
    v_reset, late = (0.0 if m.reset == "zero" else None), m.reset == "late"
    if decay == 1.0 and not late:
        yield NeuronSpec("if", v_threshold=threshold, v_reset=v_reset), 1.0, 1.0, None
    leaky = NeuronSpec("leaky", v_threshold=threshold, v_reset=v_reset, decay=decay, late_reset=late)
    yield leaky, 1.0, 1.0, None
    for gain in gains:
        yield replace(leaky, v_threshold=threshold * gain), gain, gain, None
    if late or not 0 < decay < 1:
        return
    tau = next(nice(1 / (1 - decay), tolerance))
    yield NeuronSpec("lif", tau, True, threshold / tau, v_reset), 1 / tau, 1.0, None
    yield NeuronSpec("lif", tau, False, threshold, v_reset), 1.0, 1.0, None
    for part in nice(1 - decay, 1e-12):  # 1 - decay as it is computed, or a number written out
        yield replace(leaky, v_threshold=threshold * part), part, part, None
        yield NeuronSpec("plif", v_threshold=threshold * part, v_reset=v_reset), part, 1.0, part


def candidates(player: Player, m: Measured) -> Iterator[Candidate]:
    """Neurons of ours with these responses, that differ in how they round."""
    tolerance = 1e-6 if m.single else 1e-9
    middle = (m.low + m.high) / 2
    curve = _curve(player, m.high)
    units = _units(player, m)
    gains = [gain for gain, _ in units if gain != 1]
    near = np.float32(m.decay)
    steps = range(-2, 3) if m.single else ()  # of float32, which it is measured up to
    decays = [*nice(m.decay, 10 * tolerance), *(float(near + k * np.spacing(near)) for k in steps)]
    for decay in decays:
        for form, unit, gain, rate in _forms(m, decay, middle, 10 * tolerance, gains):
            surrogate = dict(zip(("surrogate", "alpha", "height"), rescale(curve, unit), strict=True))
            for threshold in dict.fromkeys([*nice(form.v_threshold, tolerance), m.low * unit, m.high * unit]):
                for strict in (False, True):
                    spec = replace(form, v_threshold=threshold, strict=strict, **surrogate)  # type: ignore[arg-type]
                    yield from (Candidate(shifted, gain, rate) for shifted in _shifted(spec, units, tolerance))


def _shifted(spec: NeuronSpec, units: list[tuple[float, float]], tolerance: float) -> Iterator[NeuronSpec]:
    """Return the neuron, and those with another potential at rest, which look the same from outside."""
    yield spec
    if spec.kind != "leaky" and spec.v_reset is not None:
        for rest in dict.fromkeys(rest for _, rest in units if rest != 0):
            for threshold in nice(spec.v_threshold + rest, tolerance):
                yield replace(spec, v_threshold=threshold, v_reset=rest)


def _units(player: Player, m: Measured) -> list[tuple[float, float]]:
    """Factors of the input, and potentials at rest, that what the module keeps tells of after one silent step."""
    if player.axis is not None:
        return []
    x = torch.linspace(-2, -1, player.columns, dtype=torch.float64) * max(abs(m.low), 1e-3) + min(m.low, 0.0)
    if player.columns == 1:
        return []
    module = player.fresh()
    _, answered = player.play(module, x[None])
    kept = [t.detach().reshape(-1) for t in tensors(module, player.shape).values()]
    units = []
    for v in kept if answered is None else [*kept, answered.detach()]:
        factor = float((v[-1] - v[0]) / (x[-1] - x[0]))
        rest = float((v - factor * x).mean())
        if factor > 0 and float((factor * x + rest - v).abs().max()) <= 1e-9 * float(v.abs().max()):
            rest = next(nice(rest, 1e-9)) if abs(rest) > 1e-9 * abs(m.high * factor) else 0.0
            units += [(gain, rest) for gain in nice(factor, 1e-12)]
    return units


def _curve(player: Player, threshold: float) -> Curve:
    """Surrogate of the first spike, in the units of the input."""

    def slope(u: Tensor) -> Tensor:
        x = (threshold + u).requires_grad_()
        spikes = player(torch.stack([x, torch.zeros_like(x)]))[0]
        if not spikes.requires_grad:
            raise Unfit("its spikes have no gradient")
        return torch.autograd.grad(spikes.sum(), x)[0]

    with torch.enable_grad():
        curve = match_curve(slope, player.tolerance)
    if curve is None:
        raise Unfit("its surrogate gradient is none of ours")
    return curve


def fit(player: Player, scale: float) -> Iterator[Candidate]:
    """Neurons of ours that fire as the module does on random sequences and have its gradients, the likeliest first."""
    m = measure(player, scale)
    x, tied = _inputs(player, m, scale)
    with torch.no_grad():
        spikes, tied_spikes = player(x), player(tied)
        dtype = torch.float32 if m.single else torch.float64
        agreeing: list[tuple[int, int, int, Candidate]] = []
        for order, candidate in enumerate(candidates(player, m)):
            if torch.equal(candidate(x.to(dtype))[0].to(x), spikes):
                differing = int((candidate(tied.to(dtype))[0] != tied_spikes).sum())
                length = len(repr(candidate.spec.v_threshold)) + len(repr(candidate.spec.alpha))
                agreeing.append((differing, length, order, candidate))
    if not agreeing:
        raise Unfit("it fires otherwise than the neuron that its responses tell of")
    agreeing.sort(key=lambda entry: entry[:3])
    gradient = _gradient(player, x)
    nearly = []  # many answer in float32
    for *_, agreed in agreeing:
        for detach in _detaching(agreed.spec):
            candidate = replace(agreed, spec=replace(agreed.spec, detach_reset=detach))
            error = _error(gradient, _gradient(candidate, x))
            if error <= 1e-9:
                yield candidate
            elif error <= 1e-6:
                nearly.append(candidate)
    yield from nearly
    raise Unfit("its gradients through time are none of ours")


def _detaching(spec: NeuronSpec) -> tuple[bool, ...]:
    return (True,) if spec.late_reset else (True, False)


def _inputs(player: Player, m: Measured, scale: float) -> tuple[Tensor, Tensor]:
    """Random sequences, and sequences whose potentials meet the threshold, where rounding and ``>`` or ``>=`` tell."""
    generator = torch.Generator().manual_seed(0)
    width = min(max(player.columns, 512), 4096)
    noise = torch.randn(player.steps, width, dtype=torch.float64, generator=generator)
    ties = torch.randint(-4, 9, (player.steps, width), generator=generator).to(torch.float64) / 4
    edge = torch.zeros(player.steps, m.edges.shape[1] + 2, dtype=torch.float64)
    edge[0, :2] = torch.tensor([m.low, m.high], dtype=torch.float64)
    edge[:2, 2:] = m.edges
    return noise * 1.5 * max(abs(m.high), 1e-3 * scale), torch.cat([ties * _nearest(m.high), ties, edge], 1)


def _nearest(value: float) -> float:
    return next(nice(value, 1e-6))


def _gradient(run: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    answer = run(x)
    spikes = answer[0] if isinstance(answer, tuple) else answer
    weight = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((spikes * weight).sum(), x)[0]


def _error(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference, relative to the largest of ours; infinite if either is not finite."""
    error = float((theirs - ours).abs().max()) / max(float(ours.abs().max()), 1e-300)
    return error if math.isfinite(error) else math.inf
