"""Memory formats: conversions element by element, what they refuse, and the code of each."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert, empty, format_of, is_channels_last, ordered
from snn_sparse.specs import MAX_VECTORS

STRIDED = {
    "contiguous": lambda t, b, c, h, w: torch.randn(t, b, c, h, w),
    "channels_last": lambda t, b, c, h, w: torch.randn(t, b, h, w, c).permute(0, 1, 4, 2, 3),
    "sliced": lambda t, b, c, h, w: torch.randn(b, t, c + 1, h, 2 * w).transpose(0, 1)[:, :, 1:, :, ::2],
    "expanded": lambda t, b, c, h, w: torch.randn(b, c, h, w).expand(t, b, c, h, w),
}


@cpp_case.needs_cpp
@pytest.mark.parametrize("vectors", [1, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strided", STRIDED)
def test_lanes_element_by_element(strided, dtype, vectors):
    t, b, c, h, w = sizes = 3, 11, 2, 5, 6
    x = STRIDED[strided](*sizes).to(dtype)
    lanes = torch.ops.snn_sparse.to_lanes(x, vectors)
    groups, batch_vectors = -(-t * 2 // vectors), 2
    assert lanes.shape == empty(sizes, dtype, x.device, MemoryFormat("lanes", vectors)).shape
    padded = torch.zeros(groups * vectors * 8, c, h, w, dtype=dtype)
    for step in range(t):
        for sample in range(b):
            padded[(step * batch_vectors + sample // 8) * 8 + sample % 8] = x[step, sample]
    expected = padded.view(groups, vectors * 8, c, h, w).permute(0, 2, 3, 4, 1)
    assert torch.equal(lanes, expected)
    assert torch.equal(torch.ops.snn_sparse.from_lanes(lanes, t, b), x)


@cpp_case.needs_cpp
@pytest.mark.parametrize("old", [NCHW, NHWC, MemoryFormat("lanes", 3)], ids=lambda f: f.kind)
@pytest.mark.parametrize("new", [NCHW, NHWC, MemoryFormat("lanes", 2), MemoryFormat("lanes", 3)], ids=str)
def test_convert_keeps_values_and_gradients(old, new):
    sizes = (2, 9, 3, 2, 4)
    x, grad = torch.randn(sizes, dtype=torch.float64, requires_grad=True), torch.randn(sizes, dtype=torch.float64)
    there = convert(convert(x, sizes, NCHW, old), sizes, old, new)
    if new.kind != "lanes":
        assert format_of(there) == new
    back = convert(there, sizes, new, NCHW)
    assert torch.equal(back, x)
    assert torch.equal(torch.autograd.grad(back, x, grad)[0], grad)
    assert convert(there, sizes, new, new) is there


def test_formats_and_strides():
    shape = (2, 3, 4, 5, 6)
    for memory_format in (NCHW, NHWC):
        x = empty(shape, torch.float32, torch.device("cpu"), memory_format)
        assert tuple(x.shape) == shape
        assert format_of(x) == memory_format
        assert ordered(x, memory_format).data_ptr() == x.data_ptr()
        other = ordered(torch.randn(shape), memory_format)
        assert format_of(other) == memory_format
        assert format_of(other[0]) == memory_format  # a potential
    for ambiguous in ((2, 3, 1, 5, 6), (2, 3, 4, 1, 1)):  # both at once: counts as contiguous
        assert not is_channels_last(torch.empty(ambiguous))
        assert format_of(empty(ambiguous, torch.float32, torch.device("cpu"), NHWC)) == NCHW
    assert format_of(torch.randn(2, 3, 4, 6, 5).transpose(-1, -2)) == NCHW  # neither


def test_every_code_is_read_back():
    formats = [NCHW, NHWC, *(MemoryFormat("lanes", v) for v in range(1, MAX_VECTORS + 1))]
    assert [f.code for f in formats] == list(range(len(formats)))
    assert [MemoryFormat.of_code(f.code) for f in formats] == formats


BAD = {
    "to_lanes: four dimensions": (torch.zeros(2, 3, 4, 5), 1),
    "to_lanes: no vectors": (torch.zeros(2, 3, 4, 5, 6), 0),
    "to_lanes: nine vectors": (torch.zeros(2, 3, 4, 5, 6), 9),
    "to_lanes: empty": (torch.zeros(2, 0, 4, 5, 6), 1),
    "to_lanes: integers": (torch.zeros(2, 3, 4, 5, 6, dtype=torch.int64), 1),
    "to_lanes: half": (torch.zeros(2, 3, 4, 5, 6, dtype=torch.float16), 1),
    "to_lanes: too large": (torch.zeros(1, 1, 1, 1, 1).expand(1 << 20, 1 << 20, 1 << 20, 1, 1), 1),
    "from_lanes: timesteps": (torch.zeros(2, 3, 4, 5, 8), 3, 8),
    "from_lanes: batch": (torch.zeros(2, 3, 4, 5, 8), 2, 9),
    "from_lanes: no timesteps": (torch.zeros(2, 3, 4, 5, 8), 0, 8),
    "from_lanes: no batch": (torch.zeros(2, 3, 4, 5, 8), 2, 0),
    "from_lanes: seven lanes": (torch.zeros(2, 3, 4, 5, 7), 2, 8),
    "from_lanes: strided": (torch.zeros(2, 3, 4, 8, 5).transpose(3, 4), 2, 8),
}


@cpp_case.needs_cpp
@pytest.mark.parametrize("case", BAD)
def test_conversions_refuse(case):
    name = case.split(":")[0]
    with pytest.raises(RuntimeError, match=f"{name}: "):
        getattr(torch.ops.snn_sparse, name)(*BAD[case])
