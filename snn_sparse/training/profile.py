"""Costs of a network in the terms of NeuroBench: footprint, sparsity, synaptic operations, firing rates, energy.

Definitions are those of NeuroBench 2.3 (Yik et al., Nature Communications 2025): ``Footprint``, ``ConnectionSparsity``,
``ActivationSparsity`` and ``SynapticOperations``, written anew and in agreement with it; a test compares the two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion import unfuse
from snn_sparse.fusion.network import FusedNetwork
from snn_sparse.models import SpikingNetwork
from snn_sparse.nn import Stage
from snn_sparse.training.profile_layers import Operations, footprints, weight_of
from snn_sparse.training.profile_recorder import LayerRecord, Recorder

Tensor = torch.Tensor

MAC_PJ = 4.6  # multiply and accumulate in float32 at 45 nm, in pJ (Horowitz, ISSCC 2014)
AC_PJ = 0.9  # accumulate


def energy_pj(macs: float, acs: float) -> float:
    """Energy in pJ of so many multiply-accumulates and accumulates in float32 at 45 nm (Horowitz, ISSCC 2014)."""
    return MAC_PJ * macs + AC_PJ * acs


@dataclass(frozen=True)
class LayerProfile:
    """One convolution or linear layer; operations are per sample, over all timesteps.

    Attributes:
        name: in the model.
        weights, live: number of weights, and of those that are not zero.
        operations: as they were run.
        constant: whether the layer ran once, before any neuron, on an input that is the same at every step.
        neuron: name of the neuron layer that fires next; None: none does.
    """

    name: str
    weights: int
    live: int
    operations: Operations
    constant: bool
    neuron: str | None


@dataclass(frozen=True)
class NeuronProfile:
    """One neuron layer.

    Attributes:
        name: in the model.
        outputs: number of outputs per sample, over all timesteps.
        firing_rate: outputs that are not zero, in percent.
    """

    name: str
    outputs: float
    firing_rate: float


@dataclass(frozen=True)
class NetworkProfile:
    """Costs of a network; operations are means per sample, over all timesteps.

    Attributes:
        samples: number of samples that were run.
        timesteps: T.
        footprint: bytes of parameters and buffers.
        ticket_footprint: the same with live weights only, and one bit a weight for the mask.
        connection_sparsity: weights of convolutions and linear layers that are zero, in percent.
        activation_sparsity: outputs of neurons that are zero, in percent; None: no neuron was called.
        operations: as they were run.
        every_step: the same if layers that run once on a constant image ran at each timestep, as where the image is
            sent anew at each.
        layers: convolutions and linear layers as they were called; those never called are last.
        neurons: neuron layers that were called.
    """

    samples: int
    timesteps: int
    footprint: int
    ticket_footprint: int
    connection_sparsity: float
    activation_sparsity: float | None
    operations: Operations
    every_step: Operations
    layers: tuple[LayerProfile, ...]
    neurons: tuple[NeuronProfile, ...]

    @property
    def energy(self) -> float:
        """Energy per sample in pJ: 4.6 pJ an effective MAC, 0.9 pJ an effective AC."""
        return energy_pj(self.operations.macs, self.operations.acs)

    @property
    def counter_energy(self) -> float:
        """Energy per sample in pJ at the same costs, from what SpikingJelly's counters count."""
        return energy_pj(self.operations.counter_macs, self.operations.counter_acs)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: operations under NeuroBench's names, bytes, percent and pJ."""
        rates = {neuron.name: neuron.firing_rate for neuron in self.neurons}
        own = ("samples", "timesteps", "footprint", "ticket_footprint", "connection_sparsity", "activation_sparsity")
        return {
            **{name: getattr(self, name) for name in own},
            **_as_dict(self.operations),
            "every_step": _as_dict(self.every_step),
            "layers": [
                {
                    "name": layer.name,
                    "weights": layer.weights,
                    "live": layer.live,
                    "constant": layer.constant,
                    "neuron": layer.neuron,
                    "firing_rate": rates.get(layer.neuron) if layer.neuron else None,
                    **_as_dict(layer.operations),
                }
                for layer in self.layers
            ],
            "neurons": [asdict(neuron) for neuron in self.neurons],
        }


def _as_dict(operations: Operations) -> dict[str, Any]:
    o = operations
    return {
        "Dense": o.dense,
        "Effective_MACs": o.macs,
        "Effective_ACs": o.acs,
        "energy_pj": energy_pj(o.macs, o.acs),
        "spikingjelly": {
            "MACs": o.counter_macs,
            "ACs": o.counter_acs,
            "energy_pj": energy_pj(o.counter_macs, o.counter_acs),
        },
    }


@torch.no_grad()
def profile_network(
    model: nn.Module,
    x_or_batches: Tensor | Iterable[Any],
    mask: Mapping[str, Tensor] | None = None,
    *,
    neurons: Sequence[str] = (),
    batch_axis: int | None = None,
) -> NetworkProfile:
    """Measure what a network costs: NeuroBench's footprint, sparsity and synaptic operations, firing rates, energy.

    An operation is effective where a weight that is not zero meets an input that is not zero; it is an AC (accumulate)
    where all inputs of the call are spikes (0, 1 or -1), else a MAC; padding and biases count nothing. Layers count as
    often as the network runs them: the published networks run the first convolution once for a constant image, not T
    times; ``every_step`` holds the other convention. SpikingJelly's counters (``MACCounter`` and ``SynOpCounter``, on
    convolutions and linear layers) do not look for pruned weights, and count padding as MACs.

    The model runs in evaluation mode, without gradients, its neurons from rest; hooks, mode, weights, buffers, neuron
    states and torch's random numbers on the CPU are afterwards as before. A fused network is measured as it was
    written.

    Args:
        model: any network with ``Conv1d``, ``Conv2d``, ``Conv3d`` or ``Linear`` layers of torch, SpikingJelly or ours,
            that are called as modules. Neurons of ours, SpikingJelly's, snnTorch's and norse's, and ReLU are known.
        x_or_batches: one input, or an iterable of inputs or of tuples that start with one, such as (images, labels).
        mask: bool tensors by parameter name, such as :class:`snn_sparse.Mask`; pruned weights count as zero.
        neurons: names of other modules whose outputs are spikes.
        batch_axis: dimension of the input that counts samples; None: as the neuron tells that fires first, or a first
            layer that is called step by step; else the first.

    Raises:
        ValueError: no layer to count or none called, no sample, a name or shape that does not fit; named.
        TypeError: an argument of another type; named.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    model = unfuse(model) if isinstance(model, FusedNetwork) else model
    stages = [name for name, module in model.named_modules() if isinstance(module, Stage)]
    if stages:
        raise ValueError(f"model has a Stage ({stages[0]!r}), which runs its layers as one: profile the plain network")
    recorder, samples, timesteps = Recorder(model, neurons), 0, 1
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with _masked(model, mask or {}), recorder.hooked():
            for x in _inputs(x_or_batches):
                n, timesteps = recorder.run(model, x, *_sizes(model, x, batch_axis))
                samples += n
            if not samples:
                raise ValueError("x_or_batches holds no sample")
            return _profile(model, recorder, mask, samples, timesteps)
    finally:
        for module, training in modes:
            module.training = training


def _inputs(x_or_batches: Any) -> Iterator[Tensor]:
    if isinstance(x_or_batches, Tensor):
        x_or_batches = [x_or_batches]
    if not isinstance(x_or_batches, Iterable):
        raise TypeError(f"x_or_batches must be a tensor or an iterable of them, got {type(x_or_batches).__name__}")
    for batch in x_or_batches:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor):
            raise TypeError(f"x_or_batches must hold tensors, or tuples that start with one, got {type(x).__name__}")
        if x.numel():
            yield x


def _sizes(model: nn.Module, x: Tensor, batch_axis: int | None) -> tuple[int | None, int | None]:
    """Samples and timesteps of an input, where they are known."""
    if batch_axis is not None and not -x.dim() <= batch_axis < x.dim():
        raise ValueError(f"batch_axis must be a dimension of the input {tuple(x.shape)}, got {batch_axis}")
    samples = None if batch_axis is None else x.shape[batch_axis]
    if isinstance(model, SpikingNetwork) and x.dim() in (4, 5):
        return samples or x.shape[-4], x.shape[0] if x.dim() == 5 else model.timesteps
    return samples, None


@contextmanager
def _masked(model: nn.Module, mask: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, pruned weights are zero."""
    parameters, kept = dict(model.named_parameters()), []
    for name, keep in mask.items():
        if name not in parameters:
            raise ValueError(f"mask names {name!r}, which is no parameter of the model")
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            raise TypeError(f"mask {name!r} must be a bool tensor")
        if keep.shape != parameters[name].shape:
            raise ValueError(f"mask {name!r} must be {tuple(parameters[name].shape)}, got {tuple(keep.shape)}")
    try:
        for name, keep in mask.items():
            weight = parameters[name].data  # so that no version moves
            kept.append((weight, weight.clone()))
            weight.masked_fill_(~keep.to(weight.device), 0)
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def _profile(
    model: nn.Module, recorder: Recorder, mask: Mapping[str, Tensor] | None, samples: int, timesteps: int
) -> NetworkProfile:
    if not recorder.order:
        raise ValueError("model calls no convolution or linear layer as a module, so nothing could be counted")
    records = {name: recorder.layers[name] for name in (*recorder.order, *recorder.layers)}
    layers = tuple(_layer(name, record, samples) for name, record in records.items())
    called = {name: r for name, r in recorder.neurons.items() if r.outputs}
    outputs, nonzero = (sum(getattr(r, key) for r in called.values()) for key in ("outputs", "nonzero"))
    weights, live = sum(layer.weights for layer in layers), sum(layer.live for layer in layers)
    keep = mask or {f"{name}.weight": weight_of(r.layer) != 0 for name, r in records.items()}
    full, ticket = footprints(model, keep)
    return NetworkProfile(
        samples,
        timesteps,
        full,
        ticket,
        100.0 * (1 - live / weights),
        100.0 * (1 - nonzero / outputs) if outputs else None,
        sum((r.total for r in records.values()), Operations()) * (1 / samples),
        sum((r.every_step for r in records.values()), Operations()) * (1 / samples),
        layers,
        tuple(NeuronProfile(n, r.outputs / samples, 100.0 * r.nonzero / r.outputs) for n, r in called.items()),
    )


def _layer(name: str, record: LayerRecord, samples: int) -> LayerProfile:
    counter = record.counter
    operations = record.total * (1 / samples)
    return LayerProfile(name, counter.weights, counter.live, operations, record.constant, record.neuron)
