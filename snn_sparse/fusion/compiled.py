"""A network's forward pass, compiled for inputs of one kind: captured, rolled up, joined to stages, planned."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_unflatten

from snn_sparse.fusion.answers import has_hooks
from snn_sparse.fusion.capture import Captured, Computed, capture, take_census
from snn_sparse.fusion.plan import planned
from snn_sparse.fusion.roll_up import roll_up
from snn_sparse.fusion.sites import Sites
from snn_sparse.fusion.stages import build
from snn_sparse.fusion.tidy import shape_of, tidy
from snn_sparse.nn.masked import Masked
from snn_sparse.ops.backend import for_compiler
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor
_WATCHED = (bool, int, float, str, type(None), tuple)


def original_forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the forward pass that the network's author wrote."""
    return getattr(type(model), "original", type(model)).forward(model, *args, **kwargs)


class Guards:
    """All that a compiled graph relies on: numbers and texts that modules hold, which modules there are, and hooks.

    Args:
        model: the network.
        keeping: names of modules that keep something from call to call.
        state: (module's name, attribute) of what else may change.
    """

    def __init__(self, model: nn.Module, keeping: Sequence[str] = (), state: Collection[Any] = ()) -> None:
        self._places: list[tuple[dict, str]] = []
        self._hooks = [m for m in model.modules() if m is not model]
        self._hooked = [has_hooks(m) for m in self._hooks]
        for name, module in model.named_modules():
            self._places += [(module._modules, child) for child in module._modules]
            if any(name == k or name.startswith(f"{k}.") for k in keeping):
                continue
            for key, value in module.__dict__.items():
                if isinstance(value, _WATCHED) and (name, key) not in state and key not in _OWN:
                    self._places.append((module.__dict__, key))
        self._values = self._look()

    def _look(self) -> list[Any]:
        return [held.get(key) for held, key in self._places]

    def hold(self) -> bool:
        """Whether everything is as it was."""
        if torch.compiler.is_compiling():
            return self._hold_traced()
        return self._look() == self._values and [has_hooks(m) for m in self._hooks] == self._hooked

    def _hold_traced(self) -> bool:
        """The same in a way that Dynamo follows, so that it guards every attribute."""
        for (held, key), value in zip(self._places, self._values):  # noqa: B905
            now = held.get(key)
            if isinstance(value, nn.Module):
                if now is not value:
                    return False
            elif now != value:
                return False
        return True


_OWN = {"keep_mask", "_tuner", "_version", "call_super_init", "_is_full_backward_hook"}


class Compiled:
    """A captured forward pass as a graph of stages.

    Args:
        model: the network.
        forward: as its author wrote it.
        inputs: flat list of the inputs.
        neurons: classes that the user says are neurons.
        excluded: names of modules to leave alone, with the reason.

    Raises:
        CannotCapture: with the reason.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable,
        inputs: Sequence[Any],
        neurons: Mapping[type, NeuronSpec],
        excluded: Mapping[str, str],
    ) -> None:
        census = take_census(model, forward, inputs)
        self.sites = Sites(model, census, neurons, excluded)
        captured: Captured = capture(model, forward, inputs, self.sites.is_leaf, census)
        self.sites.forgotten = captured.forgotten
        tidy(captured.graph)
        for node in captured.graph.nodes:
            if self.sites.kind_of(node) == "neuron":
                axis, shape = self.sites.dynamics(node).time_axis, shape_of(node.args[0])
                node.meta["time_axis"] = axis if axis is None or shape is None else axis % len(shape)
        self.walk = build(roll_up(captured.graph, self.sites.rolls, self.sites.take_inline), self.sites)
        self.leaves = {str(n.target) for n in captured.graph.nodes if n.op == "call_module"}
        self._spec, self._attributes = captured.spec, captured.attributes
        self._plans: dict[tuple[bool, bool], fx.GraphModule] = {}  # with gradients, for a compiler
        self._tuners: list[Any] = []
        state: set[Any] = {(n, self.sites.state_of(n)) for n in self.sites.neurons}
        keeping = [name for name, found in census.calls.items() if found.keeps]
        self.guards = Guards(model, keeping, state | set(captured.attributes))
        self._model = model
        self.module: fx.GraphModule | None = None
        self.has_run = False

    def plan(self, like: Tensor) -> fx.GraphModule:
        """The graph that runs now, with or without gradients: planned again where a mask is new or a rate has moved.

        Not inside a backward pass: checkpointed activations must be computed again as they were.
        """
        if torch._C._current_graph_task_id() == -1:
            self._forget_old_masks()
        key = (torch.is_grad_enabled(), False)
        if key not in self._plans:
            self._plans[key] = self._planned(like)
        self.module = self._plans[key]
        return self.module

    def _forget_old_masks(self) -> None:
        if not self.is_planned():
            self._tuners = self._tuners_now()
            self._plans.clear()

    def plan_traced(self, inputs: Sequence[Any]) -> None:
        """Plan for a compiler of torch's, which can plan nothing itself."""
        self._forget_old_masks()
        with _disable_current_modes():  # torch.export's
            like = self._like(next(x for x in inputs if isinstance(x, Tensor)))
        for grad in (False, True):
            if (grad, True) not in self._plans:
                with _disable_current_modes(), torch.set_grad_enabled(grad), for_compiler():
                    self._plans[grad, True] = self._planned(like)

    def _planned(self, like: Tensor) -> fx.GraphModule:
        return planned(self.walk.new, self.walk.stages, self._model, self.sites.inline, like)

    def is_planned(self) -> bool:
        """Whether there is a plan for the masks as they are, and firing rates near those that it was made for."""
        now = self._tuners_now()
        if not self._plans or len(now) != len(self._tuners):
            return False
        for a, b in zip(now, self._tuners):  # noqa: B905, SIM110 - so that Dynamo follows
            if a is not b or a.moved:
                return False
        return True

    def _tuners_now(self) -> list[Any]:
        found = []
        for stage in self.walk.stages.values():
            if isinstance(stage.conv, Masked):
                found.append(stage.conv.tuner)
        return found

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run it on a list like the inputs that it was compiled for."""
        return self._run(self.prepare(inputs), inputs)

    def traced(self, inputs: Sequence[Any]) -> Any:
        """The same for a compiler of torch's, which follows every line; it has to be planned."""
        return self._run(self._plans[torch.is_grad_enabled(), True], inputs)

    def _run(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        self.has_run = True
        found = module.forward(*[x for x in inputs if isinstance(x, Tensor)])
        for (name, key), value in self._attributes.items():
            setattr(self._model.get_submodule(name), key, value.of(found) if isinstance(value, Computed) else value)
        return tree_unflatten(found[: self._spec.num_leaves], self._spec)

    def prepare(self, inputs: Sequence[Any]) -> fx.GraphModule:
        """The graph that a call with these inputs runs."""
        return self.plan(self._like(next(x for x in inputs if isinstance(x, Tensor))))

    def _like(self, x: Tensor) -> Tensor:
        weight = next((p for p in self._model.parameters() if p.is_floating_point()), x)
        return weight.new_empty(0)
