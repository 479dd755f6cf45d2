"""Groups of two processes, and of one."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import distributed_case as case

import snn_sparse as ss
from snn_sparse.training import GradientAverage, Group, SharedPlans, TrainStep
from snn_sparse.tuning import Winner


def test_a_group_of_one_does_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    group = Group.from_environment()
    assert group == Group()
    assert (group.rank, group.size, group.device, group.first) == (0, 1, torch.device("cpu"), True)
    x, state = torch.ones(2), {"a": torch.ones(3)}
    assert group.all_reduce_sum(x) is x
    assert group.broadcast_state(state) is state
    assert group.broadcast_object(state) is state
    group.broadcast_([x])
    group.check_same("state", state)
    group.barrier()
    group.close()
    assert not torch.distributed.is_initialized()
    assert group.check_batch_size(1) == 1
    own = case.Own()
    plans = SharedPlans(group, own)
    plans.put("a", case.winner(0.5).as_dict())
    assert plans.get("a", Winner.parse) == case.winner(0.5)
    assert plans.get("b", Winner.parse) is None
    with pytest.raises(ZeroDivisionError):
        group.on_first(lambda: 1 / 0)
    assert group.on_first(lambda: state) is state
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Group.from_environment().size == 1


@pytest.mark.parametrize(
    ("given", "device", "message"),
    [
        ({}, "cpu", "LOCAL_RANK is not set"),
        ({"LOCAL_RANK": "1"}, "cpu", "MASTER_ADDR is not set"),
        ({"LOCAL_RANK": "x", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "cpu", "must be integers"),
        ({"LOCAL_RANK": "0", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "cuda:0", "device must be cuda, without a number"),
        ({"LOCAL_RANK": "99", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "cuda", "too few"),
    ],
)
def test_an_environment_that_makes_no_group(monkeypatch, given, device, message):
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"RANK": "1", "WORLD_SIZE": "2"} | given).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Group.from_environment(device)


def test_batch_sizes_that_cannot_be_dealt_out():
    group = Group(1, 3)
    assert group.check_batch_size(9) == 9
    for wrong in (10, 3):
        with pytest.raises(ValueError, match=f"^batch_size .* multiple of their number 3, and at least 6, got {wrong}"):
            group.check_batch_size(wrong)


def test_sums_objects_and_tensors_of_rank_0(pair):
    assert pair(case.sums_and_objects) == [([2.0, 1.0], ["told by", 0], [[0] * 3] * 2)] * 2


def test_a_checkpoint_arrives_to_the_bit(pair):
    names = ["half", "memory", "model", "optimizer", "repeated", "result", "wide"]
    assert pair(case.state_arrives) == [(names, 2.5)] * 2


def test_what_differs_is_named(pair):
    for said in pair(case.differences):
        assert said == ["weights must be the same on all ranks, but differ from rank 0 on [1]"] * 5


@pytest.mark.parametrize("percent", [0.0, 60.0, 98.0])
def test_gradients_are_those_of_the_whole_batch_and_only_live_ones_travel(pair, percent):
    seed = int(torch.randint(1000, ()))
    assert pair(case.average, percent, seed) == [True, True]
    assert pair(case.average, percent, seed + 1) == [True, True]  # the other memory format


@pytest.mark.parametrize("fused", [False, True])
def test_epochs_leave_the_same_weights_and_agree_on_the_loss(pair, fused):
    first, second = pair(case.epochs, fused, int(torch.randint(1000, ())))
    assert first == second
    assert first[1] < first[0]


def test_an_accuracy_is_over_all_images_whatever_their_number(pair):
    sizes = [100, 99, 29, 15, 3, 1]
    first, second = pair(case.accuracies, sizes)
    assert first == second
    assert all(shared == alone for shared, alone in first)
    assert 0 < first[0][0] < 100


def test_plans_of_rank_0_are_those_of_all(pair):
    (asked, kept, _), (nothing, own, late) = pair(case.plans)
    assert asked == ["known", "new", "new", "new"]
    assert nothing == []
    assert (kept, own) == (["known", "new"], ["known"])
    assert late == "rank 0 has not told rank 1 how to compute 'never'"


def test_what_rank_0_reads_or_stumbles_over_is_everybodys(pair):
    first, second = pair(case.errors_of_rank_0)
    assert first == ([1.5, 1.5], 0, "no file at x", 2)
    assert second == ([1.5, 1.5], 0, "no file at x", 0)


def test_all_stop_after_the_same_step(pair):
    assert pair(case.stops) == [[False, False, False, True, False]] * 2


def test_layers_are_timed_only_where_all_ranks_compute_the_same_sizes(pair):
    seen = [("a", "race"), ("b", "rule"), ("c", "race")]
    assert pair(case.deals) == [(seen, "rule", "race")] * 2


def test_a_step_that_reduces(monkeypatch):
    """The hook comes between backward and update, with gradients of the summed loss, and returns the loss."""
    model = ss.build_model("vgg_small", 10, 1, 2).eval()
    twin = ss.build_model("vgg_small", 10, 1, 2).eval()
    twin.load_state_dict(model.state_dict())
    x, y = torch.rand(5, 1, 8, 8), torch.randint(0, 10, (5,))
    seen = []

    def reduce(network, images, loss):
        seen.append((network is model, images, torch.equal(network.classifier.weight, twin.classifier.weight)))
        for p in network.parameters():
            p.grad /= images
        return loss + 1

    losses = [
        TrainStep(m, torch.optim.SGD(m.parameters(), 0.1), reduce=hook)(x, y)
        for m, hook in ((model, reduce), (twin, None))
    ]
    assert seen == [(True, 5, True)]
    assert losses[0] == losses[1] + 1
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    with pytest.raises(ValueError, match="graph=True"):
        TrainStep(model, torch.optim.SGD(model.parameters(), torch.tensor(0.1)), graph=True, reduce=reduce)


def test_masks_that_do_not_fit():
    model = ss.build_model("vgg_small", 10, 1, 2)
    for keep in ({"nothing": torch.ones(3).bool()}, {"classifier.weight": torch.ones(3).bool()}):
        with pytest.raises(ValueError, match=r"^keep: .* is no parameter"):
            GradientAverage(Group(), model, keep)
