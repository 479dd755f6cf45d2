"""One training on many processes: who is who, what they tell each other. Each function does nothing in a group of one.

Every process has the whole network and a piece of each batch; only sums of gradients, counts and what rank 0 has read
from disk travel, through ``torch.distributed``. Launched by ``torchrun``.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_flatten, tree_unflatten

PATIENCE = timedelta(minutes=30)  # rank 0 may time layers or write a report meanwhile
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
Tensor = torch.Tensor
T = TypeVar("T")


@dataclass(frozen=True)
class _Sent:
    """A tensor that is sent apart from what holds it."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    on_cpu: bool


def _take_apart(value: Any) -> tuple[list[Tensor], Any]:
    """Tensors of a nest of dicts, lists and tuples, and the nest with a :class:`_Sent` in the place of each."""
    leaves, spec = tree_flatten(value)
    tensors = [v.detach() for v in leaves if isinstance(v, Tensor)]
    for i, v in enumerate(leaves):
        if isinstance(v, Tensor):
            leaves[i] = _Sent(v.shape, torch.empty_like(v, device="meta").stride(), v.dtype, not v.is_cuda)
    return tensors, tree_unflatten(leaves, spec)


def _fresh_store(rank: int, size: int) -> Any:
    """Part of torchrun's store that nobody has written to: after a restart the old one holds addresses of the dead.

    Rank 0 names it. The others ask under names of their own, so that none takes an answer to its dead forerunner.
    """
    store, _, _ = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    own, until = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if rank > 0:
        store.set(f"asks/{rank}", own)
        store.wait([f"answer/{own}"], PATIENCE)
        name = store.get(f"answer/{own}").decode()
        store.set(f"knows/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    left = set(range(1, size))
    while left:
        for other in sorted(left):
            if store.check([f"knows/{own}/{other}"]):
                left.remove(other)
            elif store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
        if time.monotonic() > until:
            raise RuntimeError(f"ranks {sorted(left)} of {size} have not come")
        time.sleep(0.02)
    return dist.PrefixStore(own, store)


@dataclass(frozen=True)
class Group:
    """The processes that train one network; left out, one process.

    Attributes:
        rank: number of this process, from 0; rank 0 alone prints and writes files.
        size: number of processes.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_environment(cls, device: str | torch.device = "cpu") -> "Group":
        """Join the processes that ``torchrun`` has started; without its variables, or with one process: a group of one.

        On GPUs each process makes the one of its local rank the current device, so that ``cuda`` means that one.

        Args:
            device: ``cpu``, or ``cuda``: one GPU for each process of a machine.

        Raises:
            ValueError: some of torchrun's variables are missing or no numbers, ``device`` names one GPU for all, or
                there are fewer GPUs than processes.
        """
        device, given = torch.device(device), os.environ
        if not ("RANK" in given and "WORLD_SIZE" in given) or given["WORLD_SIZE"] == "1":
            return cls(device=device)
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise ValueError(f"{missing[0]} is not set in the environment: start the processes by torchrun")
        try:
            rank, size, local = (int(given[name]) for name in VARIABLES[:3])
        except ValueError as error:
            raise ValueError(f"{', '.join(VARIABLES[:3])} in the environment must be integers: {error}") from None
        if device.type == "cuda":
            if device.index is not None:
                raise ValueError(f"device must be cuda, without a number, for {size} processes, got {device}")
            if local >= torch.cuda.device_count():
                found = torch.cuda.device_count()
                raise ValueError(
                    f"device cuda has {found} GPUs, which is too few for the process of local rank {local}"
                )
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, store=_fresh_store(rank, size), rank=rank, world_size=size, timeout=PATIENCE
            )
        return cls(rank, size, device)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Rank and size, as :meth:`snn_sparse.training.ImageSet.batches` takes them."""
        return self.rank, self.size

    @property
    def smallest_batch(self) -> int:
        """Images of which each process gets at least two, as batch norm needs them."""
        return 2 * self.size

    def check_batch_size(self, batch_size: int) -> int:
        """``batch_size`` if it can be dealt out evenly, two images or more to each of several processes.

        Raises:
            ValueError: it cannot.
        """
        if self.size > 1 and (batch_size % self.size or batch_size < self.smallest_batch):
            raise ValueError(
                f"batch_size (of all processes together) must be a multiple of their number {self.size}, and at least "
                f"{self.smallest_batch}, got {batch_size}"
            )
        return batch_size

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Put the sum over all ranks into ``tensor``, the same bits on each; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0, which have the same shapes and dtypes."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, 0)
                if not self.first and sent.data_ptr() != tensor.data_ptr():
                    tensor.copy_(sent)

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value, anything that can be pickled; what the other ranks give is not looked at."""
        if self.size == 1:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def on_first(self, action: Callable[[], T]) -> T:
        """Run an action on rank 0 alone, such as reading a file; all ranks return what it returns.

        Raises:
            Exception: what the action raised, on all ranks.
        """
        if self.size == 1:
            return action()
        answer: Any = None
        error: Exception | None = None
        if self.first:
            try:
                answer = action()
            except Exception as raised:
                error = raised
        error = self.broadcast_object(error)
        if error is not None:
            raise error
        return self.broadcast_state(answer)

    def broadcast_state(self, state: T) -> T:
        """Return rank 0's state, such as a checkpoint; what the other ranks give is not looked at.

        Args:
            state: tensors, numbers, text and whatever can be pickled, in dicts, lists and tuples. Tensors are sent one
                by one, without being pickled; those of a GPU arrive on this rank's GPU, with the same strides.
        """
        if self.size == 1:
            return state
        tensors, nest = _take_apart(state) if self.first else ([], None)
        leaves, spec = tree_flatten(self.broadcast_object(nest))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, _Sent)]
        if not self.first:
            for i in places:
                s, device = leaves[i], torch.device("cpu") if leaves[i].on_cpu else self.device
                tensors.append(torch.empty_strided(s.shape, s.stride, dtype=s.dtype, device=device))
        self.broadcast_(tensors)
        if self.first:
            return state
        for i, tensor in zip(places, tensors, strict=True):
            leaves[i] = tensor
        return tree_unflatten(leaves, spec)

    def check_same(self, label: str, value: Any) -> None:
        """Make sure that all ranks hold the same, to the bit.

        Args:
            label: what it is, for the message.
            value: tensors, numbers and text in dicts (or other mappings), lists and tuples.

        Raises:
            RuntimeError: they do not; names ``label`` and the ranks that differ from rank 0.
        """
        if self.size == 1:
            return
        tensors, nest = _take_apart(dict(value) if isinstance(value, Mapping) else value)
        leaves = [v.shape if isinstance(v, _Sent) else v for v in tree_flatten(nest)[0]]
        digest = hashlib.blake2b(repr((leaves, str(tree_flatten(nest)[1]))).encode(), digest_size=16)
        for tensor in tensors:
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, digest.hexdigest())
        wrong = [rank for rank, other in enumerate(found) if other != found[0]]
        if wrong:
            raise RuntimeError(f"{label} must be the same on all ranks, but differ from rank 0 on {wrong}")

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group; to be called by all ranks at the end."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
