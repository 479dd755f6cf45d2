"""The same networks on SpikingJelly's nodes: in a time loop, as the published code runs, and multi-step."""

import copy
from typing import Any

import torch
from torch import nn

from snn_sparse.models import VGG, SpikingNetwork
from snn_sparse.nn import LIF, BatchNorm2d, Conv2d, MaxPool2d


def _replace(module: nn.Module, multi_step: bool) -> None:
    for name, child in module.named_children():
        new = _counterpart(child, multi_step)
        if new is None:
            _replace(child, multi_step)
            continue
        new.load_state_dict(child.state_dict())
        setattr(module, name, new)


def _counterpart(child: nn.Module, multi_step: bool) -> nn.Module | None:
    from spikingjelly.activation_based import layer, neuron, surrogate

    mode: dict[str, Any] = {"step_mode": "m"} if multi_step else {}
    if isinstance(child, Conv2d):
        kind: Any = layer.Conv2d if multi_step else nn.Conv2d
        shape = (child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding)
        return kind(*shape, bias=child.bias is not None, **mode)
    if isinstance(child, BatchNorm2d):
        return (layer.BatchNorm2d if multi_step else nn.BatchNorm2d)(child.num_features, **mode)
    if isinstance(child, MaxPool2d):
        return (layer.MaxPool2d if multi_step else nn.MaxPool2d)(child.kernel_size, child.stride, **mode)
    if isinstance(child, LIF):
        return neuron.LIFNode(
            tau=child.spec.tau, surrogate_function=surrogate.ATan(), detach_reset=child.spec.detach_reset, **mode
        )
    return None


class _Net(nn.Module):
    """Stem (first convolution and batch norm, once) and rest of a network."""

    def __init__(self, model: SpikingNetwork, multi_step: bool) -> None:
        super().__init__()
        self.net = copy.deepcopy(model)
        _replace(self.net, multi_step)
        if multi_step:  # the first two run on a static batch
            for first in self._stem():
                first.step_mode = "s"  # type: ignore[assignment]

    def _stem(self) -> list[nn.Module]:
        if isinstance(self.net, VGG):
            return list(self.net.features[:2])
        return [self.net.conv1, self.net.bn1]  # type: ignore[list-item]

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what a static image needs once."""
        for layer in self._stem():
            x = layer(x)
        return x

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what every timestep needs; one step ``[N, ...]`` or, multi-step, all of them ``[T, N, ...]``."""
        net = self.net
        if isinstance(net, VGG):
            return net.classifier(net.features[2:](x).mean((-2, -1)))
        x = net.layer3(net.layer2(net.layer1(net.lif_input(x))))  # type: ignore[operator]
        return net.fc2(net.lif_fc(net.fc1(x.mean((-2, -1)))))  # type: ignore[operator]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]`` from the state that the nodes are in."""
        raise TypeError(f"{type(self).__name__} is no network by itself: use TimeLoop or MultiStep")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]``; the nodes' state is reset first."""
        from spikingjelly.activation_based import functional

        functional.reset_net(self.net)
        return self.logits(x)


class TimeLoop(_Net):
    """Single-step nodes in a Python loop over time: the published code's way."""

    def __init__(self, model: SpikingNetwork) -> None:
        super().__init__(model, multi_step=False)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]`` from the state that the nodes are in."""
        static = self.stem(x)
        return torch.stack([self.rest(static) for _ in range(self.net.timesteps)])


class MultiStep(_Net):
    """Multi-step layers and nodes: every layer sees all timesteps at once; batch statistics pooled over time."""

    def __init__(self, model: SpikingNetwork) -> None:
        super().__init__(model, multi_step=True)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, N, K]`` from the state that the nodes are in."""
        return self.rest(self.net.repeat(self.stem(x)))

    def compile_logits(self) -> None:
        """Let ``torch.compile`` fuse what it can; resetting the nodes stays outside."""
        self.logits = torch.compile(self.logits, dynamic=False)  # type: ignore[method-assign]


def use_triton(net: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``net`` with SpikingJelly's Triton neurons for a low precision.

    By themselves SpikingJelly 2.0's nodes keep their state in the dtype of their input, and leave states other than
    float32 to plain PyTorch: kernels for them must be asked for.

    Args:
        net: its multi-step nodes are set up in place.
        device: an NVIDIA GPU.
        dtype: of the nodes' input and state, bfloat16 or float16; float32 needs no asking.

    Raises:
        RuntimeError: there is no such GPU, or no Triton. ValueError: another dtype.
    """
    from spikingjelly.activation_based.precision import PrecisionConfig, prepare_model_for_precision

    if dtype == torch.float32:
        return net
    names: dict[torch.dtype, Any] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if dtype not in names:
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    name = names[dtype]
    return prepare_model_for_precision(net, device, PrecisionConfig(mode=name, neuron_storage=name)).model
