"""When a training step is captured, replayed and captured anew. A stand-in takes the part of CUDA graphs."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from snn_sparse.training import TrainStep
from snn_sparse.training.step import MAX_KINDS, WARMUP, WARMUP_DDP

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import Replay, StandIn, assert_same, batch, make, mask_of, optimizer_of, run, twin_of

pytestmark = pytest.mark.usefixtures("stand_in")


def test_first_steps_are_eager_then_one_is_captured_and_all_are_replayed():
    step = make()
    assert run(step, WARMUP) == ["aside"] * WARMUP
    before = copy.deepcopy(step.model.state_dict())
    assert run(step, 3) == ["capture", "capture", *["replay", "replay"] * 3]
    assert int(step.model.features[1].num_batches_tracked - before["features.1.num_batches_tracked"]) == 3
    first = step(*batch())
    kept = first.clone()
    assert step(*batch()) is first
    assert not torch.equal(first, kept)


def test_the_batch_of_the_capture_stays_the_callers():
    step = make()
    run(step, WARMUP)
    x, y = batch()
    kept = x.clone(), y.clone()
    step(x, y)
    run(step, 2)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


def test_graphs_share_memory_except_for_updates_and_find_no_old_gradients():
    step = make()
    for size in (6, 3):
        run(step, WARMUP + 1, size)
    beside, gradients = zip(*StandIn.captures, strict=True)
    assert beside == (None, None, 0, None)  # of backward, update, backward, update
    assert gradients[0] == gradients[2] == 0


def test_gradients_of_another_step_are_gone_before_a_replay(monkeypatch):
    step = make()
    run(step, WARMUP + 1)
    found = []
    replay = Replay.replay

    def looks(self):
        found.append(sum(p.grad is not None for p in step.model.parameters()))
        replay(self)

    monkeypatch.setattr(Replay, "replay", looks)
    run(step, 1, size=3)
    run(step, 2)
    assert found[0] == 0
    assert len(found) == 4


def test_the_last_smaller_batch_of_an_epoch_gets_its_own_graphs():
    step = make()
    for epoch in range(WARMUP + 2):
        run(step, 4)
        last = run(step, 1, size=2)
        assert ("aside" in last) == (epoch < WARMUP)
        assert ("capture" in last) == (epoch == WARMUP)
    assert "aside" not in run(step, 1)
    assert StandIn.alive() == 4


def freeze(step):
    step.model.classifier.bias.requires_grad_(False)


def move(step):
    step.model.to(memory_format=torch.channels_last)
    for module in step.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.clone()


def prune(step):
    mask_of(step.model, 95.0).apply_(step.model, step.optimizer)


def decay(step):
    step.optimizer.param_groups[0]["weight_decay"] = 0.5


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("change", [prune, freeze, move, decay])
def test_what_cannot_come_back_drops_all_graphs(change, fused):
    step = make(fused=fused)
    run(step, WARMUP + 1)
    run(step, WARMUP + 1, size=3)
    assert StandIn.alive() == 4
    change(step)
    twin = twin_of(step)
    for n in range(WARMUP + 2):
        x, y = batch()
        assert torch.equal(step(x, y), twin(x, y))
        assert ("aside" in StandIn.since()) == (n < WARMUP)
        assert StandIn.alive() == (0 if n < WARMUP else 2)
    assert_same(step, twin)


def timesteps(step):
    step.model.timesteps = 5 - step.model.timesteps


def mode(step):
    step.model.train(not step.model.training)


def statistics(step):
    norm = step.model.features[1]
    norm.train(not norm.training)


@pytest.mark.parametrize("change", [timesteps, mode, statistics])
def test_what_may_come_back_keeps_its_graphs(change):
    step = make()
    run(step, WARMUP + 1)
    change(step)
    assert run(step, WARMUP + 1).count("aside") == WARMUP
    change(step)
    assert run(step, 1) == ["replay", "replay"]
    assert StandIn.alive() == 4


def test_images_of_another_form_are_another_kind():
    step = make()
    run(step, WARMUP + 1)
    sequence = torch.rand(2, 6, 1, 8, 8)
    for x in (sequence, sequence[0].double().to(torch.bfloat16), sequence.transpose(3, 4)[0]):
        with torch.autocast("cpu", torch.bfloat16) if x.dtype == torch.bfloat16 else nullcontext():
            step(x, torch.zeros(6).long())
        assert StandIn.since() == ["aside"]


def test_a_learning_rate_that_a_replay_would_not_see_starts_anew():
    step = make()
    run(step, WARMUP + 1)
    step.optimizer.param_groups[0]["lr"].fill_(0.1)
    assert run(step, 1) == ["replay", "replay"]
    step.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    assert run(step, 1) == ["aside"]


def test_few_graphs_are_kept():
    step = make()
    for size in range(2, 3 + MAX_KINDS):
        run(step, WARMUP + 1, size)
        assert StandIn.alive() <= 2 * MAX_KINDS
    assert run(step, 1, 2) == ["aside"]  # in place of the graphs of three images
    assert "aside" not in run(step, 1, 4)
    assert run(step, 1, 3) == ["aside"]  # in place of those of five
    assert "aside" not in run(step, 1, 4)
    assert run(step, 1, 5) == ["aside"]


@pytest.fixture
def wrapped(tmp_path):
    """A step of a network in DistributedDataParallel, in a group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        network = make().model
        optimizer = optimizer_of(network)
        StandIn.watched[:] = [(network, optimizer)]
        yield TrainStep(torch.nn.parallel.DistributedDataParallel(network), optimizer), network
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapped_network_makes_more_steps_before_its_capture(wrapped):
    step, _ = wrapped
    assert run(step, WARMUP_DDP) == ["aside"] * WARMUP_DDP
    assert run(step, 1) == ["capture", "capture", "replay", "replay"]


def test_timesteps_of_a_wrapped_network_are_those_inside(wrapped):
    step, network = wrapped
    run(step, WARMUP_DDP + 1)
    network.timesteps = 2
    assert run(step, 1) == ["aside"]
    network.timesteps = 3
    assert run(step, 1) == ["replay", "replay"]
