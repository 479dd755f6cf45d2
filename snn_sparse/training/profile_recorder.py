"""Hooks on the layers and neurons of a network: what goes through them in a forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from snn_sparse.fusion.bystanders import Bystanders
from snn_sparse.fusion.neurons import norse, snntorch, spikingjelly
from snn_sparse.nn import Neuron
from snn_sparse.training.profile_layers import CONNECTIONS, Counter, Operations


class LayerRecord:
    """One convolution or linear layer: its counts over all passes, and what it has done in this one.

    Attributes:
        layer: the module.
        total: operations as they were run.
        every_step: the same with a layer that ran once on a constant input run at each of the T steps.
        constant: whether it did so.
        neuron: name of the neuron layer that fired next.
        calls: in this pass.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.total, self.every_step, self.constant = Operations(), Operations(), False
        self.neuron: str | None = None
        self._counter: Counter | None = None
        self.start()

    def start(self) -> None:
        """Begin a pass."""
        self.calls, self._rows, self._first, self._counts = 0, 0, False, Operations()

    @property
    def counter(self) -> Counter:
        """Counts of its calls; made at the first, when a mask has been put on its weight."""
        if self._counter is None:
            self._counter = Counter(self.layer)
        return self._counter

    def called(self, x: torch.Tensor, before_neurons: bool) -> None:
        """Count one call with input ``x``."""
        if not self.counter.takes(x):
            return
        self._counts = self._counts + self.counter.count(x)
        self.calls, self._rows, self._first = self.calls + 1, self._rows + self.counter.rows(x), before_neurons

    def end(self, samples: int, timesteps: int) -> None:
        """End a pass of so many samples and timesteps."""
        once = self.calls == 1 and self._first and self._rows == samples and timesteps > 1
        self.constant = self.constant or once
        self.total = self.total + self._counts
        self.every_step = self.every_step + self._counts * (timesteps if once else 1)


class NeuronRecord:
    """One neuron layer: the number of its outputs, and of those that are not zero."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.outputs = self.nonzero = 0


def is_neuron(module: nn.Module) -> bool:
    """Whether the outputs of a module are activations: neurons of ours, SpikingJelly's, snnTorch's, norse's, ReLU."""
    if isinstance(module, (Neuron, nn.ReLU, nn.Sigmoid)):
        return True
    return spikingjelly.is_node(module) or snntorch.is_neuron(module) or norse.is_cell(module)


def _takes_sequences(module: nn.Module) -> bool:
    """Whether a neuron answers with ``[T, N, ...]`` at once."""
    if isinstance(module, Neuron) or type(module).__name__.startswith("MultiStep"):
        return True
    return spikingjelly.is_node(module) and getattr(module, "step_mode", "s") == "m"


class Recorder:
    """Hooks on a network.

    Args:
        model: the network.
        neurons: names of modules that count as neuron layers, beside those that are known.

    Raises:
        ValueError: a name is no module's, or no convolution and linear layer is there.
    """

    def __init__(self, model: nn.Module, neurons: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        wrong = [name for name in neurons if name not in modules]
        if wrong:
            raise ValueError(f"neurons names {wrong[0]!r}, which is no module of the model")
        self.layers = {n: LayerRecord(m) for n, m in modules.items() if isinstance(m, CONNECTIONS)}
        if not self.layers:
            raise ValueError("model has no convolution or linear layer whose operations could be counted")
        self.neurons: dict[str, NeuronRecord] = {}
        for name, module in modules.items():
            inside = any(not outer or name.startswith(f"{outer}.") for outer in self.neurons)
            if not inside and (name in neurons or is_neuron(module)):
                self.neurons[name] = NeuronRecord(module)
        self.order: dict[str, None] = {}  # layers as they were first called
        self._start()

    def _start(self) -> None:
        self.steps = self.samples = 0  # of the neuron that fires first
        self._first: str | None = None
        self._entry: tuple[LayerRecord, int] | None = None  # the layer that is called first, and samples there
        self._waiting: list[LayerRecord] = []
        for record in self.layers.values():
            record.start()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, forward passes are recorded."""
        handles = []
        try:
            for name, record in self.layers.items():
                hook = self._layer_hook(name, record)
                handles.append(record.layer.register_forward_pre_hook(hook, with_kwargs=True))
            for name, found in self.neurons.items():
                handles.append(found.module.register_forward_hook(self._neuron_hook(name, found)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _layer_hook(self, name: str, record: LayerRecord) -> Any:
        def called(_module: nn.Module, args: Any, kwargs: Any) -> None:
            x = args[0] if args else kwargs["input"]
            self._entry = self._entry or (record, x.shape[0])
            record.called(x, self._first is None)
            self.order[name] = None
            self._waiting.append(record)

        return called

    def _neuron_hook(self, name: str, record: NeuronRecord) -> Any:
        def fired(module: nn.Module, _args: Any, output: Any) -> None:
            out = next(v for v in tree_leaves(output) if isinstance(v, torch.Tensor))
            record.outputs += out.numel()
            record.nonzero += int(out.count_nonzero())
            self._first = name if self._first is None else self._first
            if name == self._first:
                sequence = _takes_sequences(module)
                self.steps += out.shape[0] if sequence else 1
                self.samples = out.shape[1 if sequence else 0]
            for layer in self._waiting:
                layer.neuron = layer.neuron or name
            self._waiting.clear()

        return fired

    def run(self, model: nn.Module, x: torch.Tensor, samples: int | None, timesteps: int | None) -> tuple[int, int]:
        """Send one batch through; neurons start from rest, and what modules keep is put back.

        Args:
            model: the network, hooked.
            x: its input.
            samples: how many; None: as the neuron says that fires first, then the layer called first if it is called
                step by step, then the first dimension of ``x``.
            timesteps: T; None: likewise.

        Returns:
            samples and timesteps.
        """
        self._start()
        with _restored(model), torch.random.fork_rng(devices=[]):
            _reset(model)
            model(x)
        n, steps = self._found(x)
        samples, timesteps = samples or n, timesteps or steps
        for record in self.layers.values():
            record.end(samples, timesteps if self._first is not None else 1)
        return samples, timesteps

    def _found(self, x: torch.Tensor) -> tuple[int, int]:
        """Samples and timesteps as the pass showed them."""
        if self._first is not None and is_neuron(self.neurons[self._first].module):
            return self.samples, self.steps
        if self._entry is not None and self._entry[0].calls > 1:
            return self._entry[1], self._entry[0].calls
        return x.shape[0], max(self.steps, 1)


def _reset(model: nn.Module) -> None:
    """Let neurons of SpikingJelly and snnTorch start from rest."""
    for module in model.modules():
        theirs = any(c.__module__.startswith("spikingjelly.") for c in type(module).__mro__)
        name = "reset" if theirs else "reset_mem" if snntorch.is_neuron(module) else ""
        reset = getattr(module, name, None) if name else None
        if callable(reset):
            reset()


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put attributes and buffers of all modules back, those too that were written in place."""
    own = {id(p) for p in model.parameters()}
    kept = [v for m in model.modules() for v in tree_leaves(m.__dict__) if isinstance(v, torch.Tensor)]
    values = [(v, v.detach().clone()) for v in kept if id(v) not in own]
    try:
        with Bystanders.restored(model):
            yield
    finally:
        for tensor, value in values:
            if not torch.equal(tensor, value):  # else its version stays, for a backward pass to come
                tensor.data.copy_(value)
