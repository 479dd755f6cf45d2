"""Batch norm whose statistics are those of the whole batch, of which each process has a piece."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from snn_sparse.nn.layers import BatchNorm2d
from snn_sparse.nn.norm import update_factors

Tensor = torch.Tensor


class SyncBatchNorm2d(BatchNorm2d):
    """:class:`BatchNorm2d` with one set of batch statistics for all processes, forward and backward.

    Parameters, buffers and ``state_dict`` are those of :class:`BatchNorm2d`. In training each forward and backward pass
    waits for those of all other processes, so all must make the same passes; each timestep has its own statistics, or
    they are pooled, as ``bn_statistics`` says. The gradients of weight and bias are those of this process's images, to
    be summed like all others. In eval mode, in a group of one, and before :func:`synchronise_batch_norms` has
    switched it on it is a :class:`BatchNorm2d`; copies and pickles are switched off.

    Args:
        *args, **kwargs: as :class:`BatchNorm2d`.
    """

    synchronised = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise this process's piece of a batch ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``."""
        alone = not (self.synchronised and self.training and dist.is_initialized() and dist.get_world_size() > 1)
        if alone or isinstance(x, FakeTensor):  # a capture wants the shape only
            return super().forward(x)
        self._check_input_dim(x)
        pooled = x.dim() == 4 or self.bn_statistics == "pooled"
        sequence = x.unsqueeze(0) if x.dim() == 4 else x
        y, mean, variance, count = _Synchronised.apply(sequence, self.weight, self.bias, self.eps, pooled)
        self._move(mean, variance * (count / (count - 1)))
        return y.view_as(x)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by those of each set ``[sets, C]``, in order."""
        if self.running_mean is None or self.running_var is None:
            return
        for t, factor in enumerate(update_factors(self, len(mean))):
            self.running_mean.lerp_(mean[t].to(self.running_mean.dtype), factor)
            self.running_var.lerp_(variance[t].to(self.running_var.dtype), factor)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a copy may be called when no other process calls its own."""
        return {k: v for k, v in self.__dict__.items() if k != "synchronised"}


class _Synchronised(torch.autograd.Function):
    """Batch norm of ``[T, N, C, H, W]`` over all processes; also gives mean, variance ``[sets, C]`` and their count."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, pooled: bool
    ) -> tuple[Tensor, ...]:
        exact, ctx.dims = _exact(x), ((0, 1, 3, 4) if pooled else (1, 3, 4))
        sums = _over(exact, ctx.dims)
        totals = torch.cat([sums.flatten(), sums.new_full((1,), exact[:, :, 0].numel() / len(sums))])
        dist.all_reduce(totals)
        count = totals[-1]
        mean = (totals[:-1] / count).view_as(sums)
        centred = exact - _spread_out(mean)
        squares = _over(centred.square(), ctx.dims)  # a second pass, since E[x^2] - E[x]^2 loses digits
        dist.all_reduce(squares)
        variance = squares / count
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, scale, count)
        y = centred * _spread_out(scale)
        y = y if weight is None else y * weight[:, None, None]
        y = y if bias is None else y + bias[:, None, None]
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = _exact(grad)
        normal = (_exact(x) - _spread_out(mean)) * _spread_out(scale)
        sums = torch.stack([_over(grad, ctx.dims), _over(grad * normal, ctx.dims)])
        to_bias, to_weight = sums.sum(1)  # of this process's images
        dist.all_reduce(sums)
        shares = sums / count
        to_x = (grad - _spread_out(shares[0]) - normal * _spread_out(shares[1])) * _spread_out(scale)
        to_x = to_x if weight is None else to_x * weight[:, None, None]
        wanted = ctx.needs_input_grad
        return to_x.to(x.dtype), to_weight if wanted[1] else None, to_bias if wanted[2] else None, None, None


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sums of ``[T, N, C, H, W]`` over images, pixels and perhaps time: ``[sets, C]``."""
    return x.sum(dims).view(-1, x.shape[2])


def _spread_out(x: Tensor) -> Tensor:
    """``[sets, C]`` as ``[sets, 1, C, 1, 1]``."""
    return x[:, None, :, None, None]


def synchronise_batch_norms(model: nn.Module) -> nn.Module:
    """Let all batch norms of a network take their statistics over all processes; in place, names stay.

    A network that is to be fused is fused first, and synchronised before its first call: fusing copies its modules. The
    batch norms then stay outside the stages.

    Args:
        model: its batch norms are :class:`BatchNorm2d` of :mod:`snn_sparse.nn`.

    Returns:
        ``model``.

    Raises:
        TypeError: another kind of batch norm; named. For those of torch there is ``torch.nn.SyncBatchNorm``.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    for name, norm in norms.items():
        if type(norm) not in (BatchNorm2d, SyncBatchNorm2d):
            raise TypeError(f"model must have batch norms of snn_sparse.nn, but {name!r} is a {type(norm).__name__}")
    for norm in norms.values():
        norm.__class__, norm.synchronised = SyncBatchNorm2d, True  # type: ignore[assignment]
    return model
