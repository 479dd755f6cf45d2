"""Neurons that no library's class tells of, recognised by what they do: any small module is played sequences to."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.neurons import norse, snntorch, spikingjelly
from snn_sparse.fusion.neurons.dynamics import Dynamics
from snn_sparse.fusion.neurons.fit import Candidate, fit
from snn_sparse.fusion.neurons.player import (
    RESETS,
    Player,
    Unfit,
    forgotten,
    holders,
    small_shapes,
    undisturbed,
    whole_shape,
)
from snn_sparse.fusion.neurons.states import dynamics, find_state
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor

LAST = 9  # of the ranks of reasons: whatever axis time were, this would hold
LIBRARIES = ("torch.", "torchvision.", "spikingjelly.", "snntorch.", "norse.")
_HARMLESS = {"torch.nn.modules.activation", "torch.nn.modules.linear.Identity"}
_POTENTIALS = {"mem", "v", "u", "h", "vm", "membrane", "membrane_potential", "potential", "state", "spike", "spk"}
_LARGEST = 100_000  # numbers in the parameters of a neuron

_BOOKKEEPING = set(vars(nn.Module())) - {"training"}
Propose = Callable[[Player, float], Iterator[Candidate]]

_known: dict[Any, Dynamics | str] = {}
_MANY = 512  # of these, then anew


def is_small(module: nn.Module) -> bool:
    """Whether a module is a user's own and holds no layers."""
    parts = list(module.modules())
    if type(module).__module__.startswith(LIBRARIES) or len(parts) > 8:
        return False
    for part in parts[1:]:
        kind = type(part)
        if kind.__module__.startswith("torch.") and not {kind.__module__, _name(kind)} & _HARMLESS:
            return False
        if spikingjelly.is_node(part) or snntorch.is_neuron(part) or norse.is_cell(part):
            return False
    return sum(p.numel() for p in module.parameters()) <= _LARGEST


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def keeps_state(module: nn.Module) -> bool:
    """Whether a user's own module looks as if it kept a potential between calls."""
    if any(callable(getattr(module, name, None)) for name in RESETS):
        return True
    return any(_POTENTIALS & set(names) for names in holders(module))


def recognise(module: nn.Module, shapes: Sequence[torch.Size], calls: int) -> Dynamics | str:
    """Probe a module; the answer for equal modules is remembered."""
    return _remembered(module, shapes, calls, fit)


def place(module: nn.Module, shapes: Sequence[torch.Size], calls: int, spec: NeuronSpec) -> Dynamics | str:
    """Find where time and potential are in a module whose specification the user has given."""
    if spec.kind == "plif":
        return "a plif that is named by class has no rate to read: name it lif or leaky"
    return _remembered(module, shapes, calls, partial(_as_told, spec), spec)


def _as_told(spec: NeuronSpec, player: Player, scale: float) -> Iterator[Candidate]:
    yield Candidate(spec)


def _remembered(
    module: nn.Module, shapes: Sequence[torch.Size], calls: int, propose: Propose, *more: Any
) -> Dynamics | str:
    try:
        with undisturbed():
            twins = forgotten(module)
            key = (_key(twins[0]), tuple(map(tuple, shapes)), calls > 1, *more)
            try:
                if key in _known:
                    return _known[key]
            except TypeError:  # holds something that is no key
                return _search(twins, shapes, calls, propose)
            if len(_known) >= _MANY:
                _known.clear()
            _known[key] = _search(twins, shapes, calls, propose)
            return _known[key]
    except Exception as error:  # anybody's code
        return f"probing it raises {type(error).__name__}"


def _key(value: Any) -> Any:
    """Return what two modules must have in common to be the same neuron."""
    if isinstance(value, nn.Module):
        plain = {k: v for k, v in vars(value).items() if k not in _BOOKKEEPING}
        return (type(value), *map(_key, (plain, value._parameters, value._buffers, value._modules)))
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.requires_grad, tuple(value.detach().flatten().tolist()))
    if isinstance(value, dict):
        return tuple((k, _key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_key, value))
    return value.__func__ if isinstance(value, MethodType) else (type(value), value)


def _search(twins: list[nn.Module], shapes: Sequence[torch.Size], calls: int, propose: Propose) -> Dynamics | str:
    """Try the ways to play to a module until one shows a neuron of ours."""
    reasons: list[tuple[int, str]] = []
    done: set[tuple[int | None, bool]] = set()
    began = time.monotonic()
    for player in _players(twins, shapes, calls):
        if (player.axis, player.explicit) in done:
            continue
        scale, player.began = None, began
        try:
            scale = _scale(player)
            _refuse_learnable(player, scale)
            for candidate in propose(player, scale):
                try:
                    keeping = find_state(player, candidate, scale)
                    _confirm(player, shapes[0], candidate, scale, propose is fit)
                    return dynamics(player, candidate, keeping)
                except Unfit as reason:
                    reasons.append((20, str(reason)))
        except Unfit as reason:
            reasons.append((reason.rank if scale is None else 10, str(reason)))
            done.add((player.axis, player.explicit))  # it took that shape: another would say the same
            if reason.rank == LAST:
                break
        except Exception as error:  # another shape than it takes, most of the time
            reasons.append((-1, f"it raises {type(error).__name__} when played to"))
        if scale is not None:  # it is a neuron, and this is how to play to it
            break
    return max(reasons, key=lambda entry: entry[0], default=(0, "it takes no tensor of at least two dimensions"))[1]


def _players(twins: list[nn.Module], shapes: Sequence[torch.Size], calls: int) -> Iterator[Player]:
    """Ways to play to a module, the likeliest first."""
    shape = tuple(shapes[0]) if shapes else ()
    if len(shape) < 2 or any(tuple(other) != shape for other in shapes[1:]) or len(shapes) > 2:
        return
    axes = dict.fromkeys((0, 1, -1 if len(shape) > 2 else 1)) if len(shapes) == 1 else {}
    single: list[tuple[int | None, bool]] = [(None, False), (None, True)] if len(shapes) == 1 else [(None, True)]
    sequences: list[tuple[int | None, bool]] = [(axis, False) for axis in axes]
    for axis, explicit in single + sequences if calls > 1 or not sequences else sequences + single:
        one = _one_step(shape, axis)
        for steps in _lengths(None if axis is None else shape[axis]):
            for twin in twins:
                yield from (Player(twin, small, steps, axis, explicit) for small in small_shapes(one))


def _one_step(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    return tuple(s for i, s in enumerate(shape) if axis is None or i != axis % len(shape))


def _confirm(player: Player, shape: Sequence[int], candidate: Candidate, scale: float, strictly: bool) -> None:
    """Raise :class:`Unfit` if neurons side by side, as the module really has them, are not the candidate's."""
    whole = replace(player, shape=whole_shape(_one_step(shape, player.axis)))
    x = torch.randn(whole.steps, whole.columns, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * scale
    with torch.no_grad():
        spikes = whole.play(whole.fresh(), x)[0]
        if strictly and not torch.equal(candidate(x)[0], spikes):
            raise Unfit("the answer of a neuron depends on where it is, or on the input of another")


def _lengths(steps: int | None) -> tuple[int, ...]:
    """Numbers of timesteps to try; some modules insist on the one they were written for."""
    if steps is None:
        return (6,)
    return (4,) if steps < 2 else (steps,) if steps <= 8 else (6, steps)


def _scale(player: Player) -> float:
    """Size of inputs at which some neurons fire; raise :class:`Unfit` unless it behaves as a neuron in time."""
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand(player.steps, max(player.columns, 64), dtype=torch.float64, generator=generator) * 4 - 1
    for scale in (1.0, 10.0, 0.1, 100.0):
        x = uniform * scale
        spikes = player(x).detach()
        if not set(spikes.unique().tolist()) <= {0.0, 1.0}:
            raise Unfit("its answers are not 0 and 1", LAST)
        if 0.02 < float(spikes.mean()) < 0.98:
            break
    else:
        raise Unfit("it fires never or always", 1)
    if not torch.equal(player(x), spikes):
        raise Unfit("its answers are random", 3)
    middle = player.steps // 2
    for changed, amount in ((middle, 5.0), (0, -7.0)):
        other = x.clone()
        other[changed] += amount * scale
        answer = player(other)
        if not torch.equal(answer[:changed], spikes[:changed]):
            raise Unfit("an earlier answer depends on a later input", 4)
        if changed == 0 and torch.equal(answer[1:], spikes[1:]):
            raise Unfit("no answer depends on an earlier input", 2)
    other = x.clone()
    other[:, 0] += 3 * scale
    if not torch.equal(player(other)[:, 1:], spikes[:, 1:]):
        raise Unfit("the answer of a neuron depends on the input of another", 5)
    return scale


def _refuse_learnable(player: Player, scale: float) -> None:
    """Raise :class:`Unfit` if the spikes depend on parameters that are learnt."""
    module = player.fresh()
    learnt = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not learnt:
        return
    x = torch.linspace(-1, 3, player.steps * player.columns, dtype=torch.float64).reshape(player.steps, -1) * scale
    spikes = player.play(module, x.requires_grad_())[0]
    if not spikes.requires_grad:
        return
    gradients = torch.autograd.grad(spikes.sum(), list(learnt.values()), allow_unused=True)
    names = [name for name, g in zip(learnt, gradients, strict=True) if g is not None and bool(g.any())]
    if names:
        raise Unfit(f"it learns {', '.join(names)}: only known classes may")
