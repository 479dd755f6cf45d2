"""Specifications: the same codes and limits as in C++, and what they refuse."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snn_sparse import specs
from snn_sparse.specs import BatchNormSpec, ConvGeometry, NeuronSpec, ceil_div

CODES = Path(__file__).parents[1] / "csrc" / "common" / "codes.h"


def enums():
    """Every enum class of the header, as {name: {value's name: code}}."""
    text = CODES.read_text()
    found = re.findall(r"enum class (\w+) : int \{([^}]*)\}", text)
    assert len(found) == text.count("enum")
    return {n: {k.rstrip("_"): int(v) for k, v in re.findall(r"(\w+) = (\d+)", body)} for n, body in found}


def constants():
    text = CODES.read_text()
    found = {name: int(value) for name, value in re.findall(r"constexpr int (\w+) = (\d+);", text)}
    assert len(found) == text.count("constexpr")
    return found


def test_every_code_is_that_of_the_header():
    assert enums() == {"NeuronKind": specs.NEURONS, "Shape": specs.SHAPES, "Norm": specs.NORMS}


def test_every_limit_is_that_of_the_header():
    formats = {f"kFormat{name.capitalize()}": code for name, code in specs.MEMORY_FORMATS.items()}
    limits = {
        "kLanes": specs.LANES,
        "kMaxVectors": specs.MAX_VECTORS,
        "kMaxKernel": specs.MAX_KERNEL,
        "kMaxStride": specs.MAX_STRIDE,
        "kMaxPadding": specs.MAX_PADDING,
        "kMaxSpikeWidth": specs.MAX_SPIKE_WIDTH,
    }
    assert constants() == formats | limits


def test_every_surrogate_has_a_code():
    from snn_sparse.ops import SURROGATES

    assert set(SURROGATES) == set(specs.SURROGATES)


@pytest.mark.parametrize(("digits", "dtype"), [(24, "float32"), (53, "float64")])
def test_the_least_potential_that_spikes(digits, dtype):
    """It is the threshold in the dtype of computation, or the number next to it."""
    rng, real = np.random.default_rng(), getattr(np, dtype)
    for x in [*rng.normal(size=500) * 10.0 ** rng.integers(-46, 36, 500), 0.0, 0.5, -0.5, 1.0, -1.0, 1 - 2.0**-30]:
        assert real(NeuronSpec(v_threshold=float(x)).fires_at(digits)) == real(x)
        strict = NeuronSpec(v_threshold=float(x), strict=True).fires_at(digits)
        assert strict == np.nextafter(real(x), real(np.inf))


def test_needs_no_torch():
    code = "import sys, runpy; sys.modules['torch'] = None; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, specs.__file__], check=True)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kind": "lsm"}, "neuron 'lsm'.*lif, plif, if"),
        ({"kind": None}, "neuron None"),
        ({"surrogate": "step"}, "surrogate 'step'.*atan"),
        ({"tau": 0.99}, "tau .*0.99"),
        ({"tau": float("nan")}, "tau .*nan"),
        ({"tau": float("inf")}, "tau .*inf"),
        ({"tau": "2"}, "tau .*'2'"),
        ({"tau": None}, "tau .*None"),
        ({"alpha": 0.0}, "alpha .*0.0"),
        ({"alpha": -1.0}, "alpha .*-1"),
        ({"alpha": float("inf")}, "alpha .*inf"),
        ({"alpha": float("nan")}, "alpha .*nan"),
        ({"height": 0.0}, "height .*0.0"),
        ({"height": float("nan")}, "height .*nan"),
        ({"decay": float("inf")}, "decay .*inf"),
        ({"late_reset": True}, "late_reset needs kind leaky"),
        ({"kind": "leaky", "late_reset": True}, "late_reset needs .* v_reset None"),
        (
            {"kind": "leaky", "v_reset": None, "detach_reset": False, "late_reset": True},
            "late_reset .* detach_reset True",
        ),
        ({"v_threshold": float("inf")}, "v_threshold .*inf"),
        ({"v_threshold": float("nan")}, "v_threshold .*nan"),
        ({"v_reset": float("-inf")}, "v_reset .*inf"),
        ({"v_reset": float("nan")}, "v_reset .*nan"),
    ],
)
def test_a_neuron_names_what_is_wrong(wrong, named):
    with pytest.raises(ValueError, match=named):
        NeuronSpec(**wrong)


def test_a_neuron_at_its_bounds():
    assert NeuronSpec(tau=1, alpha=1e-9, v_threshold=0, v_reset=None).v_rest == 0
    assert NeuronSpec(v_reset=-0.3).v_rest == -0.3
    assert NeuronSpec() == NeuronSpec(tau=4 / 3, v_threshold=1.0, v_reset=0.0, surrogate="atan", alpha=2.0)
    assert len({NeuronSpec(), NeuronSpec(), NeuronSpec(v_reset=None), BatchNormSpec()}) == 3  # hashed by value
    with pytest.raises(dataclasses.FrozenInstanceError):
        NeuronSpec().tau = 2.0


def test_the_kind_of_statistics():
    assert [specs.check_statistics(s) for s in ("per_step", "pooled")] == ["per_step", "pooled"]
    for wrong in ("frozen", "none", None, 1):
        with pytest.raises(ValueError, match=r"bn_statistics must be one of per_step, pooled"):
            specs.check_statistics(wrong)


def test_sizes_of_a_convolution():
    g = ConvGeometry.of((2, 3, 4, 9, 10), (5, 4, 3, 2), 2, 1)
    assert g == ConvGeometry(2, 3, 4, 5, 9, 10, (3, 2), 2, 1)
    assert (g.out_size, g.taps) == ((5, 6), 6)
    assert (g.input_shape, g.output_shape, g.weight_shape) == ((2, 3, 4, 9, 10), (2, 3, 5, 5, 6), (5, 4, 3, 2))
    assert (g.merged.steps, g.merged.images, g.merged.out_size) == (1, 6, g.out_size)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_output_sizes_are_torchs(kernel, stride, padding):
    import torch

    x, weight = torch.empty(1, 1, 7, 11, device="meta"), torch.empty(1, 1, *kernel, device="meta")
    expected = torch.nn.functional.conv2d(x, weight, None, stride, padding).shape[2:]
    assert ConvGeometry(1, 1, 1, 1, 7, 11, kernel, stride, padding).out_size == tuple(expected)


@pytest.mark.parametrize("size", [(2, 9), (9, 2)])
def test_maps_smaller_than_the_kernel(size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} are too small for a kernel of \(3, 3\)"):
        ConvGeometry(1, 1, 1, 1, *size, (3, 3), 1, 0)
    assert min(ConvGeometry(1, 1, 1, 1, *size, (3, 3), 4, 1).out_size) == 1


def test_ceil_div():
    assert [ceil_div(a, 8) for a in (0, 1, 8, 9)] == [0, 1, 1, 2]
