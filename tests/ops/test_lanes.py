"""The ``lanes`` layout: conversions to it and back, element by element, and the input they refuse."""

import pytest
import torch

from snn_sparse.ops.layout import NCHW, NHWC, Layout, convert
from snn_sparse.ops.library import cpu_library

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

ops = torch.ops.snn_sparse
STRIDED = {
    "contiguous": lambda t, b, c, h, w: torch.randn(t, b, c, h, w),
    "channels_last": lambda t, b, c, h, w: torch.randn(t, b, h, w, c).permute(0, 1, 4, 2, 3),
    "sliced": lambda t, b, c, h, w: torch.randn(b, t, c + 1, h, 2 * w).transpose(0, 1)[:, :, 1:, :, ::2],
    "expanded": lambda t, b, c, h, w: torch.randn(b, c, h, w).expand(t, b, c, h, w),
}


@pytest.mark.parametrize("halo", [0, 2])
@pytest.mark.parametrize("strided", STRIDED)
def test_lanes_follow_the_layout(strided, halo):
    t, b, c, h, w, v = 3, 11, 2, 5, 6, 4
    x = STRIDED[strided](t, b, c, h, w)
    lanes = ops.to_lanes(x, v, halo)
    groups, batch_vectors = -(-t * 2 // v), 2
    assert lanes.shape == (groups, c, h + 2 * halo, w + 2 * halo, 8 * v)
    padded = torch.zeros(groups * v * 8, c, h + 2 * halo, w + 2 * halo)
    for step in range(t):
        for sample in range(b):
            row = (step * batch_vectors + sample // 8) * 8 + sample % 8
            padded[row, :, halo : halo + h, halo : halo + w] = x[step, sample]
    expected = padded.view(groups, v * 8, c, h + 2 * halo, w + 2 * halo).permute(0, 2, 3, 4, 1)
    assert torch.equal(lanes, expected)
    assert torch.equal(ops.from_lanes(lanes, t, b, halo), x)


@pytest.mark.parametrize("old", [NCHW, NHWC, Layout("lanes", 3, 1)], ids=str)
@pytest.mark.parametrize("new", [NCHW, NHWC, Layout("lanes", 2), Layout("lanes", 3, 1)], ids=str)
def test_convert_keeps_values_and_gradients(old, new):
    sizes = (2, 9, 3, 2, 4)
    x, grad = torch.randn(sizes, dtype=torch.float64, requires_grad=True), torch.randn(sizes, dtype=torch.float64)
    there = convert(convert(x, sizes, NCHW, old), sizes, old, new)
    back = convert(there, sizes, new, NCHW)
    assert torch.equal(back, x)
    assert torch.equal(torch.autograd.grad(back, x, grad)[0], grad)


REFUSED = {
    "to: four dimensions": (ops.to_lanes, (torch.zeros(2, 3, 4, 5), 1, 0)),
    "to: no vectors": (ops.to_lanes, (torch.zeros(2, 3, 4, 5, 6), 0, 0)),
    "to: nine vectors": (ops.to_lanes, (torch.zeros(2, 3, 4, 5, 6), 9, 0)),
    "to: halo": (ops.to_lanes, (torch.zeros(2, 3, 4, 5, 6), 1, -1)),
    "to: empty": (ops.to_lanes, (torch.zeros(2, 0, 4, 5, 6), 1, 0)),
    "to: integers": (ops.to_lanes, (torch.zeros(2, 3, 4, 5, 6, dtype=torch.int64), 1, 0)),
    "to: too large": (ops.to_lanes, (torch.zeros(1, 1, 1, 1, 1).expand(1 << 20, 1 << 20, 1 << 20, 1, 1), 1, 0)),
    "from: timesteps": (ops.from_lanes, (torch.zeros(2, 3, 4, 5, 8), 3, 8, 0)),
    "from: batch": (ops.from_lanes, (torch.zeros(2, 3, 4, 5, 8), 2, 9, 0)),
    "from: no timesteps": (ops.from_lanes, (torch.zeros(2, 3, 4, 5, 8), 0, 8, 0)),
    "from: halo": (ops.from_lanes, (torch.zeros(2, 3, 4, 5, 8), 2, 8, 2)),
    "from: seven lanes": (ops.from_lanes, (torch.zeros(2, 3, 4, 5, 7), 2, 8, 0)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_conversions_refuse(case):
    function, arguments = REFUSED[case]
    with pytest.raises(RuntimeError):
        function(*arguments)
