"""Groups and chunks of a mask: walking through them gives the dense product, and nothing is walked for nothing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_sparse.ops.convolution import Directions, Grouper, LayerConfiguration, TileConfiguration, tiled
from snn_sparse.ops.convolution.channel_groups import group_channels
from snn_sparse.ops.convolution.configuration import live_of, tiles_of
from snn_sparse.ops.convolution.mask_structure import union_fraction
from snn_sparse.specs import ConvGeometry

masks = st.tuples(
    st.integers(1, 70), st.integers(1, 90), st.sampled_from([1, 3]), st.sampled_from([0, 0.005, 0.05, 1]), st.integers()
).map(lambda p: torch.rand(p[0], p[1], p[2], p[2], generator=torch.Generator().manual_seed(p[4] % 2**31)) < p[3])
configurations = st.builds(
    lambda width, step, gathered, reorder: TileConfiguration(16, width, step, gathered, reorder),
    st.sampled_from([16, 32]), st.sampled_from([32, 64]), st.booleans(), st.booleans(),
)  # fmt: skip


def members(groups, group):
    """Output channels of one group."""
    found = groups.order[group * groups.configuration.width : (group + 1) * groups.configuration.width].long()
    return found[found < groups.outputs]


def chunk_of(groups, index):
    """Input channels of one chunk."""
    step = groups.configuration.step
    if groups.configuration.gathered:
        found = groups.channels[index * step : (index + 1) * step].long()
        return found[found >= 0]
    first = int(groups.channels[index]) * step
    return torch.arange(first, min(first + step, groups.inputs))


def count(groups):
    return len(groups.order) // groups.configuration.width


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


@settings(max_examples=20, deadline=None)
@given(masks, configurations, st.sampled_from([1, 2]))
def test_walking_gives_the_dense_product(mask, configuration, stride):
    weight = torch.randn(mask.shape, dtype=torch.float64) * mask
    x = torch.randn(2, mask.shape[1], 5, 6, dtype=torch.float64)
    padding = mask.shape[2] // 2
    groups = group_channels(mask, configuration)
    torch.testing.assert_close(walk(groups, x, weight, stride, padding), F.conv2d(x, weight, None, stride, padding))


@settings(max_examples=20, deadline=None)
@given(masks, configurations)
def test_walking_the_transposed_lists_gives_the_input_gradient(mask, configuration):
    weight = torch.randn(mask.shape, dtype=torch.float64) * mask
    grad = torch.randn(2, mask.shape[0], 4, 5, dtype=torch.float64)
    padding = mask.shape[2] // 2
    flipped = weight.transpose(0, 1).flip(-1, -2)
    groups = group_channels(mask.flip(-1, -2), configuration, transposed=True)
    torch.testing.assert_close(
        walk(groups, grad, flipped, 1, padding), F.conv_transpose2d(grad, weight, None, 1, padding)
    )


@settings(max_examples=15, deadline=None)
@given(masks, configurations)
def test_no_chunk_is_empty_and_every_output_stands_once(mask, configuration):
    groups = group_channels(mask, configuration)
    listed = groups.order[groups.order < groups.outputs].tolist()
    assert sorted(listed) == list(range(len(mask)))
    assert configuration.reorder or listed == sorted(listed)
    for chunk, segment in enumerate(groups.segments.tolist()):
        group, tap = divmod(segment, groups.taps)
        assert mask.flatten(2)[members(groups, group)][:, chunk_of(groups, chunk), tap].any()


def test_gathered_lists_hold_the_union_and_nothing_else():
    mask = torch.rand(64, 200, 3, 3) < 0.02
    mask[:, 7] = False
    configuration = TileConfiguration(16, 16, 32, gathered=True)
    groups = group_channels(mask, configuration)
    assert 7 not in groups.channels
    live = int((groups.channels >= 0).sum())
    assert live / (count(groups) * 200 * 9) == pytest.approx(union_fraction(mask, 16), abs=1e-6)
    assert groups.fraction >= live * 16 / mask.numel()
    assert group_channels(torch.zeros_like(mask), configuration).fraction == 0
    assert group_channels(torch.ones(64, 256, 3, 3, dtype=torch.bool), configuration).fraction == 1


def test_lists_name_an_order_only_where_there_is_one():
    mask = torch.rand(20, 40) < 0.3
    assert group_channels(mask, TileConfiguration(16, 16, 32)).lists().order is None
    assert group_channels(mask, TileConfiguration(16, 16, 32, reorder=True)).lists().order.dtype == torch.int32


def test_a_grouper_makes_each_grouping_once():
    mask = torch.rand(40, 50, 3, 3) < 0.1
    grouper, configuration = Grouper(mask, tuple(mask.shape)), TileConfiguration(16, 16, 32, True, True)
    assert grouper.groups(configuration) is grouper.groups(
        TileConfiguration(64, 16, 32, True, True, True, 8)
    )  # other tiles, same lists
    assert grouper.groups(configuration) is not grouper.groups(configuration, transposed=True)
    assert torch.equal(grouper.groups(configuration).channels, group_channels(mask, configuration).channels)
    assert (
        Grouper(None, (40, 50, 3, 3)).groups(TileConfiguration(16, 16, 32)).fraction > 1
    )  # whole chunks of a full mask


def test_wrong_arguments():
    with pytest.raises(TypeError, match="mask"):
        group_channels(torch.ones(2, 2), TileConfiguration(16, 16, 32))
    with pytest.raises(ValueError, match="mask"):
        group_channels(torch.ones(0, 2, dtype=torch.bool), TileConfiguration(16, 16, 32))
    for name, wrong in (("rows", 48), ("rows", 512), ("width", 8), ("step", 16), ("num_warps", 3), ("num_stages", 9)):
        with pytest.raises(ValueError, match=name):
            TileConfiguration(**({"rows": 16, "width": 16, "step": 32} | {name: wrong}))
    with pytest.raises(ValueError, match="too small"):
        ConvGeometry(1, 1, 1, 1, 2, 2, (3, 3), 1, 0)


@pytest.mark.parametrize("value", [None, 16.0, "16", [16], float("nan"), True])
@pytest.mark.parametrize("name", ["rows", "width", "step", "num_warps", "num_stages", "gathered", "pixel_major"])
def test_wrong_types(name, value):
    if not (value is True and name in ("gathered", "pixel_major")):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            TileConfiguration(**({"rows": 16, "width": 16, "step": 32} | {name: value}))


def test_offsets_that_32_bits_do_not_hold():
    TileConfiguration(256, 64, 64).check_offsets(ConvGeometry(1, 1, 64, 64, 512, 512, (3, 3), 1, 1))  # a large map
    for geometry, configuration in (
        (ConvGeometry(8, 2**20, 1, 1, 32, 32, (3, 3), 1, 1), TileConfiguration(16, 16, 32)),
        (ConvGeometry(1, 128, 64, 512, 256, 256, (3, 3), 1, 1), TileConfiguration(128, 16, 32, pixel_major=True)),
    ):
        with pytest.raises(ValueError, match="too large"):
            configuration.check_offsets(geometry)


CONFIGURATIONS = (
    TileConfiguration(16, 64, 32, True, False, True, 8, 2),
    TileConfiguration(256, 16, 128, reorder=True),
    TileConfiguration(64, 32, 32),
)


@pytest.mark.parametrize("chosen", range(16))
def test_what_an_operator_is_given_is_read_back(chosen):
    """Every subset of the four directions, with or without a configuration."""
    mask = torch.rand(40, 50, 3, 3) < 0.1
    grouper = Grouper(mask, tuple(mask.shape))
    picked = [CONFIGURATIONS[i % 3] if chosen >> i & 1 else None for i in range(4)]
    how = tiled(Directions(*picked), grouper, torch.device("cpu"))
    numbers = list(how.numbers)
    assert how.directions == Directions(*picked)
    assert live_of(how.lists, numbers) is None
    for direction, expected in zip(Directions._fields, picked, strict=True):
        found = tiles_of(direction, how.lists, numbers)
        if expected is None:
            assert found is None
            continue
        assert found[0] == expected
        wanted = group_channels(mask, expected, transposed=direction == "grad_input").lists()
        for name, a, b in zip(wanted._fields, found[1], wanted, strict=True):
            assert (a is None) == (b is None), name
            assert b is None or torch.equal(a, b), name
            assert a is None or a.storage_offset() % 4 == 0, name
    assert torch.equal(how.keep, mask)
    assert how.keep.is_contiguous(memory_format=torch.channels_last)


def test_a_dense_configuration_has_no_lists():
    mask = torch.rand(4, 5, 3, 3) < 0.5
    assert tiled(Directions(), Grouper(None, (4, 5, 3, 3)), torch.device("cpu")) == LayerConfiguration()
    how = tiled(Directions(), Grouper(mask, (4, 5, 3, 3)), torch.device("cpu"))
    assert torch.equal(how.keep, mask)
    assert (how.lists, how.numbers, how.live) == (None, (), None)
    for nothing in ((None, []), (None, [2, 0]), (torch.zeros(4, dtype=torch.int32), [])):
        assert live_of(*nothing) is None
        assert all(tiles_of(direction, *nothing) is None for direction in Directions._fields)


@pytest.mark.parametrize(("rows", "pixel_major", "tiles"), [(64, False, 8), (64, True, 49), (16, False, 31)])
def test_tiles_of_a_timestep(rows, pixel_major, tiles):
    """Ten maps of 7 x 7."""
    assert TileConfiguration(rows, 16, 32, pixel_major=pixel_major).tiles(10, 49) == tiles


def test_descriptions():
    assert TileConfiguration(64, 32, 32).describe() == "block 64x32x32"
    assert TileConfiguration(64, 32, 32, True, True, True).describe() == "union 64x32x32 reordered by pixel"
