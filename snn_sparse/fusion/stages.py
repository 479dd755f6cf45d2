"""Stages: convolution, batch norm, residual, neuron and pool of a rolled-up graph, joined where they follow each other.

The graph is walked once. A layer opens a stage, and what follows it, if nobody else reads what is between, joins the
stage; views in between are only remembered (:mod:`snn_sparse.fusion.axes`), so that stages hand each other [T, N, C, H,
W] whatever way the network merges, splits and transposes. What is no part of a stage stays as it was written, on the
arrangement that it was written for.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion import lift as lifts
from snn_sparse.fusion.arrange import Arrangement, arrangement, dims_of, maps
from snn_sparse.fusion.axes import Atom, Axes, Dim, Form, regroup, resolve, size_of
from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.sites import Site, Sites
from snn_sparse.fusion.tidy import shape_of
from snn_sparse.nn.norm import NormSettings
from snn_sparse.nn.stage import Stage, StageSettings
from snn_sparse.ops.spikes import Sizes

Tensor = torch.Tensor
VIEWS = {
    torch.reshape, torch.permute, torch.unsqueeze, torch.squeeze, torch.transpose, torch.movedim, Tensor.expand,
    Tensor.repeat, Tensor.contiguous, torch.clone,
}  # fmt: skip


@dataclass
class Value:
    """Where the value of an old node is: a new node whose dimensions are ``dims``; ``open``: a stage that may grow."""

    node: fx.Node | None
    dims: Form
    open: "Open | None" = None


@dataclass
class Open:
    """A stage that may still grow.

    Attributes:
        x: node of the input.
        sizes: of the input (T or 1, N, C, H, W).
        dims: of the output.
        parts: names of its modules.
        old: the last old node that joined.
    """

    x: fx.Node
    sizes: Sizes
    dims: Form
    old: fx.Node
    conv: Site | None = None
    norm: Site | None = None
    neuron: Site | None = None
    residual: "Value | None" = None
    norm_residual: Site | None = None
    pool: bool = False
    timesteps: int | None = None
    settings: StageSettings = field(default_factory=StageSettings)


class Builder:
    """Writes the graph of stages.

    Args:
        graph: rolled up.
        sites: what the modules at ``call_module`` nodes are.
    """

    def __init__(self, graph: fx.Graph, sites: Sites) -> None:
        self.old, self.new, self._sites = graph, fx.Graph(), sites
        self._axes = Axes(graph, sites.kind_of)
        self._values: dict[fx.Node, Value] = {}
        self._nodes: dict[fx.Node, fx.Node] = {}
        self._arranged: dict[tuple[Any, ...], fx.Node] = {}
        self.stages: dict[str, Stage] = {}
        self._roles: dict[str, set[Atom]] = {"batch": set(), "other": set()}
        self.left: dict[str, str] = {}

    def run(self) -> fx.Graph:
        """Walk the graph."""
        for node in self.old.nodes:
            if node.op == "output":
                leaves = [self.original(v) if isinstance(v, fx.Node) else v for v in node.args[0]]
                self.new.output(leaves)
            elif not self._known(node):
                self._copy(node)
        return self.new

    def batch_dimensions(self) -> dict[int, int]:
        """Input's place -> the dimension that is its batch, as far as the stages tell."""
        batch = set(resolve(self._roles["batch"])) - set(resolve(self._roles["other"]))
        found = {}
        for i, node in enumerate(n for n in self.old.nodes if n.op == "placeholder"):
            for d, dim in enumerate(self._axes.form(node)):
                if len(dim) == 1 and dim[0] in batch and not dim[0].time:
                    found[i] = d
        return found

    # ---- values

    def emit(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Write a function's call."""
        return self.new.call_function(target, args)

    def arranged(self, old: fx.Node, want: Form, missing: set[Atom] | None = None) -> fx.Node | None:
        """The value of an old node in other dimensions; None: it is not made of these atoms."""
        value = self._closed(old)
        how = self._arrangement(old, value, want, missing or set())
        if how is None or value.node is None:
            return None
        if how.nothing:
            return value.node
        key = (value.node, how)
        if key not in self._arranged:
            self._arranged[key] = how.apply(value.node, self.emit)
        return self._arranged[key]

    def _arrangement(self, old: fx.Node, value: Value, want: Form, missing: set[Atom]) -> Arrangement | None:
        have = [resolve(dim) for dim in value.dims]
        absent = self._axes.absent(old)
        shape = [size_of(dim) for dim in have]
        return arrangement(have, want, shape, absent - {a for dim in have for a in dim}, missing)

    def original(self, old: fx.Node) -> fx.Node:
        """The value of an old node as the network has it."""
        if old not in self._values:
            return self._nodes[old]
        found = self.arranged(old, self._axes.form(old))
        assert found is not None, old
        return found

    def _closed(self, old: fx.Node) -> Value:
        value = self._values[old]
        if value.open is not None:
            done = self._close(value.open)
            for other in self._values.values():
                if other.open is value.open and other is not value:
                    other.node, other.open = done, None
            value.node, value.open = done, None
        return value

    # ---- closing

    def _close(self, o: Open) -> fx.Node:
        """Write a stage that does not grow any more."""
        residual = None
        if o.residual is not None:
            residual = o.residual.node
        parts = [s for s in (o.conv, o.norm, o.norm_residual, o.neuron) if s is not None]
        if not parts:
            return self.emit(torch.add, (o.x, residual))
        settings = replace(o.settings, timesteps=o.timesteps)
        stage = Stage(
            None if o.conv is None else o.conv.module,
            None if o.norm is None else o.norm.module,
            None if o.neuron is None else o.neuron.module,
            norm_residual=None if o.norm_residual is None else o.norm_residual.module,
            pool=o.pool,
            settings=settings,
        )
        name = f"fused_stages.{_title([s.name for s in parts])}"
        while name in self.stages:
            name += "_again"
        self.stages[name] = stage
        given = (o.x,) if residual is None else (o.x, residual)
        node = self.new.create_node("call_module", name, given, name=name.partition(".")[2])
        node.meta |= {"stage": stage, "sizes": o.sizes, "parts": [s.name for s in parts]}
        return node

    # ---- the walk

    def _known(self, node: fx.Node) -> bool:
        """Take a node into a stage or remember a view; False: it is to be copied."""
        if node.op == "call_module":
            kind = self._sites.kind_of(node)
            take = {"conv": self._conv, "linear": self._conv, "norm": self._norm, "neuron": self._neuron}.get(kind or "")
            return take is not None and take(node)
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            return False
        x = node.args[0]
        if node.target is getitem and x in self._values and self._sites.kind_of(x) == "neuron":
            return self._part(node, x)
        if x not in self._values or shape_of(node) is None:
            return False
        if node.target in VIEWS and self._same_atoms(node, x):
            self._values[node] = self._values[x]
            return True
        if node.target is torch.add and len(node.args) == 2 and not node.kwargs:
            return self._add(node)
        return self._pool(node, x) or self._on_maps(node)

    def _same_atoms(self, node: fx.Node, x: fx.Node) -> bool:
        form = {a for dim in self._axes.form(node) for a in dim} - self._axes.absent(node)
        return form == {a for dim in self._axes.form(x) for a in dim} - self._axes.absent(x)

    def _copy(self, node: fx.Node) -> None:
        """A node that stays as it was written."""
        if node.op == "call_module":
            self.left.setdefault(str(node.target), self._sites.reason(node))
        new = self.new.node_copy(node, self.original)
        self._nodes[node] = new
        if shape_of(node) is not None and node in self._axes.forms:
            if self._axes.absent(node):
                self._axes.missing[node] = set()
            self._values[node] = Value(new, [list(d) for d in self._axes.form(node)])

    def reader(self, node: fx.Node) -> fx.Node | None:
        """The only reader of a node, behind views; None: there are several, or it leaves the network."""
        while len(node.users) == 1:
            user = next(iter(node.users))
            if user.op == "output":
                return None
            if not (user.target in VIEWS and user in self._axes.forms and self._same_atoms(user, node)):
                return user
            node = user
        return None

    def _growing(self, x: Any, node: fx.Node) -> Open | None:
        """The open stage that ``x`` comes from, if ``node`` is the only one to read it."""
        value = self._values.get(x) if isinstance(x, fx.Node) else None
        if value is None or value.open is None or self.reader(value.open.old) is not node:
            return None
        return value.open

    # ---- layers

    def _target(self, node: fx.Node, x: fx.Node, channels: Dim, height: Dim, width: Dim) -> Form | None:
        """The dimensions [T, N, C, H, W] in which a layer reads ``x``."""
        form = [a for dim in self._axes.form(x) for a in dim]
        inner = {*channels, *height, *width}
        outer = [a for a in form if a not in inner]
        time = [a for a in outer if a.time][:1]
        present = [a for dim in self._values[x].dims for a in resolve(dim)]
        batch = sorted((a for a in outer if a not in time), key=lambda a: present.index(a) if a in present else -1)
        return maps(time, batch, channels, height, width)

    def _conv(self, node: fx.Node) -> bool:
        site, x = self._sites.site(node), node.args[0]
        if not isinstance(x, fx.Node) or x not in self._values or len(node.args) != 1 or node.kwargs:
            return False
        form, out = self._axes.form(x), self._axes.form(node)
        if isinstance(site.module, nn.Linear):
            want = self._linear_target(x, form)
            result = [*want[:2], out[-1], *want[3:]]
        elif isinstance(site.module, (nn.Conv1d, nn.Conv2d)):
            want = self._target(node, x, form[1], form[2], form[3] if len(form) > 3 else [])  # type: ignore[assignment]
            result = [*want[:2], out[1], out[2], out[3] if len(out) > 3 else []]
        else:
            return False
        missing = self._axes.absent(x) & set(want[0])
        given = self.arranged(x, want, missing)
        if given is None:
            return False
        sizes = tuple(size_of(d) for d in dims_of(want, missing))
        self._open(node, Open(given, sizes, dims_of(result, missing), node, conv=site), want)  # type: ignore[arg-type]
        return True

    def _linear_target(self, x: fx.Node, form: Form) -> Form:
        """As the maps lie, if features are their channels (then it is a 1x1 convolution), else one batch of features."""
        dims = [resolve(d) for d in self._values[x].dims]
        if len(dims) == 5 and dims[2] == form[-1] and len(form[-1]) > 0 and not any(a.time for d in dims[1:] for a in d):
            time = dims[0] or [a for a in self._axes.absent(x) if a.time][:1]
            return [time, *dims[1:]]
        found = self._target(x, x, form[-1], [], [])
        assert found is not None
        return found

    def _open(self, node: fx.Node, stage: Open, want: Form) -> None:
        self._roles["batch"].update(want[1])
        self._roles["other"].update(a for dim in want[2:] for a in dim)
        self._values[node] = Value(None, stage.dims, stage)

    def _norm_settings(self, node: fx.Node, x: fx.Node, want: Form) -> NormSettings:
        """How a batch norm is called: what rolling up said, or pooled over all that it was given."""
        statistics, updates = node.meta.get("statistics", "pooled"), node.meta.get("updates")
        constant = bool(self._axes.absent(x) & set(want[0]))
        if updates is not None:  # of a loop
            return NormSettings("per_step", updates if node.meta["steps"] == 1 else None)
        repeat = size_of(want[0]) if constant else 1
        if constant and statistics == "per_step":
            return NormSettings("per_step", repeat)
        return NormSettings(statistics, None, repeat if statistics == "pooled" else 1)

    def _norm(self, node: fx.Node) -> bool:
        site, x = self._sites.site(node), node.args[0]
        if not isinstance(x, fx.Node) or x not in self._values or len(node.args) != 1:
            return False
        form = self._axes.form(x)
        if len(form) < 2:
            return False
        open_, step = self._growing(x, node), self._axes.step_of(node)
        if open_ is not None and open_.norm is None and open_.neuron is None and open_.residual is None:
            dims = [resolve(d) for d in open_.dims]
            if dims[2] == form[1] and (not step or dims[0] == step):
                full = [dims[0] or [a for a in self._axes.absent(x) if a.time][:1], *dims[1:]]
                open_.norm, open_.old = site, node
                open_.settings = replace(open_.settings, norm=self._norm_settings(node, x, full))
                self._values[node] = Value(None, open_.dims, open_)
                return True
        return self._norm_alone(node, x, site, form, step)

    def _norm_alone(self, node: fx.Node, x: fx.Node, site: Site, form: Form, step: Dim) -> bool:
        dims = [resolve(d) for d in self._closed(x).dims]
        time = [a for a in self._axes.absent(x) if a.time][:1]
        want = [dims[0] or time, *dims[1:]] if len(dims) == 5 and dims[2] == form[1] else None
        if want is None or (step and dims[0] != step):
            rest = [*form[2:], [], []][:2] if len(form) <= 4 else [[a for d in form[2:] for a in d], []]
            want = self._target(node, x, form[1], *rest)
        assert want is not None
        if step and want[0] != step:
            return False
        missing = self._axes.absent(x) & set(want[0])
        given = self.arranged(x, want, missing)
        if given is None:
            return False
        now = dims_of(want, missing)
        settings = StageSettings(norm=self._norm_settings(node, x, want))
        sizes = tuple(size_of(d) for d in now)
        self._open(node, Open(given, sizes, now, node, norm=site, settings=settings), want)  # type: ignore[arg-type]
        return True

    # ---- neurons

    def _neuron(self, node: fx.Node) -> bool:
        site, x = self._sites.site(node), node.args[0]
        if site.dynamics is None or not isinstance(x, fx.Node) or x not in self._values:
            return False
        axis = node.meta["time_axis"]
        form, shape = self._axes.form(x), shape_of(x)
        if axis is None or shape is None or (shape[axis] > 1 and (len(form[axis]) != 1 or not form[axis][0].time)):
            return False
        time, steps = form[axis], shape[axis]
        if not self._startable(node, site):
            return False
        open_, gain = self._growing(x, node), site.dynamics.gain
        if open_ is not None and (open_.neuron is not None or gain != 1 or not self._fits(open_, x, time)):
            open_ = None
        if open_ is None:
            open_ = self._neuron_alone(node, x, time)
            if open_ is None:
                return False
            if gain != 1:
                open_.x = self.emit(torch.mul, (open_.x, gain))
        open_.neuron, open_.old, open_.timesteps = self._stateful(node, open_, form, axis), node, steps
        dims = [time, *[resolve(d) for d in open_.dims][1:]]
        open_.dims = dims
        potentials = site.dynamics.returns_potential and any(u.target is getitem and u.args[1] == 1 for u in node.users)
        before = site.dynamics.settle is not None
        open_.settings = replace(open_.settings, potentials=potentials, before_reset=before)
        self._values[node] = Value(None, dims, open_)
        if len(node.args) > 1:
            self._start(node, open_, form, axis)
        return True

    @staticmethod
    def _startable(node: fx.Node, site: Site) -> bool:
        """Whether a stage can start from the explicit state that a neuron is called with."""
        assert site.dynamics is not None
        given = node.args[1] if len(node.args) > 1 else None
        if site.dynamics.unpack is not None or len(node.args) > 2 or node.kwargs:
            return False
        zeros = not isinstance(given, fx.Node) or given.target in (torch.zeros, torch.zeros_like, Tensor.new_zeros)
        return site.dynamics.settle is None or zeros

    def _fits(self, o: Open, x: fx.Node, time: Dim) -> bool:
        first = resolve(o.dims[0])
        return first == time or (not first and (not time or time[0] in self._axes.absent(x)))

    def _neuron_alone(self, node: fx.Node, x: fx.Node, time: Dim) -> Open | None:
        value = self._closed(x)
        dims = [resolve(d) for d in value.dims]
        constant = bool(time) and time[0] in self._axes.absent(x)
        if len(dims) == 5 and (dims[0] == time or (constant and not dims[0])):
            want = [time, *dims[1:]]
        else:
            rest = [a for dim in self._axes.form(x) for a in dim if a not in time]
            want = maps(time, rest, [], [], [])
        missing = self._axes.absent(x) & set(time)
        given = self.arranged(x, want, missing)
        if given is None:
            return None
        now = dims_of(want, missing)
        return Open(given, tuple(size_of(d) for d in now), now, node)  # type: ignore[arg-type]

    def _stateful(self, node: fx.Node, o: Open, form: Form, axis: int) -> Site:
        """The neuron, told how one step of its state lies in the network and in the stage."""
        theirs = [d for i, d in enumerate(form) if i != axis]
        ours = [resolve(d) for d in o.dims][1:]
        inward = arrangement(theirs, ours, [size_of(d) for d in theirs], set(), set())
        outward = arrangement(ours, theirs, [size_of(d) for d in ours], set(), set())
        assert inward is not None and outward is not None
        return self._sites.adapted(node, inward, outward, tuple(size_of(d) for d in theirs))

    def _start(self, node: fx.Node, o: Open, form: Form, axis: int) -> None:
        """Explicit state: the potential that the sequence starts from is an argument."""
        given = node.args[1]
        assert o.neuron is not None
        value = self.original(given) if isinstance(given, fx.Node) else given
        shape = shape_of(given) if isinstance(given, fx.Node) else None
        theirs = tuple(size_of(d) for i, d in enumerate(form) if i != axis)
        if value is None or (shape is not None and (tuple(shape) != theirs)):
            return
        done = self._close(o)
        adapter: Any = o.neuron.module
        done.kwargs = {"v": adapter.inward.apply(value, self.emit)}
        done.prev.append(done) if False else None
        self._after(done)
        for other in self._values.values():
            if other.open is o:
                other.node, other.open = done, None

    def _after(self, node: fx.Node) -> None:
        """Move a node behind everything that has been written."""
        end = self.new._root.prev
        if end is not node:
            end.append(node)

    def _part(self, node: fx.Node, x: fx.Node) -> bool:
        """Spikes or potentials of a neuron that answers with both."""
        value = self._values[x]
        spikes_only = value.open is not None and not value.open.settings.potentials
        if node.args[1] == 0 and (spikes_only or (value.open is None and not self._potentials(value.node))):
            if value.open is not None:
                value.open.old = node
            self._values[node] = value
            return True
        closed = self._closed(x)
        assert closed.node is not None
        self._values[node] = Value(self.emit(getitem, (closed.node, node.args[1])), closed.dims)
        return True

    @staticmethod
    def _potentials(node: fx.Node | None) -> bool:
        return node is not None and "stage" in node.meta and node.meta["stage"].settings.potentials

    # ---- between the layers

    def _add(self, node: fx.Node) -> bool:
        """An addition that only a neuron reads joins the stage."""
        left, right = node.args
        following = self.reader(node)
        takes = following is not None and self._sites.kind_of(following) == "neuron"
        takes = takes and following.meta["time_axis"] is not None  # type: ignore[union-attr]
        if takes and isinstance(left, fx.Node) and isinstance(right, fx.Node) and left is not right:
            sides = [v for v in (left, right) if v in self._values and shape_of(v) == shape_of(node)]
            if len(sides) == 2:
                first, second = self._sides(node, left, right)
                if self._join(node, first, second):
                    return True
        return self._on_maps(node)

    def _sides(self, node: fx.Node, left: fx.Node, right: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Main branch and residual: of the two, the batch-normed one is the main branch."""
        a, b = self._growing(left, node), self._growing(right, node)
        normed = [o is not None and o.norm is not None and o.neuron is None for o in (a, b)]
        return (right, left) if normed[1] and not normed[0] else (left, right)

    def _join(self, node: fx.Node, main: fx.Node, other: fx.Node) -> bool:
        if self._axes.absent(other):
            return False
        open_, beside = self._growing(main, node), self._growing(other, node)
        if open_ is not None and (open_.neuron is not None or open_.residual is not None):
            open_ = None
        if open_ is None:
            open_ = self._plain_main(node, main)
            if open_ is None:
                return False
        dims = [resolve(d) for d in open_.dims]
        if beside is not None and beside is not open_ and self._splits(beside, dims):
            norm, settings = beside.norm, beside.settings.norm
            beside.norm = None
            residual: fx.Node | None = self._close(beside) if beside.conv is not None else beside.x
            open_.norm_residual = norm
            open_.settings = replace(open_.settings, norm_residual=settings)
        else:
            full = dims if dims[0] else [[a for a in self._axes.absent(main) if a.time][:1], *dims[1:]]
            residual = self.arranged(other, full)
        if residual is None:
            return False
        open_.residual, open_.old = Value(residual, dims), node
        self._values[node] = Value(None, open_.dims, open_)
        return True

    def _splits(self, beside: Open, dims: Form) -> bool:
        """Whether the batch norm of the other side can be the stage's second one."""
        same = [resolve(d) for d in beside.dims] == dims
        return same and beside.norm is not None and beside.neuron is None and beside.residual is None

    def _plain_main(self, node: fx.Node, x: fx.Node) -> Open | None:
        value = self._closed(x)
        dims = [resolve(d) for d in value.dims]
        if len(dims) != 5 or any(a.time for d in dims[1:] for a in d) or value.node is None:
            form = self._axes.form(x)
            time = [a for d in form for a in d if a.time][:1]
            want = maps(time, [a for d in form for a in d if a not in time], [], [], [])
            given = self.arranged(x, want)
            if given is None:
                return None
            return Open(given, tuple(size_of(d) for d in want), want, node)  # type: ignore[arg-type]
        return Open(value.node, tuple(size_of(d) for d in dims), dims, node)  # type: ignore[arg-type]

    def _pool(self, node: fx.Node, x: fx.Node) -> bool:
        """A 2x2 max-pool of stride 2 behind a neuron joins its stage."""
        open_ = self._growing(x, node)
        if open_ is None or open_.neuron is None or open_.pool or not is_usual_pool(node) or open_.settings.potentials:
            return False
        dims, form, out = [resolve(d) for d in open_.dims], self._axes.form(x), self._axes.form(node)
        shape = shape_of(x)
        if len(form) != 4 or dims[2:] != form[1:] or shape is None or min(shape[-2:]) < 2:
            return False
        open_.pool, open_.old = True, node
        open_.dims = [*dims[:3], out[2], out[3]]
        self._values[node] = Value(None, open_.dims, open_)
        return True

    def _on_maps(self, node: fx.Node) -> bool:
        """Functions of single elements, and pools, on maps as they lie."""
        if node not in self._axes.forms:
            return False
        if node.target in lifts._ELEMENTWISE:
            return self._elementwise(node)
        if getattr(node.target, "__name__", "") in lifts._MERGED:
            return self._per_image(node)
        return False

    def _elementwise(self, node: fx.Node) -> bool:
        given = [v for v in tree_flatten((node.args, node.kwargs))[0] if isinstance(v, fx.Node)]
        if not given or any(v not in self._values or shape_of(v) != shape_of(node) for v in given):
            return False
        closed = [self._closed(v) for v in given]
        dims = next(([resolve(d) for d in c.dims] for c in closed if len(c.dims) == 5), None)
        if dims is None or any(self._axes.absent(v) != self._axes.absent(node) for v in given):
            return False
        found = {v: self.arranged(v, dims, self._axes.absent(node)) for v in given}
        if any(v is None for v in found.values()):
            return False
        new = self.new.node_copy(node, lambda v: found[v])  # type: ignore[arg-type, return-value]
        self._values[node] = Value(new, dims)
        return True

    def _per_image(self, node: fx.Node) -> bool:
        """A pool and the like on [T, N, C, H, W], merged and unmerged."""
        x = node.args[0]
        given = [v for v in tree_flatten((node.args, node.kwargs))[0] if isinstance(v, fx.Node)]
        if given != [x] or x not in self._values:
            return False
        value, form, out = self._closed(x), self._axes.form(x), self._axes.form(node)
        dims = [resolve(d) for d in value.dims]
        if len(dims) != 5 or len(form) != 4 or dims[2:] != form[1:] or value.node is None:
            return False
        t, n, c, h, w = (size_of(d) for d in dims)
        merged = self.emit(torch.reshape, (value.node, (t * n, c, h, w)))
        new = self.new.create_node("call_function", node.target, (merged, *node.args[1:]), node.kwargs)
        sizes = tuple(size_of(d) for d in (*dims[:2], *out[1:]))
        self._values[node] = Value(self.emit(torch.reshape, (new, sizes)), [*dims[:2], *out[1:]])
        return True


def _title(names: list[str]) -> str:
    """Name a stage by its layers; what they share is said once."""
    first, *others = names
    shared = first.rpartition(".")[0]
    short = [n.removeprefix(f"{shared}.") if shared else n for n in others]
    return "__".join(n.replace(".", "_") for n in (first, *short))


def is_usual_pool(node: fx.Node) -> bool:
    """Whether a node is a 2x2 max-pool of stride 2, without anything else."""
    if getattr(node.target, "__name__", "") != "max_pool2d":
        return False
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    pair = {name: v if isinstance(v, (tuple, list)) else (v, v) for name, v in given.items() if name != "input"}
    stride = pair.get("stride", pair["kernel_size"])
    stride = pair["kernel_size"] if stride in ((None, None), ()) or list(stride) == [] else stride
    usual = tuple(pair["kernel_size"]) == (2, 2) == tuple(stride)
    plain = tuple(pair.get("padding", (0, 0))) == (0, 0) and tuple(pair.get("dilation", (1, 1))) == (1, 1)
    return usual and plain and not given.get("ceil_mode") and not given.get("return_indices")


def build(graph: fx.Graph, sites: Sites) -> Builder:
    """Join the layers of a rolled-up graph to stages; the graph, the stages and what was left are the builder's."""
    builder = Builder(graph, sites)
    builder.run()
    return builder


__all__ = ["Builder", "build", "is_usual_pool", "regroup"]
