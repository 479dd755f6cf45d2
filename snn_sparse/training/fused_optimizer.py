"""SGD and Adam for NVIDIA GPUs that update a whole masked network by one kernel launch, which a CUDA graph may hold."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from snn_sparse.ops.device import kernels_run

if TYPE_CHECKING:
    from snn_sparse.kernels.optimizer import AdamRule, SgdRule

Tensor = torch.Tensor
_UNSUPPORTED = ("dampening", "maximize", "amsgrad", "decoupled_weight_decay")  # torch's, as checkpoints may hold them


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _placed(x: Tensor, like: Tensor) -> Tensor:
    """``x`` itself if its elements lie in memory as those of ``like``, else a copy that does; of its own dtype."""
    same = x.stride() == like.stride() or all(
        size == 1 or a == b for size, a, b in zip(like.shape, x.stride(), like.stride(), strict=True)
    )
    if same and x.device == like.device:
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


@functools.lru_cache(maxsize=1024)
def _is_dense(shape: torch.Size, strides: tuple[int, ...]) -> bool:
    x = torch.empty_strided(shape, strides, device="meta")
    return torch.empty_like(x).stride() == strides  # only a dense tensor is copied stride by stride


def _check_parameter(name: str, p: Tensor, device: torch.device, shape: torch.Size) -> None:
    if p.dtype != torch.float32:
        raise TypeError(f"parameters must be float32, but {name!r} is {p.dtype}")
    if p.device != device or p.shape != shape:
        raise ValueError(f"parameters must stay on one device, {device}, and in shape, unlike {name!r}")
    if not _is_dense(p.shape, p.stride()):
        raise ValueError(f"parameters must be dense in memory, but {name!r} has strides {p.stride()}")


class FusedOptimizer(torch.optim.Optimizer, ABC):
    """What :class:`FusedSGD` and :class:`FusedAdam` share.

    The numbers are those of ``torch.optim``'s optimizers on masked dense weights and gradients, and so are the names of
    the state: ``state_dict`` goes both ways. Pruned entries of weights, gradients and state are neither read nor
    written; loading zeroes them in the state. Weights and state are written behind autograd's back: their versions do
    not move, so whoever watches a weight's version need not look at pruned entries, and autograd does not notice that
    a weight it saved has changed.

    A CUDA graph that holds :meth:`step` reads the learning rate anew at each replay; all other options stay what they
    were. The graph points to parameters, gradients and state, and to tables here: keep all of them, unmoved, as long as
    the graph (:meth:`load_state_dict` does). A step before the capture compiles the kernel::

        optimizer.step()
        with torch.cuda.graph(graph):
            loss().backward()
            optimizer.step()
        optimizer.after_capture()
        for _ in batches:
            optimizer.prepare()
            graph.replay()

    Args:
        model: its parameters are optimized: float32, dense in memory (in any memory format), all on one GPU.
        alive: parameter name -> bool tensor, true where an entry is updated (such as a :class:`snn_sparse.Mask`);
            weights must be zero where it is false. Parameters without a mask are updated throughout; None: all are.
        options: the only group of ``param_groups``.

    Raises:
        ValueError: a mask without a parameter or of another shape, an option out of range, parameters on which Triton
            kernels do not run. TypeError: parameters that are not float32, masks that are not bool, lr as a tensor.
    """

    _counts_steps = False

    def __init__(self, model: nn.Module, alive: Mapping[str, Tensor] | None, options: dict[str, Any]) -> None:
        from snn_sparse.kernels.optimizer import StepLauncher

        parameters, masks = dict(model.named_parameters()), {} if alive is None else dict(alive)
        for name, mask in masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise ValueError(f"alive: {name!r} is no parameter of the model, or of another shape")
            if mask.dtype != torch.bool:
                raise TypeError(f"alive: {name!r} must be bool, got {mask.dtype}")
        self._check_options(options)
        super().__init__(parameters.values(), options)
        self._options = frozenset(options)
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._shapes, self._device = [p.shape for p in self._parameters], self._parameters[0].device
        for name, p in parameters.items():
            _check_parameter(name, p, self._device, p.shape)
        if not kernels_run(self._parameters[0], "optimizer"):
            raise ValueError(f"parameters must be where Triton kernels run, got {self._device}")
        self._alive: list[Tensor | None] = [
            torch.empty_like(p, dtype=torch.bool).copy_(masks[name]) if name in masks else None
            for name, p in parameters.items()
        ]
        self._launcher = StepLauncher([p.numel() for p in self._parameters], self._device)
        self._steps = [steps[0] for steps in self._launcher.steps]
        for i, p in enumerate(self._parameters):
            if p.requires_grad:
                self._state_of(i, False)  # now: each replay of a graph that made it would make it anew
        self.prepare()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; while a CUDA graph is captured, it becomes part of the graph and changes nothing.

        Raises:
            ValueError: a ``closure`` was given, or a parameter was moved or resized. TypeError: a sparse gradient, or
                one that is not float32. RuntimeError: state would have to be made while a graph is captured.
        """
        if closure is not None:
            raise ValueError("closure is not supported by fused optimizers")
        capturing = _capturing(self._device)
        if not capturing:
            self.prepare()
        with torch.no_grad():
            copies: list[Tensor] = []  # of gradients in other strides, alive until the launch
            rows = [self._row(i, copies, capturing) for i in range(len(self._names))]
            self._launcher.step(rows, self._rule(self.param_groups[0]), capturing=capturing)

    def prepare(self) -> None:
        """Copy a changed learning rate to the device, without a step: before each replay of a graph, on its stream."""
        self._launcher.upload_captured()
        self._launcher.set_lr(float(self.param_groups[0]["lr"]))

    def after_capture(self) -> None:
        """Tell captured steps where the tensors are; after the capture of each graph, before its first replay.

        Raises:
            RuntimeError: a graph is still being captured.
        """
        if _capturing(self._device):
            raise RuntimeError("after_capture must be called once the capture has ended")
        self._launcher.upload_captured()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of its counterpart in ``torch.optim``, into the state where it is.

        Raises:
            ValueError: it is of another kind of optimizer, of another model, or has options that are not supported.
        """
        for group in state_dict["param_groups"]:
            missing = self._options - group.keys()
            if missing:
                raise ValueError(f"state_dict is of another optimizer: no {', '.join(sorted(missing))}")
            self._check_options(group)
        before = {p: dict(state) for p, state in self.state.items()}
        super().load_state_dict(state_dict)
        loaded = dict(self.state)
        self.state.clear()
        self.state.update(before)  # kept in place, since graphs may point to it
        for i, p in enumerate(self._parameters):
            if p.requires_grad or p in loaded or p in before:
                self._load_state(i, loaded.get(p, {}))
        self.prepare()

    @torch.no_grad()
    def _load_state(self, i: int, loaded: Mapping[str, Any]) -> None:
        mask = self._alive[i]
        for name, own in zip(self._buffer_names(), self._state_of(i, False), strict=True):
            value = loaded.get(name)
            if value is not None and value.shape != own.shape:
                raise ValueError(f"state_dict: {name} must be {tuple(own.shape)}, got {tuple(value.shape)}")
            own.copy_(value) if value is not None else own.zero_()
            if mask is not None:
                own.masked_fill_(~mask, 0.0)
        self._launcher.steps[i].fill_(float(loaded.get("step", 0.0)))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Called once, by the constructor.

        Raises:
            ValueError: there is a group already.
        """
        if self.param_groups:
            raise ValueError("param_group: fused optimizers have one group only, that of the model")
        super().add_param_group(param_group)

    @abstractmethod
    def _rule(self, group: Mapping[str, Any]) -> SgdRule | AdamRule:
        """What to compute."""

    @abstractmethod
    def _buffer_names(self) -> tuple[str, ...]:
        """Names of the state tensors, in the kernel's order."""

    def _check_options(self, group: Mapping[str, Any]) -> None:
        if not isinstance(group["lr"], (int, float)):
            raise TypeError(f"lr must be a Python number, got {type(group['lr']).__name__}")
        if not group["lr"] >= 0:
            raise ValueError(f"lr must not be negative, got {group['lr']}")
        for name in _UNSUPPORTED:
            if group.get(name):
                raise ValueError(f"{name} is not supported by fused optimizers")
        self._rule(group)

    def _state_of(self, i: int, capturing: bool) -> list[Tensor]:
        """The buffers of a parameter, zeros at first, with its strides."""
        p = self._parameters[i]
        state = self.state[p]
        for name in self._buffer_names():
            old = state.get(name)
            if old is not None and (old.shape != p.shape or old.dtype != p.dtype):
                raise ValueError(f"state: {name} of {self._names[i]!r} must be float32 {tuple(p.shape)}")
            new = torch.zeros_like(p, memory_format=torch.preserve_format) if old is None else _placed(old, p)
            if new is not old:
                self._refuse_to_capture(i, capturing)
                state[name] = new
        if self._counts_steps and state.get("step") is not self._steps[i]:
            self._refuse_to_capture(i, capturing)
            self._launcher.steps[i].fill_(float(state.get("step", 0.0)))
            state["step"] = self._steps[i]
        return [state[name] for name in self._buffer_names()]

    def _row(self, i: int, copies: list[Tensor], capturing: bool) -> tuple[int, ...]:
        from snn_sparse.kernels.optimizer import table_row

        p, name, mask = self._parameters[i], self._names[i], self._alive[i]
        _check_parameter(name, p, self._device, self._shapes[i])
        if p.grad is None:
            return table_row(p, None)
        if p.grad.layout != torch.strided or p.grad.dtype != torch.float32:
            raise TypeError(f"gradient of {name!r} must be dense float32, got {p.grad.layout} {p.grad.dtype}")
        gradient = _placed(p.grad, p)
        copies.append(gradient)
        if mask is not None and _placed(mask, p) is not mask:
            self._refuse_to_capture(i, capturing)
            mask = self._alive[i] = _placed(mask, p)
        return table_row(p, gradient, self._state_of(i, capturing), mask)

    def _refuse_to_capture(self, i: int, capturing: bool) -> None:
        if capturing:
            raise RuntimeError(f"state of {self._names[i]!r} must be made by a step before a graph is captured")


class FusedSGD(FusedOptimizer):
    """``torch.optim.SGD`` without dampening. Arguments and errors: :class:`FusedOptimizer`'s, options torch's."""

    def __init__(
        self,
        model: nn.Module,
        alive: Mapping[str, Tensor] | None = None,
        *,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(model, alive, {**options, "dampening": 0.0})

    def _rule(self, group: Mapping[str, Any]) -> SgdRule:
        from snn_sparse.kernels.optimizer import SgdRule

        return SgdRule(group["momentum"], group["weight_decay"], group["nesterov"])

    def _buffer_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.param_groups[0]["momentum"] else ()


class FusedAdam(FusedOptimizer):
    """``torch.optim.Adam`` without AMSGrad. Arguments and errors: :class:`FusedOptimizer`'s, options torch's."""

    _counts_steps = True

    def __init__(
        self,
        model: nn.Module,
        alive: Mapping[str, Tensor] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(model, alive, {**options, "amsgrad": False})

    def _rule(self, group: Mapping[str, Any]) -> AdamRule:
        from snn_sparse.kernels.optimizer import AdamRule

        return AdamRule(tuple(group["betas"]), group["eps"], group["weight_decay"])

    def _buffer_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")
