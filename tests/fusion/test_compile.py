"""A fused network under torch's graph tools."""

import pytest
import torch

import snn_sparse as ss


@pytest.fixture
def fused():
    return ss.fuse(ss.build_model("vgg_small", 4, 3, 3))


def test_compiles_into_one_graph(fused):
    x = torch.randn(2, 3, 8, 8)
    expected = fused(x)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, expected)
    loss = compiled.square().sum()
    loss.backward()
    assert all(p.grad is not None for p in fused.parameters())


def test_exports(fused):
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(fused.eval(), (x,))
    torch.testing.assert_close(program.module()(x), fused(x))
