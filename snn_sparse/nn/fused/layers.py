"""Convolution and linear layers with a plan, batch norm that waits for its neuron, max-pool that the neuron takes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from snn_sparse.nn.deferred import Deferred, Normed, PackedStored, Pooled, Spikes, Stored, plain, stored
from snn_sparse.nn.fused.convolution import Convolved, geometry_of
from snn_sparse.nn.fused.gpu_plan import ConvPlanner
from snn_sparse.nn.fused.plan import ConvShape, Plan, Planner
from snn_sparse.nn.layers import BatchNorm2d, Conv2d, MaxPool2d
from snn_sparse.ops.binary_conv import binary_conv2d
from snn_sparse.ops.conv_plan import ConvPlan
from snn_sparse.ops.device import fusable, on_kernels
from snn_sparse.ops.fused_neuron import Norm
from snn_sparse.ops.layout import NCHW, NHWC, PACKED, Layout, layout_of, ordered
from snn_sparse.ops.library import usable
from snn_sparse.ops.sparse_conv import Structure, sparse_conv2d

# Packing takes the same time at any density: little beside a convolution at 25 %, much beside one at 2 %.
PACK_ABOVE = 0.15


_MADE = ("_planner", "_conv_planner", "_always_masked")  # by a layer as it runs


class _Planned(nn.Module):
    """Mixed into a layer with a weight: knows its mask, and how to compute under it for each shape it has met."""

    live_mask: torch.Tensor | None = None

    @property
    def planner(self) -> Planner:
        """Plans of this layer for a CPU, made when first needed."""
        if "_planner" not in self.__dict__:
            self.__dict__["_planner"] = Planner(self.live_mask)
        return self.__dict__["_planner"]

    @property
    def conv_planner(self) -> ConvPlanner:
        """Plans of this layer for a GPU, made when first needed."""
        if "_conv_planner" not in self.__dict__:
            self.__dict__["_conv_planner"] = ConvPlanner(self.live_mask)
        return self.__dict__["_conv_planner"]

    def set_mask(self, mask: torch.Tensor | None) -> None:
        """Tell the layer which weights are alive (None: all); plans for another mask are forgotten."""
        self.live_mask = mask
        for name in _MADE:
            self.__dict__.pop(name, None)

    @property
    def gradient_is_masked(self) -> bool:
        """Whether the weight's gradient is zero at pruned weights without anybody's doing."""
        return self.live_mask is not None and self.__dict__.get("_always_masked", False)

    def _note(self, masked: bool) -> None:
        """Remember whether this forward pass gives pruned weights a gradient of zero: one that does not is enough."""
        if self.live_mask is not None and torch.is_grad_enabled():
            self.__dict__["_always_masked"] = masked and self.__dict__.get("_always_masked", True)

    def __deepcopy__(self, memo: dict) -> "_Planned":
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        import copy

        twin.__dict__ = {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in _MADE}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: plans are made again."""
        return {k: v for k, v in self.__dict__.items() if k not in _MADE}


def _lanes(plan: Plan) -> Layout:
    assert plan.blocking is not None
    return Layout("lanes", plan.blocking.vectors)


class FusedConv2d(_Planned, Conv2d):
    """:class:`snn_sparse.nn.Conv2d` by plan: at the live weights only, or dense in the faster layout."""

    def _supported(self) -> bool:
        square = len(set(self.stride)) == len(set(self.padding)) == 1 and not isinstance(self.padding, str)
        return square and self.groups == 1 and set(self.dilation) == {1} and self.padding_mode == "zeros"

    def forward(self, x: Any) -> Any:
        """Deferred output; an ordinary tensor where the operators cannot be used."""
        given = x if isinstance(x, Deferred) else stored(x) if _is_maps(x) else None
        if given is not None and self._supported() and on_kernels(*_tensors(given), self.weight):
            return self._on_gpu(given)
        if given is None or not self._supported() or not usable(*_tensors(given), self.weight, self.bias):
            self._note(False)
            return super().forward(plain(x))
        stride, padding = self.stride[0], int(self.padding[0])
        shape = ConvShape(given.sizes, tuple(self.weight.shape), stride, padding, self.weight.dtype)  # type: ignore[arg-type]
        plan = self.planner.plan(shape)
        t, n, _, h, w = given.sizes
        height, width = ((d + 2 * padding - k) // stride + 1 for d, k in zip((h, w), self.kernel_size, strict=True))
        after = (t, n, self.out_channels, height, width)
        self._note(plan.blocking is not None)
        if plan.blocking is None:
            source = stored(given, plan.layout)
            convolve = binary_conv2d if source.binary else F.conv2d
            y = convolve(source.data_in(plan.layout).flatten(0, 1), self.weight, self.bias, stride, padding)
            return Stored(ordered(y.unflatten(0, (t, n)), plan.layout), after, plan.layout, source.repeat)
        source = stored(given, _lanes(plan))
        structure: Structure = self.planner.structure(plan, stride, padding)
        pack = source.binary and (self.planner.density or 0.0) > PACK_ABOVE
        y = sparse_conv2d(source.data_in(_lanes(plan)), self.weight, self.bias, (h, w), structure, binary=pack)
        return Stored(y, after, _lanes(plan), source.repeat)

    def _on_gpu(self, given: Deferred) -> Deferred:
        """By plan where spikes come packed and channels last; else by torch."""
        packs = torch.is_grad_enabled() or self.weight.permute(0, 2, 3, 1).is_contiguous()
        source = stored(given, PACKED if packs else None)
        if isinstance(source, PackedStored):
            geometry, plan = geometry_of(self, source.sizes), ConvPlan()
            if source.layout == NHWC:
                plan = self.conv_planner.plan(geometry, _product_dtype(self.weight), self.weight.device)
            self._note(plan.ways.grad_weight is not None)
            return Convolved(self, source, plan, geometry.output_shape)
        self._note(False)
        y = F.conv2d(source.sequence().flatten(0, 1), self.weight, self.bias, self.stride, self.padding)
        y = y.unflatten(0, source.sizes[:2])
        return Stored(y, tuple(y.shape), layout_of(y), source.repeat)


def _product_dtype(weight: torch.Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _is_maps(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dim() in (4, 5) and x.numel() > 0


def _tensors(x: Deferred) -> list[torch.Tensor]:
    return [x.data] if isinstance(x, Stored) else []


class FusedLinear(_Planned, nn.Linear):
    """``torch.nn.Linear`` by plan: under a sparse mask a 1x1 convolution of 1x1 maps at the live weights."""

    def forward(self, x: Any) -> torch.Tensor:
        """``[..., F]`` -> ``[..., K]``, an ordinary tensor."""
        x = plain(x)
        if self.live_mask is None or x.dim() < 2 or x.numel() == 0 or not usable(x, self.weight, self.bias):
            self._note(False)
            return super().forward(x)
        sizes = (1, x[..., 0].numel(), x.shape[-1], 1, 1)
        shape = ConvShape(sizes, (*self.weight.shape, 1, 1), 1, 0, x.dtype)
        plan = self.planner.plan(shape)
        self._note(plan.blocking is not None)
        if plan.blocking is None:
            return super().forward(x)
        data = Stored(x.reshape(sizes), sizes, NCHW).data_in(_lanes(plan))
        structure = self.planner.structure(plan, 1, 0)
        y = sparse_conv2d(data, self.weight[..., None, None], self.bias, (1, 1), structure)
        after = (1, sizes[1], self.out_features, 1, 1)
        return Stored(y, after, _lanes(plan)).sequence().reshape(*x.shape[:-1], self.out_features)


class FusedBatchNorm2d(BatchNorm2d):
    """:class:`snn_sparse.nn.BatchNorm2d` that waits for the neuron behind it."""

    @property
    def uses_batch(self) -> bool:
        """Whether the batch's own statistics normalise."""
        return self.training or self.running_mean is None

    def record(self, timesteps: int, move_statistics: bool) -> Norm:
        """What the fused operator must know; counts the updates of the running statistics that it will make."""
        updates = timesteps if self.bn_statistics == "per_step" else 1
        training = self.uses_batch
        factors = self.update_factors(updates) if move_statistics else [0.0] * updates
        running = (self.running_mean, self.running_var) if move_statistics or not training else (None, None)
        return Norm(self.weight, self.bias, *running, tuple(factors), training, self.eps, self.bn_statistics)

    def forward(self, x: Any) -> Any:
        """Deferred; an ordinary tensor where the operators cannot be used."""
        if isinstance(x, Deferred) or (_is_maps(x) and fusable(x, self.weight)):
            self._check_input_dim(x)
            given = x if isinstance(x, Convolved) else stored(x)
            if given.repeat:  # a static batch that was repeated before: T equal steps, T updates
                given = stored(given.tensor())
            return Normed(given, self)
        return super().forward(x)


class FusedMaxPool2d(MaxPool2d):
    """:class:`snn_sparse.nn.MaxPool2d`; a 2x2 pool of stride 2 behind a neuron is taken over by the neuron."""

    def forward(self, x: Any) -> Any:
        """Deferred behind a neuron, else an ordinary tensor."""
        usual = (
            {self.kernel_size, self.stride} <= {2, (2, 2)}
            and self.padding in (0, (0, 0))
            and self.dilation in (1, (1, 1))
            and not self.ceil_mode
            and not self.return_indices
        )
        if isinstance(x, Spikes) and usual and min(x.sizes[-2:]) >= 2:
            return Pooled(x)
        return super().forward(plain(x))
