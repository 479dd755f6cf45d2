"""Values that travel between fused layers in place of tensors: in some memory format, or not computed yet.

A batch norm hands on what it was given, an addition remembers both sides, and only the neuron (or anything that is not
ours) makes them compute. Any torch function, method or operator that meets a deferred value gets an ordinary tensor.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, Packed, Sizes, convert, format_of, unpack_spikes


class Deferred:
    """Base: stands for a tensor ``[T, N, C, H, W]``, or ``[N, C, H, W]`` before a constant batch is repeated over time.

    Attributes:
        sizes: (T, N, C, H, W); T = 1 for a constant batch.
        repeat: how often a constant batch is shown: None for a sequence, 0 for a batch that is not repeated yet.
    """

    sizes: Sizes
    repeat: int | None = None

    def tensor(self) -> torch.Tensor:
        """The value as an ordinary tensor; computed once."""
        if "_tensor" not in self.__dict__:
            self._tensor = self._over_time(self._compute())
        return self._tensor

    def _compute(self) -> torch.Tensor:
        """The value as a tensor of :attr:`sizes`."""
        raise TypeError(f"{type(self).__name__} has no value")

    def stored(self, wanted: MemoryFormat | None = None) -> "Stored":
        """The value, computed; in the memory format that the caller wants where it is still to be written."""
        value = self._compute()
        return Stored(value, tuple(value.shape), format_of(value), self.repeat)  # type: ignore[arg-type]

    def unbiased(self) -> "Stored":
        """The value without a bias that was to be added, which is then its ``shift``, where it can be left out."""
        return self.stored()

    def _over_time(self, x: torch.Tensor) -> torch.Tensor:
        if self.repeat is None:
            return x
        return x[0] if self.repeat == 0 else x.expand(self.repeat, *x.shape[1:])

    def over_time(self, timesteps: int) -> "Deferred":
        """A constant batch as a sequence of equal steps; its layers still compute once."""
        raise TypeError(f"{type(self).__name__} is not constant")

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that this stands for."""
        if self.repeat is None:
            return torch.Size(self.sizes)
        return torch.Size(self.sizes[1:] if self.repeat == 0 else (self.repeat, *self.sizes[1:]))

    @property
    def timesteps(self) -> int:
        """T of the sequence that this stands for."""
        return self.repeat or self.sizes[0]

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """As ``torch.Tensor.size``."""
        return self.shape if dim is None else self.shape[dim]

    def __add__(self, other: Any) -> Any:
        both = isinstance(other, (torch.Tensor, Deferred)) and other.shape == self.shape and self.dim() == 5
        if both and self.repeat is None and getattr(other, "repeat", None) is None:
            return Sum(self, other)
        return self.tensor() + plain(other)

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return func(*plain(args), **plain(kwargs or {}))


_OPERATORS = (
    "sub rsub mul rmul truediv rtruediv floordiv pow rpow mod matmul rmatmul neg abs eq ne lt le gt ge "
    "getitem len iter and or xor invert bool float int"
)


def _operator(name: str) -> Callable:
    def run(self: Deferred, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*plain(others))

    return run


for _name in _OPERATORS.split():
    setattr(Deferred, f"__{_name}__", _operator(f"__{_name}__"))


def plain(value: Any) -> Any:
    """``value`` with every deferred value in it, however nested, turned into an ordinary tensor."""
    return tree_map(lambda v: v.tensor() if isinstance(v, Deferred) else v, value)


def over_time(x: Any, timesteps: int) -> Any:
    """A constant batch, tensor or deferred, as a sequence of T equal steps (a view)."""
    return x.over_time(timesteps) if isinstance(x, Deferred) else x.unsqueeze(0).expand(timesteps, *x.shape)


class Stored(Deferred):
    """A value that is computed, in some memory_format.

    Args:
        data: the elements.
        sizes: (T, N, C, H, W).
        memory_format: of ``data``.
        repeat: see :class:`Deferred`.
        binary: whether all elements are known to be zero or one.
        parts: of the batch statistics of the value, where who has written it gave them (the Triton convolution).
        shift: a bias ``[C]`` that was left out.
    """

    def __init__(
        self,
        data: torch.Tensor,
        sizes: Sizes,
        memory_format: MemoryFormat,
        repeat: int | None = None,
        binary: bool = False,
        parts: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
    ) -> None:
        self.data, self.sizes, self.memory_format, self.repeat, self.binary = data, sizes, memory_format, repeat, binary
        self.parts, self.shift = parts, shift
        self._converted: dict[MemoryFormat, torch.Tensor] = {memory_format: data}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the elements."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where the elements are."""
        return self.data.device

    def stored(self, wanted: MemoryFormat | None = None) -> "Stored":
        """As :meth:`Deferred.stored`."""
        return self

    def data_in(self, memory_format: MemoryFormat) -> torch.Tensor:
        """The elements in another memory_format."""
        if memory_format not in self._converted:
            self._converted[memory_format] = convert(
                self._converted[self.memory_format], self.sizes, self.memory_format, memory_format
            )
        return self._converted[memory_format]

    def sequence(self) -> torch.Tensor:
        """The value as a tensor of :attr:`sizes`, not repeated over time."""
        return self.data if self.memory_format.kind != "lanes" else self.data_in(NCHW)

    def _compute(self) -> torch.Tensor:
        return self.sequence()

    def over_time(self, timesteps: int) -> Deferred:
        """As :meth:`Deferred.over_time`."""
        return Stored(self.data, self.sizes, self.memory_format, timesteps)


class PackedStored(Stored):
    """Spikes that are stored at one bit each; whoever needs an ordinary tensor makes them unpack."""

    def __init__(self, packed: Packed) -> None:
        memory_format = NHWC if packed.bits.dim() == 5 else NCHW
        super().__init__(packed.carrier, tuple(packed.carrier.shape), memory_format)  # type: ignore[arg-type]
        self.packed = packed
        self._converted = {}

    def data_in(self, memory_format: MemoryFormat) -> torch.Tensor:
        """The elements as an ordinary tensor in another memory_format."""
        if self.memory_format not in self._converted:
            self._converted[self.memory_format] = unpack_spikes(self.packed)
        return super().data_in(memory_format)

    def sequence(self) -> torch.Tensor:
        """The value as an ordinary tensor."""
        return self.data_in(self.memory_format)


class Normed(Deferred):
    """A batch norm that has not run: ``norm`` (a fused batch norm layer) of ``given``, which may not have run either.

    However many consumers make it run, its running statistics move once.
    """

    def __init__(self, given: Deferred, norm: Any, used: list[bool] | None = None) -> None:
        self.given, self.norm = given, norm
        self.sizes, self.repeat = given.sizes, given.repeat
        self._used = used if used is not None else []

    @property
    def source(self) -> Stored:
        """Input of the batch norm, computed."""
        return self.given.unbiased() if self.norm.uses_batch else self.given.stored()

    def first_use(self) -> bool:
        """True the first time: the running statistics may move."""
        self._used.append(True)
        return len(self._used) == 1

    def _compute(self) -> torch.Tensor:
        return self.norm.at_work(self.source.sizes[0], self.first_use()).plain(self.given.stored().sequence())

    def over_time(self, timesteps: int) -> Deferred:
        """As :meth:`Deferred.over_time`."""
        twin = Normed(self.given, self.norm, self._used)
        twin.repeat = timesteps
        return twin


class Sum(Deferred):
    """An addition that has not run, of two sequences of equal shape."""

    def __init__(self, left: Deferred | torch.Tensor, right: Deferred | torch.Tensor) -> None:
        self.left, self.right = left, right
        self.sizes = tuple(left.shape)  # type: ignore[assignment]

    def _compute(self) -> torch.Tensor:
        return plain(self.left) + plain(self.right)


class Spikes(Deferred):
    """A neuron layer that has not run; it runs when somebody asks, pooled for a max-pool, as it is for everybody else.

    It writes the memory format that the first who asks wants, so that nothing is converted between two layers.

    Args:
        run: (whether to pool, memory format or None for any) -> the spikes, stored.
        sizes: (T, N, C, H, W) without pooling.
    """

    def __init__(self, run: Callable[[bool, MemoryFormat | None], Stored], sizes: Sizes) -> None:
        self._run, self.sizes = run, sizes
        self._results: dict[bool, Stored] = {}

    def stored(self, wanted: MemoryFormat | None = None, pool: bool = False) -> Stored:
        """The spikes, or their 2x2 max-pool."""
        if pool not in self._results:
            self._results[pool] = self._run(pool, wanted)
        return self._results[pool]

    def _compute(self) -> torch.Tensor:
        return self.stored(NCHW).sequence()


class Pooled(Deferred):
    """The 2x2 max-pool of spikes, which the neuron itself takes."""

    def __init__(self, spikes: Spikes) -> None:
        self.spikes = spikes
        t, n, c, h, w = spikes.sizes
        self.sizes = (t, n, c, h // 2, w // 2)

    def stored(self, wanted: MemoryFormat | None = None) -> Stored:
        """The pooled spikes."""
        return self.spikes.stored(wanted, pool=True)

    def _compute(self) -> torch.Tensor:
        return self.stored(NCHW).sequence()


def stored(x: Any, wanted: MemoryFormat | None = None) -> Stored:
    """``x``, a tensor of four or five dimensions or deferred, as a stored value; runs what has to run for it.

    Args:
        x: what to run.
        wanted: the memory format that the caller will read, for values that are still to be written.
    """
    if isinstance(x, Deferred):
        return x.stored(wanted)
    value = x.unsqueeze(0) if x.dim() == 4 else x
    return Stored(value, tuple(value.shape), format_of(value), 0 if x.dim() == 4 else None)
