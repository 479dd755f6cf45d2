"""Reading and writing live entries, against plain indexing."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

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


@cpp_case.needs_cpp
def test_the_operator_refuses():
    dense, index, values = torch.zeros(9), torch.tensor([1, 8], dtype=torch.int32), torch.ones(2)
    for arguments, named in [
        ((dense, index + 1, values), "index is out of range"),
        ((dense, index - 2, values), "index is out of range"),
        ((dense, index.long(), values), "index must be Int"),
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


def test_where_the_operator_does_not_run(monkeypatch):
    mask = torch.rand(7, 9) < 0.4
    monkeypatch.setattr("snn_sparse.ops.live.implementation", lambda *_: "plain")
    dense, index = torch.randn(7, 9), live_index(mask)
    assert torch.equal(index.long(), mask.flatten().nonzero().squeeze(1))
    assert torch.equal(gather_live(dense.view(-1), index), dense[mask])
    scatter_live(dense.view(-1), index, torch.zeros(len(index)))
    assert not dense[mask].any()
    assert dense[~mask].all()


def test_what_is_gathered_is_a_copy():
    dense = torch.randn(9)
    values = gather_live(dense, live_index(torch.ones(9, dtype=torch.bool)))
    values.zero_()
    assert dense.all()
