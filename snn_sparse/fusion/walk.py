"""The walk over a rolled-up graph: where each value is, and the stages that may still grow."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from snn_sparse.fusion.arrange import Arrangement, arrangement, maps
from snn_sparse.fusion.axes import Atom, Axes, Dim, Form, resolve, size_of
from snn_sparse.fusion.capture import CannotCapture
from snn_sparse.fusion.sites import Site, Sites
from snn_sparse.nn.stage import Stage, StageSettings
from snn_sparse.ops.spikes import Sizes

Tensor = torch.Tensor
VIEWS = {
    torch.reshape, torch.permute, torch.unsqueeze, torch.squeeze, torch.transpose, torch.movedim, Tensor.expand,
    Tensor.repeat, Tensor.contiguous, torch.clone,
}  # fmt: skip


@dataclass
class Open:
    """A stage that may still grow.

    Attributes:
        x: node of the input.
        sizes: of the input (T or 1, N, C, H, W).
        dims: of the output.
        last: the old node that joined last.
        conv, norm, neuron, norm_residual: its layers.
        residual: node of the residual.
        pool: whether a 2x2 max-pool follows the neuron.
        timesteps: T of the neuron.
        full: dimensions of the output with the timesteps that only the residual has.
        settings: how the layers are called.
    """

    x: fx.Node
    sizes: Sizes
    dims: Form
    last: fx.Node
    conv: Site | None = None
    norm: Site | None = None
    neuron: Site | None = None
    norm_residual: Site | None = None
    residual: fx.Node | None = None
    pool: bool = False
    timesteps: int | None = None
    full: Form | None = None
    settings: StageSettings = field(default_factory=StageSettings)

    def set(self, **changes: Any) -> None:
        """Change the settings."""
        self.settings = replace(self.settings, **changes)

    @property
    def bare(self) -> bool:
        """Whether nothing stands behind its convolution yet."""
        return self.norm is None and self.neuron is None and self.residual is None


@dataclass
class Value:
    """Where the value of an old node is: a new node with these dimensions, or a stage that may still grow."""

    node: fx.Node | None
    dims: Form
    open: Open | None = None


class Walk:
    """All that has been written so far.

    Args:
        graph: rolled up.
        sites: what the modules at ``call_module`` nodes are.

    Attributes:
        new: the graph of stages.
        stages: by the name under which ``new`` calls them.
        left: modules that are called as they were -> why.
    """

    def __init__(self, graph: fx.Graph, sites: Sites) -> None:
        self.old, self.new, self.sites = graph, fx.Graph(), sites
        self.axes = Axes(graph, sites.kind_of)
        self.values: dict[fx.Node, Value] = {}
        self.nodes: dict[fx.Node, fx.Node] = {}  # of values that are no tensors
        self.stages: dict[str, Stage] = {}
        self.left: dict[str, str] = {}
        self._arranged: dict[tuple[fx.Node, Arrangement], fx.Node] = {}
        self._batch: set[Atom] = set()
        self._no_batch: set[Atom] = set()

    def emit(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Write a function's call."""
        return self.new.call_function(target, args)

    # ---- values

    def dims(self, x: fx.Node) -> Form:
        """The dimensions of a value as it lies."""
        return [resolve(dim) for dim in self.values[x].dims]

    def time_missing(self, x: fx.Node) -> Dim:
        """The timesteps along which a value is constant, if it is."""
        return [a for a in self.axes.absent(x) if a.time][:1]

    def closed(self, x: fx.Node) -> Value:
        """The value of an old node, whose stage does not grow any more."""
        value = self.values[x]
        if value.open is not None:
            self.close(value.open)
        return value

    def arranged(self, x: fx.Node, want: Form, missing: set[Atom] | None = None) -> fx.Node | None:
        """The value of an old node in other dimensions; None: it is not made of these atoms.

        Args:
            x: the old node.
            want: the dimensions.
            missing: atoms along which it is constant and that it need not have.
        """
        value = self.closed(x)
        have = self.dims(x)
        absent = self.axes.absent(x) - {a for dim in have for a in dim}
        how = arrangement(have, want, [size_of(dim) for dim in have], absent, missing or set())
        if how is None or value.node is None:
            return None
        if how.nothing:
            return value.node
        if (value.node, how) not in self._arranged:
            self._arranged[value.node, how] = how.apply(value.node, self.emit)
        return self._arranged[value.node, how]

    def original(self, x: fx.Node) -> fx.Node:
        """The value of an old node as the network has it."""
        if x not in self.values:
            return self.nodes[x]
        found = self.arranged(x, self.axes.form(x))
        if found is None:
            raise CannotCapture(f"the compiler lost track of the dimensions of {x.name}")
        return found

    def target(self, x: fx.Node, channels: Dim, height: Dim, width: Dim) -> Form:
        """The dimensions [T, N, C, H, W] in which a layer with these channels and pixels reads ``x``."""
        inner = {*channels, *height, *width}
        outer = [a for dim in self.axes.form(x) for a in dim if a not in inner]
        time = [a for a in outer if a.time][:1]
        lying = [a for dim in self.dims(x) for a in dim]  # in this order, nothing is moved
        batch = sorted((a for a in outer if a not in time), key=lambda a: lying.index(a) if a in lying else -1)
        return maps(time, batch, channels, height, width)

    # ---- stages

    def open(self, node: fx.Node, stage: Open, want: Form) -> None:
        """Begin a stage at an old node; ``want`` are the dimensions in which it reads."""
        self._batch.update(want[1])
        self._no_batch.update(a for dim in want[2:] for a in dim)
        self.values[node] = Value(None, stage.dims, stage)

    def join(self, node: fx.Node, stage: Open) -> None:
        """Let the stage's output be the value of an old node too."""
        stage.last = node
        self.values[node] = Value(None, stage.dims, stage)

    def close(self, o: Open) -> fx.Node:
        """Write a stage that does not grow any more."""
        node = self._write(o)
        for value in self.values.values():
            if value.open is o:
                value.node, value.open = node, None
        return node

    def _write(self, o: Open) -> fx.Node:
        if o.residual is not None and o.neuron is None:
            return self._sum(o)
        parts = [s for s in (o.conv, o.norm, o.norm_residual, o.neuron) if s is not None]
        given = (o.x,) if o.residual is None else (o.x, o.residual)
        sites = (o.conv, o.norm, o.norm_residual, o.neuron)
        conv, norm, other, neuron = (None if s is None else s.module for s in sites)
        o.set(timesteps=o.timesteps)
        stage = Stage(conv, norm, neuron, norm_residual=other, pool=o.pool, settings=o.settings)
        title = _title([s.name for s in parts])
        while f"fused_stages.{title}" in self.stages:
            title += "_again"
        name = f"fused_stages.{title}"
        self.stages[name] = stage
        node = self.new.create_node("call_module", name, given, name=title)
        node.meta |= {"stage": stage, "sizes": o.sizes, "parts": [s.name for s in parts]}
        return node

    def _sum(self, o: Open) -> fx.Node:
        """Write the sum of two branches that no neuron took after all."""
        assert o.residual is not None
        right, left, settings = o.residual, o.x, StageSettings(norm=o.settings.norm_residual)
        full: Any = tuple(size_of(d) for d in o.full or o.dims)
        if o.norm_residual is not None:
            right = self._write(Open(right, full, o.dims, o.last, norm=o.norm_residual, settings=settings))
        if o.conv is not None or o.norm is not None:
            left = self._write(replace(o, residual=None, norm_residual=None))
        o.dims = o.full or o.dims
        for value in self.values.values():
            if value.open is o:
                value.dims = o.dims
        return self.emit(torch.add, (left, right))

    def growing(self, x: Any, node: fx.Node) -> Open | None:
        """The open stage that ``x`` comes from, if ``node`` is the only one to read it."""
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        if value is None or value.open is None or self.reader(value.open.last) is not node:
            return None
        return value.open

    def reader(self, node: fx.Node) -> fx.Node | None:
        """The only reader of a node, behind views; None: there are several, or it leaves the network."""
        while len(node.users) == 1:
            user = next(iter(node.users))
            if user.op == "output":
                return None
            if not (user.target in VIEWS and user in self.axes.forms and self.same_atoms(user, node)):
                return user
            node = user
        return None

    def same_atoms(self, node: fx.Node, x: fx.Node) -> bool:
        """Whether two values hold the same entries, in whatever arrangement."""
        ours, theirs = ({a for dim in self.axes.form(n) for a in dim} - self.axes.absent(n) for n in (node, x))
        return ours == theirs

    def batch_dimensions(self) -> dict[int, int]:
        """Number of an input -> its dimension that is the batch, as far as the stages tell."""
        batch, found = set(resolve(self._batch)) - set(resolve(self._no_batch)), {}
        for i, node in enumerate(n for n in self.old.nodes if n.op == "placeholder"):
            for d, dim in enumerate(self.axes.form(node)):
                if len(dim) == 1 and dim[0] in batch and not dim[0].time:
                    found[i] = d
        return found


def _title(names: list[str]) -> str:
    """Name a stage by its layers; what they share is said once."""
    first, *others = names
    shared = first.rpartition(".")[0]
    short = [n.removeprefix(f"{shared}.") if shared else n for n in others]
    return "__".join(n.replace(".", "_") for n in (first, *short))
