"""Wrong input: the convolution's function names the argument, its operators refuse whatever would go astray."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.convolution import LayerConfiguration, LiveConfiguration, convolution, live_configuration

MASK = torch.ones(4, 3, 3, 3, dtype=torch.bool)
Z = torch.zeros
BAD_LIVE = {
    "x no tensor": (TypeError, {"x": [1.0]}),
    "x half": (TypeError, {"x": Z(2, 3, 5, 6, 16, dtype=torch.float16)}),
    "x integer": (TypeError, {"x": Z(2, 3, 5, 6, 16, dtype=torch.int64)}),
    "x on another device": (TypeError, {"x": Z(2, 3, 5, 6, 16, device="meta")}),
    "x four dimensions": (ValueError, {"x": Z(2, 3, 5, 16)}),
    "x lanes": (ValueError, {"x": Z(2, 3, 5, 6, 12)}),
    "x no lanes": (ValueError, {"x": Z(2, 3, 5, 6, 0)}),
    "x nine vectors": (ValueError, {"x": Z(2, 3, 5, 6, 72)}),
    "x empty": (ValueError, {"x": Z(0, 3, 5, 6, 16)}),
    "weight channels of x": (ValueError, {"x": Z(2, 4, 5, 6, 16)}),
    "weight dtype": (TypeError, {"weight": Z(4, 3, 3, 3, dtype=torch.float64), "x": Z(2, 3, 5, 6, 16)}),
    "weight integer": (TypeError, {"weight": Z(4, 3, 3, 3, dtype=torch.int32)}),
    "weight filters": (ValueError, {"weight": Z(5, 3, 3, 3), "bias": None}),
    "weight channels": (ValueError, {"weight": Z(4, 2, 3, 3)}),
    "weight kernel": (ValueError, {"weight": Z(4, 3, 3, 1)}),
    "weight dimensions": (ValueError, {"weight": Z(4, 27)}),
    "weight no tensor": (TypeError, {"weight": None}),
    "bias no tensor": (TypeError, {"bias": 1.0}),
    "bias dtype": (TypeError, {"bias": Z(4, dtype=torch.float64)}),
    "bias length": (ValueError, {"bias": Z(3)}),
    "bias dimensions": (ValueError, {"bias": Z(4, 1)}),
    "maps below the kernel": (ValueError, {"x": Z(1, 3, 2, 6, 8), "padding": 0}),
    "stride 0": (ValueError, {"stride": 0}),
    "stride pair": (TypeError, {"stride": (1, 1)}),
    "padding -1": (ValueError, {"padding": -1}),
    "padding same": (TypeError, {"padding": "same"}),
}


def named(case):
    return r"^\w+ must have the dtype of weight" if case == "weight dtype" else rf"^{case.split()[0]}\b"


@cpp_case.needs_cpp
@pytest.mark.parametrize("case", BAD_LIVE)
def test_at_live_weights_the_argument_is_named(case):
    error, changes = BAD_LIVE[case]
    how = live_configuration(MASK, 1, 1, LiveConfiguration(2))
    good = {"x": Z(2, 3, 5, 6, 16), "weight": Z(4, 3, 3, 3), "bias": Z(4), "stride": 1, "padding": 1}
    convolution(**good, configuration=how)
    with pytest.raises(error, match=named(case)):
        convolution(**{**good, **changes}, configuration=how)


BAD_DENSE = {
    "x integer": (TypeError, {"x": Z(2, 1, 3, 5, 6, dtype=torch.int64)}),
    "x four dimensions": (ValueError, {"x": Z(2, 3, 5, 6)}),
    "x empty": (ValueError, {"x": Z(0, 1, 3, 5, 6)}),
    "x on another device": (TypeError, {"x": Z(2, 1, 3, 5, 6, device="meta")}),
    "weight channels": (ValueError, {"weight": Z(4, 2, 3, 3)}),
    "weight filters": (ValueError, {"weight": Z(5, 3, 3, 3), "bias": None}),
    "bias length": (ValueError, {"bias": Z(1)}),
    "maps below the kernel": (ValueError, {"x": Z(1, 1, 3, 2, 6), "padding": 0}),
    "stride 0": (ValueError, {"stride": 0}),
    "stride flag": (TypeError, {"stride": True}),
    "padding -1": (ValueError, {"padding": -1}),
    "padding same": (TypeError, {"padding": "same"}),
}


@pytest.mark.parametrize("case", BAD_DENSE)
def test_densely_the_argument_is_named(case):
    error, changes = BAD_DENSE[case]
    how = LayerConfiguration.dense(MASK)
    good = {"x": Z(2, 1, 3, 5, 6), "weight": Z(4, 3, 3, 3), "bias": Z(4), "stride": 1, "padding": 1}
    convolution(**good, configuration=how)
    with pytest.raises(error, match=rf"^{case.split()[0]}\b"):
        convolution(**{**good, **changes}, configuration=how)


BAD_LISTS = {
    "keep no tensor": (TypeError, {"keep": [[True]]}),
    "keep float": (TypeError, {"keep": MASK.float()}),
    "keep on another device": (TypeError, {"keep": MASK.to("meta")}),
    "keep three dimensions": (ValueError, {"keep": MASK[0]}),
    "keep empty": (ValueError, {"keep": MASK[:0]}),
    "keep kernel 8": (ValueError, {"keep": torch.ones(1, 1, 8, 1, dtype=torch.bool)}),
    "stride 0": (ValueError, {"stride": 0}),
    "stride 9": (ValueError, {"stride": 9}),
    "stride pair": (TypeError, {"stride": (1, 1)}),
    "stride flag": (TypeError, {"stride": True}),
    "padding -1": (ValueError, {"padding": -1}),
    "padding 65": (ValueError, {"padding": 65}),
    "padding same": (TypeError, {"padding": "same"}),
}


@cpp_case.needs_cpp
@pytest.mark.parametrize("case", BAD_LISTS)
def test_lists_name_the_argument(case):
    error, changes = BAD_LISTS[case]
    good = {"keep": MASK.transpose(0, 1), "stride": 1, "padding": 1, "configuration": LiveConfiguration(1, 2)}
    live_configuration(**good)
    with pytest.raises(error, match=rf"^{case.split()[0]}\b"):
        live_configuration(**{**good, **changes})


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "vectors", 0),
        (ValueError, "vectors", 9),
        (TypeError, "vectors", 1.0),
        (TypeError, "vectors", True),
        (ValueError, "channel_block", -1),
        (ValueError, "channel_block", 2**31 + 1),
        (TypeError, "channel_block", "8"),
        (TypeError, "rows_outermost", 1),
        (TypeError, "pack", None),
    ],
)
def test_a_configuration_names_what_is_wrong(error, name, value):
    with pytest.raises(error, match=f"^{name} must be"):
        LiveConfiguration(**{name: value})


# ---- the C++ operators -----------------------------------------------------------------------------------------------


def good_lists(transposed=False):
    return torch.ops.snn_sparse.live_index_lists(MASK, 1, 2, transposed, False)


def good_call(name, **changes):
    x, y, weight = Z(2, 3, 5, 5, 16), Z(2, 4, 5, 5, 16), Z(4, 3, 3, 3)
    lists = dict(zip(("channels", "pointers", "taps"), good_lists(name.endswith("grad_input")), strict=True))
    window = {"stride": 1, "padding": 1, "pack": False}
    call = {
        "live_convolution": {"x": x, "weight": weight, "bias": Z(4)},
        "live_convolution_grad_input": {"grad": y, "weight": weight, "height": 5, "width": 5},
        "live_convolution_grad_weight": {"x": x, "grad": y, "out": weight, "with_bias": True},
    }[name]
    changes = {k: f(lists[k].clone()) if callable(f) else f for k, f in changes.items()}
    return getattr(torch.ops.snn_sparse, name)(**(call | lists | window | changes))


def entry(position, value):
    return lambda t: t.index_fill_(0, torch.tensor([position]), value)


BAD_LIST = {
    "channels dtype": {"channels": lambda t: t.long()},
    "channels high": {"channels": entry(5, 4)},
    "channels negative": {"channels": entry(5, -1)},
    "channels fewer": {"channels": lambda t: t[:-1].clone()},
    "pointers short": {"pointers": lambda t: t[:-1].clone()},
    "pointers high": {"pointers": entry(5, 10**6)},
    "pointers negative": {"pointers": entry(5, -7)},
    "pointers decreasing": {"pointers": entry(5, 0)},
    "taps high": {"taps": entry(5, 9)},
    "taps twice": {"taps": lambda t: t.index_copy_(0, torch.tensor([5]), t[:1].clone())},
    "taps short": {"taps": lambda t: t[:-1].clone()},
    "stride 0": {"stride": 0},
    "stride 9": {"stride": 9},
    "padding -1": {"padding": -1},
    "padding huge": {"padding": 1 << 40},
}
BAD_OPERATORS = {
    f"{name}: {case}": changes
    for name in ("live_convolution", "live_convolution_grad_input", "live_convolution_grad_weight")
    for case, changes in BAD_LIST.items()
}
BAD_OPERATORS |= {
    "live_convolution: x integer": {"x": Z(2, 3, 5, 5, 16, dtype=torch.int32)},
    "live_convolution: x half": {"x": Z(2, 3, 5, 5, 16, dtype=torch.float16)},
    "live_convolution: x lanes": {"x": Z(2, 3, 5, 5, 12)},
    "live_convolution: x nine vectors": {"x": Z(2, 3, 5, 5, 72)},
    "live_convolution: x empty": {"x": Z(0, 3, 5, 5, 16)},
    "live_convolution: x strided": {"x": Z(2, 5, 3, 5, 16).transpose(1, 2)},
    "live_convolution: x channels": {"x": Z(2, 4, 5, 5, 16)},
    "live_convolution: weight dtype": {"weight": Z(4, 3, 3, 3, dtype=torch.float64)},
    "live_convolution: weight strided": {"weight": Z(4, 3, 3, 3).transpose(2, 3)},
    "live_convolution: weight filters": {"weight": Z(5, 3, 3, 3), "bias": None},
    "live_convolution: weight kernel": {"weight": Z(4, 3, 3, 1)},
    "live_convolution: weight kernel 9": {"weight": Z(4, 3, 9, 9)},
    "live_convolution: weight empty": {"weight": Z(0, 3, 3, 3)},
    "live_convolution: bias length": {"bias": Z(3)},
    "live_convolution: bias dtype": {"bias": Z(4, dtype=torch.float64)},
    "live_convolution_grad_input: height": {"height": 6},
    "live_convolution_grad_input: negative": {"height": -5},
    "live_convolution_grad_input: channels": {"grad": Z(2, 3, 5, 5, 16)},
    "live_convolution_grad_weight: stride": {"stride": 2},
    "live_convolution_grad_weight: kernel 0": {"out": Z(4, 3, 0, 3)},
    "live_convolution_grad_weight: kernel 2": {"out": Z(4, 3, 2, 3)},
    "live_convolution_grad_weight: filters": {"out": Z(3, 3, 3, 3)},
    "live_convolution_grad_weight: dtype": {"out": Z(4, 3, 3, 3, dtype=torch.float64)},
    "live_convolution_grad_weight: strided": {"out": Z(4, 3, 3, 3).transpose(2, 3)},
    "live_convolution_grad_weight: grad dtype": {"grad": Z(2, 4, 5, 5, 16, dtype=torch.float64)},
    "live_convolution_grad_weight: grad groups": {"grad": Z(1, 4, 5, 5, 16)},
}


@cpp_case.needs_cpp
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("case", BAD_OPERATORS)
def test_the_operators_refuse_what_would_go_astray(case, pack):
    name = case.split(":")[0]
    good_call(name, pack=pack)
    with pytest.raises(RuntimeError, match=f"{name}: "):
        good_call(name, pack=pack, **BAD_OPERATORS[case])


@cpp_case.needs_cpp
@pytest.mark.parametrize(
    "arguments",
    [
        (MASK.float(), 1, 0),
        (MASK[0], 1, 0),
        (MASK.transpose(0, 1), 1, 0),
        (MASK, 0, 0),
        (MASK, 1, -1),
        (torch.ones(1, 1, 8, 1, dtype=torch.bool), 1, 0),
        (torch.ones(0, 1, 1, 1, dtype=torch.bool), 1, 0),
    ],
)
def test_the_lists_refuse(arguments):
    with pytest.raises(RuntimeError, match="live_index_lists: "):
        torch.ops.snn_sparse.live_index_lists(*arguments, False, False)
