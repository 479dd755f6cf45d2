"""What one of two processes of a group does; see ``test_distributed.py``."""

import torch
from tiny_case import tiny_digits

import snn_sparse as ss
from snn_sparse.training import GradientAverage, SharedPlans, TrainStep, evaluate, make_optimizer, train_epoch


def numbers(tensors):
    return {name: t.detach().numpy() for name, t in tensors.items()}


def state_of_rank_0(group):
    """A nest of everything that a checkpoint holds, on rank 0 alone."""
    if not group.first:
        return {"nothing": torch.ones(3)}
    torch.manual_seed(5)
    model = ss.build_model("vgg_small", 10, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    ss.temporal_cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "memory": {"masks": [dict(ss.magnitude_mask(model, 90.0))], "none": None, "empty": torch.zeros(0, 3)},
        "result": {"epochs": 3, "accuracy": 12.5, "name": "x", "pair": (1, torch.tensor(2.5))},
        "wide": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "repeated": torch.randn(1, 3).expand(4, 3),
    }


def state_arrives(group):
    sent = state_of_rank_0(group)
    found = group.broadcast_state(sent)
    torch.manual_seed(0)
    if not group.first:
        assert found["wide"].is_contiguous(memory_format=torch.channels_last)
        model = ss.build_model("vgg_small", 10, 1, 2)
        model.load_state_dict(found["model"])
        torch.optim.Adam(model.parameters(), 0.01).load_state_dict(found["optimizer"])
    group.check_same("state", found)
    return sorted(found), found["result"]["pair"][1].item()


def differences(group):
    """What :meth:`check_same` says about what differs in one bit, in a name, in a dtype, in a number."""
    x, said = torch.arange(6.0), []
    other = x.clone()
    other[3] = other[3].nextafter(torch.tensor(9.0))
    for mine in (
        {"x": x if group.first else other},
        {"x" if group.first else "y": x},
        [x if group.first else x.double()],
        [x if group.first else x.view(2, 3)],
        (x, group.rank),
    ):
        try:
            group.check_same("weights", mine)
        except RuntimeError as error:
            said.append(str(error))
    group.check_same("weights", {"x": x.clone(), "text": "t"})
    return said


def sums_and_objects(group):
    x = group.all_reduce_sum(torch.tensor([1.0, group.rank]))
    flipped = torch.full((3, 2), group.rank).t()
    group.broadcast_([flipped])
    group.barrier()
    return x.tolist(), group.broadcast_object(["told by", group.rank]), flipped.tolist()


def average(group, percent, seed):
    """Gradients after a step on this rank's piece, and how many numbers travelled."""
    torch.manual_seed(seed)
    model = ss.build_model("vgg_small", 10, 1, 2).double()
    model = model.to(memory_format=torch.channels_last) if seed % 2 else model
    mask = ss.prune_magnitude(model, ss.Mask.dense(model), percent) if percent else ss.Mask.dense(model)
    mask.apply_(model)
    model.eval()  # so that statistics are the same for all pieces
    x, y = torch.rand(7, 1, 8, 8).double(), torch.randint(0, 10, (7,))
    ss.temporal_cross_entropy(model(x), y).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    part = slice(0, 4) if group.first else slice(4, 7)
    (ss.temporal_cross_entropy(model(x[part]), y[part]) * len(y[part])).backward()
    model.classifier.bias.grad = None
    sent = []
    real = group.all_reduce_sum
    object.__setattr__(group, "all_reduce_sum", lambda t: sent.append(t.numel()) or real(t))
    GradientAverage(group, model, mask)(model, len(y[part]))
    object.__delattr__(group, "all_reduce_sum")
    assert model.classifier.bias.grad is None
    for n, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-9, atol=1e-12)
    others = sum(p.numel() for n, p in model.named_parameters() if n not in mask and n != "classifier.bias")
    assert sent == [mask.live + others + 1]
    group.check_same("gradients", {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    return True


def epochs(group, fused, seed):
    """Two epochs under a mask: losses, accuracy, final weights."""
    data, batch_size = tiny_digits(), 62  # a last batch of 14
    torch.manual_seed(seed)
    model = ss.build_model("vgg_small", 10, 1, 2)
    model = ss.fuse(model) if fused else model
    mask = ss.magnitude_mask(model, 90.0)
    mask.apply_(model)
    optimizer = make_optimizer(model, "sgd", 0.05, keep=mask if fused else None)
    step = TrainStep(model, optimizer, reduce=GradientAverage(group, model, mask))
    losses = []
    for epoch in range(2):
        batches = data.train.batches(
            batch_size,
            augmentation=data.augmentation,
            generator=torch.Generator().manual_seed(epoch),
            shard=group.shard,
            smallest=group.smallest_batch,
        )
        losses.append(train_epoch(model, batches, optimizer, step, group))
        group.check_same("weights", model.state_dict())
    shared = evaluate(model, data.test, batch_size=7, group=group)
    assert shared == evaluate(model, data.test)
    assert all(bool((model.get_parameter(n)[~m] == 0).all()) for n, m in mask.items())
    few = type(data.test)(data.test.images[:1], data.test.labels[:1], data.test.mean, data.test.std)
    return losses, shared, evaluate(model, few, group=group) in (0.0, 100.0)


class Own(dict):
    """A store in memory, which tells what it was asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def get(self, key):
        self.asked.append(key)
        return super().get(key)

    def put(self, key, value):
        self[key] = value


def plans(group):
    own = Own({"known": [1, "a"]})
    shared = SharedPlans(group, own, patience=30)
    found = [shared.get("known")]
    new = shared.get("new") if group.first else None
    if group.first:
        assert new is None
        shared.put("new", {"winner": 2})
    found += [shared.get("new"), shared.get("new")]
    shared.put("other", group.rank)  # what another rank has timed is nobody's plan
    found.append(shared.get("other"))
    shared.alike = False
    found.append(shared.get("piece", "untimed"))
    shared.alike = True
    group.barrier()
    late = ""
    if not group.first:
        try:
            SharedPlans(group, own, patience=0.2).get("never")
        except RuntimeError as error:
            late = str(error)
    group.barrier()
    return found, own.asked, dict(own), late
