"""Plan: memory formats, packed spikes and the way of each convolution, decided on the edges of a graph of stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from snn_sparse.nn.convolve import ConvPlan, plan
from snn_sparse.nn.stage import Stage, StagePlan
from snn_sparse.ops import Packed, unpack_spikes
from snn_sparse.ops.backend import implementation
from snn_sparse.ops.spikes import NCHW, NHWC, PACKED, MemoryFormat, Sizes, convert

Tensor = torch.Tensor


class Convert(nn.Module):
    """A value [T, N, C, H, W] in another memory format."""

    def __init__(self, sizes: Sizes, old: MemoryFormat, new: MemoryFormat) -> None:
        super().__init__()
        self.sizes, self.old, self.new = sizes, old, new

    def forward(self, x: Any) -> Tensor:
        """Rearrange it, or unpack it."""
        if isinstance(x, Packed):
            return unpack_spikes(x)
        return convert(x, self.sizes, self.old, self.new)

    def extra_repr(self) -> str:
        """Both formats."""
        return f"{name_of(self.old)} -> {name_of(self.new)}"


def name_of(memory_format: MemoryFormat) -> str:
    """A memory format in a word."""
    return memory_format.kind + (f" {memory_format.vectors}" if memory_format.vectors else "")


@dataclass
class _Held:
    """Facts about a value: its sizes, memory format, and whether it holds zeros and ones only."""

    memory_format: MemoryFormat = NCHW
    sizes: Sizes | None = None
    binary: bool = False


_BINARY = {torch.reshape, torch.permute, Tensor.expand, torch.select, torch.clone}


class Planner:
    """Writes the graph that runs: stages that know how they compute, and conversions where formats differ.

    Args:
        graph: of stages.
        stages: by name.
        like: an empty tensor of the network's dtype and device.
    """

    def __init__(self, graph: fx.Graph, stages: Mapping[str, Stage], like: Tensor) -> None:
        self._old, self._stages, self._like = graph, stages, like
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self._held: dict[fx.Node, _Held] = {}
        self._new: dict[fx.Node, fx.Node] = {}
        self._converted: dict[tuple[fx.Node, str], fx.Node] = {}
        self._convs: dict[fx.Node, ConvPlan] = {}

    def run(self) -> tuple[fx.Graph, dict[str, nn.Module]]:
        """The graph and its modules by name."""
        for node in self._old.nodes:
            self._look(node)
        for node in self._old.nodes:
            if self._is_stage(node):
                self._stage(node)
            else:
                self._new[node] = self.graph.node_copy(node, lambda v: self._in(v, self._ordinary(v)))
        return self.graph, self.modules

    def _is_stage(self, node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in self._stages

    def _look(self, node: fx.Node) -> None:
        """Decide what a node's value is like, before anything is written: readers decide about writers."""
        if self._is_stage(node):
            stage, x = self._stages[str(node.target)], node.args[0]
            assert isinstance(x, fx.Node)
            sizes = node.meta["sizes"]
            if stage.conv is not None:
                self._convs[node] = plan(stage.conv, sizes, self._held[x].binary, None)
                sizes = self._convs[node].sizes
            self._held[node] = _Held(NCHW, sizes, stage.neuron is not None and not stage.settings.potentials)
            return
        x = node.args[0] if node.args else None
        binary = isinstance(x, fx.Node) and x in self._held and self._held[x].binary
        keeps = node.target in _BINARY or getattr(node.target, "__name__", "") == "max_pool2d"
        self._held[node] = _Held(binary=binary and keeps)

    def _ordinary(self, node: fx.Node) -> MemoryFormat:
        held = self._held[node].memory_format
        return NCHW if held.kind in ("lanes", "packed") else held

    def _in(self, node: fx.Node, wanted: MemoryFormat) -> fx.Node:
        """A value in a memory format."""
        held = self._held[node]
        if held.memory_format == wanted or (wanted == NCHW and held.memory_format == NHWC):
            return self._new[node]
        key = (node, name_of(wanted))
        if key not in self._converted:
            name = f"{node.name}_as_{name_of(wanted).replace(' ', '_')}"
            assert held.sizes is not None
            self.modules[name] = Convert(held.sizes, held.memory_format, wanted)
            self._converted[key] = self.graph.create_node("call_module", name, (self._new[node],), name=name)
        return self._converted[key]

    # ---- stages

    def _stage(self, node: fx.Node) -> None:
        stage, x = self._stages[str(node.target)], node.args[0]
        assert isinstance(x, fx.Node)
        if self._held[x].sizes is None:
            self._held[x].sizes = node.meta["sizes"]
        conv = self._convs.get(node)
        source = self._held[x].memory_format if conv is None else self._source(conv, x)
        if conv is None and source == PACKED:
            source = NCHW
        sizes = node.meta["sizes"] if conv is None else conv.sizes
        main = source if conv is None else NHWC if conv.memory_format == PACKED else conv.memory_format
        given = [self._in(x, source)]
        residual = node.args[1] if len(node.args) > 1 else None
        what, other = implementation("neuron", self._like), main
        if isinstance(residual, fx.Node):
            other = self._held[residual].memory_format
            if what != "cpp" and not (what == "triton" and other == PACKED and stage.norm_residual is None):
                other = self._ordinary(residual)
            given.append(self._in(residual, other))
        timesteps = stage.settings.timesteps or sizes[0]
        out = self._out(node, main, what)
        found = StagePlan(what, timesteps, sizes, conv, source, main, other, out, self._whole(stage, conv))
        name = str(node.target)
        self.modules[name] = stage.planned(found)
        kwargs: dict[str, Any] = {k: self._in(v, NCHW) for k, v in node.kwargs.items() if isinstance(v, fx.Node)}
        self._new[node] = self.graph.create_node("call_module", name, tuple(given), kwargs, name=node.name)
        pooled = (*sizes[1:3], sizes[3] // 2, sizes[4] // 2) if stage.pool else sizes[1:]
        self._held[node].sizes = (timesteps if stage.neuron is not None else sizes[0], *pooled)
        self._held[node].memory_format = out

    def _source(self, conv: ConvPlan, x: fx.Node) -> MemoryFormat:
        """The format in which a convolution reads."""
        held = self._held[x].memory_format
        if conv.memory_format == PACKED:
            return PACKED if held == PACKED else self._ordinary(x)
        return self._ordinary(x) if conv.implementation == "triton" else conv.memory_format

    def _whole(self, stage: Stage, conv: ConvPlan | None) -> bool:
        if conv is None or conv.configuration.directions.spikes is None:
            return False
        if stage.neuron is None or stage.neuron.keeps_state or stage.settings.potentials:  # it gives spikes alone
            return False
        return not (stage.pool and conv.configuration.directions.spikes.pixel_major)

    def _out(self, node: fx.Node, main: MemoryFormat, what: str) -> MemoryFormat:
        """The format to write: that of the first reader, so that nothing is converted between two stages."""
        stage = self._stages[str(node.target)]
        ordinary = NCHW if main.kind == "lanes" else main
        if stage.neuron is None:
            return main if stage.norm is None else ordinary
        if stage.settings.potentials or what == "plain":
            return NCHW
        order = {reader: i for i, reader in enumerate(self._old.nodes)}
        readers = sorted(node.users, key=order.__getitem__)
        first = readers[0] if readers else None
        if what == "triton":
            packs = any(
                r in self._convs and self._convs[r].memory_format == PACKED and r.args[0] is node for r in readers
            )
            return PACKED if packs else ordinary
        if first is None or not self._is_stage(first):
            return NCHW
        if first.args[0] is node and first in self._convs:
            return self._convs[first].memory_format
        return main


def planned(
    graph: fx.Graph, stages: Mapping[str, Stage], model: nn.Module, inline: Mapping[str, nn.Module], like: Tensor
) -> fx.GraphModule:
    """Plan a graph of stages for one way of computing.

    Args:
        graph: of :func:`snn_sparse.fusion.stages.build`.
        stages: by name.
        model: the network, whose other modules and tensors the graph calls and reads.
        inline: neurons that were cut out of a loop, by name.
        like: an empty tensor of the network's dtype and device.
    """
    found, modules = Planner(graph, stages, like).run()
    read = [n for n in found.nodes if n.op == "get_attr"]
    held = {str(n.target): attrgetter(str(n.target))(model) for n in read}
    for node in found.nodes:
        if node.op == "call_module" and node.target not in modules:
            name = str(node.target)
            modules[name] = inline[name] if name in inline else model.get_submodule(name)
    planned_module = fx.GraphModule({**held, **modules}, found)
    for node in read:  # where they are now, not as they were: who loads, shards or replaces parameters is heard
        node.target = f"network.{node.target}"
    planned_module.__dict__["network"] = model  # no child: it is this one's parent
    planned_module.recompile()
    return planned_module
