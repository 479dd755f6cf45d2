"""``pytest benchmarks``: options for sizes, how every case is timed, and what its JSON says about the machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from benchmarks.refusals import Refused, no_fallback
from benchmarks.rows import commit, device_name, versions
from snn_sparse.models import ARCHITECTURES
from snn_sparse.specs import ConvGeometry

Measure = Callable[[str, str, Callable[[], Callable[[], object]]], None]
LAYERS, NETWORKS = "64x16,256x4", "vgg_small"


@dataclass(frozen=True)
class Layer:
    """Size of the maps of one layer.

    Attributes:
        channels: of its input and of its output.
        size: height and width.
        timesteps: T.
        images: N.
    """

    channels: int
    size: int
    timesteps: int
    images: int

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of its input, ``[T, N, C, H, W]``."""
        return self.timesteps, self.images, self.channels, self.size, self.size

    @property
    def geometry(self) -> ConvGeometry:
        """A 3x3 convolution that keeps the size."""
        return ConvGeometry(*self.shape[:3], self.channels, *self.shape[3:], (3, 3), 1, 1)

    def __str__(self) -> str:
        return f"{self.channels}x{self.size}x{self.size} T={self.timesteps} batch {self.images}"


@dataclass(frozen=True)
class Training:
    """Size of a training step: network, timesteps T and images N, of 3x32x32."""

    arch: str
    timesteps: int
    images: int

    def __str__(self) -> str:
        return f"{self.arch} 3x32x32 T={self.timesteps} batch {self.images}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("sizes of the benchmarks")
    group.addoption("--layers", default=LAYERS, help=f"channels x side of the maps of layers (default {LAYERS})")
    group.addoption("--arch", default=NETWORKS, help=f"networks of training steps and masks (default {NETWORKS})")
    group.addoption("--timesteps", type=int, default=4, help="T (default 4)")
    group.addoption("--batch-size", type=int, default=16, help="images (default 16)")
    group.addoption("--compiled", action="store_true", help="time what torch.compile makes, too (a minute each)")


def _positive(config: pytest.Config, name: str) -> int:
    value: int = config.getoption(name)
    if value < 1:
        raise pytest.UsageError(f"{name} must be at least 1, got {value}")
    return value


def _layers(config: pytest.Config) -> list[Layer]:
    sizes = _positive(config, "--timesteps"), _positive(config, "--batch-size")
    found = []
    for text in config.getoption("--layers").split(","):
        channels, _, size = text.partition("x")
        if not (channels.isdecimal() and size.isdecimal() and int(channels) and int(size)):
            raise pytest.UsageError(f"--layers must be CHANNELSxSIZE, with commas between, got {text!r}")
        found.append(Layer(int(channels), int(size), *sizes))
    return found


def _trainings(config: pytest.Config) -> list[Training]:
    sizes = _positive(config, "--timesteps"), _positive(config, "--batch-size")
    names = config.getoption("--arch").split(",")
    unknown = [name for name in names if name not in ARCHITECTURES]
    if unknown:
        raise pytest.UsageError(f"--arch must be of {', '.join(ARCHITECTURES)}, got {unknown[0]!r}")
    return [Training(name, *sizes) for name in names]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse wrong sizes before anything is collected."""
    _layers(config)
    _trainings(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand every size that was asked for to the cases that have one."""
    for name, sizes in (("layer", _layers), ("training", _trainings)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, sizes(metafunc.config), ids=str)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Measure:
    """Time one provider of a case: ``measure(case, provider, make)``, where ``make()`` gives the call to time.

    Providers of one case stand side by side. One that would fall back to plain PyTorch is skipped, with the reason.
    """

    def run(case: str, provider: str, make: Callable[[], Callable[[], object]]) -> None:
        if "compile" in provider and not request.config.getoption("--compiled"):
            pytest.skip("timed with --compiled")
        benchmark.group = case
        benchmark.extra_info["provider"] = provider
        torch.manual_seed(0)
        with no_fallback():
            try:
                action = make()
            except (Refused, ImportError) as error:
                pytest.skip(str(error))
            action()  # what is done once: memory, the race of a layer's configurations
            benchmark(action)

    return run


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info() -> dict[str, str]:
    """Note in the JSON what a row says of the machine; runs on others are compared with a warning."""
    return {"device": device_name("cpu"), "versions": versions()}


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """Note the commit as rows do."""
    commit_info["commit"] = commit()
