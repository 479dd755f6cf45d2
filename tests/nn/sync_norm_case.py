"""What one of two processes computes with batch norms that synchronise; see ``test_sync_norm.py``."""

import copy

import torch

import snn_sparse as ss
from snn_sparse.nn import BatchNorm2d, SyncBatchNorm2d, synchronise_batch_norms
from snn_sparse.training import GradientAverage, TrainStep
from snn_sparse.training.data import shard_bounds


def numbers(tensors):
    return {name: t.detach().double().numpy() for name, t in tensors.items()}


def piece(group, x, images):
    """This rank's images, along dimension ``images``."""
    part = shard_bounds(slice(0, x.shape[images]), group.shard)
    return x.narrow(images, part.start, part.stop - part.start)


def one_norm(group, options, state, x, weights, half=False):
    """Forward and backward of one layer on this rank's piece: output, gradients, buffers."""
    x, weights = torch.from_numpy(x), torch.from_numpy(weights)
    images = x.dim() - 4
    norm = BatchNorm2d(x.shape[-3], **options).to(x.dtype)
    x = x.bfloat16() if half else x
    norm.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()})
    if group is not None:
        norm = synchronise_batch_norms(torch.nn.Sequential(norm))[0]
        assert type(norm) is SyncBatchNorm2d
        x, weights = piece(group, x, images), piece(group, weights, images)
    x = x.clone().requires_grad_()
    y = norm(x)
    assert y.dtype == x.dtype
    (y * weights).sum().backward()
    found = {"y": y, "x.grad": x.grad, **dict(norm.named_buffers())}
    if group is not None:
        for p in norm.parameters():
            group.all_reduce_sum(p.grad)
    return numbers(found | {f"{n}.grad": p.grad for n, p in norm.named_parameters()})


def network_steps(group, statistics, fused, x, y, steps, dtype):
    """A few training steps of a network: losses, then parameters and buffers."""
    torch.manual_seed(3)
    model = ss.build_model("vgg_small", 10, 1, 3, bn_statistics=statistics).to(dtype)
    with torch.no_grad():
        model.features[1].weight.uniform_(1, 3)
    model = ss.fuse(model) if fused else model
    x, y = torch.from_numpy(x).to(dtype), torch.from_numpy(y)
    reduce = None
    if group is not None:
        synchronise_batch_norms(model)
        x, y = piece(group, x, 0), piece(group, y, 0)
        reduce = GradientAverage(group, model)
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), reduce=reduce)
    losses = [float(step(x, y)) for _ in range(steps)]
    said = str(ss.explain(model)) if fused else ""
    return losses, numbers(model.state_dict()), said


def alone(group, x):
    """A copy, an evaluation and a capture wait for nobody: only rank 0 makes them."""
    norm = synchronise_batch_norms(torch.nn.Sequential(BatchNorm2d(x.shape[2])))[0]
    x = torch.from_numpy(x)
    if group.first:
        plain = BatchNorm2d(x.shape[2])
        plain.train()
        assert torch.equal(copy.deepcopy(norm)(x), plain(x))
        assert torch.equal(norm.eval()(x), BatchNorm2d(x.shape[2]).eval()(x))
    group.barrier()
    return True
