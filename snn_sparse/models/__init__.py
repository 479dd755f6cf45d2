"""The published networks from plain modules: the reference that everything faster is held against."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from snn_sparse.models.base import SpikingNetwork, check_width, scale_channels
from snn_sparse.models.resnet import ResNet19
from snn_sparse.models.vgg import VGG, VGG_LAYERS
from snn_sparse.nn import NEURONS, make_neuron
from snn_sparse.ops import as_surrogate, surrogate_config
from snn_sparse.specs import BatchNormStatistics, check_kind, check_statistics

ARCHITECTURES: tuple[str, ...] = (*VGG_LAYERS, "resnet19")

__all__ = ["ARCHITECTURES", "VGG", "VGG_LAYERS", "ResNet19", "SpikingNetwork", "build_model", "check_width"]


def build_model(
    arch: str,
    num_classes: int = 10,
    in_channels: int = 3,
    timesteps: int = 5,
    *,
    neuron: str = "lif",
    neuron_options: dict[str, Any] | None = None,
    bn_statistics: BatchNormStatistics = "per_step",
    width: float = 1.0,
) -> SpikingNetwork:
    """Build a network by name, freshly initialised from torch's global random generator.

    Args:
        arch: ``vgg11``, ``vgg13``, ``vgg16``, ``vgg19``, ``resnet19``, or ``vgg_small`` (8x8 images and up).
        num_classes: K.
        in_channels: channels of the input.
        timesteps: T of a constant image.
        neuron: ``lif``, ``if``, ``plif``, ``leaky``, or ``relu`` (the conventional network of the same shape).
        neuron_options: arguments of the neuron, such as ``{"tau": 2.0, "surrogate": "sigmoid"}``.
        bn_statistics: ``per_step`` (published) or ``pooled``.
        width: factor of all numbers of channels (of ResNet19 also of its hidden ``Linear``), above 0; each becomes the
            nearest multiple of 8, at least 8. 1 (published) changes none.

    Raises:
        ValueError: unknown name or number out of range. TypeError: an argument of the wrong type.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    if not isinstance(neuron, str) or neuron not in NEURONS:
        raise ValueError(f"unknown neuron {neuron!r}: choose from {', '.join(NEURONS)}")
    if neuron_options is not None:
        check_kind("neuron_options", neuron_options, Mapping)
    options = dict(neuron_options or {})
    if "surrogate" in options:  # as a record that JSON can hold, since `config` goes into ticket files
        options["surrogate"] = surrogate_config(as_surrogate(options["surrogate"]))
    statistics, width = check_statistics(bn_statistics), check_width(width)

    def one_neuron() -> nn.Module:
        return make_neuron(neuron, **options)

    if arch == "resnet19":
        model: SpikingNetwork = ResNet19(num_classes, in_channels, timesteps, one_neuron, statistics, width)
    else:
        layers = tuple(scale_channels(channels, width) if channels else 0 for channels in VGG_LAYERS[arch])
        model = VGG(layers, num_classes, in_channels, timesteps, one_neuron, statistics)
    model.config = {
        "arch": arch,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "timesteps": timesteps,
        "neuron": neuron,
        "neuron_options": options,
        "bn_statistics": statistics,
        "width": width,
    }
    return model
