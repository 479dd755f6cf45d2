"""Plays sequences to fresh copies of a module, whatever shape and state it keeps: what probing looks through."""

import contextlib
import copy
import io
import itertools
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

Tensor = torch.Tensor

RESETS = ("reset", "reset_mem", "reset_state", "reset_states", "reset_hidden", "init_leaky", "init_state", "init_mem")
SECONDS = 3.0  # for one module
COLUMNS = 256  # neurons to play to side by side, about
MOST = 200_000  # numbers in one step of a module that insists on its shape


class Unfit(Exception):
    """A module does not do what a neuron does; says why, and how near it came to being one."""

    def __init__(self, reason: str, rank: int = 0) -> None:
        super().__init__(reason)
        self.rank = rank


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run somebody's code with gradients, without output, and leave all random states as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - whoever draws from the global state
    sink = io.StringIO()
    try:
        with contextlib.ExitStack() as stack:
            for guard in (torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad()):
                stack.enter_context(guard)
            stack.enter_context(contextlib.redirect_stdout(sink))
            stack.enter_context(contextlib.redirect_stderr(sink))
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def holders(module: nn.Module) -> list[dict[str, Any]]:
    """Dictionaries in which a module keeps what may be a potential."""
    return [vars(module), module._buffers, vars(module).get("_memories", {})]


def tensors(module: nn.Module, shape: Sequence[int]) -> dict[str, Tensor]:
    """Tensors of one shape that a module keeps, parameters left out."""
    items = itertools.chain.from_iterable(h.items() for h in holders(module))
    return {k: v for k, v in items if isinstance(v, Tensor) and v.shape == torch.Size(shape)}


def _copy(module: nn.Module) -> nn.Module:
    """Copy a module that may hold tensors with a graph, without its hooks."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in itertools.chain.from_iterable(h.values() for h in holders(part)):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()  # deepcopy takes leaves only
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(part, hooks).clear()
    return twin


def forgotten(module: nn.Module) -> list[nn.Module]:
    """Copies of a module in float64 on the CPU without hooks, their state forgotten, the likeliest first."""
    twin = _copy(module).to("cpu", torch.float64)
    for name in RESETS:
        method = getattr(twin, name, None)
        if callable(method) and getattr(method, "__self__", None) is twin:  # no class method: it may reset others
            with contextlib.suppress(Exception):
                method()
                break
    left = [k for k, v in vars(twin).items() if isinstance(v, Tensor) and v.dim() > 1 and v.is_floating_point()]
    if not left:
        return [twin]
    twins = [copy.deepcopy(twin), copy.deepcopy(twin), twin]
    for other, value in zip(twins, (None, 0.0), strict=False):
        for name in left:
            setattr(other, name, value)
    return twins


@dataclass
class Player:
    """Plays columns to fresh copies of a module.

    Args:
        module: without state, in float64.
        shape: of one timestep's input.
        steps: timesteps of a sequence; shorter ones are filled up with zeros.
        axis: of time; None: the module takes one step a call.
        explicit: whether it is called as ``module(x, v)``.
    """

    module: nn.Module
    shape: tuple[int, ...]
    steps: int
    axis: int | None
    explicit: bool = False
    answers_float32: bool = False
    returns_potential: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def columns(self) -> int:
        """Neurons that one call holds."""
        return max(1, int(np.prod(self.shape)))

    @property
    def tolerance(self) -> float:
        """Relative error of gradients and potentials."""
        return 1e-6 if self.answers_float32 else 1e-9

    def fresh(self) -> nn.Module:
        """Return a copy that has seen nothing."""
        if time.monotonic() - self.began > SECONDS:
            raise Unfit("probing it takes too long")
        return copy.deepcopy(self.module)

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes ``[T', P]`` for inputs ``[T', P]``, T' at most ``steps``, of a fresh copy."""
        given, (steps, width) = x, x.shape
        if steps < self.steps:
            given = torch.cat([given, given.new_zeros(self.steps - steps, width)])
        parts = []
        for part in given.split(self.columns, dim=1):
            short = self.columns - part.shape[1]
            padded = torch.cat([part, part.new_zeros(len(part), short)], 1) if short else part
            parts.append(self.play(self.fresh(), padded)[0][:steps, : part.shape[1]])
        return torch.cat(parts, 1)

    def play(self, module: nn.Module, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Spikes ``[T, columns]`` of this very module, and the potential ``[columns]`` that it answers, if it does."""
        given = x.reshape(len(x), *self.shape)
        if self.axis is not None:
            return self._checked(module(given.movedim(0, self.axis))).movedim(self.axis, 0).reshape(x.shape).to(x), None
        spikes = []
        state = None if v is None else v.reshape(self.shape)
        if self.explicit and state is None:
            state = x.new_zeros(self.shape)
        for step in given:
            answer = module(step, state) if self.explicit else module(step)
            if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Tensor):
                answer, state = answer
                self.returns_potential = True
            elif self.explicit:
                raise Unfit("it does not answer (spikes, potential)")
            spikes.append(self._checked(answer))
        return torch.stack(spikes).reshape(x.shape).to(x), None if state is None else state.reshape(-1)

    def _checked(self, answer: Any) -> Tensor:
        if not isinstance(answer, Tensor):
            raise Unfit(f"it answers a {type(answer).__name__}, not a tensor")
        whole = list(self.shape)
        if self.axis is not None:
            whole.insert(self.axis if self.axis >= 0 else len(whole), self.steps)
        if answer.shape != torch.Size(whole):
            raise Unfit("its answer has another shape than its input")
        self.answers_float32 |= answer.dtype == torch.float32
        return answer


def whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of one timestep as the module was called with, of a smaller batch if it is large."""
    return (min(shape[0], max(2, MOST // max(1, int(np.prod(shape[1:]))))), *shape[1:]) if shape else ()


def small_shapes(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes of one timestep to try, from few numbers to those that it was called with: batch, channels, the rest."""
    batch, rest = shape[:1], tuple(shape[1:])
    ones = (1,) * (len(rest) - 1)
    wanted: list[tuple[int, ...]] = []
    if batch:
        many = max(1, -(-COLUMNS // max(1, rest[0] if rest else 1)))
        wanted = [(many, *rest[:1], *ones), (batch[0], *rest[:1], *ones), (1, *rest)]
    for candidate in dict.fromkeys([*wanted, tuple(shape)]):
        if 0 < int(np.prod(candidate)) <= MOST:
            yield candidate
