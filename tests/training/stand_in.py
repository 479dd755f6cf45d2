"""In place of CUDA graphs on a CPU, and training steps for the tests that use it."""

import copy
import weakref
from contextlib import contextmanager

import torch

import snn_sparse as ss
from snn_sparse.training import TrainStep

NAN = float("nan")


class Replay:
    """Captured work; like a graph it moves no version of a parameter."""

    def __init__(self, stand_in, function):
        self.stand_in, self.function = stand_in, function

    def replay(self):
        self.stand_in.log.append("replay")
        parameters = tuple(p for model, _ in self.stand_in.watched for p in model.parameters())
        with torch.autograd._unsafe_preserve_version_counter(parameters):
            self.function()


class StandIn:
    """In place of :class:`CudaGraphs`: after a capture all tensors are as before, and a replay calls the function."""

    log, graphs, watched, captures = [], [], [], []

    def __init__(self, device):
        assert device.type == "cpu"

    @staticmethod
    def take(x):
        return True

    @contextmanager
    def aside(self):
        self.log.append("aside")
        yield

    def capture(self, function, beside=None):
        self.log.append("capture")
        gradients = sum(p.grad is not None for model, _ in self.watched for p in model.parameters())
        self.captures.append(([graph() for graph in self.graphs].index(beside) if beside else None, gradients))
        tensors = [x for model, optimizer in self.watched for x in tensors_of(model, optimizer)]
        before = [x.clone() for x in tensors]
        try:
            function()
        finally:
            for x, old in zip(tensors, before, strict=True):
                x.data.copy_(old)
        graph = Replay(self, function)
        self.graphs.append(weakref.ref(graph))
        return graph

    @classmethod
    def reset(cls):
        for kept in (cls.log, cls.graphs, cls.watched, cls.captures):
            kept.clear()

    @classmethod
    def since(cls):
        """What happened since the last call."""
        found, cls.log[:] = list(cls.log), []
        return found

    @classmethod
    def alive(cls):
        return sum(graph() is not None for graph in cls.graphs)


def network(fused=False, pruned=80.0):
    model = ss.build_model("vgg_small", 10, 1, 3)
    model = (ss.fuse(model) if fused else model).train()
    if pruned:
        mask_of(model, pruned).apply_(model)
    return model


def mask_of(model, percent):
    return ss.prune_magnitude(model, ss.Mask.dense(model), percent, "local")


def optimizer_of(model, captured=True):
    """SGD whose learning rate is a tensor, so that a graph reads it anew; or a number."""
    rate = torch.tensor(0.2) if captured else 0.2
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-2)


def tensors_of(model, optimizer):
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, torch.Tensor)]
    return [*model.parameters(), *model.buffers(), *state]


def make(**options):
    model = network(**options)
    optimizer = optimizer_of(model)
    StandIn.watched.append((model, optimizer))
    return TrainStep(model, optimizer)


def batch(n=6):
    return torch.rand(n, 1, 8, 8), torch.randint(0, 10, (n,))


def twin_of(step, **options):
    """An eager step of a copy of the network."""
    model = copy.deepcopy(step.model)
    optimizer = optimizer_of(model)
    optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict()))
    return TrainStep(model, optimizer, graph=False, **options)


def run(step, n, size=6):
    for _ in range(n):
        step(*batch(size))
    return StandIn.since()


def assert_same(a, b):
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(a.optimizer.state[p]["momentum_buffer"], b.optimizer.state[q]["momentum_buffer"])


def assert_pruned_are_zero(model, mask):
    for name, alive in mask.items():
        assert torch.count_nonzero(model.get_parameter(name)[~alive]) == 0
