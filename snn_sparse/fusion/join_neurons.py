"""Neurons, as they join the stage before them or open one."""

from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion.arrange import arrangement, dims_of, maps
from snn_sparse.fusion.axes import Dim, Form, resolve, size_of
from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.inline import is_zeros
from snn_sparse.fusion.sites import Site
from snn_sparse.fusion.tidy import shape_of
from snn_sparse.fusion.walk import Open, Value, Walk


def join_neuron(walk: Walk, node: fx.Node) -> bool:
    """Let a neuron join the stage that it reads, or open one; False: it has to stay."""
    site, x, axis = walk.sites.site(node), node.args[0], node.meta["time_axis"]
    if site.dynamics is None or axis is None or not isinstance(x, fx.Node) or x not in walk.values:
        return False
    form, shape = walk.axes.form(x), shape_of(x)
    time = form[axis]
    if shape is None or (shape[axis] > 1 and not time) or not _startable(node, site):
        return False
    stage, gain = walk.growing(x, node), site.dynamics.gain
    if stage is None or stage.neuron is not None or gain != 1 or not _fits(walk, stage, x, time):
        stage = _alone(walk, node, x, time)
        if stage is None:
            return False
        if gain != 1:
            stage.x = walk.emit(torch.mul, (stage.x, gain))
    ours = [resolve(d) for d in stage.dims][1:]
    theirs = [d for i, d in enumerate(form) if i != axis]
    neuron = _adapted(walk, node, theirs, ours)
    if neuron is None:
        return False
    stage.neuron, stage.timesteps, stage.dims = neuron, shape[axis], [time, *ours]
    asked = any(u.target is getitem and u.args[1] == 1 for u in node.users)
    potentials = site.dynamics.returns_potential and asked
    stage.set(potentials=potentials, before_reset=site.dynamics.settle is not None)
    walk.join(node, stage)
    if len(node.args) > 1:
        _start(walk, node, stage, theirs)
    return True


def _startable(node: fx.Node, site: Site) -> bool:
    """Whether a stage can start from the explicit state that a neuron is called with."""
    given = tree_flatten(node.args[1:])[0]
    if site.dynamics is None or len(node.args) > 2 or node.kwargs:
        return False
    if site.dynamics.unpack is not None and any(u.target is getitem and u.args[1] == 1 for u in node.users):
        return False  # somebody reads a state that is no tensor
    if site.dynamics.settle is None and site.dynamics.unpack is None:
        return True
    return all(not isinstance(v, fx.Node) or is_zeros(v) for v in given)


def _fits(walk: Walk, stage: Open, x: fx.Node, time: Dim) -> bool:
    """Whether a stage computes timestep after timestep what the neuron takes as such."""
    first = resolve(stage.dims[0])
    return first == time or (not first and (not time or time[0] in walk.axes.absent(x)))


def _alone(walk: Walk, node: fx.Node, x: fx.Node, time: Dim) -> Open | None:
    walk.closed(x)
    dims, absent = walk.dims(x), walk.axes.absent(x)
    if len(dims) == 5 and (dims[0] == time or (time and time[0] in absent and not dims[0])):
        want = [time, *dims[1:]]
    else:
        want = maps(time, [a for dim in walk.axes.form(x) for a in dim if a not in time], [], [], [])
    missing = absent & set(time)
    given = walk.arranged(x, want, missing)
    if given is None:
        return None
    now = dims_of(want, missing)
    return Open(given, tuple(size_of(d) for d in now), now, node)  # type: ignore[arg-type]


def _adapted(walk: Walk, node: fx.Node, theirs: Form, ours: Form) -> Site | None:
    """The neuron, told how one step of its state lies in the network and in the stage; None: they do not match."""
    shape = tuple(size_of(d) for d in theirs)
    inward = arrangement(theirs, ours, shape, set(), set())
    outward = arrangement(ours, theirs, [size_of(d) for d in ours], set(), set())
    if inward is None or outward is None:
        return None
    return walk.sites.adapted(node, inward, outward, shape)


def _start(walk: Walk, node: fx.Node, stage: Open, theirs: Form) -> None:
    """Explicit state: the potential that the sequence starts from is an argument of the stage."""
    given, neuron = node.args[1], stage.neuron
    if not isinstance(given, fx.Node) or tuple(shape_of(given) or ()) != tuple(size_of(d) for d in theirs):
        return
    if neuron is None or is_zeros(given):
        return
    adapter: Any = neuron.module
    v = adapter.inward.apply(walk.original(given), walk.emit)
    walk.close(stage).kwargs = {"v": v}


def join_part(walk: Walk, node: fx.Node, x: fx.Node) -> bool:
    """Spikes or potentials of a neuron that answers with both."""
    value = walk.values[x]
    if value.open is not None and not value.open.settings.potentials and node.args[1] == 0:
        walk.join(node, value.open)
        return True
    closed = walk.closed(x).node
    assert closed is not None
    both = "stage" in closed.meta and closed.meta["stage"].settings.potentials
    walk.values[node] = Value(walk.emit(getitem, (closed, node.args[1])) if both else closed, value.dims)
    return True
