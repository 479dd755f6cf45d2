"""All that stands between layers: additions and pools that join a stage, and functions on maps as they lie."""

import torch
from torch import fx
from torch.utils._pytree import tree_flatten

from snn_sparse.fusion import lift
from snn_sparse.fusion.arrange import maps
from snn_sparse.fusion.axes import Form, resolve, size_of
from snn_sparse.fusion.tidy import shape_of
from snn_sparse.fusion.walk import Open, Value, Walk


def join_addition(walk: Walk, node: fx.Node) -> bool:
    """Let an addition that only a neuron reads join the stage of one of its sides; False: it is a plain addition."""
    left, right = node.args
    reader = walk.reader(node)
    if reader is None or walk.sites.kind_of(reader) != "neuron" or reader.meta["time_axis"] is None:
        return False
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return False
    if any(v not in walk.values or shape_of(v) != shape_of(node) for v in (left, right)):
        return False
    normed = [_is_normed(walk.growing(v, node)) for v in (left, right)]
    main, other = (right, left) if normed[1] and not normed[0] else (left, right)
    return _join(walk, node, main, other)


def _is_normed(stage: Open | None) -> bool:
    return stage is not None and stage.norm is not None and stage.neuron is None


def _join(walk: Walk, node: fx.Node, main: fx.Node, other: fx.Node) -> bool:
    if walk.axes.absent(other):
        return False
    stage, beside = walk.growing(main, node), walk.growing(other, node)
    if stage is None or stage.neuron is not None or stage.residual is not None:
        stage = _plain_main(walk, node, main)
        if stage is None:
            return False
    dims = [resolve(d) for d in stage.dims]
    if beside is not None and beside is not stage and _splits(beside, dims):
        stage.norm_residual = beside.norm
        stage.set(norm_residual=beside.settings.norm)
        beside.norm = None
        residual: fx.Node | None = walk.close(beside) if beside.conv is not None else beside.x
    else:
        residual = walk.arranged(other, [dims[0] or walk.time_missing(main), *dims[1:]])
    if residual is None:
        return False
    stage.residual, stage.full = residual, [dims[0] or walk.time_missing(main), *dims[1:]]
    walk.join(node, stage)
    return True


def _splits(beside: Open, dims: Form) -> bool:
    """Whether the batch norm of the other side can be the stage's second one."""
    return [resolve(d) for d in beside.dims] == dims and _is_normed(beside) and beside.residual is None


def _plain_main(walk: Walk, node: fx.Node, x: fx.Node) -> Open | None:
    """A stage that begins with an addition."""
    value, dims = walk.closed(x), walk.dims(x)
    if len(dims) == 5 and not any(a.time for d in dims[1:] for a in d) and value.node is not None:
        return Open(value.node, tuple(size_of(d) for d in dims), dims, node)  # type: ignore[arg-type]
    form = walk.axes.form(x)
    time = [a for d in form for a in d if a.time][:1]
    want = maps(time, [a for d in form for a in d if a not in time], [], [], [])
    given = walk.arranged(x, want)
    return None if given is None else Open(given, tuple(size_of(d) for d in want), want, node)  # type: ignore[arg-type]


def join_pool(walk: Walk, node: fx.Node) -> bool:
    """Let a 2x2 max-pool of stride 2 join the neuron before it; False: it is a plain pool."""
    x = node.args[0]
    stage = walk.growing(x, node)
    if stage is None or stage.neuron is None or stage.pool or stage.settings.potentials or not is_usual_pool(node):
        return False
    assert isinstance(x, fx.Node)
    dims, form, out, shape = walk.dims(x), walk.axes.form(x), walk.axes.form(node), shape_of(x)
    if len(form) != 4 or dims[2:] != form[1:] or shape is None or min(shape[-2:]) < 2:
        return False
    stage.pool, stage.dims = True, [*dims[:3], out[2], out[3]]
    walk.join(node, stage)
    return True


def is_usual_pool(node: fx.Node) -> bool:
    """Whether a node is a 2x2 max-pool of stride 2, without anything else."""
    if getattr(node.target, "__name__", "") != "max_pool2d":
        return False
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    kernel, stride, padding, dilation = (_pair(given.get(name)) for name in names[1:5])
    usual = kernel == (2, 2) == (stride or kernel)
    plain = padding in ((), (0, 0)) and dilation in ((), (1, 1))
    return usual and plain and not given.get("ceil_mode") and not given.get("return_indices")


def _pair(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]


def on_maps(walk: Walk, node: fx.Node) -> bool:
    """Apply functions of single elements, and pools, to maps as they lie; False: the original arrangement is needed."""
    if node not in walk.axes.forms:
        return False
    if lift.is_elementwise(node.target):
        return _elementwise(walk, node)
    return lift.is_per_image(node.target) and _per_image(walk, node)


def _elementwise(walk: Walk, node: fx.Node) -> bool:
    given = [v for v in tree_flatten((node.args, node.kwargs))[0] if isinstance(v, fx.Node)]
    if not given or any(v not in walk.values or shape_of(v) != shape_of(node) for v in given):
        return False
    for v in given:
        walk.closed(v)
    dims = next((d for d in map(walk.dims, given) if len(d) == 5), None)
    absent = walk.axes.absent(node)
    if dims is None or any(walk.axes.absent(v) != absent for v in given):
        return False
    found = {v: walk.arranged(v, dims, absent) for v in given}
    if any(v is None for v in found.values()):
        return False
    walk.values[node] = Value(walk.new.node_copy(node, lambda v: found[v]), dims)
    return True


def _per_image(walk: Walk, node: fx.Node) -> bool:
    """A pool and the like on [T, N, C, H, W], merged and unmerged."""
    x = node.args[0]
    given = [v for v in tree_flatten((node.args, node.kwargs))[0] if isinstance(v, fx.Node)]
    if given != [x] or not isinstance(x, fx.Node) or x not in walk.values:
        return False
    value, dims, form, out = walk.closed(x), walk.dims(x), walk.axes.form(x), walk.axes.form(node)
    if len(dims) != 5 or len(form) != 4 or dims[2:] != form[1:] or value.node is None:
        return False
    t, n, *image = (size_of(d) for d in dims)
    merged = walk.emit(torch.reshape, (value.node, (t * n, *image)))
    new = walk.new.create_node("call_function", node.target, (merged, *node.args[1:]), node.kwargs)
    dims = [*dims[:2], *out[1:]]
    walk.values[node] = Value(walk.emit(torch.reshape, (new, tuple(size_of(d) for d in dims))), dims)
    return True
