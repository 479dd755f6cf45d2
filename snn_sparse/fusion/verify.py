"""Verify: the first batch is computed both ways, in float64, and what disagrees is put back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from snn_sparse.fusion.capture import CannotCapture
from snn_sparse.fusion.compiled import Compiled, original_forward
from snn_sparse.fusion.copies import copied
from snn_sparse.fusion.repeatable import Repeatable, in_double
from snn_sparse.fusion.replay import mistaken
from snn_sparse.tuning import without_races

Tensor = torch.Tensor
OUTPUTS, GRADIENTS = 1e-9, 1e-7  # in float64, of the largest
SINGLE = 1e-3  # in float32, for networks that compute in nothing else
SAMPLES = 4  # of a batch


def disagreement(compiler: Any, model: nn.Module, inputs: Sequence[Any], spec: Any) -> str:
    """Compare a network with what it compiles to; neurons that are not what they were taken for are excluded.

    Args:
        compiler: whose ``excluded`` grows.
        model: the network; not changed.
        inputs: flat list of the inputs.
        spec: how they nest.

    Returns:
        why the whole network has to run as it was written; empty: it agrees now.

    Raises:
        CannotCapture: the network cannot be captured.
    """
    try:
        return _disagreement(compiler, model, inputs, spec)
    except CannotCapture:
        raise
    except Exception as error:  # a mistake of ours, for which nobody's network should stand still
        return f"it cannot be compiled: {type(error).__name__}: {_first_line(error)}"


def _disagreement(compiler: Any, model: nn.Module, inputs: Sequence[Any], spec: Any) -> str:
    for given in (few_samples(compiler, model, inputs, spec), list(inputs)):
        for dtype in (torch.float64, torch.float32):
            try:
                return _compare(compiler, model, [_cast(v, dtype) for v in given], spec, dtype)
            except _OnlySingle:
                continue
            except _Fails as error:
                problem = str(error)
    return problem


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def few_samples(compiler: Any, model: nn.Module, inputs: Sequence[Any], spec: Any) -> list[Any]:
    """Cut the batch short where the graph tells which dimension it is."""

    def forward(*flat: Any) -> Any:
        args, kwargs = tree_unflatten(list(flat), spec)
        return original_forward(model, *args, **kwargs)

    found = Compiled(model, forward, inputs, compiler.neurons, compiler.excluded)
    short = list(inputs)
    for i, dim in found.walk.batch_dimensions().items():
        place = [j for j, v in enumerate(inputs) if isinstance(v, Tensor)][i]
        short[place] = inputs[place].narrow(dim, 0, min(SAMPLES, inputs[place].shape[dim]))
    return short


class _Fails(Exception):
    """The original fails, of all things."""


class _OnlySingle(Exception):
    """The original does not run in float64."""


def _cast(value: Any, dtype: torch.dtype) -> Any:
    moves = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().to(dtype, copy=True) if moves else value


def _twin(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    try:
        twin = copied(model).to(dtype)
    except Exception as error:  # sharded networks, for example
        raise _Fails(f"it cannot be copied to be compared: {(str(error).splitlines() or [''])[0]}") from None
    for module in twin.modules():
        for key, value in module.__dict__.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
                module.__dict__[key] = value.detach().to(dtype)
    return twin


def _compare(compiler: Any, model: nn.Module, inputs: list[Any], spec: Any, dtype: torch.dtype) -> str:
    quiet = torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autocast("cpu", enabled=False)
    with quiet[0], quiet[1], quiet[2], without_races(), in_double(dtype == torch.float64):
        try:
            expected = _Run(_twin(model, dtype), inputs, spec)
        except Exception as error:
            if dtype == torch.float64:
                raise _OnlySingle from None
            raise _Fails(f"the original fails: {_first_line(error)}") from None
        problem = ""
        for _ in range(2):
            actual = _Run(_twin(model, dtype), inputs, spec, compiler)
            assert actual.compiled is not None
            for run in (expected, actual):
                run.keep(actual.compiled.sites)
            problem = expected.differs(actual, dtype)
            found = mistaken(_twin(model, dtype), inputs, spec, actual.compiled.sites) if problem else {}
            compiler.excluded.update(found)
            if not found:
                break
    return f"it differs from the original: {problem}" if problem else ""


class _Run:
    """One forward and backward pass, and all that it left."""

    def __init__(self, model: nn.Module, inputs: list[Any], spec: Any, compiler: Any = None) -> None:
        def forward(*flat: Any) -> Any:
            args, kwargs = tree_unflatten(list(flat), spec)
            return original_forward(model, *args, **kwargs)

        leaves = [v.clone().requires_grad_() if _floats(v) else v for v in inputs]
        given = [v.clone() if _floats(v) else v for v in leaves]  # forward may write into them
        self.compiled = None
        if compiler is not None:
            self.compiled = Compiled(model, forward, given, compiler.neurons, compiler.excluded)
        self.model, self.kept = model, {}  # type: ignore[var-annotated]
        with Repeatable():
            out = forward(*given) if self.compiled is None else self.compiled(given)
            self.outputs = [v for v in tree_flatten(out)[0] if _floats(v)]
            self._backward(model, leaves)

    def keep(self, sites: Any) -> None:
        """Write down the buffers, and potentials as neurons start the next call from them rather than as they lie."""
        self.kept = {n: b.detach() for n, b in self.model.named_buffers()}
        for name in sites.neurons:
            dynamics = sites.dynamics_of(name)
            if dynamics.state is None:
                continue
            module = self.model.get_submodule(name)
            kept = getattr(module, dynamics.state, None)
            self.kept.pop(f"{name}.{dynamics.state}", None)  # snnTorch keeps it as a buffer
            if isinstance(kept, Tensor) and kept.numel():
                start = dynamics.start(module, kept)
                if start is not None:
                    self.kept[f"the state of {name}"] = start.detach()

    def _backward(self, model: nn.Module, given: list[Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        loss = sum(
            (v * torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)).sum()
            for v in self.outputs
            if v.requires_grad
        )
        wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
        wanted |= {f"input {i}": v for i, v in enumerate(given) if _floats(v)}
        found: Sequence[Any] = [None] * len(wanted)
        if isinstance(loss, Tensor):
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        self.gradients = {
            n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(wanted.items(), found, strict=True)
        }

    def differs(self, other: "_Run", dtype: torch.dtype) -> str:
        """Name what differs, in a few words; empty: nothing."""
        double = dtype == torch.float64
        if len(self.outputs) != len(other.outputs):
            return "the number of outputs"
        for i, (a, b) in enumerate(zip(self.outputs, other.outputs, strict=True)):
            if a.shape != b.shape or not _close(a, b, OUTPUTS if double else SINGLE, _largest([a])):
                return f"output {i}"
        scale = _largest(self.gradients.values())
        for name, gradient in self.gradients.items():
            if not _close(gradient, other.gradients[name], GRADIENTS if double else SINGLE, scale):
                return f"the gradient of {name}"
        for name, value in self.kept.items():
            if name not in other.kept or value.shape != other.kept[name].shape:
                return name
            if not _close(value, other.kept[name], GRADIENTS if double else SINGLE, max(_largest([value]), 1e-3)):
                return name
        return ""


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _largest(values: Any) -> float:
    return max((float(v.detach().abs().max()) for v in values if v.numel()), default=0.0)


def _close(a: Tensor, b: Tensor, tolerance: float, scale: float) -> bool:
    if a.numel() == 0:
        return True
    error = (a.detach().double() - b.detach().double()).abs().max()
    return bool(error <= tolerance * max(scale, 1e-30)) or bool(torch.equal(a, b))
