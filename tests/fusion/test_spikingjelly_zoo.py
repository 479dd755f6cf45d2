"""SpikingJelly's own networks, small: every neuron is fused, and the results are theirs."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import (
    masnn,
    ms_resnet,
    parametric_lif_net,
    sew_resnet,
    spike_driven_transformer,
    spikformer,
    spiking_resnet,
    spiking_vggws_ottt,
)
from torch import nn

import snn_sparse as ss

LIF = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}
PLIF = LIF | {"spiking_neuron": neuron.ParametricLIFNode}


class Loop(nn.Module):
    """A single-step network, called T times with the same image."""

    def __init__(self, net, timesteps=2):
        super().__init__()
        self.net, self.timesteps = net, timesteps

    def forward(self, x):
        return torch.stack([self.net(x) for _ in range(self.timesteps)]).mean(0)


def multi(net):
    functional.set_step_mode(net, "m")
    return net


def resnet(**options):
    return spiking_resnet.SpikingResNet(spiking_resnet.BasicBlock, [1, 1, 1, 1], num_classes=4, **LIF | options)


def sew(cnf):
    return sew_resnet.SEWResNet(sew_resnet.BasicBlock, [1, 1, 1, 1], num_classes=4, cnf=cnf, **LIF)


IMAGES = (2, 3, 32, 32)
NETWORKS = {  # network, shape of its input
    "spiking resnet, loop": (lambda: Loop(resnet()), (2, 3, 16, 16)),
    "sew iand": (lambda: multi(sew("IAND")), (2, 2, 3, 16, 16)),
    "parametric lif": (lambda: multi(parametric_lif_net.MNISTNet(channels=4, **PLIF)), (2, 2, 1, 28, 28)),
    "ms resnet": (lambda: ms_resnet.MSResNet(T=2, num_classes=4, base_channels=8, layers=(1, 1, 1, 1)), IMAGES),
    "spikformer": (
        lambda: spikformer.Spikformer(2, 3, 32, 32, 16, num_classes=4, embed_dims=32, num_heads=2, depths=1),
        IMAGES,
    ),
    "spike-driven transformer": (
        lambda: spike_driven_transformer.SpikeDrivenTransformer(
            T=2, num_classes=4, embed_dims=32, num_heads=4, depths=1
        ),
        IMAGES,
    ),
    "attention": (lambda: masnn.MASNN(T=5, channels=(8, 8, 8), fc_hidden=16), (5, 2, 2, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_neuron_is_fused(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(5)
    model = make().double()
    x = torch.rand(shape, dtype=torch.float64)
    fused = ss.fuse(copy.deepcopy(model).eval(), x)
    explanation = ss.explain(fused)
    neurons = {n for n, m in model.named_modules() if isinstance(m, neuron.BaseNode)}
    assert len(neurons) > 2
    assert neurons <= set(explanation.fused), str(explanation)
    model.eval()
    for scale in (1.0, 2.0):  # the second call goes on from the first one's states
        expected, actual = model(x * scale), fused(x * scale)
        assert bool(expected.isfinite().all())
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


def test_online_neurons_are_left():
    model = Loop(
        spiking_vggws_ottt.OTTTSpikingVGG([8, "M", 512], False, num_classes=4, spiking_neuron=neuron.OTTTLIFNode)
    )
    fused = ss.fuse(model, torch.rand(IMAGES))
    reasons = ss.explain(fused).left
    assert any("OTTTLIFNode of SpikingJelly is no neuron of ours" in reason for reason in reasons.values())
