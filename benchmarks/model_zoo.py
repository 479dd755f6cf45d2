"""Networks that ``ss.fuse`` is shown: those of ``tests/zoo``, and those of SpikingJelly's model zoo at small sizes."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

TESTS = Path(__file__).resolve().parents[1] / "tests"
T, N = 4, 4  # timesteps and images of SpikingJelly's networks


def networks() -> dict[str, Any]:
    """All of them by name, as ``zoo.network.Network`` describes one."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return {**importlib.import_module("zoo").NETWORKS, **_of_spikingjelly()}


def count_neurons(model: nn.Module) -> int:
    """How many of SpikingJelly's neurons are in a network."""
    from spikingjelly.activation_based.neuron import BaseNode

    return sum(isinstance(module, BaseNode) for module in model.modules())


def _lif() -> dict[str, Any]:
    from spikingjelly.activation_based import neuron, surrogate

    return {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}


def _multi_step(model: nn.Module) -> nn.Module:
    from spikingjelly.activation_based import functional

    functional.set_step_mode(model, "m")
    return model


def _vgg() -> nn.Module:
    from spikingjelly.activation_based import layer
    from spikingjelly.activation_based.model import spiking_vgg

    model = spiking_vgg.spiking_vgg11_bn(**_lif())
    model.avgpool, model.classifier = layer.AdaptiveAvgPool2d(1), layer.Linear(512, 10)  # the zoo's are for 224x224
    return _multi_step(model)


def _resnet(file: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = importlib.import_module(f"spikingjelly.activation_based.model.{file}")
        return _multi_step(getattr(module, name)(num_classes=10, **_lif(), **options))

    return build


def _as_published(file: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = importlib.import_module(f"spikingjelly.activation_based.model.{file}")
        return getattr(module, name)(T=T, num_classes=10, **options)

    return build


_SPIKINGJELLY: tuple[tuple[str, str, Callable[[], nn.Module], bool], ...] = (
    ("spiking_vgg11_bn", "multi-step modules, max-pools", _vgg, True),
    ("spiking_resnet18", "multi-step modules", _resnet("spiking_resnet", "spiking_resnet18"), True),
    ("sew_resnet18", "residuals that add spikes", _resnet("sew_resnet", "sew_resnet18", cnf="ADD"), True),
    (
        "ms_resnet18",
        "neurons before the convolutions, residuals of potentials",
        _as_published("ms_resnet", "ms_resnet18", stem_kernel_size=3, stem_stride=1),
        False,
    ),
    (
        "spikformer",
        "transformer: attention of spikes",
        _as_published("spikformer", "Spikformer", img_size_h=32, img_size_w=32, patch_size=4, embed_dims=128, depths=2),
        False,
    ),
    (
        "spike_driven_transformer",
        "transformer: attention by masking, residuals of potentials",
        _as_published("spike_driven_transformer", "SpikeDrivenTransformer", embed_dims=128, depths=2),
        False,
    ),
)


def _of_spikingjelly() -> dict[str, Any]:
    """Those of SpikingJelly 2.0's model zoo; ``neurons`` is 0: counted when they are built."""
    from spikingjelly.activation_based import functional

    kind = importlib.import_module("zoo.network").Network
    found = {}
    for name, style, build, sequence in _SPIKINGJELLY:
        shape = (T, N, 3, 32, 32) if sequence else (N, 3, 32, 32)
        found[f"SpikingJelly {name}"] = kind(
            f"SpikingJelly {name}", style, build, _drawn(shape), 0, 0, reset=functional.reset_net
        )
    return found


def _drawn(shape: tuple[int, ...]) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.rand(shape),)
