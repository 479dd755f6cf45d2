"""Sites: what the modules that a captured graph calls are, and neurons of other people's as a stage takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from snn_sparse import nn as ours
from snn_sparse.fusion import layers
from snn_sparse.fusion.answers import has_hooks
from snn_sparse.fusion.arrange import Arrangement
from snn_sparse.fusion.capture import Calls, Census
from snn_sparse.fusion.neurons import Dynamics, looks_like_neuron, recognise
from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor


class Adapter(nn.Module):
    """A neuron of somebody else's in a stage: its numbers are read, and its state kept, where they are.

    Args:
        module: the neuron, which is called no more.
        dynamics: how it computes.
        inward: from one step's potential as the module keeps it to [N, C, H, W].
        outward: the other way round.
        shape: of one step as the module sees it.
    """

    def __init__(
        self, module: nn.Module, dynamics: Dynamics, inward: Arrangement, outward: Arrangement, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.module, self.dynamics = module, dynamics
        self.inward, self.outward, self.shape = inward, outward, shape
        self.keeps_state = dynamics.state is not None
        self.fresh = False  # whether forward puts it to rest before it calls it

    def describe(self) -> tuple[NeuronSpec, Tensor | None]:
        """The neuron as the operator takes it."""
        return self.dynamics.read(self.module)

    def start(self, like: Tensor) -> Tensor | None:
        """Potential [N, C, H, W] that a call starts from; None: rest."""
        if self.fresh:
            return None
        found = self.dynamics.start(self.module, like.new_empty(1).expand(self.shape))
        return None if found is None else self.inward(found.to(like.dtype))

    def finish(self, v: Tensor) -> None:
        """Keep the potential [N, C, H, W] after the last step as the module does."""
        v = self.outward(v)
        self.dynamics.finish(self.module, v.clone() if _borrowed(v) else v)


def _borrowed(v: Tensor) -> bool:
    """Whether nobody may detach a potential in place, as libraries do between calls: it is a view."""
    return not torch.compiler.is_compiling() and v._is_view()


@dataclass(frozen=True)
class Site:
    """A module of the network: its name, and for a neuron how it computes."""

    name: str
    module: nn.Module
    kind: str
    dynamics: Dynamics | None = None


class Sites:
    """All modules of a network, as the passes ask for them.

    Args:
        model: the network.
        census: of its first run.
        neurons: classes that the user says are neurons.
        excluded: names of modules to leave alone, with the reason.
    """

    def __init__(
        self,
        model: nn.Module,
        census: Census,
        neurons: Mapping[type, NeuronSpec],
        excluded: Mapping[str, str],
    ) -> None:
        self._modules = dict(model.named_modules())
        self._census = census
        self.reasons: dict[str, str] = dict(excluded)
        self._sites: dict[str, Site] = {}
        self._inside: set[str] = set()
        self.inline: dict[str, nn.Module] = {}  # neurons that were written into a loop
        self.forgotten: set[str] = set()  # neurons that forward puts to rest before it returns
        for name, found in census.calls.items():
            module = self._modules[name]
            kind = layers.kind_of(module)
            if not name or name in excluded:
                continue
            if self._hooked(name):
                self.reasons[name] = "it, or a module around it, has hooks"
            elif kind is not None:
                self._sites[name] = Site(name, module, kind)
            elif isinstance(module, ours.SyncBatchNorm2d):
                self.reasons[name] = "its statistics are those of all processes"
            elif looks_like_neuron(module) and not any(name.startswith(f"{n}.") for n in self._inside):
                self._ask(name, module, found, neurons)

    def take_inline(self, module: nn.Module, shape: torch.Size) -> str | None:
        """Take a module that was cut out of a loop for a neuron, if it is one; the name that it gets."""
        name = f"inline_neuron_{len(self.inline)}"
        if name in self.reasons:
            return None
        answer = recognise(module, [shape], 1, {})
        if not isinstance(answer, Dynamics) or answer.time_axis != 0:
            return None
        self.inline[name] = module
        self._sites[name] = Site(name, module, "neuron", answer)
        return name

    def _hooked(self, name: str) -> bool:
        parts = name.split(".")
        return any(has_hooks(self._modules[".".join(parts[: i + 1])]) for i in range(len(parts)))

    def _ask(self, name: str, module: nn.Module, found: Calls, neurons: Mapping[type, NeuronSpec]) -> None:
        answer = recognise(module, found.shapes, found.calls, neurons)
        if isinstance(answer, Dynamics):
            self._sites[name] = Site(name, module, "neuron", answer)
            self._inside.add(name)
        else:
            self.reasons[name] = answer

    @property
    def neurons(self) -> list[str]:
        """Names of the neurons that were recognised."""
        return [name for name, site in self._sites.items() if site.kind == "neuron"]

    def is_leaf(self, module: nn.Module, name: str) -> bool:
        """Whether a module's call is one node of the graph."""
        if name in self._sites or layers.is_plain(module):
            return True
        if has_hooks(module):
            return True
        return self._census.keeps(name)

    def kind_of(self, node: fx.Node) -> str | None:
        """``conv``, ``linear``, ``norm`` or ``neuron``; None: something else."""
        site = self._sites.get(str(node.target)) if node.op == "call_module" else None
        return None if site is None else site.kind

    def rolls(self, node: fx.Node) -> str | None:
        """:meth:`kind_of`, for layers that a loop over time may call: not neurons that take a whole sequence."""
        kind = self.kind_of(node)
        if kind == "neuron" and self.dynamics(node).time_axis is not None:
            return None
        return kind

    def site(self, node: fx.Node) -> Site:
        """The module that a node calls."""
        return self._sites[str(node.target)]

    def dynamics(self, node: fx.Node) -> Dynamics:
        """Dynamics of the neuron that a node calls."""
        found = self.site(node).dynamics
        assert found is not None
        return found

    def dynamics_of(self, name: str) -> Dynamics:
        """Dynamics of a neuron that was recognised."""
        found = self._sites[name].dynamics
        assert found is not None
        return found

    def state_of(self, name: str) -> str | None:
        """The attribute in which a neuron keeps its potential."""
        found = self._sites[name].dynamics
        return None if found is None else found.state

    def reason(self, node: fx.Node) -> str:
        """Why a module was left as it is."""
        return self.reasons.get(str(node.target), "nothing in the graph could take it in")

    def adapted(self, node: fx.Node, inward: Arrangement, outward: Arrangement, shape: tuple[int, ...]) -> Site:
        """The neuron that a node calls, as a stage takes it, told how one step of its state lies there."""
        site = self.site(node)
        if isinstance(site.module, ours.Neuron):
            return site
        assert site.dynamics is not None
        module = Adapter(site.module, site.dynamics, inward, outward, shape)
        module.fresh = bool(node.meta.get("fresh"))
        module.keeps_state = module.keeps_state and site.name not in self.forgotten
        return replace(site, module=module)
