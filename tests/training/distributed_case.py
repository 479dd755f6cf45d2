"""What one of two processes of a group does; see ``test_distributed.py``."""

from contextlib import closing

import torch
from tiny_case import tiny_digits

import snn_sparse as ss
from snn_sparse.ops.convolution import LiveConfiguration
from snn_sparse.ops.spikes import MemoryFormat
from snn_sparse.training import GradientAverage, ImageSet, SharedPlans, TrainStep, evaluate, make_optimizer, train_epoch
from snn_sparse.training.loop import dealt
from snn_sparse.tuning import Winner, tuner


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
    whole = ss.temporal_cross_entropy(model(x), y)
    whole.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    part = slice(0, 4) if group.first else slice(4, 7)
    loss = ss.temporal_cross_entropy(model(x[part]), y[part])
    (loss * len(y[part])).backward()
    model.classifier.bias.grad = None
    sent = []
    real = group.all_reduce_sum
    object.__setattr__(group, "all_reduce_sum", lambda t: sent.append(t.numel()) or real(t))
    found = GradientAverage(group, model, mask)(model, len(y[part]), loss.detach())
    object.__delattr__(group, "all_reduce_sum")
    assert model.classifier.bias.grad is None
    torch.testing.assert_close(found, whole.detach())
    for n, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-9, atol=1e-12)
    others = sum(p.numel() for n, p in model.named_parameters() if n not in mask and n != "classifier.bias")
    assert sent == [mask.live + others + 3]  # loss, stop, images
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
        losses.append(train_epoch(model, batches, optimizer, step, group=group))
        group.check_same("weights", model.state_dict())
    assert all(bool((model.get_parameter(n)[~m] == 0).all()) for n, m in mask.items())
    return losses


class Pixels(torch.nn.Module):
    """Its logits are the first pixels of the image."""

    def forward(self, x):
        return x.flatten(1)[None, :, 8:18]


def accuracies(group, sizes):
    """Accuracy on some first images of the test set, shared and alone."""
    data, found = tiny_digits().test, []
    for size in sizes:
        part = ImageSet(data.images[:size], data.labels[:size], data.mean, data.std)
        found.append((evaluate(Pixels(), part, batch_size=7, group=group), evaluate(Pixels(), part)))
    return found


class Own(dict):
    """A store in memory, which tells what it was asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def get(self, key, parse):
        self.asked.append(key)
        return parse(self[key]) if key in self else None

    def put(self, key, value):
        self[key] = value


def winner(seconds):
    return Winner((seconds,), (2.0,), MemoryFormat("lanes", 2), LiveConfiguration(2, 16, True, True))


def plans(group):
    own = Own({"known": winner(0.5).as_dict()})
    shared = SharedPlans(group, own, patience=30)
    found = [shared.get("known", Winner.parse)]
    if group.first:
        assert shared.get("new", Winner.parse) is None
        shared.put("new", winner(0.25).as_dict())
    else:
        shared.put("new", winner(0.75).as_dict())  # what another rank has timed is nobody's plan
    found += [shared.get("new", Winner.parse), shared.get("new", Winner.parse)]
    assert found == [winner(0.5), winner(0.25), winner(0.25)]
    late = ""
    if not group.first:
        try:
            SharedPlans(group, own, patience=0.2).get("never", Winner.parse)
        except RuntimeError as error:
            late = str(error)
    group.barrier()
    return own.asked, sorted(own), late


def errors_of_rank_0(group):
    """An action runs once; what it returns or raises is everybody's."""
    done = []

    def read(value):
        done.append(value)
        if value is None:
            raise FileNotFoundError("no file at x")
        return {"tensor": torch.full((2,), value), "rank": group.rank}

    found = group.on_first(lambda: read(1.5))
    try:
        group.on_first(lambda: read(None))
        said = ""
    except FileNotFoundError as error:
        said = str(error)
    return found["tensor"].tolist(), found["rank"], said, len(done)


def stops(group):
    """Rank 1 asks to stop at its third step."""
    model = ss.build_model("vgg_small", 10, 1, 2)
    average = GradientAverage(group, model)
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.1), reduce=average)
    seen = [average.stopping()]
    for i in range(4):
        average.stop = not group.first and i == 2
        step(torch.rand(3, 1, 8, 8), torch.arange(3))
        seen.append(average.stopping())
    return seen


def deals(group):
    """How layers are chosen during each batch, and after a batch at which the training stops."""
    seen = []
    for batch in dealt("abc", [8, 7, 4], group):
        seen.append((batch, tuner._now.by))
    with closing(dealt("ab", [7, 8], group)) as batches:
        next(batches)
        inside = tuner._now.by
    return seen, inside, tuner._now.by
