"""Reading and writing live entries, against plain indexing."""

import pytest
import torch

from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.live import gather_live, live_index, scatter_live


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_scatter_against_indexing(dtype, density):
    mask = torch.rand(50, 17, 43) < density
    dense, values = torch.randn(mask.shape, dtype=dtype), torch.randn(int(mask.sum()), dtype=dtype)
    expected = dense.clone()
    expected[mask] = values
    index = live_index(mask)
    scatter_live(dense.view(-1), index, values)
    assert torch.equal(dense, expected)
    assert torch.equal(gather_live(dense.view(-1), index), values)


@pytest.mark.skipif(not cpu_library(), reason="the C++ operators are not built")
def test_the_operator_refuses():
    dense, index, values = torch.zeros(9), torch.tensor([1, 8], dtype=torch.int32), torch.ones(2)
    for arguments, named in [
        ((dense, index + 1, values), "index is out of range"),
        ((dense, index - 2, values), "index is out of range"),
        ((dense, index.long(), values), "index must be int32"),
        ((dense, index, values.double()), "values"),
        ((dense, index, torch.ones(3)), "values must be as many"),
        ((dense.half(), index, values.half()), "dense must be float32"),
        ((torch.zeros(9, 2)[:, 0], index, values), "dense must be contiguous"),
        ((dense, index.to("meta"), values), "Meta|meta|CPU"),
    ]:
        with pytest.raises(RuntimeError, match=named):
            torch.ops.snn_sparse.scatter_live_(*arguments)
        if values is arguments[2]:
            with pytest.raises(RuntimeError, match=named):
                torch.ops.snn_sparse.gather_live(*arguments[:2])
