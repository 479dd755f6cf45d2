"""One training step: captured or not, its numbers are the same. A stand-in takes the part of CUDA graphs."""

import copy
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

import snn_sparse as ss
from snn_sparse.training import TrainStep, cuda_graphs
from snn_sparse.training import step as step_module
from snn_sparse.training.step import WARMUP

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import (
    NAN,
    StandIn,
    assert_pruned_are_zero,
    assert_same,
    batch,
    make,
    mask_of,
    network,
    optimizer_of,
    run,
    twin_of,
)

pytestmark = pytest.mark.usefixtures("stand_in")


@pytest.mark.parametrize("fused", [True, False])
def test_losses_and_weights_are_those_of_eager_steps(fused):
    step = make(fused=fused)
    twin = twin_of(step)
    rates = [ExponentialLR(s.optimizer, 0.5) for s in (step, twin)]
    for epoch in range(4):
        for size in (6, 6, 6, 6, 6, 4):
            x, y = batch(size)
            given = x.clone(), y.clone()
            found = step(*given)
            assert found.shape == ()
            assert not found.requires_grad
            assert torch.equal(found, twin(x, y))
            given[0].fill_(NAN)  # no later step reads this batch
            for p in step.model.parameters():
                p.grad = torch.full_like(p, NAN)
        for rate in rates:
            rate.step()
        if epoch == 1:
            step.model.timesteps = twin.model.timesteps = 2
    assert_same(step, twin)
    assert_pruned_are_zero(step.model, {n: p != 0 for n, p in twin.model.named_parameters() if p.dim() > 1})
    assert StandIn.log.count("replay") >= 10


def test_pruned_weights_stay_zero_under_a_new_mask():
    step = make(pruned=0.0)
    for percent in (50.0, 90.0):
        mask = mask_of(step.model, percent)
        mask.apply_(step.model, step.optimizer)
        assert run(step, WARMUP + 3).count("replay") == 6
        assert_pruned_are_zero(step.model, mask)


@pytest.mark.parametrize("fused", [True, False])
def test_a_replay_holds_the_mask_over_weights_that_somebody_else_has_written(fused):
    step = make(fused=fused)
    mask = mask_of(step.model, 80.0)
    mask.apply_(step.model)
    run(step, WARMUP + 1)
    step.model.load_state_dict(ss.build_model("vgg_small", 10, 1, 3).state_dict())
    twin = twin_of(step)
    StandIn.since()
    for _ in range(2):
        x, y = batch()
        assert torch.equal(step(x, y), twin(x, y))
        assert StandIn.since() == ["replay", "replay"]
    assert_pruned_are_zero(step.model, mask)
    assert_same(step, twin)


@pytest.mark.parametrize("where", ["forward", "update"])
def test_what_cannot_be_captured_falls_back_for_good_and_changes_nothing(where, monkeypatch):
    step = make()
    twin = twin_of(step)
    capture = StandIn.capture

    def broken(self, function, beside=None):
        def fails():
            function()
            if where == "forward" or function == step.optimizer.step:
                raise RuntimeError("the host waits\nand more")

        return capture(self, fails, beside)

    monkeypatch.setattr(StandIn, "capture", broken)
    for n in range(2 * WARMUP + 3):
        x, y = batch()
        warns = pytest.warns(UserWarning, match="without CUDA graphs: RuntimeError: the host waits$")
        with warns if n == WARMUP else nullcontext():
            assert torch.equal(step(x, y), twin(x, y))
    assert_same(step, twin)
    assert StandIn.log.count("capture") == (1 if where == "forward" else 2)
    assert "replay" not in StandIn.log
    assert StandIn.alive() == 0


def test_the_warning_names_what_broke_the_capture(monkeypatch):
    @contextmanager
    def ends_badly(*args, **kwargs):
        try:
            yield
        finally:
            raise RuntimeError("capture failed earlier")

    for name in ("Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, type(name, (), {"__init__": lambda self, *a: None}))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", ends_badly)
    graphs = cuda_graphs.CudaGraphs(torch.device("cuda"))
    with pytest.raises(cuda_graphs.CaptureError, match=r"^ZeroDivisionError: division by zero$"):
        graphs.capture(lambda: 1 / 0)
    with pytest.raises(cuda_graphs.CaptureError, match=r"^RuntimeError: capture failed earlier$"):
        graphs.capture(lambda: None)


def test_never():
    step = make()
    eager = TrainStep(step.model, step.optimizer, graph=False)
    plain = TrainStep(step.model, optimizer_of(step.model, captured=False))
    assert run(eager, WARMUP + 2) == run(plain, WARMUP + 2) == []


def test_bfloat16_is_autocast():
    model = network()
    twin = copy.deepcopy(model)
    x, y = batch()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.1), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ss.temporal_cross_entropy(twin(x).float(), y)
    loss.backward()
    found = step(x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        assert torch.equal(p.grad, q.grad)
    assert not torch.equal(found, TrainStep(twin, torch.optim.SGD(twin.parameters(), 0.1))(x, y))


def test_wrong_arguments(monkeypatch):
    monkeypatch.undo()
    model = network()
    with pytest.raises(ValueError, match="graph=True needs a network on an NVIDIA GPU"):
        TrainStep(model, optimizer_of(model), graph=True)
    for dtype, text in ((torch.float16, "use bfloat16"), (torch.float64, "got torch.float64")):
        with pytest.raises(ValueError, match=f"dtype .*{text}"):
            TrainStep(model, optimizer_of(model), dtype=dtype)
    monkeypatch.setattr(step_module, "CudaGraphs", StandIn)
    with pytest.raises(ValueError, match="optimizer that can be captured"):
        TrainStep(model, optimizer_of(model, captured=False), graph=True)
    step = TrainStep(model, optimizer_of(model), graph=True)
    monkeypatch.setattr(StandIn, "take", lambda x: False)
    with pytest.raises(ValueError, match="graph=True needs x on an NVIDIA GPU, got cpu"):
        step(*batch())
