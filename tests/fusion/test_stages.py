"""Stages: what joins one, what does not, and that the printed graph names its parts."""

import pytest
import torch
import torch.nn.functional as F
from fusion.compiling import assert_equivalent, twins
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from zoo.network import lively

import snn_sparse as ss

T, N = 3, 4


def lif():
    return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")


class Net(nn.Module):
    """Layers of SpikingJelly on sequences; ``body`` is the forward pass on [T, N, 4, 6, 6]."""

    def __init__(self, body):
        super().__init__()
        for i in (1, 2, 3):
            self.add_module(f"conv{i}", layer.Conv2d(4, 4, 3, padding=1, step_mode="m"))
            self.add_module(f"bn{i}", layer.BatchNorm2d(4, step_mode="m"))
            self.add_module(f"sn{i}", lif())
        self.pool, self.fc, self.body = layer.MaxPool2d(2, 2, step_mode="m"), layer.Linear(144, 5), body

    def forward(self, x):
        return self.body(self, x)


def fused(body, shape=(T, N, 4, 6, 6), module=Net):
    """Stages of the forward pass ``body``, once its results are right: the names of each one's parts."""
    model = lively(module(body)).double()
    draw = lambda: (torch.randn(shape, dtype=torch.float64),)  # noqa: E731
    original, ours = twins(model)
    assert_equivalent(original, ours, draw, functional.reset_net)
    return ours


def stages(body, **options):
    return [" ".join(parts) for parts in ss.explain(fused(body, **options)).stages]


def in_stage(ours, part):
    """The stage that a part is in."""
    last = ours.__dict__["_fused_compiler"].last.walk
    return next(n.meta["stage"] for n in last.new.nodes if part in n.meta.get("parts", ()))


# ---- what joins


def test_convolution_norm_neuron_and_pool():
    ours = fused(lambda m, x: m.pool(m.sn1(m.bn1(m.conv1(x)))))
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"),)
    assert in_stage(ours, "sn1").pool


@pytest.mark.parametrize("kernel", [(3, 2), (2, 1), (2, 2, 1), (2, 2, 0, 1, True)])
def test_other_pools_stay_behind(kernel):
    ours = fused(lambda m, x: F.max_pool2d(m.sn1(m.conv1(x)).flatten(0, 1), *kernel), shape=(T, N, 4, 7, 7))
    assert ss.explain(ours).stages == (("conv1", "sn1"),)
    assert not in_stage(ours, "sn1").pool


def test_pool_before_the_norm():
    """conv, pool, batch norm, neuron: the pool parts two stages."""
    assert stages(lambda m, x: m.sn1(m.bn1(m.pool(m.conv1(x))))) == ["conv1", "bn1 sn1"]


def test_average_pool_behind():
    ours = fused(lambda m, x: F.avg_pool2d(m.sn1(m.bn1(m.conv1(x))).flatten(0, 1), 2))
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"),)
    assert not in_stage(ours, "sn1").pool


def test_before_the_activation():
    """norm, neuron, convolution, as in pre-activation networks: the convolution opens the next stage."""
    body = lambda m, x: m.conv2(m.sn2(m.bn2(m.conv1(m.sn1(m.bn1(x))))))  # noqa: E731
    assert stages(body) == ["bn1 sn1", "conv1 bn2 sn2", "conv2"]


def test_one_layer_alone():
    assert stages(lambda m, x: m.conv1(x)) == ["conv1"]
    assert stages(lambda m, x: m.bn1(x)) == ["bn1"]
    assert stages(lambda m, x: m.sn1(x)) == ["sn1"]
    assert stages(lambda m, x: m.fc(x.flatten(2))) == ["fc"]


def test_linear_layers():
    assert stages(lambda m, x: m.fc(m.sn2(m.sn1(m.conv1(x))).flatten(2))) == ["conv1 sn1", "sn2", "fc"]


# ---- residuals


def test_a_residual_of_spikes_before_the_neuron():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.sn2(m.bn2(m.conv2(y)) + y)

    ours = fused(body)
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"), ("conv2", "bn2", "sn2"))
    graph = ours.__dict__["_fused_compiler"].last.walk.new
    (second,) = [n for n in graph.nodes if n.meta.get("parts") == ["conv2", "bn2", "sn2"]]
    assert len(second.args) == 2
    assert second.args[0] is second.args[1]


def test_whichever_side_it_is_on():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.sn2(y + m.bn2(m.conv2(y)))

    assert stages(body) == ["conv1 bn1 sn1", "conv2 bn2 sn2"]


def test_a_residual_behind_the_neuron_stays_an_addition():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.conv3(m.sn2(m.bn2(m.conv2(y))) + y)

    assert stages(body) == ["conv1 bn1 sn1", "conv2 bn2 sn2", "conv3"]


def test_a_residual_with_a_norm_of_its_own():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.sn2(m.bn2(m.conv2(y)) + m.bn3(m.conv3(y)))

    ours = fused(body)
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"), ("conv3",), ("conv2", "bn2", "bn3", "sn2"))
    assert in_stage(ours, "sn2").norm_residual is not None


def test_a_residual_of_floats():
    def body(m, x):
        y = m.conv1(x)
        return m.conv3(m.sn2(m.bn2(m.conv2(m.sn1(m.bn1(y)))) + y))

    assert stages(body) == ["conv1", "bn1 sn1", "conv2 bn2 sn2", "conv3"]


def test_a_value_added_to_itself():
    assert stages(lambda m, x: m.sn2((y := m.bn2(m.conv2(x))) + y)) == ["conv2 bn2", "sn2"]


# ---- what is read twice


def test_two_readers_end_a_stage():
    def body(m, x):
        y = m.bn1(m.conv1(x))
        return m.sn1(y), m.sn2(y * 2)

    assert stages(body) == ["conv1 bn1", "sn1", "sn2"]


def test_two_readers_of_spikes():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.sn2(m.conv2(y)), m.sn3(m.conv3(y))

    assert stages(body) == ["conv1 bn1 sn1", "conv2 sn2", "conv3 sn3"]


def test_an_output_of_the_network_between_two_layers():
    def body(m, x):
        y = m.bn1(m.conv1(x))
        return m.sn1(y), y

    assert stages(body) == ["conv1 bn1", "sn1"]


def test_shared_layers():
    """A convolution that is called twice is in two stages; the neurons behind it are two."""
    ours = fused(lambda m, x: m.sn2(m.bn2(m.conv1(m.sn1(m.bn1(m.conv1(x)))))))
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"), ("conv1", "bn2", "sn2"))
    assert in_stage(ours, "sn1").conv is in_stage(ours, "sn2").conv


def test_a_shared_neuron_is_called_in_order():
    """Its state goes from the first call to the second."""
    ours = fused(lambda m, x: m.sn1(m.conv2(m.sn1(m.conv1(x)))))
    assert {"conv1", "conv2", "sn1"} <= set(ss.explain(ours).fused)


def test_something_between_convolution_and_norm():
    assert stages(lambda m, x: m.sn1(m.bn1(F.relu(m.conv1(x))))) == ["conv1", "bn1 sn1"]


# ---- views in between


def test_merged_and_split_batches():
    def body(m, x):
        for part in (m.conv1, m.bn1):
            part.step_mode = "s"
        y = m.bn1(m.conv1(x.flatten(0, 1)))
        return m.sn1(y.unflatten(0, (T, N)))

    ours = fused(body)
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"),)
    graph = ours.__dict__["_fused_compiler"].last.walk.new
    assert [n.op for n in graph.nodes] == ["placeholder", "call_module", "output"]  # no view is left


def test_batch_first():
    def body(m, x):
        return m.sn1(m.bn1(m.conv1(x.transpose(0, 1)))).transpose(0, 1)

    assert stages(body, shape=(N, T, 4, 6, 6)) == ["conv1 bn1 sn1"]


def test_a_static_image_is_convolved_once():
    """Expanded over time behind the batch norm, or before the convolution."""
    expand = lambda y: y.unsqueeze(0).expand(T, *y.shape)  # noqa: E731

    def before(m, x):
        return m.sn1(m.bn1(m.conv1(expand(x))))

    ours = fused(before, shape=(N, 4, 6, 6))
    assert ss.explain(ours).stages == (("conv1", "bn1", "sn1"),)
    graph = ours.__dict__["_fused_compiler"].last.walk.new
    (node,) = [n for n in graph.nodes if n.op == "call_module"]
    assert node.meta["sizes"] == (1, N, 4, 6, 6)


# ---- what is printed


def test_the_printed_graph_names_the_stages():
    def body(m, x):
        y = m.sn1(m.bn1(m.conv1(x)))
        return m.fc(m.sn2(m.bn2(m.conv2(y)) + y).flatten(2))

    ours = fused(body)
    targets = [n.target for n in ours.graph.nodes if n.op == "call_module" and "fused_stages" in n.target]
    assert targets == ["fused_stages.conv1__bn1__sn1", "fused_stages.conv2__bn2__sn2", "fused_stages.fc"]
    assert "%conv2__bn2__sn2" in str(ours.graph)


def test_layers_of_one_block_share_its_name():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                layer.Conv2d(4, 4, 3, step_mode="m"), layer.BatchNorm2d(4, step_mode="m"), lif()
            )

        def forward(self, x):
            return self.layers(x)

    ours = ss.fuse(Block(), torch.randn(T, N, 4, 6, 6))
    assert "%layers_0__1__2" in str(ours.graph)
