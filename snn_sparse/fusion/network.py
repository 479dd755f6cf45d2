"""A fused network: of a subclass of the original's class, made on the fly, that runs compiled forward passes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from snn_sparse.fusion import layers
from snn_sparse.fusion.bystanders import register
from snn_sparse.fusion.compiled import Compiled, original_forward
from snn_sparse.fusion.compiler import Compiler, Refused
from snn_sparse.fusion.copies import copied
from snn_sparse.fusion.tracing import meet_traced
from snn_sparse.nn.masked import Masked
from snn_sparse.nn.masked_layers import foreign_class, masked_class
from snn_sparse.specs import NeuronSpec, check_kind


class FusedNetwork(nn.Module):
    """Mixed into the class of a network that was fused."""

    original: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the original, compiled for this kind of input; as it was written where that cannot be."""
        compiler: Compiler = self.__dict__["_fused_compiler"]
        if torch.compiler.is_compiling():
            from torch._dynamo.comptime import comptime  # slow, and loaded by now

            comptime(meet_traced)
            traced, inputs = compiler.find_traced(args, kwargs)
            return original_forward(self, *args, **kwargs) if traced is None else traced.traced(inputs)
        entry, inputs = compiler.find(self, args, kwargs)
        if isinstance(entry, Compiled) and not entry.has_run:
            try:
                entry.prepare(inputs)
            except Exception as error:
                entry = compiler.refuse(self, entry, error)
        compiler.took(entry)
        return original_forward(self, *args, **kwargs) if isinstance(entry, Refused) else entry(inputs)

    @property
    def graph(self) -> Any:
        """The graph of stages that ran last, as ``torch.fx`` prints it; None: none ran yet."""
        last = self.__dict__["_fused_compiler"].last
        return None if last is None or last.module is None else last.module.graph

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_fused_compiler"].forget()
        return super()._apply(*args, **kwargs)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """For copies and pickles: the class is made again, and the network is compiled anew."""
        return _rebuild, (type(self).original,), {**self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self)


_classes: dict[Any, type[nn.Module]] = {}


def fused_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a network's class that runs compiled; always the same for a class."""
    if kind not in _classes:
        _classes[kind] = _subclass(kind)
    return _classes[kind]


def _subclass(kind: type[nn.Module]) -> type[nn.Module]:
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__, "original": kind}
    return type(f"Fused{kind.__name__}", (FusedNetwork, kind), about)


def _rebuild(kind: type[nn.Module]) -> nn.Module:
    made = fused_class(kind)
    return made.__new__(made)


def fuse(
    model: nn.Module, *example: Any, neurons: Mapping[type, NeuronSpec] | None = None, verify: bool = True
) -> nn.Module:
    """Put any spiking network on fused layers; parameters and buffers are shared with ``model``, not copied.

    The forward pass is captured, its loops over time are rolled up, its neurons are recognised, and convolutions, batch
    norms, residuals, neurons and pools are joined to stages that run over all timesteps at once: in C++ on a CPU, by
    Triton kernels on an NVIDIA GPU, elsewhere in plain PyTorch. Under a mask (:meth:`snn_sparse.Mask.apply_`) a layer
    convolves at its live weights where that was measured to be faster. The first batch is computed both ways and
    compared; what disagrees is put back. What cannot be captured runs as it was written; :func:`snn_sparse.explain`
    says why.

    Args:
        model: any module; not changed.
        *example: inputs of a call, for which it is captured now; left out, the first call captures. Every new shape,
            dtype, mode or number in an attribute (such as ``timesteps``) is captured when it first comes.
        neurons: your own neuron classes, with what they compute; others are recognised by what they do.
        verify: whether to compare the first batch.

    Returns:
        a network of a subclass of ``type(model)``, with the same parameters and ``state_dict``. Neurons keep their
        state between calls as the original's do.

    Raises:
        TypeError: ``model`` is no module, or ``neurons`` no mapping from classes to :class:`snn_sparse.NeuronSpec`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if neurons is not None:
        check_kind("neurons", neurons, Mapping)
    named = dict(neurons or {})
    for kind, spec in named.items():
        if not isinstance(kind, type) or not isinstance(spec, NeuronSpec):
            raise TypeError(f"neurons must map classes to NeuronSpec, got {kind!r}: {spec!r}")
    if isinstance(model, FusedNetwork):
        named = model.__dict__["_fused_compiler"].neurons | named
        twin = copied(model, shared=True)
    else:
        twin = copied(model, shared=True)
        for module in twin.modules():
            if module is not twin and layers.kind_of(module) in ("conv", "linear") and not isinstance(module, Masked):
                module.__class__ = masked_class(type(module))
        twin.__class__ = fused_class(type(twin))
    twin.__dict__["_fused_compiler"] = Compiler(named, verify)
    register(twin)
    if example:
        twin.__dict__["_fused_compiler"].meet(twin, example, {})
    return twin


def unfuse(model: nn.Module) -> nn.Module:
    """Give the network back as it was before :func:`fuse`, sharing parameters and buffers.

    Pruned weights are zero in it, but nothing keeps them so: apply the mask again if it is to train.

    Raises:
        TypeError: ``model`` was not fused.
    """
    if not isinstance(model, FusedNetwork):
        raise TypeError(f"model must be a fused network, got {type(model).__name__}")
    twin = copied(model, shared=True)
    del twin.__dict__["_fused_compiler"]
    twin.__class__ = type(model).original
    for module in twin.modules():
        if isinstance(module, Masked):
            foreign_class(module)
    return twin
