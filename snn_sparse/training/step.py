"""One training step, in float32 or bfloat16; on a GPU captured in CUDA graphs, so that the host launches it at once."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from snn_sparse.nn import masked
from snn_sparse.ops import temporal_cross_entropy
from snn_sparse.specs import check_kind
from snn_sparse.training.cuda_graphs import CudaGraphs, Replayable, describe

Tensor = torch.Tensor
Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

WARMUP = 3  # eager steps of each kind of batch before its capture: kernels compile, layers are tuned, cuDNN chooses
WARMUP_DDP = 11  # likewise of DistributedDataParallel, which arranges its buckets anew during the first ones
MAX_KINDS = 4  # kinds of batch whose graphs are kept, the last used


def check_precision(dtype: torch.dtype) -> torch.dtype:
    """``dtype`` if networks train in it.

    Raises:
        ValueError: it is neither float32 nor bfloat16.
    """
    if dtype == torch.float16:
        raise ValueError("dtype must not be float16, which needs a gradient scaler: use bfloat16")
    if dtype not in PRECISIONS.values():
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    return dtype


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Inside, networks with float32 parameters compute in ``dtype``; float32 leaves everything as it is."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def upcast(x: Tensor) -> Tensor:
    """Turn half precision into float32; anything else stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel``, whose attributes the wrapper does not show."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _capturable(group: dict[str, Any]) -> bool:
    """Whether a step of an optimizer's group waits for nothing on the host, and reads the learning rate anew."""
    return bool(group.get("capturable", True)) and isinstance(group.get("lr"), Tensor)


@dataclass
class _Recording:
    """The graphs of one kind of batch, and the tensors through which they are fed and read."""

    x: Tensor
    y: Tensor
    loss: Tensor
    backward: Replayable
    update: Replayable


@dataclass
class _Kind:
    """One kind of batch: how many steps it has made as usual, and its recording."""

    steps: int = 0
    recording: _Recording | None = None


class TrainStep:
    """One training step: forward, loss, backward, update; captured in CUDA graphs where that is possible.

    The loss is :func:`snn_sparse.temporal_cross_entropy` of the logits in float32. Each kind of batch (shape and
    strides of the images, T, which modules train) gets its own graphs: its first three steps (11 of a network wrapped
    in ``DistributedDataParallel``) run as usual, the next is captured and, like all later ones, replayed. A new mask, a
    moved or frozen parameter, or another option of the optimizer starts this anew; the learning rate is read at every
    step. If something cannot be captured, such as a module that waits for the device, a warning says so once, and all
    steps run as usual from then on.

    Gradients are dropped before they are computed, never added up; after a replayed step ``grad`` is of no use.

    Args:
        model: the network, called with images and answering with logits ``[T, N, K]``.
        optimizer: of its parameters.
        dtype: float32, or bfloat16: forward pass and loss run under ``torch.autocast``.
        graph: ``None``: capture where images are on an NVIDIA GPU and the optimizer can be captured (its learning rate
            is a tensor, and ``capturable=True`` where it has that option); ``False``: never; ``True``: insist on it.
        reduce: called between backward and update with the network, the number of images and their mean loss, such as
            :class:`snn_sparse.training.GradientAverage`. It finds the gradients of the *summed* loss of the images,
            leaves those of the mean loss of all, and returns that. Steps are not captured then.

    Raises:
        ValueError: another dtype, or ``graph=True`` where steps cannot be captured.
        TypeError: ``model`` or ``optimizer`` is none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype = torch.float32,
        graph: bool | None = None,
        reduce: Callable[[nn.Module, int, Tensor], Tensor] | None = None,
    ) -> None:
        check_kind("model", model, nn.Module)
        check_kind("optimizer", optimizer, torch.optim.Optimizer)
        self.model, self.optimizer, self.dtype = model, optimizer, check_precision(dtype)
        self._reduce, self._network = reduce, _unwrapped(model)
        self._warmup = WARMUP if self._network is model else WARMUP_DDP
        self._modules = list(model.modules())
        self._masked: list[Any] = [m for m in self._modules if isinstance(m, masked.Masked)]
        capturable = reduce is None and all(_capturable(group) for group in optimizer.param_groups)
        self._wanted, self._may_capture = bool(graph), graph is not False and bool(capturable)
        if graph and not (capturable and all(CudaGraphs.take(p) for p in model.parameters())):
            raise ValueError(
                "graph=True needs a network on an NVIDIA GPU and an optimizer that can be captured: its lr a tensor, "
                "and capturable=True where it has that option; and no reduce"
            )
        self._graphs: CudaGraphs | None = None
        self._kinds: OrderedDict[tuple[Any, ...], _Kind] = OrderedDict()
        self._fixed: tuple[list[Any], ...] | None = None
        self._held: list[Any] = []  # masks and hooks, so that no other takes their `id`
        self._last: _Recording | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """One step.

        Args:
            x: images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``, float32 or the step's dtype.
            y: classes ``[N]`` from 0 to K - 1, int64.

        Returns:
            the loss, a scalar on the device, detached; the next step may overwrite it.

        Raises:
            ValueError: ``graph=True``, and ``x`` is not on an NVIDIA GPU; labels that do not fit the logits, as
                :func:`snn_sparse.temporal_cross_entropy` says: out of range it notices on a CPU only.
            TypeError: ``x`` or ``y`` is no tensor, or ``y`` not int64. The step has changed no parameter then.
        """
        check_kind("x", x, Tensor)
        check_kind("y", y, Tensor)
        taken = CudaGraphs.take(x)
        if self._wanted and not taken:
            raise ValueError(f"graph=True needs x on an NVIDIA GPU, got {x.device}")
        if not (taken and self._may_capture):
            return self._eager(x, y)
        self._graphs = self._graphs or CudaGraphs(x.device)
        fixed = self._look()
        if fixed != self._fixed:
            self._forget()
        self._fixed = fixed
        kind = self._kind(x, y)
        if kind.recording is None and kind.steps >= self._warmup:
            self._record(kind, x, y)
        if kind.recording is not None:
            return self._replay(kind.recording, x, y)
        kind.steps += 1
        with self._graphs.aside():
            return self._eager(x, y)

    def _eager(self, x: Tensor, y: Tensor) -> Tensor:
        self._last = None
        loss = self._backward(x, y)
        self.optimizer.step()
        return loss

    def _backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of a batch, in memory of their own; returns the loss."""
        self._drop_gradients()
        with autocast(x.device, self.dtype):
            loss = temporal_cross_entropy(upcast(self.model(x)), y)
        if self._reduce is None:
            loss.backward()
            return loss.detach()
        (loss * len(y)).backward()
        return self._reduce(self.model, len(y), loss.detach())

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)

    def _replay(self, recording: _Recording, x: Tensor, y: Tensor) -> Tensor:
        if recording is not self._last:
            self._drop_gradients()  # those of another step
            self._last = recording
        recording.x.copy_(x, non_blocking=True)
        recording.y.copy_(y, non_blocking=True)
        recording.backward.replay()
        recording.update.replay()
        return recording.loss

    def _record(self, kind: _Kind, x: Tensor, y: Tensor) -> None:
        """Capture a step, of which nothing runs; if it cannot be captured, nothing has changed either."""
        try:
            kind.recording = self._last = self._capture(x.clone(), y.clone())
        except Exception as error:  # whatever a module does that a graph cannot hold
            warnings.warn(f"training goes on without CUDA graphs: {describe(error)}", stacklevel=3)
            self._may_capture = self._wanted = False
            self._forget()

    def _capture(self, x: Tensor, y: Tensor) -> _Recording:
        assert self._graphs is not None
        self._drop_gradients()  # so that their memory is free for the capture
        loss = torch.zeros((), device=x.device)
        others = [kind.recording.backward for kind in self._kinds.values() if kind.recording is not None]
        backward = self._graphs.capture(lambda: loss.copy_(self._backward(x, y)), others[0] if others else None)
        update = self._graphs.capture(self.optimizer.step)
        return _Recording(x, y, loss, backward, update)

    def _kind(self, x: Tensor, y: Tensor) -> _Kind:
        timesteps, training = getattr(self._network, "timesteps", None), tuple(m.training for m in self._modules)
        key = (x.shape, x.stride(), x.dtype, x.device, y.shape, y.dtype, timesteps, training)
        kind = self._kinds.setdefault(key, _Kind())
        self._kinds.move_to_end(key)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        return kind

    def _forget(self) -> None:
        """Drop all graphs, and the gradients in their memory."""
        self._kinds.clear()
        self._last = None
        self._drop_gradients()

    def _look(self) -> tuple[list[Any], ...]:
        """List what graphs take for granted: where tensors are, what trains, masks, hooks, the optimizer's options."""
        tensors: list[Tensor] = []
        for module in self._modules:
            tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        self._held = [m.keep_mask for m in self._masked] + list(self._network._forward_pre_hooks.values())
        places = [(t.data_ptr(), t.requires_grad) for t in tensors]
        return places, [id(x) for x in self._held], self._options()

    def _options(self) -> list[Any]:
        """List what a captured update takes for constant; a tensor's value is read anew, from where it is."""
        options = [
            (k, v) for g in self.optimizer.param_groups for k, v in g.items() if k not in ("params", "initial_lr")
        ]
        return [(k, v.data_ptr() if isinstance(v, Tensor) else v) for k, v in options]
