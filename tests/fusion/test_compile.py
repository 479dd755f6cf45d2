"""A fused network under torch's graph tools."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

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


def test_a_masked_network_compiles_into_one_graph(fused):
    x = torch.randn(2, 3, 8, 8)
    mask = ss.Mask({n: torch.rand(p.shape) < 0.3 for n, p in ss.tickets.prunable(fused).items()})
    mask.apply_(fused)
    gradients(fused, x)
    expected = [p.grad.clone() for p in fused.parameters()]
    fused.zero_grad()
    gradients(torch.compile(fused, fullgraph=True, backend="aot_eager"), x)
    for p, g in zip(fused.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
    for name, p in ss.tickets.prunable(fused).items():
        assert not p.grad[~mask[name]].any()
        assert p.grad[mask[name]].any()


@pytest.mark.parametrize("masked", [False, True])
def test_exports(fused, masked):
    x = torch.randn(2, 3, 8, 8)
    if masked:
        ss.Mask({n: torch.rand(p.shape) < 0.3 for n, p in ss.tickets.prunable(fused).items()}).apply_(fused)
    program = torch.export.export(fused.eval(), (x,))
    torch.testing.assert_close(program.module()(x), fused(x))


def gradients(run, x):
    run(x).square().sum().backward()


def test_activation_checkpointing(fused):
    x = torch.randn(2, 3, 8, 8)
    gradients(fused, x)
    expected = [p.grad.clone() for p in fused.parameters()]
    fused.zero_grad()
    gradients(lambda x: checkpoint(fused, x, use_reentrant=False), x)
    for p, g in zip(fused.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_distributed_data_parallel(fused, tmp_path):
    x = torch.randn(2, 3, 8, 8)
    gradients(fused, x)
    expected = [p.grad.clone() for p in fused.parameters()]
    fused.zero_grad()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        gradients(torch.nn.parallel.DistributedDataParallel(fused), x)
    finally:
        torch.distributed.destroy_process_group()
    for p, g in zip(fused.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
