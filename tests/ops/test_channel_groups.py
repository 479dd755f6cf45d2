"""Groups and chunks of a mask: walking through them gives the dense product, and nothing is walked for nothing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.ops.channel_groups import Grouper, group_channels
from snn_sparse.ops.mask_structure import union_fraction

masks = st.tuples(
    st.integers(1, 70), st.integers(1, 90), st.sampled_from([1, 3]), st.sampled_from([0, 0.005, 0.05, 1]), st.integers()
).map(lambda p: torch.rand(p[0], p[1], p[2], p[2], generator=torch.Generator().manual_seed(p[4] % 2**31)) < p[3])
ways = st.builds(
    lambda width, step, gathered, reorder: Way(16, width, step, gathered, reorder),
    st.sampled_from([16, 32]), st.sampled_from([32, 64]), st.booleans(), st.booleans(),
)  # fmt: skip


def members(groups, group):
    """Output channels of one group."""
    found = groups.order[group * groups.way.width : (group + 1) * groups.way.width].long()
    return found[found < groups.outputs]


def chunk_of(groups, index):
    """Input channels of one chunk."""
    step = groups.way.step
    if groups.way.gathered:
        found = groups.channels[index * step : (index + 1) * step].long()
        return found[found >= 0]
    first = int(groups.channels[index]) * step
    return torch.arange(first, min(first + step, groups.inputs))


def count(groups):
    return len(groups.order) // groups.way.width


def walk(groups, x, weight, stride, padding):
    """The convolution of x [N, Cin, H, W] as the kernels compute it: group by group, tap by tap, chunk by chunk."""
    n, _, high, wide = x.shape
    kernel = weight.shape[2:]
    out = ((high + 2 * padding - kernel[0]) // stride + 1, (wide + 2 * padding - kernel[1]) // stride + 1)
    padded = F.pad(x, (padding,) * 4)
    y = x.new_full((n, groups.outputs, *out), torch.nan)
    for g in range(count(groups)):
        listed_outputs = members(groups, g)
        total = x.new_zeros(n, len(listed_outputs), *out)
        for tap in range(groups.taps):
            down, right = divmod(tap, kernel[1])
            seen = padded[:, :, down:, right:][:, :, ::stride, ::stride][:, :, : out[0], : out[1]]
            for chunk in range(*groups.pointers[g * groups.taps + tap :][:2].tolist()):
                assert int(groups.segments[chunk]) == g * groups.taps + tap
                listed = chunk_of(groups, chunk)
                total += torch.einsum("nchw,fc->nfhw", seen[:, listed], weight[listed_outputs][:, listed, down, right])
        y[:, listed_outputs] = total
    return y


@settings(max_examples=40, deadline=None)
@given(masks, ways, st.sampled_from([1, 2]))
def test_walking_gives_the_dense_product(mask, way, stride):
    weight = torch.randn(mask.shape, dtype=torch.float64) * mask
    x = torch.randn(2, mask.shape[1], 5, 6, dtype=torch.float64)
    padding = mask.shape[2] // 2
    groups = group_channels(mask, way)
    torch.testing.assert_close(walk(groups, x, weight, stride, padding), F.conv2d(x, weight, None, stride, padding))


@settings(max_examples=20, deadline=None)
@given(masks, ways)
def test_walking_the_transposed_lists_gives_the_input_gradient(mask, way):
    weight = torch.randn(mask.shape, dtype=torch.float64) * mask
    grad = torch.randn(2, mask.shape[0], 4, 5, dtype=torch.float64)
    padding = mask.shape[2] // 2
    flipped = weight.transpose(0, 1).flip(-1, -2)
    groups = group_channels(mask.flip(-1, -2), way, transposed=True)
    torch.testing.assert_close(
        walk(groups, grad, flipped, 1, padding), F.conv_transpose2d(grad, weight, None, 1, padding)
    )


@settings(max_examples=30, deadline=None)
@given(masks, ways)
def test_no_chunk_is_empty_and_every_output_stands_once(mask, way):
    groups = group_channels(mask, way)
    listed = groups.order[groups.order < groups.outputs].tolist()
    assert sorted(listed) == list(range(len(mask)))
    assert way.reorder or listed == sorted(listed)
    for chunk, segment in enumerate(groups.segments.tolist()):
        group, tap = divmod(segment, groups.taps)
        assert mask.flatten(2)[members(groups, group)][:, chunk_of(groups, chunk), tap].any()


def test_gathered_lists_hold_the_union_and_nothing_else():
    mask = torch.rand(64, 200, 3, 3) < 0.02
    mask[:, 7] = False
    way = Way(16, 16, 32, gathered=True)
    groups = group_channels(mask, way)
    assert 7 not in groups.channels
    live = int((groups.channels >= 0).sum())
    assert live / (count(groups) * 200 * 9) == pytest.approx(union_fraction(mask, 16), abs=1e-6)
    assert groups.fraction >= live * 16 / mask.numel()
    assert group_channels(torch.zeros_like(mask), way).fraction == 0
    assert group_channels(torch.ones(64, 256, 3, 3, dtype=torch.bool), way).fraction == 1


def test_lists_name_an_order_only_where_there_is_one():
    mask = torch.rand(20, 40) < 0.3
    assert group_channels(mask, Way(16, 16, 32)).lists().order is None
    assert group_channels(mask, Way(16, 16, 32, reorder=True)).lists().order.dtype == torch.int32


def test_a_grouper_makes_each_grouping_once():
    mask = torch.rand(40, 50, 3, 3) < 0.1
    grouper, way = Grouper(mask, tuple(mask.shape)), Way(16, 16, 32, True, True)
    assert grouper.groups(way) is grouper.groups(Way(64, 16, 32, True, True, True, 8))  # other tiles, same lists
    assert grouper.groups(way) is not grouper.groups(way, transposed=True)
    assert torch.equal(grouper.groups(way).channels, group_channels(mask, way).channels)
    assert Grouper(None, (40, 50, 3, 3)).groups(Way(16, 16, 32)).fraction > 1  # whole chunks of a full mask


def test_wrong_arguments():
    with pytest.raises(TypeError, match="mask"):
        group_channels(torch.ones(2, 2), Way(16, 16, 32))
    with pytest.raises(ValueError, match="mask"):
        group_channels(torch.ones(0, 2, dtype=torch.bool), Way(16, 16, 32))
    for name, wrong in (("rows", 48), ("rows", 512), ("width", 8), ("step", 16), ("num_warps", 3)):
        with pytest.raises(ValueError, match=name):
            Way(**({"rows": 16, "width": 16, "step": 32} | {name: wrong}))
    with pytest.raises(ValueError, match="too small"):
        Geometry(1, 1, 1, 1, 2, 2, (3, 3), 1, 0)
    Geometry(1, 1, 64, 64, 512, 512, (3, 3), 1, 1).check_offsets(Way(256, 64, 64))  # a large map is fine
    for geometry, way in (
        (Geometry(8, 2**20, 1, 1, 32, 32, (3, 3), 1, 1), Way(16, 16, 32)),
        (Geometry(1, 128, 64, 512, 256, 256, (3, 3), 1, 1), Way(128, 16, 32, pixel_major=True)),
    ):
        with pytest.raises(ValueError, match="too large"):
            geometry.check_offsets(way)


def test_a_way_survives_encoding():
    for way in (Way(16, 64, 32, True, False, True, 8, 2), Way(256, 16, 128, reorder=True)):
        assert Way.decode(way.encode()) == way
    assert Way.decode([0] * 8) is None
