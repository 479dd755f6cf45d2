"""Convolutions, linear layers and batch norms, as they open a stage or join one."""

from torch import fx, nn

from snn_sparse.fusion.arrange import dims_of
from snn_sparse.fusion.axes import Dim, Form, size_of
from snn_sparse.fusion.sites import Site
from snn_sparse.fusion.walk import Open, Walk
from snn_sparse.nn.norm import NormSettings
from snn_sparse.nn.stage import StageSettings


def join_convolution(walk: Walk, node: fx.Node) -> bool:
    """Open a stage at a convolution or linear layer; False: it has to stay."""
    site, x = walk.sites.site(node), node.args[0]
    if not isinstance(x, fx.Node) or x not in walk.values or len(node.args) != 1 or node.kwargs:
        return False
    form, out = walk.axes.form(x), walk.axes.form(node)
    if isinstance(site.module, nn.Linear):
        want = _linear_target(walk, x, form)
        result = [*want[:2], out[-1], *want[3:]]
    elif isinstance(site.module, (nn.Conv1d, nn.Conv2d)):
        want = walk.target(x, form[1], form[2], form[3] if len(form) > 3 else [])
        result = [*want[:2], out[1], out[2], out[3] if len(out) > 3 else []]
    else:
        return False
    missing = walk.axes.absent(x) & set(want[0])
    given = walk.arranged(x, want, missing)
    if given is None:
        return False
    sizes = tuple(size_of(d) for d in dims_of(want, missing))
    walk.open(node, Open(given, sizes, dims_of(result, missing), node, conv=site), want)  # type: ignore[arg-type]
    return True


def _linear_target(walk: Walk, x: fx.Node, form: Form) -> Form:
    """As the maps lie, if features are their channels (then it is a 1x1 convolution), else one batch of features."""
    dims = walk.dims(x)
    if len(dims) == 5 and dims[2] == form[-1] and form[-1] and not any(a.time for d in dims[1:] for a in d):
        return [dims[0] or walk.time_missing(x), *dims[1:]]
    return walk.target(x, form[-1], [], [])


def join_norm(walk: Walk, node: fx.Node) -> bool:
    """Let a batch norm join the convolution before it, or open a stage; False: it has to stay."""
    site, x = walk.sites.site(node), node.args[0]
    if not isinstance(x, fx.Node) or x not in walk.values or len(node.args) != 1:
        return False
    form = walk.axes.form(x)
    if len(form) < 2:
        return False
    stage, step = walk.growing(x, node), walk.axes.step_of(node)
    if stage is not None and stage.bare:
        dims = walk.dims(x)
        if dims[2] == form[1] and (not step or dims[0] == step):
            stage.norm = site
            stage.set(norm=_settings(walk, node, x, dims[0] or walk.time_missing(x)))
            walk.join(node, stage)
            return True
    return _norm_alone(walk, node, x, site, step)


def _norm_alone(walk: Walk, node: fx.Node, x: fx.Node, site: Site, step: Dim) -> bool:
    walk.closed(x)
    dims, form = walk.dims(x), walk.axes.form(x)
    if len(dims) == 5 and dims[2] == form[1] and (not step or dims[0] == step):
        want = [dims[0] or walk.time_missing(x), *dims[1:]]
    else:
        pixels = [*form[2:], [], []][:2] if len(form) <= 4 else [[a for d in form[2:] for a in d], []]
        want = walk.target(x, form[1], *pixels)
    missing = walk.axes.absent(x) & set(want[0])
    given = walk.arranged(x, want, missing) if not step or want[0] == step else None
    if given is None:
        return False
    now, settings = dims_of(want, missing), StageSettings(norm=_settings(walk, node, x, want[0]))
    sizes = tuple(size_of(d) for d in now)
    walk.open(node, Open(given, sizes, now, node, norm=site, settings=settings), want)  # type: ignore[arg-type]
    return True


def _settings(walk: Walk, node: fx.Node, x: fx.Node, time: Dim) -> NormSettings:
    """How a batch norm is called: as rolling up says, or pooled over all that it was given."""
    statistics, updates = node.meta.get("statistics", "pooled"), node.meta.get("updates")
    if updates is not None:  # of a loop
        return NormSettings("per_step", updates if node.meta["steps"] == 1 else None)
    repeat = size_of(time) if walk.axes.absent(x) & set(time) else 1
    if repeat > 1 and statistics == "per_step":
        return NormSettings("per_step", repeat)
    return NormSettings(statistics, None, repeat)
