"""Record of a run: one call of each layer and function, in order, as it happened on an example."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

PASSED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # hand on what they get, in evaluation


@dataclass
class Step:
    """One call.

    Attributes:
        name: of the layer in the network; of the function, and the module that called it.
        call: the layer or function; None: the input of the network.
        sources: numbers of the steps whose tensors it took; None for a tensor that does not come from the input.
        shapes: of those tensors.
        shape: of the result.
        args, kwargs: what a function was called with.
    """

    name: str
    call: nn.Module | Callable | None
    sources: list[int | None] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.number: dict[int, int] = {}  # id of a tensor -> the step that made it
        self.alive: list[torch.Tensor] = []  # so that no id is used twice
        self.calls: list[str] = []  # layers that are running now; inside one, nothing is recorded
        self.modules: list[str] = []  # modules that are running now

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.calls:
            return func(*args, **(kwargs or {}))
        given = self.tensors((args, kwargs))
        versions = [t._version for t in given]
        out = func(*args, **(kwargs or {}))
        written = [t for t, version in zip(given, versions, strict=True) if t._version != version]
        made = [t for t in self.tensors(out) if id(t) not in self.number] + written
        if made and any(id(t) in self.number for t in given):
            name = getattr(func, "__name__", str(func))
            where = f" in {self.modules[-1]!r}" if self.modules and self.modules[-1] else ""
            self.add(Step(f"{name}{where}", func, args=args, kwargs=kwargs or {}), given, made)
        return out

    @staticmethod
    def tensors(tree: Any) -> list[torch.Tensor]:
        return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]

    def add(self, step: Step, given: list[torch.Tensor], made: list[torch.Tensor]) -> None:
        step.sources = [self.number.get(id(t)) for t in given]
        step.shapes = [tuple(t.shape) for t in given]
        step.shape = tuple(made[0].shape)
        self.steps.append(step)
        for t in made:
            self.number[id(t)] = len(self.steps) - 1
            self.alive.append(t)

    def watch(self, name: str, module: nn.Module, leaf: bool) -> list[Any]:
        """Hooks that tell when a module starts and ends."""
        running = self.calls if leaf else self.modules

        def start(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            running.append(name)

        def end(_module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            running.pop()
            if not leaf or self.calls:
                return
            given, made = self.tensors((args, kwargs)), self.tensors(out)
            if isinstance(module, PASSED) and given and made and id(given[0]) in self.number:
                self.number[id(made[0])] = self.number[id(given[0])]
                self.alive += made
            elif any(id(t) not in self.number for t in made):
                self.add(Step(name, module), given, made)

        return [
            module.register_forward_pre_hook(start, with_kwargs=True, prepend=True),
            module.register_forward_hook(end, with_kwargs=True),
        ]


def record(model: nn.Module, example: torch.Tensor, is_layer: Callable[[nn.Module], bool]) -> tuple[list[Step], int]:
    """Run a network and write down the calls of its layers, and of torch's functions between them.

    Args:
        model: runs once, without gradients, in the mode it is in.
        example: its input.
        is_layer: says of a module whether its call is one step; modules without children are layers anyway.

    Returns:
        the steps, the input first; and the number of the step that made the output.

    Raises:
        ValueError: the output is not one tensor made from the input.
    """
    recorder = _Recorder()
    recorder.add(Step("input", None), [], [example])
    hooks = []
    for name, module in model.named_modules():
        leaf = is_layer(module) or not any(True for _ in module.children())
        hooks += recorder.watch(name or (type(module).__name__.lower() if leaf else ""), module, leaf)
    try:
        with torch.no_grad(), recorder:
            out = model(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(out, torch.Tensor) or id(out) not in recorder.number:
        raise ValueError("model must return one tensor that it computes from its input")
    return recorder.steps, recorder.number[id(out)]
