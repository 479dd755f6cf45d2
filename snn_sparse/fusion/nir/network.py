"""A graph of NIR as a network."""

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion.nir.layers import parameter_dtype, torch_layer
from snn_sparse.fusion.nir.package import check_dt, require_nir
from snn_sparse.ops import Surrogate


class NIRNetwork(nn.Module):
    """The layers of a graph; each takes the sum of what its sources give.

    Args:
        layers: by name of the node; they become submodules of that name, dots separating levels.
        sources: for each layer, and for ``output``, the nodes whose outputs it takes, in the order to run them.
        first: name of the input node.
        output: name of the output node.
        sample: shape of one sample at one timestep.
        timesteps: T of a constant input; None: it takes sequences only.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sources: Mapping[str, tuple[str, ...]],
        first: str,
        output: str,
        sample: tuple[int, ...],
        timesteps: int | None = None,
    ) -> None:
        super().__init__()
        if timesteps is not None and (isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1):
            raise ValueError(f"timesteps must be an integer of at least 1 or None, got {timesteps!r}")
        self.timesteps, self.sample = timesteps, sample
        self.first, self.output, self.sources = first, output, dict(sources)
        self.paths: dict[str, str] = {}
        for name, layer in layers.items():
            self.paths[name] = _place(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output ``[T, N, ...]`` for a sequence ``[T, N, ...]``, or for a constant input ``[N, ...]``.

        Raises:
            ValueError: wrong shape.
        """
        if x.dim() == len(self.sample) + 1 and self.timesteps is not None:
            x = x.expand(self.timesteps, *x.shape)
        if x.dim() != len(self.sample) + 2 or x.shape[2:] != self.sample:
            raise ValueError(f"x must be [T, N, ...] (or [N, ...]) with ... = {self.sample}, got {tuple(x.shape)}")
        made = {self.first: x}
        for name, sources in self.sources.items():
            total = made[sources[0]]
            for source in sources[1:]:
                total = total + made[source]
            made[name] = total if name == self.output else self.get_submodule(self.paths[name])(total)
        return made[self.output]


def _place(network: nn.Module, name: str, layer: nn.Module) -> str:
    """Add a submodule under its node's name, as far as Python lets it have that name; returns its path."""
    parent, path = network, []
    parts = [re.sub(r"\W", "_", part) or "_" for part in name.split(".")]
    for last, part in zip([False] * (len(parts) - 1) + [True], parts, strict=True):
        while hasattr(parent, part) and (last or type(getattr(parent, part)) is not nn.Module):
            part += "_"
        if not hasattr(parent, part):
            parent.add_module(part, layer if last else nn.Module())
        parent = getattr(parent, part)
        path.append(part)
    return ".".join(path)


def from_nir(
    graph: Any,
    timesteps: int | None = None,
    dt: float = 1.0,
    surrogate: str | Surrogate = "atan",
) -> NIRNetwork:
    """Build the network that a NIR graph describes from our layers and torch's.

    Nodes: ``Affine``, ``Linear``, ``Conv1d``, ``Conv2d``, ``SumPool2d``, ``AvgPool2d``, ``Flatten``, ``LIF``, ``IF``,
    one ``Input`` and one ``Output``, no cycle. Parameters have the widest of the weights' dtypes. A layer has the name
    of its node, so a network that :func:`to_nir` described has its old names; convolutions have a bias, batch norms are
    gone.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file that ``nir.write`` has written.
        timesteps: T of a constant input ``[N, ...]``; None: the network takes sequences ``[T, N, ...]`` only.
        dt: length of a timestep, in the unit of the graph's time constants.
        surrogate: of the neurons, for training; NIR has none.

    Raises:
        ValueError: a node that our layers cannot compute, which the message names, or a file that is no NIR graph.
        FileNotFoundError: no such file. ImportError: ``nir`` is missing.
    """
    nir, dt = require_nir(), check_dt(dt)
    if isinstance(graph, str | Path):
        graph = _read(Path(graph))
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph or the path of a file, got {type(graph).__name__}")
    first, output = (_only(graph, kind) for kind in (nir.Input, nir.Output))
    sources = _sources(graph, first)
    layers = {name: torch_layer(name, graph.nodes[name], dt, surrogate) for name in sources if name != output}
    sample = graph.nodes[first].input_type["input"]
    if sample is None:
        raise ValueError(f"node {first!r} has no shape")
    network = NIRNetwork(layers, sources, first, output, tuple(int(n) for n in sample), timesteps)
    return network.to(parameter_dtype(graph.nodes.values()))


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no NIR file at {path}")
    try:
        return require_nir().read(path, type_check=False)  # its check mistakes groups and kernels that are not square
    except Exception as error:  # h5py and nir raise whatever they stumble over
        raise ValueError(f"{path} is no file of a NIR graph ({type(error).__name__}: {error})") from error


def _only(graph: Any, kind: type) -> str:
    found = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        raise ValueError(f"graph must have one {kind.__name__} node, got {len(found)}")
    return found[0]


def _sources(graph: Any, first: str) -> dict[str, tuple[str, ...]]:
    """The nodes that each node reads, in an order in which they can run; the input node is left out."""
    sources: dict[str, tuple[str, ...]] = dict.fromkeys(graph.nodes, ())
    for source, target in graph.edges:
        for name in (source, target):
            if name not in sources:
                raise ValueError(f"an edge names a node {name!r} that the graph does not have")
        sources[target] += (source,)
    if sources.pop(first):
        raise ValueError(f"an edge leads to the input node {first!r}")
    for name, given in sources.items():
        if not given:
            raise ValueError(f"no edge leads to node {name!r}")
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        raise ValueError(f"graph has a cycle through {error.args[1][0]!r}: recurrent networks are not read") from None
    return {name: sources[name] for name in order if name != first}
