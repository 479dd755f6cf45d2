import pytest
import torch
from torch import nn

import snn_sparse as ss
from snn_sparse.models import ARCHITECTURES


def published_vgg(layers, channels, classes):
    """The published network, put together from SpikingJelly's single-step nodes."""
    from spikingjelly.activation_based import neuron, surrogate

    features = nn.Sequential()
    for width in layers:
        if width == 0:
            features.append(nn.MaxPool2d(2, 2))
            continue
        node = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True)
        features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), node])
        channels = width
    model = nn.Module()
    model.features, model.classifier = features, nn.Linear(channels, classes)
    return model


def time_loop(model, x, timesteps):
    """As published: first convolution and batch norm once, the rest once a timestep."""
    static = model.features[:2](x)
    return torch.stack([model.classifier(model.features[2:](static).flatten(1)) for _ in range(timesteps)])


@pytest.mark.parametrize("arch", ["vgg11", "vgg_small"])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_agrees_with_spikingjelly_in_a_time_loop(arch, timesteps):
    from spikingjelly.activation_based import functional

    size = 32 if arch == "vgg11" else 8
    model = ss.build_model(arch, 7, 2, timesteps).double()
    reference = published_vgg(ss.models.VGG_LAYERS[arch], 2, 7).double()
    reference.load_state_dict(model.state_dict(), strict=True)
    x, y = torch.randn(3, 2, size, size, dtype=torch.float64) * 3, torch.tensor([0, 3, 6])
    for _ in range(2):
        functional.reset_net(reference)
        expected, actual = time_loop(reference, x, timesteps), model(x)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        ss.temporal_cross_entropy(actual, y).backward()
        sum(nn.functional.cross_entropy(e, y) / timesteps for e in expected).backward()
    others = dict(reference.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, others[name].grad, rtol=1e-8, atol=1e-9, msg=name)
    for name, b in model.named_buffers():
        torch.testing.assert_close(b, dict(reference.named_buffers())[name], rtol=1e-10, atol=1e-10, msg=name)
    model.eval(), reference.eval()
    functional.reset_net(reference)
    torch.testing.assert_close(model(x), time_loop(reference, x, timesteps), rtol=1e-10, atol=1e-10)


def test_resnet_block_agrees_with_spikingjelly():
    from spikingjelly.activation_based import functional, neuron, surrogate

    from snn_sparse.models.resnet import BasicBlock

    block = BasicBlock(3, 5, 2, ss.nn.LIF).double()
    nodes = [neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True) for _ in range(2)]
    norms = [nn.BatchNorm2d(5).double() for _ in range(3)]
    x = torch.randint(0, 2, (4, 6, 3, 7, 7)).double()
    actual = block(x)
    expected = []
    for x_t in x:
        y = nodes[0](norms[0](block.conv1(x_t)))
        shortcut = norms[2](block.shortcut[0](x_t))
        expected.append(nodes[1](norms[1](block.conv2(y)) + shortcut))
    functional.reset_net(nodes[0])
    torch.testing.assert_close(actual, torch.stack(expected))


def test_published_parameter_names():
    vgg = {n for n, _ in ss.build_model("vgg16").named_parameters()}
    assert {"features.0.weight", "features.0.bias", "features.1.weight", "features.41.bias", "classifier.bias"} <= vgg
    assert len(vgg) == 13 * 4 + 2
    resnet = {n for n, _ in ss.build_model("resnet19").named_parameters()}
    assert {
        "conv1.weight",
        "bn1.bias",
        "layer1.0.shortcut.0.weight",
        "layer1.0.shortcut.1.weight",
        "layer1.2.conv2.weight",
        "layer2.0.bn2.weight",
        "layer3.1.conv1.weight",
        "fc1.bias",
        "fc2.weight",
    } <= resnet
    assert not any(n.startswith(("layer1.1.shortcut", "layer3.2")) or n.endswith("conv1.bias") for n in resnet)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_images_and_sequences(arch, channels):
    size = 8 if arch == "vgg_small" else 32
    model = ss.build_model(arch, 5, channels, timesteps=3).eval()
    x = torch.randn(2, channels, size, size)
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (3, 2, 5)
        # a sequence of equal frames is the static image
        torch.testing.assert_close(model(x.expand(3, *x.shape)), logits)
        assert model(torch.randn(2, 1, channels, size, size)).shape == (2, 1, 5)
        model.timesteps = 1
        torch.testing.assert_close(model(x), logits[:1])


def test_larger_images_are_averaged():
    model = ss.build_model("vgg_small", 4, 1, 2)
    assert model(torch.randn(2, 1, 19, 16)).shape == (2, 2, 4)


@pytest.mark.parametrize("neuron", ["lif", "if", "plif", "leaky", "relu"])
@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
def test_neurons_and_statistics_train(neuron, statistics):
    options = {} if neuron == "relu" else {"v_reset": None, "surrogate": ss.ops.Sigmoid(3.0), "detach_reset": False}
    model = ss.build_model("vgg_small", 4, 1, 3, neuron=neuron, neuron_options=options, bn_statistics=statistics)
    y = torch.randint(0, 4, (6,))
    x = torch.randn(6, 1, 8, 8) + y.view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(12):
        loss = ss.temporal_cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again = ss.build_model(**model.config)
    again.load_state_dict(model.state_dict(), strict=True)
    assert str(again) == str(model)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"arch": "vgg17"}, ValueError, "arch"),
        ({"arch": "vgg_small", "num_classes": 0}, ValueError, "num_classes"),
        ({"arch": "vgg_small", "in_channels": -1}, ValueError, "in_channels"),
        ({"arch": "vgg_small", "timesteps": 0}, ValueError, "timesteps"),
        ({"arch": "vgg_small", "timesteps": 2.5}, TypeError, "timesteps"),
        ({"arch": "vgg_small", "neuron": "lsm"}, ValueError, "neuron"),
        ({"arch": "vgg_small", "bn_statistics": "none"}, ValueError, "bn_statistics"),
        ({"arch": "vgg_small", "neuron_options": {"surrogate": "step"}}, ValueError, "surrogate"),
    ],
)
def test_wrong_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        ss.build_model(**arguments)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(2, 3, 8, 8), ValueError),
        (torch.zeros(1, 8, 8), ValueError),
        (torch.zeros(2, 1, 4, 8), ValueError),
        (torch.zeros(0, 2, 1, 8, 8), ValueError),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), TypeError),
        ([1.0], TypeError),
    ],
)
def test_wrong_inputs(x, error):
    with pytest.raises(error, match="x must"):
        ss.build_model("vgg_small", 10, 1, 2)(x)
