"""Gradients of a batch of which each process has a piece: their mean over all images, with the same bits everywhere."""

from collections.abc import Mapping

import torch
from torch import nn

from snn_sparse.ops.live import gather_live, live_index, scatter_live
from snn_sparse.training.distributed import Group

Tensor = torch.Tensor


class GradientAverage:
    """Turns gradients of the summed loss of each process's images into those of the mean loss of all images.

    All gradients travel in one flat tensor for each dtype, of masked weights the live entries only, and with them the
    loss and whether somebody wants to stop. Every process must have gradients for the same parameters.

    Args:
        group: the processes.
        model: whose gradients; its parameters stay where they are.
        keep: parameter name -> bool tensor, such as a :class:`snn_sparse.Mask`: where gradients are not zero; ``None``:
            everywhere.

    Attributes:
        stop: set it to have all processes stop after the same step; each then finds :meth:`stopping` true.

    Raises:
        ValueError: ``keep`` has a mask without a parameter, or of another shape.
    """

    stop = False
    _stops: Tensor | None = None

    def __init__(self, group: Group, model: nn.Module, keep: Mapping[str, Tensor] | None = None) -> None:
        self._group = group
        parameters = dict(model.named_parameters())
        self._live: dict[str, Tensor] = {}
        for name, mask in (keep or {}).items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise ValueError(f"keep: {name!r} is no parameter of the model, or of another shape")
            if not bool(mask.all()):
                weight = parameters[name]
                laid_out = torch.empty_like(weight, dtype=torch.bool).copy_(mask)  # as the weight lies in memory
                self._live[name] = live_index(_in_memory(laid_out))

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: int, loss: Tensor) -> Tensor:
        """Average the gradients of ``model`` in place.

        Args:
            model: the network; parameters without a gradient are left out.
            images: of this process.
            loss: their mean loss.

        Returns:
            the mean loss of all images, a scalar.
        """
        kinds: dict[torch.dtype, list[tuple[str, Tensor]]] = {}
        for name, p in model.named_parameters():
            if p.grad is not None:
                if p.grad.stride() != p.stride():
                    p.grad = torch.empty_like(p).copy_(p.grad)
                kinds.setdefault(p.dtype, []).append((name, _in_memory(p.grad)))
        for gradients in kinds.values():
            loss = self._average(gradients, images, loss)
        return loss

    def stopping(self) -> bool:
        """Whether any process had :attr:`stop` set when the last step began to travel; asks the device."""
        return self._stops is not None and bool(self._stops > 0)

    def _average(self, gradients: list[tuple[str, Tensor]], images: int, loss: Tensor) -> Tensor:
        """Average the gradients of one dtype; returns the mean loss."""
        parts = [g if name not in self._live else gather_live(g, self._live[name]) for name, g in gradients]
        count, stop = (parts[0].new_full((1,), n) for n in (images, self.stop))
        sums = torch.cat([*parts, loss.reshape(1).to(count.dtype) * images, stop, count])
        self._group.all_reduce_sum(sums)
        self._stops = sums[-2].clone()
        means = sums[:-2].div_(sums[-1])  # by the images of all processes, without asking the device for them
        sizes = [len(part) for part in parts]
        for (name, g), mean in zip(gradients, means[:-1].split(sizes), strict=True):
            if name in self._live:
                scatter_live(g, self._live[name], mean)
            else:
                g.copy_(mean)
        return means[-1].clone()


def _in_memory(x: Tensor) -> Tensor:
    """All elements of a tensor without gaps as a vector, in the order in which they lie in memory; no copy."""
    return x.as_strided((x.numel(),), (1,))
