"""The fused optimizer in Triton's interpreter, against its definition and against torch.optim."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from snn_sparse.kernels.launch import recording
from snn_sparse.kernels.optimizer import AdamRule, SgdRule, StepLauncher, table_row
from snn_sparse.ops.optimizer_step import adam_step, sgd_step
from snn_sparse.training import fused_optimizer
from snn_sparse.training.fused_optimizer import FusedAdam, FusedSGD

pytestmark = pytest.mark.usefixtures("poison")

NAN = float("nan")
KINDS = {FusedSGD: torch.optim.SGD, FusedAdam: torch.optim.Adam}
CASES = [
    (FusedSGD, {}),
    (FusedSGD, {"momentum": 0.9, "weight_decay": 5e-2}),
    (FusedSGD, {"momentum": 0.8, "nesterov": True}),
    (FusedAdam, {}),
    (FusedAdam, {"weight_decay": 0.1, "betas": (0.4, 0.9), "eps": 1e-4}),
]
SHAPES = {"one": (1,), "odd": (31,), "chunks": (4097,), "conv": (5, 3, 3, 2), "full": (6, 7), "dead": (9,)}
SHAPES |= {"dense": (8,), "none": (), "empty": (0, 3), "frozen": (4,), "rare": (33,)}
DENSITY = {"one": 1.0, "odd": 0.5, "chunks": 0.1, "conv": 0.3, "full": 1.0, "dead": 0.0, "none": 1.0, "rare": 0.5}


class Net(nn.Module):
    """Parameters of all kinds; ``alive`` says which entries live."""

    def __init__(self):
        super().__init__()
        self.alive = {name: torch.rand(SHAPES[name]) < density for name, density in DENSITY.items()}
        for name, shape in SHAPES.items():
            weight = torch.randn(shape) * self.alive.get(name, 1.0)
            self.register_parameter(name, nn.Parameter(weight, requires_grad=name != "frozen"))
        self.conv.data = self.conv.data.contiguous(memory_format=torch.channels_last)

    def draw_gradients(self, other, i):
        """The same random gradients for both, except that pruned entries are NaN here and zero in the other."""
        for name, p in self.named_parameters():
            q, mask = other.get_parameter(name), self.alive.get(name, torch.tensor(True))
            if name == "frozen" or (name == "rare" and i % 2 == 0):
                p.grad = q.grad = None
                continue
            p.grad = torch.randn_like(p).masked_fill_(~mask, NAN)
            q.grad = p.grad.masked_fill(~mask, 0.0)
            if name == "conv" and i == 1:
                p.grad = p.grad.contiguous()


def assert_same(ours, other, optimizer, reference):
    for name, p in ours.named_parameters():
        q, pruned = other.get_parameter(name), ~ours.alive.get(name, torch.tensor(True))
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert p.masked_select(pruned).eq(0).all()
        for key, value in reference.state[q].items():
            own = optimizer.state[p][key]
            torch.testing.assert_close(own, value, rtol=2e-5, atol=2e-6)
            assert own.stride() == (() if key == "step" else p.stride())
            assert key == "step" or own.masked_select(pruned).eq(0).all()


def pair(kind, options, lr=0.05):
    ours = Net()
    other = copy.deepcopy(ours)
    optimizer = kind(ours, ours.alive, lr=lr, **options)
    return ours, other, optimizer, KINDS[kind](other.parameters(), lr=lr, **options)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_against_torch(kind, options):
    ours, other, optimizer, reference = pair(kind, options)
    schedules = [ExponentialLR(o, 0.5) for o in (optimizer, reference)]
    versions = [p._version for p in ours.parameters()]
    for i in range(4):
        ours.draw_gradients(other, i)
        optimizer.step(), reference.step()
        for schedule in schedules:
            schedule.step()
        assert_same(ours, other, optimizer, reference)
    assert versions == [p._version for p in ours.parameters()]
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [1, 2047, 2049])
@pytest.mark.parametrize("rule", [SgdRule(0.7, 0.1, True), SgdRule(), AdamRule(weight_decay=0.1), AdamRule((0.0, 0.0))])
def test_against_the_definition(rule, n, masked):
    """Tensors off every alignment, between sentinels."""
    mask = torch.rand(n) < (0.5 if masked else 1.0)
    wide = [torch.full((n + 2,), NAN) for _ in range(4)]
    weight, gradient, *buffers = (x[1:-1] for x in wide)
    weight.copy_(torch.randn(n) * mask)
    for x in buffers:
        x.zero_()
    exact = [x.double() for x in (weight, *buffers)]
    launcher = StepLauncher([n], torch.device("cpu"))
    for step, lr in enumerate((0.1, 0.1, 0.01), 1):
        gradient.copy_(torch.randn(n).masked_fill(~mask, NAN))
        launcher.set_lr(lr)
        launcher.step([table_row(weight, gradient, buffers, mask if masked else None)], rule)
        options = {**vars(rule), "lr": lr, "alive": mask}
        if isinstance(rule, SgdRule):
            sgd_step(exact[0], gradient.double(), exact[1], **options)
        else:
            adam_step(exact[0], gradient.double(), exact[1], exact[2], step, **options)
    for x, y in zip((weight, *buffers), exact, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-6)
    assert all(x[0].isnan() and x[-1].isnan() for x in wide)


@pytest.mark.parametrize("step", [1, 2, 10, 248, 252, 3000, 10**6])
def test_bias_correction_is_exact(step):
    launcher = StepLauncher([1], torch.device("cpu"))
    launcher.set_lr(1.0)
    launcher.steps[0].fill_(step - 1)
    x = [torch.tensor([value]) for value in (0.0, 0.5, 0.25, 2.0)]
    exact = [y.double() for y in x]
    launcher.step([table_row(*x[:2], x[2:])], AdamRule())
    adam_step(*exact, step, lr=1.0)
    torch.testing.assert_close(x[0].double(), exact[0], rtol=1e-6, atol=0.0)
    assert launcher.steps[0].item() == step


def test_memory_format_changes_on_the_way():
    ours, other, optimizer, reference = pair(*CASES[1])
    for i, memory_format in enumerate((torch.contiguous_format, torch.channels_last)):
        for net in (ours, other):
            net.conv.data = net.conv.data.contiguous(memory_format=memory_format)
        ours.draw_gradients(other, i)
        optimizer.step(), reference.step()
        assert_same(ours, other, optimizer, reference)


def twin(net):
    """A copy with the same gradients."""
    copied = copy.deepcopy(net)
    for p, q in zip(net.parameters(), copied.parameters(), strict=True):
        q.grad = p.grad
    return copied


@pytest.mark.parametrize(("kind", "options"), [CASES[1], CASES[4]])
def test_checkpoints_go_both_ways(kind, options):
    ours, other, optimizer, reference = pair(kind, options)
    for i in range(2):
        ours.draw_gradients(other, i)
        optimizer.step(), reference.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    ours.draw_gradients(other, 3)
    for checkpoint in (torch.load(file, weights_only=True), reference.state_dict()):
        net = twin(ours)
        again = kind(net, net.alive, lr=9.0)
        again.load_state_dict(checkpoint)
        their_net = twin(other)
        theirs = KINDS[kind](their_net.parameters(), lr=9.0)
        theirs.load_state_dict(copy.deepcopy(checkpoint))
        again.step()
        theirs.step()
        assert_same(net, their_net, again, theirs)
        assert again.param_groups[0]["lr"] == 0.05
    # what was loaded was copied: the optimizers that it came from are as they were
    optimizer.step(), reference.step()
    assert_same(ours, other, optimizer, reference)


def test_loading_prunes_and_resets_the_state():
    ours, other, optimizer, reference = pair(*CASES[1])
    for q in other.parameters():
        q.grad = torch.randn_like(q)
    reference.step()
    optimizer.load_state_dict(reference.state_dict())
    for name, mask in ours.alive.items():
        buffer = optimizer.state[ours.get_parameter(name)]["momentum_buffer"]
        expected = reference.state[other.get_parameter(name)]["momentum_buffer"]
        assert torch.equal(buffer, torch.where(mask, expected, 0.0))
    optimizer.load_state_dict(torch.optim.SGD(other.parameters(), momentum=0.9).state_dict())
    assert all(state["momentum_buffer"].eq(0).all() for state in optimizer.state.values())


def capture(optimizer, monkeypatch):
    """What a graph would hold: the launches of a step."""
    monkeypatch.setattr(fused_optimizer, "_capturing", lambda device: True)
    with recording() as launches:
        optimizer.step()
    with pytest.raises(RuntimeError, match="after_capture"):
        optimizer.after_capture()
    monkeypatch.undo()
    return launches


def replay(launches):
    for launch in launches:
        launch.kernel[(launch.programs,)](**launch.arguments, **launch.options)


@pytest.mark.parametrize(("kind", "options"), [CASES[1], CASES[4]])
def test_a_graph(kind, options, monkeypatch):
    """Two graphs with gradients of their own and a step outside, interleaved, under a schedule."""
    ours, other, optimizer, reference = pair(kind, options)
    schedules = [ExponentialLR(o, 0.5) for o in (optimizer, reference)]
    start = copy.deepcopy(ours.state_dict())
    graphs = []
    for i in (3, 2):
        ours.draw_gradients(other, i)
        graphs.append((capture(optimizer, monkeypatch), [p.grad for p in ours.parameters()]))
        optimizer.after_capture()
    assert [len(launches) for launches, _ in graphs] == [1, 1]
    for name, p in ours.named_parameters():
        assert torch.equal(p, start[name])
    for i in (2, None, 3, 2, 3):
        ours.draw_gradients(other, 3 if i is None else i)
        if i is None:
            optimizer.step()
        else:
            launches, gradients = graphs[0 if i == 3 else 1]
            for p, gradient in zip(ours.parameters(), gradients, strict=True):
                if gradient is not None:
                    gradient.copy_(p.grad)
            optimizer.prepare()
            replay(launches)
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # graphs go on with it
        reference.step()
        for schedule in schedules:
            schedule.step()
        assert_same(ours, other, optimizer, reference)


def test_state_that_was_dropped_is_made_anew(monkeypatch):
    ours, other, optimizer, reference = pair(*CASES[3])
    for i in range(2):
        ours.draw_gradients(other, i)
        optimizer.state.clear(), reference.state.clear()
        with pytest.raises(RuntimeError, match="state of 'one' must be made"):
            capture(optimizer, monkeypatch)
        monkeypatch.undo()
        optimizer.step(), reference.step()
        assert_same(ours, other, optimizer, reference)


def test_wrong_construction():
    net, strided = nn.Linear(4, 3), nn.Linear(4, 3)
    strided.weight.data = torch.zeros(3, 8)[:, ::2]
    for wrong, alive, error, message in [
        (net, {"weight": torch.ones(4, 3, dtype=torch.bool)}, ValueError, "alive: 'weight' is no parameter"),
        (net, {"other": torch.ones(3, 4, dtype=torch.bool)}, ValueError, "alive: 'other' is no parameter"),
        (net, {"weight": torch.ones(3, 4)}, TypeError, "alive: 'weight' must be bool"),
        (nn.Linear(4, 3).half(), None, TypeError, "float32, but 'weight' is torch.float16"),
        (strided, None, ValueError, "dense in memory, but 'weight'"),
        (nn.Linear(4, 3, device="meta"), None, ValueError, "where Triton kernels run, got meta"),
    ]:
        with pytest.raises(error, match=message):
            FusedSGD(wrong, alive)
    sgd = [{"lr": -1.0}, {"lr": NAN}, {"momentum": -0.1}, {"weight_decay": -0.1}, {"nesterov": True}]
    adam = [{"betas": (0.9, 1.0)}, {"betas": (-0.1, 0.9)}, {"eps": -1.0}, {"weight_decay": -1.0}]
    for kind, options in [*((FusedSGD, o) for o in sgd), *((FusedAdam, o) for o in adam)]:
        with pytest.raises(ValueError, match=next(iter(options))):
            kind(net, **options)
    with pytest.raises(TypeError, match="lr must be a Python number"):
        FusedSGD(net, lr=torch.tensor(0.1))


def test_wrong_use():
    net = nn.Linear(4, 3)
    optimizer = FusedSGD(net, momentum=0.9)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(ValueError, match="param_group"):
        optimizer.add_param_group({"params": [torch.zeros(1)]})
    with pytest.raises(ValueError, match="no dampening, momentum, nesterov"):
        FusedSGD(net).load_state_dict(torch.optim.Adam(net.parameters()).state_dict())
    unsupported = [(FusedSGD, {"dampening": 0.5}), (FusedSGD, {"maximize": True}), (FusedAdam, {"amsgrad": True})]
    for kind, options in unsupported:
        with pytest.raises(ValueError, match=f"{next(iter(options))} is not supported"):
            kind(net).load_state_dict(KINDS[kind](net.parameters(), **options).state_dict())
    with pytest.raises(ValueError, match="momentum_buffer must be"):
        optimizer.load_state_dict(FusedSGD(nn.Linear(3, 4), momentum=0.9).state_dict())
    optimizer.state[net.bias]["momentum_buffer"] = torch.zeros(3, dtype=torch.float64)
    net.bias.grad = torch.ones(3)
    with pytest.raises(ValueError, match="momentum_buffer of 'bias'"):
        optimizer.step()
    net.weight.grad = torch.ones(3, 4).to_sparse()
    with pytest.raises(TypeError, match="gradient of 'weight'"):
        optimizer.step()
    net.weight.data = torch.zeros(3, 5)
    with pytest.raises(ValueError, match="unlike 'weight'"):
        optimizer.step()
