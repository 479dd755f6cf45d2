"""Spiking transformers: T and N merged for linear layers, sequences for neurons, attention between spikes."""

from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

from zoo.multistep import MultiStepLIFNode
from zoo.network import Network, draw, forget, lively

CLASSES = 5


def lif(v_threshold=1.0):
    return neuron.LIFNode(
        tau=2.0, v_threshold=v_threshold, surrogate_function=surrogate.Sigmoid(), detach_reset=True, step_mode="m"
    )


def old_lif(v_threshold=1.0):
    return MultiStepLIFNode(tau=2.0, v_threshold=v_threshold, detach_reset=True, backend="torch")


class PatchSplitting(nn.Module):
    """Convolution, norm, neuron, pool, and a positional encoding that is added."""

    def __init__(self, dim, node):
        super().__init__()
        self.proj_conv = nn.Conv2d(3, dim // 2, kernel_size=3, padding=1, bias=False)
        self.proj_bn = nn.BatchNorm2d(dim // 2)
        self.proj_lif = node()
        self.proj_conv1 = nn.Conv2d(dim // 2, dim, kernel_size=3, padding=1, bias=False)
        self.proj_bn1 = nn.BatchNorm2d(dim)
        self.proj_lif1 = node()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.rpe_conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(dim)
        self.rpe_lif = node()

    def forward(self, x):
        T, B, _, H, W = x.shape
        x = self.proj_bn(self.proj_conv(x.flatten(0, 1))).reshape(T, B, -1, H, W).contiguous()
        x = self.proj_lif(x).flatten(0, 1).contiguous()
        x = self.proj_bn1(self.proj_conv1(x)).reshape(T, B, -1, H, W).contiguous()
        x = self.maxpool(self.proj_lif1(x).flatten(0, 1).contiguous())
        skip = x.reshape(T, B, -1, H // 2, W // 2).contiguous()
        x = self.rpe_bn(self.rpe_conv(x)).reshape(T, B, -1, H // 2, W // 2).contiguous()
        return self.rpe_lif(x) + skip


class LinearAttention(nn.Module):
    """Spiking self-attention on [T, B, N, C]: linear layers, batch norm under a transpose."""

    def __init__(self, dim, heads, node):
        super().__init__()
        self.heads, self.scale = heads, 0.125
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_linear", nn.Linear(dim, dim))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", node())
        self.attn_lif = node(v_threshold=0.5)

    def branch(self, name, x, shape):
        T, B, N, C = shape
        x = getattr(self, f"{name}_linear")(x)
        x = getattr(self, f"{name}_bn")(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, C).contiguous()
        return getattr(self, f"{name}_lif")(x)

    def split(self, x):
        T, B, N, C = x.shape
        return x.reshape(T, B, N, self.heads, C // self.heads).permute(0, 1, 3, 2, 4).contiguous()

    def forward(self, x):
        T, B, N, C = x.shape
        merged = x.flatten(0, 1)
        q, k, v = (self.split(self.branch(name, merged, x.shape)) for name in "qkv")
        attn = (q @ k.transpose(-2, -1)) * self.scale
        x = (attn @ v).transpose(2, 3).reshape(T, B, N, C).contiguous()
        x = self.attn_lif(x).flatten(0, 1)
        return self.branch("proj", x, (T, B, N, C))


class LinearMLP(nn.Module):
    def __init__(self, dim, hidden, node):
        super().__init__()
        self.fc1, self.bn1, self.lif1 = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), node()
        self.fc2, self.bn2, self.lif2 = nn.Linear(hidden, dim), nn.BatchNorm1d(dim), node()
        self.hidden = hidden

    def forward(self, x):
        T, B, N, C = x.shape
        x = self.fc1(x.flatten(0, 1))
        x = self.lif1(self.bn1(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, self.hidden).contiguous())
        x = self.fc2(x.flatten(0, 1))
        return self.lif2(self.bn2(x.transpose(-1, -2)).transpose(-1, -2).reshape(T, B, N, C).contiguous())


class ConvAttention(nn.Module):
    """Spiking self-attention on [T, B, C, N]: 1x1 Conv1d, k^T v first."""

    def __init__(self, dim, heads, node):
        super().__init__()
        self.heads, self.scale = heads, 0.125
        self.q_conv, self.q_bn, self.q_lif = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim), node()
        self.k_conv, self.k_bn, self.k_lif = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim), node()
        self.v_conv, self.v_bn, self.v_lif = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim), node()
        self.attn_lif = node(v_threshold=0.5)
        self.proj_conv, self.proj_bn, self.proj_lif = nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), node()

    def forward(self, x):
        T, B, C, N = x.shape
        merged = x.flatten(0, 1)
        q = self.q_lif(self.q_bn(self.q_conv(merged)).reshape(T, B, C, N))
        k = self.k_lif(self.k_bn(self.k_conv(merged)).reshape(T, B, C, N))
        v = self.v_lif(self.v_bn(self.v_conv(merged)).reshape(T, B, C, N))
        q, k, v = (
            a.transpose(-1, -2).reshape(T, B, N, self.heads, C // self.heads).permute(0, 1, 3, 2, 4) for a in (q, k, v)
        )
        x = q @ (k.transpose(-2, -1) @ v) * self.scale
        x = self.attn_lif(x.transpose(3, 4).reshape(T, B, C, N)).flatten(0, 1)
        return self.proj_lif(self.proj_bn(self.proj_conv(x)).reshape(T, B, C, N))


class Spikformer(nn.Module):
    def __init__(self, dim=8, heads=2, T=3, conv=False):
        super().__init__()
        node = lif if conv else old_lif
        self.T, self.conv = T, conv
        self.patch_embed = PatchSplitting(dim, node)
        self.attn = ConvAttention(dim, heads, node) if conv else LinearAttention(dim, heads, node)
        self.mlp = None if conv else LinearMLP(dim, 2 * dim, node)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = (x.unsqueeze(0)).repeat(self.T, 1, 1, 1, 1)
        x = self.patch_embed(x).flatten(-2)
        if not self.conv:
            x = x.transpose(-1, -2)
        x = x + self.attn(x)
        if self.mlp is not None:
            x = x + self.mlp(x)
        x = x.mean(-1) if self.conv else x.mean(2)
        return self.head(x.mean(0))


class HadamardAttention(nn.Module):
    """Spike-driven self-attention: masks and sums over tokens instead of matrix products; membrane shortcut."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.shortcut_lif = lif()
        self.q_conv, self.q_bn, self.q_lif = nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim), lif()
        self.k_conv, self.k_bn, self.k_lif = nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim), lif()
        self.v_conv, self.v_bn, self.v_lif = nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim), lif()
        self.talking_heads_lif = lif(v_threshold=0.5)
        self.proj_conv, self.proj_bn = nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x):
        T, B, C, H, W = x.shape
        identity = x
        merged = self.shortcut_lif(x).flatten(0, 1)
        q = self.q_lif(self.q_bn(self.q_conv(merged)).reshape(T, B, C, H, W)).flatten(3)
        k = self.k_lif(self.k_bn(self.k_conv(merged)).reshape(T, B, C, H, W)).flatten(3)
        v = self.v_lif(self.v_bn(self.v_conv(merged)).reshape(T, B, C, H, W)).flatten(3)
        q, k, v = (
            a.transpose(-1, -2).reshape(T, B, H * W, self.heads, C // self.heads).permute(0, 1, 3, 2, 4).contiguous()
            for a in (q, k, v)
        )
        kv = self.talking_heads_lif(k.mul(v).sum(dim=-2, keepdim=True))
        x = q.mul(kv).transpose(3, 4).reshape(T, B, C, H, W).contiguous()
        return self.proj_bn(self.proj_conv(x.flatten(0, 1))).reshape(T, B, C, H, W) + identity


class SpikeDrivenTransformer(nn.Module):
    def __init__(self, dim=8, heads=2, T=3):
        super().__init__()
        self.T = T
        self.stem, self.stem_bn = nn.Conv2d(3, dim, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(dim)
        self.attn = HadamardAttention(dim, heads)
        self.fc1_lif, self.fc1_conv, self.fc1_bn = lif(), nn.Conv2d(dim, 2 * dim, 1), nn.BatchNorm2d(2 * dim)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = lif(), nn.Conv2d(2 * dim, dim, 1), nn.BatchNorm2d(dim)
        self.head_lif, self.head = lif(), nn.Linear(dim, CLASSES)

    def mlp(self, x):
        T, B, C, H, W = x.shape
        identity = x
        x = self.fc1_bn(self.fc1_conv(self.fc1_lif(x).flatten(0, 1))).reshape(T, B, -1, H, W).contiguous()
        return self.fc2_bn(self.fc2_conv(self.fc2_lif(x).flatten(0, 1))).reshape(T, B, C, H, W) + identity

    def forward(self, x):
        x = (x.unsqueeze(0)).repeat(self.T, 1, 1, 1, 1)
        T, B = x.shape[:2]
        x = self.stem_bn(self.stem(x.flatten(0, 1)))
        x = x.reshape(T, B, *x.shape[1:]).contiguous()
        x = self.mlp(self.attn(x))
        return self.head(self.head_lif(x.flatten(3).mean(3)))


def attentive(model):
    """Queries, keys and values fire often enough for their products to reach a threshold."""
    for name, module in lively(model).named_modules():
        if name.endswith(("q_bn", "k_bn", "v_bn")):
            nn.init.uniform_(module.bias, 1.0, 2.0)
    return model


NETWORKS = (
    Network(
        "spikformer",
        "Spikformer: Linear and BatchNorm1d under transpose, old multi-step nodes, q @ k^T @ v",
        lambda: attentive(Spikformer()),
        draw(3, 3, 8, 8),
        10,
        10,
        reset=forget,
    ),
    Network(
        "spikformer_conv1d",
        "Spikformer: 1x1 Conv1d on merged T and N, SpikingJelly multi-step nodes, q @ (k^T @ v)",
        lambda: attentive(Spikformer(conv=True)),
        draw(3, 3, 8, 8),
        8,
        8,
        reset=functional.reset_net,
    ),
    Network(
        "spike_driven_transformer",
        "Spike-driven transformer: membrane shortcut, Hadamard attention summed over tokens",
        lambda: lively(SpikeDrivenTransformer()),
        draw(3, 3, 8, 8),
        8,
        8,
        reset=functional.reset_net,
    ),
)
