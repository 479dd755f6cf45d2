"""A CPU in the part of an NVIDIA GPU, so that what needs one can be rehearsed, and its launches recorded.

``python -m benchmarks.gpu_check_stand_in MODULE ARGUMENT ...`` runs a module under it; for pytest it is a plugin (``-p
benchmarks.gpu_check_stand_in``). Tensors stay on the CPU and say that they are on a GPU; graphs replay by calling what
they hold; times are the CPU's. Kernels run in Triton's interpreter, or, where ``GPU_CHECK_LAUNCHES`` names a file, do
not run: each launch is noted there as ``compile_ahead.py`` compiles it, and large products are not computed either.
"""

import os
import runpy
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "NVIDIA H100 80GB HBM3 (stand-in)"
LAUNCHES = "GPU_CHECK_LAUNCHES"  # environment variable: the file of launches; none run then
REHEARSES = "GPU_CHECK_REHEARSES"  # environment variable: convolutions are computed, and kernels leave zeros
WINNER = "GPU_CHECK_WINNER"  # which candidate wins a race while launches are recorded: "first" (torch) or "last"
_IS_CUDA: Any = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]


def _here(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class OnThisCpu(TorchFunctionMode):
    """Whatever is asked for on a GPU is made on the CPU, and every tensor says that it is on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer one call of torch."""
        if func == _IS_CUDA:  # every access makes another wrapper
            return True
        if func == torch.Tensor.cuda:
            return args[0]
        return func(*map(_here, args), **{name: _here(value) for name, value in (kwargs or {}).items()})


class Unmultiplied(TorchDispatchMode):
    """Products in 32 bits and fewer are left out: their results are made, but not computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer one operation."""
        aten, kwargs = torch.ops.aten, kwargs or {}
        if func not in (aten.convolution.default, aten.convolution_backward.default) or args[0].dtype == torch.float64:
            return func(*args, **kwargs)
        found = func(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
        made = [None if x is None else torch.empty_like(x, device="cpu") for x in _listed(found)]
        return made[0] if isinstance(found, torch.Tensor) else tuple(made)


def _listed(found: Any) -> list[Any]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


class Graph:
    """In place of a captured graph: a replay calls the function."""

    def __init__(self, function: Any = None) -> None:
        self.function = function

    def replay(self) -> None:
        """Do the work."""
        if self.function is not None:
            self.function()

    def pool(self) -> None:
        """Memory of its own."""


class Stream:
    """In place of a stream: all work is done at once, in order."""

    device = torch.device("cuda", 0)
    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def wait_stream(self, _other: Any) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Likewise."""


class Event:
    """In place of an event: the host's clock."""

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, _stream: Any = None) -> None:
        """Read the clock."""
        self.at = time.perf_counter()

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds until another one."""
        return max(1e3 * (other.at - self.at), 1e-6)

    def synchronize(self) -> None:
        """Nothing to wait for."""


def _pretend_cuda() -> None:
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": (9, 0),
        "get_device_properties": SimpleNamespace(name=NAME, total_memory=80 * 2**30, multi_processor_count=132),
        "mem_get_info": (70 * 2**30, 80 * 2**30),
        "is_current_stream_capturing": False,
        "current_stream": Stream(),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated"), 0),
        **dict.fromkeys(("synchronize", "set_device", "empty_cache", "reset_peak_memory_stats", "_lazy_init")),
        **dict.fromkeys(("set_sync_debug_mode", "manual_seed_all", "init")),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    for name in ("device", "stream", "graph"):
        setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    for name, kind in (("Stream", Stream), ("Event", Event), ("CUDAGraph", Graph)):
        setattr(torch.cuda, name, kind)
    start = torch.amp.autocast_mode.autocast.__init__
    torch.amp.autocast_mode.autocast.__init__ = (  # type: ignore[method-assign]
        lambda self, device_type, *args, **kwargs: start(self, _here(device_type), *args, **kwargs)
    )


def _timed(run: Any, **_: Any) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def _profiled(_machine: Any, run: Any) -> list[tuple[str, float]]:
    """Kernels of a run by name, all equally quick."""
    names: list[str] = []
    with _watched(names):
        run()
    return [(name, 1e-6) for name in names]


@contextmanager
def _watched(names: list[str]) -> Any:
    _watchers.append(names)
    try:
        yield
    finally:
        _watchers.remove(names)


_watchers: list[list[str]] = []


def _take_launches(file: Path | None) -> None:
    """Put a function in the place of the package's ``launch``, in every module that has it."""
    from snn_sparse.ops import triton_launch

    known = set(file.read_text().splitlines()) if file is not None and file.exists() else set()
    original = triton_launch.launch

    def launch(kernel: Any, programs: int, device: Any, /, **given: Any) -> None:
        for names in _watchers:
            names.append(kernel.fn.__name__)
        if file is None:
            return original(kernel, programs, device, **given)
        from benchmarks.compile_ahead import as_line

        with triton_launch.recording() as found:
            original(kernel, programs, device, **given)
        line = as_line(found[0])
        if programs and line not in known:
            known.add(line)
            with file.open("a") as lines:
                lines.write(line + "\n")
        return None

    for module in list(sys.modules.values()):
        if getattr(module, "launch", None) is original:
            module.launch = launch  # type: ignore[attr-defined]


def _zeros_everywhere() -> None:
    """What a kernel that does not run should have written is zero."""
    owners: tuple[Any, ...] = (torch, torch, torch, torch.Tensor, torch.Tensor)
    names = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    for owner, name in zip(owners, names, strict=True):
        allocate = getattr(owner, name)
        setattr(owner, name, lambda *a, allocate=allocate, **k: allocate(*a, **k).detach().zero_())


def _race(runs: Any, device: Any, always: int = 1) -> list[float]:
    """The first candidate wins, or the last; then all run once, so that their launches are noted."""
    last = os.environ.get(WINNER) == "last"
    for run in runs if last else ():
        run()
    order = range(1, len(runs) + 1)
    return [float(i) for i in (reversed(order) if last else order)]


def install() -> None:
    """Let this process take the CPU for a GPU, from now on."""
    named = os.environ.get(LAUNCHES)
    if named:
        import triton

        triton.knobs.runtime.interpret = False  # kernels stay what the compiler takes
    os.environ["TRITON_INTERPRET"] = "1"  # the package then takes CPU tensors for a GPU's
    import triton

    import snn_sparse.ops.convolution.triton_conv
    import snn_sparse.ops.convolution.triton_conv_neuron
    import snn_sparse.ops.convolution.triton_weight
    import snn_sparse.ops.neuron.triton_backward  # noqa: F401
    from snn_sparse import tuning
    from snn_sparse.training.cuda_graphs import CudaGraphs

    CudaGraphs.capture = lambda self, function, beside=None: Graph(function)  # type: ignore[method-assign]
    _pretend_cuda()
    triton.testing.do_bench_cudagraph = _timed
    import benchmarks.machine

    benchmarks.machine.Gpu.profile = _profiled  # type: ignore[method-assign,assignment]
    _take_launches(Path(named) if named else None)
    tuning.gpu.race = _race
    if named:
        tuning.gpu._same = lambda found, expected: True
        if os.environ.get(REHEARSES):
            _zeros_everywhere()
        else:
            Unmultiplied().__enter__()
    OnThisCpu().__enter__()


def main() -> None:
    """Run the module that the command names."""
    sys.argv = sys.argv[1:]
    install()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
elif os.environ.get("GPU_CHECK_STAND_IN") == "1":  # as a plugin of pytest
    install()
