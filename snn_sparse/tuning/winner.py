"""The winner of a layer's race, as memory and the cache on disk keep it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from snn_sparse.ops.convolution import Directions, LiveConfiguration, SpikeConfiguration, TileConfiguration
from snn_sparse.ops.spikes import NCHW, MemoryFormat

_BY_TORCH = Directions()


@dataclass(frozen=True)
class Winner:
    """How a layer is computed fastest.

    Attributes:
        seconds: forward and backward together on a CPU; of each direction on a GPU.
        dense_seconds: of the fastest dense way, likewise.
        memory_format: of input and output on a CPU.
        live: on a CPU, at the live weights; None: dense.
        directions: on a GPU.
        spikes: on a CPU, what is computed from spikes, channels last.
        rate: percent of the input that spiked in the race on a CPU; None: it could hold any numbers.
    """

    seconds: tuple[float, ...]
    dense_seconds: tuple[float, ...]
    memory_format: MemoryFormat = NCHW
    live: LiveConfiguration | None = None
    directions: Directions = _BY_TORCH
    spikes: SpikeConfiguration | None = None
    rate: int | None = None

    def describe(self) -> str:
        """Name it in a few words, for tables."""
        if self.live is not None:
            return self.live.describe()
        if self.spikes is not None:
            return self.spikes.describe()
        if self.directions == _BY_TORCH:
            return f"dense {self.memory_format.kind}"
        return ", ".join("dense" if d is None else d.describe() for d in self.directions[:3])

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"directions": [None if d is None else asdict(d) for d in self.directions]}

    @classmethod
    def parse(cls, found: Any) -> "Winner":
        """Read :meth:`as_dict` back.

        Raises:
            TypeError, ValueError or KeyError: it makes no sense.
        """
        times = tuple(found["seconds"]), tuple(found["dense_seconds"])
        if not all(isinstance(t, float) and math.isfinite(t) and t >= 0 for t in (*times[0], *times[1])):
            raise ValueError("seconds must be finite and not negative")
        if len(times[0]) != len(times[1]) or len(times[0]) not in (1, len(_BY_TORCH)):
            raise ValueError("seconds must be of one pass or of each direction")
        live = None if found["live"] is None else LiveConfiguration(**found["live"])
        kind, vectors = found["memory_format"]["kind"], live.vectors if live is not None else 0
        if kind not in (("lanes",) if live is not None else ("nchw", "nhwc")):
            raise ValueError(f"memory format {kind!r} is unknown, or not that of the configuration")
        if found["memory_format"]["vectors"] != vectors:
            raise ValueError("the memory format is not that of the configuration")
        if not isinstance(found["directions"], list | tuple) or len(found["directions"]) != len(_BY_TORCH):
            raise ValueError("directions must be all of them")
        spikes = None if found.get("spikes") is None else SpikeConfiguration(**found["spikes"])
        if spikes is not None and kind != "nhwc":
            raise ValueError("spikes are listed channels last")
        rate = found.get("rate")
        if not (rate is None or (type(rate) is int and 0 < rate <= 100)) or (spikes is not None and rate is None):
            raise ValueError(f"rate must be None or a percentage, got {rate!r}")
        directions = Directions(*(None if d is None else TileConfiguration(**d) for d in found["directions"]))
        return cls(*times, MemoryFormat(kind, vectors), live, directions, spikes, rate)
