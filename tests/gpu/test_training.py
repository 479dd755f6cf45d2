"""What only hardware can show of training: steps in real CUDA graphs, updates by torch's fused optimizers."""

import copy
import warnings

import pytest
import torch

import snn_sparse as ss
from snn_sparse.training import Augmentation, ImageSet, TrainStep, make_optimizer, train_epoch
from snn_sparse.training.step import WARMUP

pytestmark = pytest.mark.gpu
AUGMENTATION = Augmentation(crop_padding=1, flip=True, cutout=2)


@pytest.fixture(autouse=True)
def _same_numbers_every_time(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.manual_seed(0)


def network(pruned=80.0, neuron="lif", timesteps=4):
    model = ss.build_model("vgg_small", 10, 1, timesteps, neuron=neuron).cuda()
    model = ss.fuse(model.to(memory_format=torch.channels_last)).train()
    if pruned:
        mask_of(model, pruned).apply_(model)
    return model


def mask_of(model, percent):
    return ss.prune_magnitude(model, ss.Mask.dense(model), percent, "local")


def batches(n, size=32):
    return [(torch.rand(size, 1, 8, 8, device="cuda"), torch.randint(0, 10, (size,), device="cuda")) for _ in range(n)]


def images(n=200):
    pixels = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 10, (n,)), (0.5,), (0.25,))


def losses(step, given):
    return torch.stack([step(x, y).clone() for x, y in given])


def recorded(step):
    return sum(kind.recording is not None for kind in step._kinds.values())


def assert_pruned_are_zero(model, mask):
    for name, keep in mask.items():
        assert torch.count_nonzero(model.get_parameter(name)[~keep]) == 0


def assert_near(model, other, tolerance):
    for (name, p), q in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("arch", ["vgg_small", "resnet19"])
def test_graphs_follow_eager_steps(arch):
    model = network() if arch == "vgg_small" else ss.fuse(ss.build_model(arch, 10, 1, 2).cuda()).train()
    twin = copy.deepcopy(model)
    step = TrainStep(model, make_optimizer(model, "sgd", 0.01), graph=True)
    eager = TrainStep(twin, make_optimizer(twin, "sgd", 0.01), graph=False)
    given = batches(30, 8)
    torch.testing.assert_close(losses(step, given), losses(eager, given), rtol=1e-3, atol=1e-3)
    assert recorded(step) == 1
    assert_near(model, twin, 1e-3)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_captured_updates_against_torch(name):
    """On a network of ReLU, in which no rounding tips a spike over."""
    model = network(neuron="relu", timesteps=1)
    twin = copy.deepcopy(model)
    mask = {n: p != 0 for n, p in model.named_parameters() if p.dim() > 1}
    optimizer = make_optimizer(model, name, 0.01, weight_decay=1e-2)
    assert all(group["lr"].is_cuda and group["fused"] for group in optimizer.param_groups)
    reference, options = (torch.optim.SGD, {"momentum": 0.9}) if name == "sgd" else (torch.optim.Adam, {})
    other = reference(twin.parameters(), lr=0.01, weight_decay=1e-2, **options)
    step, eager = TrainStep(model, optimizer, graph=True), TrainStep(twin, other, graph=False)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.7) for o in (optimizer, other)]
    for _ in range(4):
        given = batches(4)
        torch.testing.assert_close(losses(step, given), losses(eager, given), rtol=1e-3, atol=1e-4)
        for schedule in schedules:
            schedule.step()
    assert recorded(step) == 1
    assert_near(model, twin, 1e-3)
    assert_pruned_are_zero(model, mask)


def test_bfloat16_is_near_float32():
    data, found = images(512).to("cuda"), []
    model = network()
    for dtype in (torch.float32, torch.bfloat16):
        twin = copy.deepcopy(model)
        step = TrainStep(twin, make_optimizer(twin, "sgd", 0.05), dtype=dtype, graph=True)
        epochs = (data.batches(64, generator=torch.Generator().manual_seed(n)) for n in range(3))
        found.append([train_epoch(twin, epoch, step.optimizer, step) for epoch in epochs])
        assert recorded(step) == 1
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_new_timesteps_and_a_new_mask_are_captured_anew():
    model = network()
    twin = copy.deepcopy(model)
    optimizers = [make_optimizer(m, "sgd", 0.01) for m in (model, twin)]
    step, eager = TrainStep(model, optimizers[0], graph=True), TrainStep(twin, optimizers[1], graph=False)
    given = batches(WARMUP + 3)
    mask = None
    for timesteps, percent in ((4, None), (2, None), (4, None), (4, 90.0), (3, 95.0)):
        if percent is not None:
            mask = mask_of(model, percent)
            for m, optimizer in zip((model, twin), optimizers, strict=True):
                mask.apply_(m, optimizer)
        model.timesteps = twin.timesteps = timesteps
        torch.testing.assert_close(losses(step, given), losses(eager, given), rtol=1e-2, atol=1e-2)
        if mask is not None:
            assert_pruned_are_zero(model, mask)
    assert recorded(step) == 1


def test_kinds_of_batches_share_memory_and_do_not_disturb_each_other():
    """Graphs of three sizes in turn: none leaves anything behind in the memory of another that it reads."""
    model = network(neuron="relu", timesteps=1)
    twin = copy.deepcopy(model)
    mask = {n: p != 0 for n, p in model.named_parameters() if p.dim() > 1}
    optimizer = make_optimizer(model, "sgd", 0.01, keep=mask)
    step = TrainStep(model, optimizer, graph=True)
    eager = TrainStep(twin, torch.optim.SGD(twin.parameters(), 0.01, 0.9, weight_decay=5e-4), graph=False)
    given = [batch for _ in range(WARMUP + 6) for size in (32, 16, 24) for batch in batches(1, size)]
    torch.testing.assert_close(losses(step, given), losses(eager, given), rtol=1e-3, atol=1e-3)
    assert recorded(step) == 3
    assert_near(model, twin, 1e-3)
    assert_pruned_are_zero(model, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_host_never_waits_within_an_epoch(dtype):
    data, model = images().to("cuda"), network()
    step = TrainStep(model, make_optimizer(model, "sgd", 0.01), dtype=dtype, graph=True)

    def epoch(seed):
        generator = torch.Generator().manual_seed(seed)
        return data.batches(64, augmentation=AUGMENTATION, generator=generator, memory_format=torch.channels_last)

    for n in range(WARMUP + 1):  # the last batch of an epoch is smaller, and has its own graphs
        train_epoch(model, epoch(n), step.optimizer, step)
    assert recorded(step) == 2
    left = epoch(9)
    total = step(*next(left)) * 64  # the first batch copies the random numbers of all
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x, y in left:
            total = total + step(x, y) * len(y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.isfinite()


class Waiting(torch.nn.Module):
    """Reads a number from the device, which no graph can hold."""

    def forward(self, x):
        assert float(x.sum().detach()) is not None
        return x


def test_what_waits_for_the_device_is_trained_without_graphs():
    model = network(pruned=0.0, neuron="relu", timesteps=1)
    model.features.insert(3, Waiting())
    twin = copy.deepcopy(model)
    step = TrainStep(model, make_optimizer(model, "sgd", 0.01))
    eager = TrainStep(twin, make_optimizer(twin, "sgd", 0.01), graph=False)
    given = batches(2 * WARMUP + 3)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.testing.assert_close(losses(step, given), losses(eager, given), rtol=1e-3, atol=1e-3)
    assert len([w for w in found if "without CUDA graphs" in str(w.message)]) == 1
    assert_near(model, twin, 1e-3)
    assert recorded(step) == 0


def test_memory_does_not_grow_from_mask_to_mask():
    model = network(pruned=0.0)
    optimizer = make_optimizer(model, "sgd", 0.01)
    step, given, peaks = TrainStep(model, optimizer, graph=True), batches(WARMUP + 2, 128), []
    for n in range(8):
        mask_of(model, 20.0 + 5 * n).apply_(model, optimizer)
        torch.cuda.reset_peak_memory_stats()
        losses(step, given)
        assert recorded(step) == 1
        peaks.append(torch.cuda.max_memory_allocated())
    assert max(peaks[2:]) <= peaks[1] + 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batches_are_those_of_a_cpu(dtype, memory_format):
    pixels = torch.randint(0, 256, (301, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(pixels, torch.arange(301), (0.49, 0.48, 0.45), (0.2, 0.21, 0.22))

    def of(device):
        options = {"augmentation": Augmentation(4, True, 16), "dtype": dtype, "memory_format": memory_format}
        return data.to(device).batches(128, generator=torch.Generator().manual_seed(3), **options)

    for (x, labels), (expected, wanted) in zip(of("cuda"), of("cpu"), strict=True):
        assert x.is_cuda
        assert x.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(x.cpu(), expected, rtol=torch.finfo(dtype).eps, atol=0.0)
        assert torch.equal(labels.cpu(), wanted)
