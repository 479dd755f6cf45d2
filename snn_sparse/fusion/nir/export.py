"""A network as a graph of NIR."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_sparse.fusion.network import FusedNetwork, unfuse
from snn_sparse.fusion.nir.neurons import neuron_node
from snn_sparse.fusion.nir.nodes import (
    CONVOLUTIONS,
    LINEAR,
    NORMS,
    POOLS,
    Shape,
    conv_node,
    flatten_node,
    fold_norm,
    linear_node,
    mean_node,
    pool_node,
)
from snn_sparse.fusion.nir.package import check_dt, require_nir
from snn_sparse.fusion.nir.recording import Step, record
from snn_sparse.nn import IF, LIF, Neuron, ParametricLIF

NEURONS = (LIF, IF, ParametricLIF)
KNOWN = (*NEURONS, *LINEAR, *CONVOLUTIONS, *POOLS, *NORMS)
ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
# Functions and layers that leave the elements in their order.
RESHAPES = {"flatten", "unflatten", "reshape", "view", "squeeze", "contiguous", "clone", "detach"}
RESHAPING = (nn.Flatten, nn.Unflatten)


def to_nir(model: nn.Module, example: torch.Tensor, dt: float = 1.0) -> Any:
    """Describe a network as a ``nir.NIRGraph``, which ``nir.write`` stores in a file.

    Layers: ``Linear``, ``Conv1d``, ``Conv2d``, ``AvgPool2d``, ``Flatten`` (torch's or ours), our ``LIF``, ``IF`` and
    ``ParametricLIF`` with a hard reset; a batch norm, with its running statistics, goes into the convolution or linear
    layer before it. Between them: additions of layers' outputs, reshapes, averages of whole maps. NIR has no max-pool,
    no soft reset and no surrogate. Nodes have the names of the layers.

    ``nir.read`` mistakes the sizes behind grouped convolutions and kernels that are not square; it reads such a file
    with ``type_check=False``.

    Args:
        model: described as it evaluates, and not changed; a fused network as what it was before.
        example: a sequence ``[T, N, ...]`` that it takes, N at least 2, with the sizes of one sample that NIR asks for.
        dt: length of a timestep, in the unit that time constants shall have in the graph; other frameworks often take
            ``1e-4`` (seconds).

    Raises:
        ValueError: NIR cannot express a layer or function, which the message names. TypeError: ``model`` is no module.
        ImportError: ``nir`` is missing.
    """
    require_nir()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unfuse(model) if isinstance(model, FusedNetwork) else model
    if not isinstance(example, torch.Tensor) or example.dim() < 3 or example.shape[0] < 1 or example.shape[1] < 2:
        shape = tuple(example.shape) if isinstance(example, torch.Tensor) else type(example).__name__
        raise ValueError(f"example must be a sequence [T, N, ...] with N >= 2, got {shape}")
    steps, last = record(copy.deepcopy(model).eval(), example, lambda m: isinstance(m, Neuron) or type(m) in KNOWN)
    return _Export(steps, last, check_dt(dt)).graph()


class _Export:
    """Translates steps into nodes.

    Attributes:
        made: for each step, the names of the nodes whose outputs add up to its result.
    """

    def __init__(self, steps: list[Step], last: int, dt: float) -> None:
        self.steps, self.last, self.dt = steps, last, dt
        self.times = steps[0].shape[:2]
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.made: dict[int, tuple[str, ...]] = {}
        self.needed = self._needed()

    def _needed(self) -> list[int]:
        """The steps that the output depends on, in order."""
        needed, left = {self.last}, [self.last]
        while left:
            for source in self.steps[left.pop()].sources:
                if source is not None and source not in needed:
                    needed.add(source)
                    left.append(source)
        return sorted(needed)

    def graph(self) -> Any:
        nir = require_nir()
        if self.needed[0] != 0:
            raise ValueError("model must return one tensor that it computes from its input")
        sample = self.sample(self.steps[0], self.steps[0].shape)
        self.made[0] = (self.add("input", nir.Input({"input": np.array(sample)}), (), sample, sample),)
        for number in self.needed[1:]:
            self.made[number] = self.translate(self.steps[number])
        sample = self.sample(self.steps[self.last], self.steps[self.last].shape)
        self.add("output", nir.Output({"output": np.array(sample)}), self.made[self.last], sample, sample)
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges)

    def merged(self, shape: Shape) -> bool:
        """Whether T and N are one axis of a tensor.

        Raises:
            ValueError: they are not its first axes at all.
        """
        if shape[:2] == self.times:
            return False
        if shape[:1] == (math.prod(self.times),):
            return True
        raise ValueError(f"T and N, which are {self.times}, must stay the first axes; they do not in shape {shape}")

    def sample(self, step: Step, shape: Shape) -> Shape:
        """Shape of one sample at one timestep."""
        try:
            return shape[1 if self.merged(shape) else 2 :]
        except ValueError as error:
            raise ValueError(f"NIR cannot express {step.name!r}: {error}") from None

    def add(self, name: str, node: Any, sources: tuple[str, ...], before: Shape, after: Shape) -> str:
        """Add a node and the edges to it; returns its name."""
        if len(set(sources)) < len(sources):
            raise ValueError(f"NIR cannot express what {name!r} takes: twice the output of {sources[0]!r}")
        unique, count = name, 1
        while unique in self.nodes:
            unique, count = f"{name}_{count}", count + 1
        # nir itself gets these wrong for groups and for kernels that are not square.
        node.input_type, node.output_type = {"input": np.array(before)}, {"output": np.array(after)}
        self.nodes[unique] = node
        self.edges += [(source, unique) for source in sources]
        return unique

    def translate(self, step: Step) -> tuple[str, ...]:
        """Make the nodes of a step."""
        if None in step.sources:
            raise ValueError(f"NIR cannot express {step.name!r}: it takes a tensor that does not come from the input")
        function = "" if isinstance(step.call, nn.Module) else getattr(step.call, "__name__", "")
        if function in ADDITIONS:
            return self.addition(step)
        if len(step.sources) != 1:
            raise ValueError(f"NIR cannot express {step.name!r}: it takes {len(step.sources)} tensors")
        before, after = self.sample(step, step.shapes[0]), self.sample(step, step.shape)
        sources = self.made[step.sources[0]]  # type: ignore[index]
        if isinstance(step.call, RESHAPING) or function in RESHAPES:
            if before == after:
                return sources
            name = step.name if isinstance(step.call, RESHAPING) else "flatten"
            return (self.add(name, flatten_node(step.name, before, after), sources, before, after),)
        if function == "mean":
            return self.mean(step, sources, before, after)
        if type(step.call) in NORMS:
            return self.norm(step, sources, before)
        node = self.layer(step, before)
        return (self.add(step.name, node, sources, before, after),)

    def addition(self, step: Step) -> tuple[str, ...]:
        same = len(step.sources) == 2 and step.shapes[0] == step.shapes[1]
        if not same or step.kwargs.get("alpha", 1) != 1:
            raise ValueError(f"NIR cannot express {step.name!r}: only two outputs of layers of equal shape are added")
        return self.made[step.sources[0]] + self.made[step.sources[1]]  # type: ignore[index]

    def mean(self, step: Step, sources: tuple[str, ...], before: Shape, after: Shape) -> tuple[str, ...]:
        dims = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else ())
        rank = len(step.shapes[0])
        axes = sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank)))
        if len(before) != 3 or axes != [rank - 2, rank - 1]:
            raise ValueError(f"NIR cannot express {step.name!r}: only whole maps [H, W] are averaged")
        pooled = (before[0], 1, 1)
        name = self.add("mean", mean_node(before), sources, before, pooled)
        if after == pooled:
            return (name,)
        return (self.add("flatten", flatten_node(step.name, pooled, after), (name,), pooled, after),)

    def norm(self, step: Step, sources: tuple[str, ...], sample: Shape) -> tuple[str, ...]:
        nir = require_nir()
        node = self.nodes[sources[0]]
        foldable = len(sources) == 1 and isinstance(node, nir.Linear | nir.Affine | nir.Conv1d | nir.Conv2d)
        if not foldable or self.readers(sources[0]) != 1:
            raise ValueError(
                f"NIR cannot express layer {step.name!r}: a batch norm goes into the convolution or linear layer right "
                "before it, whose output nobody else reads"
            )
        if isinstance(step.call, nn.BatchNorm1d) and not self.merged(step.shapes[0]):
            raise ValueError(f"NIR cannot express layer {step.name!r}: BatchNorm1d of [T, N, C] takes N for channels")
        folded = fold_norm(step.name, node, step.call)
        folded.input_type, folded.output_type = node.input_type, node.output_type
        self.nodes[sources[0]] = folded
        return sources

    def readers(self, node: str) -> int:
        """How many steps take the output of a node, reshapes of T and N not counted."""
        holders = {n for n, names in self.made.items() if node in names}
        taken = [s for n in self.needed for s in self.steps[n].sources if s in holders and n not in holders]
        return len(taken) + (self.last in holders)

    def layer(self, step: Step, sample: Shape) -> Any:
        """The node of a layer that computes on samples of one shape."""
        layer, axes = step.call, len(sample)
        kind: Any = type(layer)
        if kind in NEURONS and not self.merged(step.shapes[0]):
            return neuron_node(step.name, layer, sample, self.dt)  # type: ignore[arg-type]
        if kind in LINEAR and axes == 1:
            return linear_node(layer)
        if CONVOLUTIONS.get(kind) == axes:
            return conv_node(step.name, layer, sample)
        if kind in POOLS and axes == 3:
            return pool_node(step.name, layer)  # type: ignore[arg-type]
        if kind in KNOWN:
            raise ValueError(f"NIR cannot express layer {step.name!r}: its input has shape {step.shapes[0]}")
        what = f"layer {step.name!r} ({kind.__name__})" if isinstance(layer, nn.Module) else f"{step.name!r}"
        raise ValueError(
            f"NIR cannot express {what}; it has convolutions, linear layers, sum and average pools, LIF, IF"
        )
