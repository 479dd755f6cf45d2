"""Where a module that is probed keeps its potential between calls, and how ours is put there and read from there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.neurons.dynamics import Dynamics, Reading, number, settle_to_zero
from snn_sparse.fusion.neurons.fit import Candidate
from snn_sparse.fusion.neurons.player import Player, Unfit, tensors
from snn_sparse.ops.neuron.reference import charge
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor


@dataclass(frozen=True)
class Keeping:
    """How the potential is kept between calls.

    Args:
        name: attribute that keeps it; None: none does.
        given: whether a call starts from the potential that it is given only, from rest if there is none.
        cleared: attributes that must be zeros beside a potential of ours.
        before: whether it is the potential before the reset to zero.
    """

    name: str | None = None
    given: bool = False
    cleared: tuple[str, ...] = ()
    before: bool = False


def find_state(player: Player, candidate: Candidate, scale: float) -> Keeping:
    """Find where a module keeps its potential; raise :class:`Unfit` if that cannot be told."""
    generator = torch.Generator().manual_seed(2)
    first, second = (
        torch.randn(player.steps, player.columns, dtype=torch.float64, generator=generator) * 1.5 * scale
        for _ in range(2)
    )
    module = player.fresh()
    _, answered = player.play(module, first)
    kept = {name: tensor.reshape(-1).clone() for name, tensor in tensors(module, player.shape).items()}
    spikes = player.play(module, second, answered if player.explicit else None)[0]
    if not player.explicit and torch.equal(spikes, player.play(player.fresh(), second)[0]):
        return Keeping()
    v = candidate(first)[1]
    if not torch.equal(candidate(second, v)[0], spikes):
        raise Unfit("it keeps something else between calls than a potential")
    for before, potential in ((False, v), (True, _before_reset(candidate, first))):
        if potential is None or (answered is not None and not _close(answered, potential, player.tolerance)):
            continue
        names = [n for n, tensor in kept.items() if _close(tensor, potential, player.tolerance)]
        for keeping in [Keeping(before=before)] if player.explicit and not names else _ways(names, set(kept), before):
            trial = player.fresh()
            _put(trial, keeping, set(kept), v.reshape(player.shape))
            if torch.equal(player.play(trial, second, v if player.explicit else None)[0], spikes):
                given = player.explicit and not _continues(player, candidate, keeping, second, v)
                return replace(keeping, given=given)
    raise Unfit("the potential that it keeps is not that of our neuron")


def _ways(names: list[str], kept: set[str], before: bool) -> Iterator[Keeping]:
    for name in names:
        for cleared in dict.fromkeys(((), tuple(sorted(kept - {name})))):
            yield Keeping(name, False, cleared, before)


def _continues(player: Player, candidate: Candidate, keeping: Keeping, x: Tensor, v: Tensor) -> bool:
    """Whether a module that takes a potential goes on from the one it keeps if it is given none."""
    module = player.fresh()
    finish(keeping, module, v.reshape(player.shape).clone())
    try:
        spikes = module(x[0].reshape(player.shape))[0].reshape(1, -1).to(x)
    except Exception:  # it must be given one
        return False
    return torch.equal(spikes, candidate(x[:1], v)[0]) and not torch.equal(spikes, candidate(x[:1])[0])


def _put(module: nn.Module, keeping: Keeping, kept: set[str], v: Tensor) -> None:
    """Put a potential of ours into a module; what we would never write may hold anything."""
    for other in kept if keeping.name is not None else ():
        setattr(module, other, torch.ones_like(v))
    finish(keeping, module, v.clone())


def _before_reset(candidate: Candidate, x: Tensor) -> Tensor | None:
    """Potential before the reset to zero at the last step; None if zero itself would fire, or for another reset."""
    spec = candidate.spec
    if spec.v_reset != 0.0 or spec.v_threshold <= 0 or len(x) < 2:
        return None
    rate = None if candidate.rate is None else torch.tensor(candidate.rate, dtype=x.dtype)
    return charge(candidate(x[:-1])[1], x[-1] * candidate.gain, spec, rate)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def dynamics(player: Player, candidate: Candidate, keeping: Keeping) -> Dynamics:
    """Say it as the compiler takes it."""
    spec = candidate.spec
    settle = partial(_settle, spec.v_threshold, spec.strict) if keeping.before else None
    return Dynamics(
        partial(fixed, spec, candidate.rate),
        player.axis,
        keeping.name,
        partial(start, keeping, spec),
        partial(finish, keeping),
        explicit=player.explicit,
        returns_potential=player.returns_potential,
        gain=candidate.gain,
        settle=settle,
    )


def fixed(spec: NeuronSpec, rate: float | None, module: nn.Module) -> Reading:
    """Read numbers that do not change."""
    return spec, None if rate is None else torch.tensor(rate, dtype=torch.float64)


def _settle(threshold: float, strict: bool, module: nn.Module, v: Tensor) -> Tensor:
    return settle_to_zero(threshold, strict, v)


def start(keeping: Keeping, spec: NeuronSpec, module: Any, like: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Potential that the next call starts from: the one given, or the one kept; None: rest."""
    kept = v
    if v is None and keeping.name is not None and not keeping.given:
        kept = getattr(module, keeping.name, None)
    if isinstance(kept, Tensor) and kept.shape == like.shape:
        return (settle_to_zero(spec.v_threshold, spec.strict, kept) if keeping.before else kept).to(like)
    value = number(kept)
    return None if value is None or value == spec.v_rest else torch.full_like(like, value)


def finish(keeping: Keeping, module: nn.Module, v: Tensor) -> None:
    """Keep the potential after the last timestep where the module keeps its own."""
    if keeping.name is not None:
        setattr(module, keeping.name, v)
    for other in keeping.cleared:
        setattr(module, other, torch.zeros_like(v))
