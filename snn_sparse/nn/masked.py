"""A layer that owns the mask of its weight: it computes under it, and its gradient is zero at pruned weights."""

import copy
from typing import Any

import torch

from snn_sparse.ops.backend import implementation
from snn_sparse.tuning import LayerTuner


class Masked:
    """Mixed into a layer with a ``weight``.

    Attributes:
        keep_mask: bool, of the weight's shape, true where a weight is alive; None: all are.
    """

    weight: torch.Tensor
    keep_mask: torch.Tensor | None = None

    def set_mask(self, mask: torch.Tensor | None) -> None:
        """Take a mask (None: all weights are alive), zero the pruned weights and gradients; the layer is tuned anew.

        Raises:
            ValueError: another shape than the weight's. TypeError: no bool tensor.
        """
        if mask is not None and mask.shape != self.weight.shape:
            raise ValueError(f"mask must be {tuple(self.weight.shape)}, got {tuple(mask.shape)}")
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, got {mask.dtype}")
        self.keep_mask = mask
        self.__dict__.pop("_tuner", None)
        self.hold_mask()
        keep = self.keep()
        if keep is not None and self.weight.grad is not None:
            self.weight.grad.masked_fill_(~keep, 0)

    @property
    def tuner(self) -> LayerTuner:
        """How this layer computes under its mask, made when first needed."""
        if "_tuner" not in self.__dict__:
            self.__dict__["_tuner"] = LayerTuner(self.keep_mask)
        return self.__dict__["_tuner"]

    @tuner.setter
    def tuner(self, tuner: LayerTuner) -> None:
        self.__dict__["_tuner"] = tuner

    def keep(self) -> torch.Tensor | None:
        """The mask where the weight is."""
        if self.keep_mask is not None and self.keep_mask.device != self.weight.device:
            self.keep_mask = self.keep_mask.to(self.weight.device)
        return self.keep_mask

    def hold_mask(self, written: bool = True) -> None:
        """Zero what anybody has written to pruned weights, through ``.data`` too.

        Args:
            written: whether somebody may have; if not, only a weight whose version has moved is looked at.
        """
        keep = self.keep()
        if keep is not None and (written or self.weight._version != self.__dict__.get("_version")):
            self.weight.data.masked_fill_(~keep, 0)
            self.__dict__["_version"] = self.weight._version

    def masked_weight(self) -> torch.Tensor:
        """The weight under the mask; its gradient is masked as well."""
        if not torch.compiler.is_compiling():
            self.hold_mask(written=self.weight.is_cuda)  # a captured graph sees no version
        keep = self.keep()
        return self.weight if keep is None else self.weight.masked_fill(~keep, 0)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.hold_mask()
        super()._save_to_state_dict(*args, **kwargs)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict) -> "Masked":
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__ = {k: copy.deepcopy(v, memo) for k, v in self.__getstate__().items()}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the tuner is made again."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_tuner", "_version")}


def product_dtype(weight: torch.Tensor) -> torch.dtype:
    """Dtype of products with ``weight``: its own, or under autocast the lower precision."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def computes(*tensors: torch.Tensor | None) -> str:
    """Name what computes a layer on these tensors: ``triton``, ``cpp`` or ``plain``."""
    return implementation("convolution", *tensors)
