"""Training steps on an NVIDIA GPU captured in CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class CaptureError(RuntimeError):
    """Work that a CUDA graph cannot hold; the message names what it did."""


class Replayable(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Do the work, on the current stream; the host does not wait."""


def describe(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class CudaGraphs:
    """A stream beside the current one, and captures on it.

    Args:
        device: where the work is.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @staticmethod
    def take(x: torch.Tensor) -> bool:
        """Whether work on ``x`` can be captured."""
        return x.is_cuda

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work inside runs on the other stream, after all that came before and before all that comes."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def capture(self, function: Callable[[], object], beside: Replayable | None = None) -> Replayable:
        """Capture what ``function`` launches as a graph; nothing of it runs.

        Args:
            function: what to capture; called once.
            beside: a graph whose memory this one shares: the two are replayed in turn, never at once, and what one has
                left in that memory is lost when the other is replayed; ``None``: memory of its own.

        Raises:
            CaptureError: ``function`` raised, or did what cannot be captured.
        """
        graph, broken = torch.cuda.CUDAGraph(), None
        pool = beside.pool() if isinstance(beside, torch.cuda.CUDAGraph) else None
        # other threads may go on, such as one that pins a loader's memory
        how: dict[str, Any] = {"stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            # the outer stream: where a capture fails, torch may leave its own one current
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=pool, **how):
                try:
                    function()
                except Exception as error:  # ending a broken capture raises another one, which tells less
                    broken = describe(error)
                    raise
        except Exception as error:
            raise CaptureError(broken or describe(error)) from error
        return graph
