"""Wrong input: the sparse convolution's function names the argument, its operators refuse whatever would go astray."""

from dataclasses import replace

import pytest
import torch

from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.sparse_conv import Blocking, Structure, sparse_conv2d

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

ops = torch.ops.snn_sparse
MASK = torch.ones(4, 3, 3, 3, dtype=torch.bool)


# ---- the function ---------------------------------------------------------------------------------------------------


def function_call():
    x, weight, bias = torch.zeros(2, 3, 5, 6, 16), torch.zeros(4, 3, 3, 3), torch.zeros(4)
    return {"x": x, "weight": weight, "bias": bias, "size": (5, 6), "structure": Structure(MASK, 1, 1, Blocking(2))}


BAD_ARGUMENT = {
    "x no tensor": (TypeError, {"x": [1.0]}),
    "x half": (TypeError, {"x": torch.zeros(2, 3, 5, 6, 16, dtype=torch.float16)}),
    "x integer": (TypeError, {"x": torch.zeros(2, 3, 5, 6, 16, dtype=torch.int64)}),
    "x on another device": (TypeError, {"x": torch.zeros(2, 3, 5, 6, 16, device="meta")}),
    "x four dimensions": (ValueError, {"x": torch.zeros(2, 3, 5, 16)}),
    "x lanes": (ValueError, {"x": torch.zeros(2, 3, 5, 6, 12)}),
    "x no lanes": (ValueError, {"x": torch.zeros(2, 3, 5, 6, 0)}),
    "x nine vectors": (ValueError, {"x": torch.zeros(2, 3, 5, 6, 72)}),
    "x empty": (ValueError, {"x": torch.zeros(0, 3, 5, 6, 16)}),
    "x channels": (ValueError, {"x": torch.zeros(2, 4, 5, 6, 16)}),
    "weight no tensor": (TypeError, {"weight": None}),
    "weight dtype": (TypeError, {"weight": torch.zeros(4, 3, 3, 3, dtype=torch.float64)}),
    "weight integer": (TypeError, {"weight": torch.zeros(4, 3, 3, 3, dtype=torch.int32)}),
    "weight on another device": (TypeError, {"weight": torch.zeros(4, 3, 3, 3, device="meta")}),
    "weight filters": (ValueError, {"weight": torch.zeros(5, 3, 3, 3)}),
    "weight channels": (ValueError, {"weight": torch.zeros(4, 2, 3, 3)}),
    "weight kernel": (ValueError, {"weight": torch.zeros(4, 3, 3, 1)}),
    "weight dimensions": (ValueError, {"weight": torch.zeros(4, 27)}),
    "bias no tensor": (TypeError, {"bias": 0.0}),
    "bias dtype": (TypeError, {"bias": torch.zeros(4, dtype=torch.float64)}),
    "bias on another device": (TypeError, {"bias": torch.zeros(4, device="meta")}),
    "bias length": (ValueError, {"bias": torch.zeros(3)}),
    "bias dimensions": (ValueError, {"bias": torch.zeros(4, 1)}),
    "size number": (TypeError, {"size": 5}),
    "size three": (TypeError, {"size": (5, 6, 16)}),
    "size swapped": (ValueError, {"size": (6, 5)}),
    "size with the halo": (ValueError, {"size": (3, 4)}),
    "size below the kernel": (
        ValueError,
        {"x": torch.zeros(1, 3, 2, 6, 8), "size": (2, 6), "structure": Structure(MASK, 1, 0, Blocking())},
    ),
    "structure no structure": (TypeError, {"structure": []}),
}


@pytest.mark.parametrize("case", BAD_ARGUMENT)
def test_the_function_names_the_argument(case):
    error, changes = BAD_ARGUMENT[case]
    sparse_conv2d(**function_call())
    with pytest.raises(error, match=rf"^{case.split()[0]}\b"):
        sparse_conv2d(**{**function_call(), **changes})


BAD_STRUCTURE = {
    "mask no tensor": (TypeError, {"mask": [[True]]}),
    "mask float": (TypeError, {"mask": MASK.float()}),
    "mask on another device": (TypeError, {"mask": MASK.to("meta")}),
    "mask three dimensions": (ValueError, {"mask": MASK[0]}),
    "mask empty": (ValueError, {"mask": MASK[:0]}),
    "mask kernel 8": (ValueError, {"mask": torch.ones(1, 1, 8, 1, dtype=torch.bool)}),
    "stride 0": (ValueError, {"stride": 0}),
    "stride 9": (ValueError, {"stride": 9}),
    "stride pair": (TypeError, {"stride": (1, 1)}),
    "padding -1": (ValueError, {"padding": -1}),
    "padding 65": (ValueError, {"padding": 65}),
    "padding same": (TypeError, {"padding": "same"}),
    "blocking -1": (ValueError, {"blocking": Blocking(1, -1)}),
}


@pytest.mark.parametrize("case", BAD_STRUCTURE)
def test_a_structure_names_the_argument(case):
    error, changes = BAD_STRUCTURE[case]
    good = {"mask": MASK.transpose(0, 1), "stride": 1, "padding": 1, "blocking": replace(Blocking(), channel_block=2)}
    Structure(**good)
    with pytest.raises(error, match=rf"^{case.split()[0]}\b"):
        Structure(**{**good, **changes})


# ---- the operators --------------------------------------------------------------------------------------------------


def good_call():
    x, weight, bias = torch.zeros(2, 3, 5, 5, 16), torch.zeros(4, 3, 3, 3), torch.zeros(4)
    window = {"stride": 1, "padding": 1, "halo_in": 0, "halo_out": 0}
    return {"x": x, "weight": weight, "bias": bias, "structure": good_structure(), **window}


def good_structure():
    return ops.sparse_conv2d_structure(MASK, 1, 2, False, False)


def changed_structure(index, change):
    structure = [t.clone() for t in good_structure()]
    structure[index] = change(structure[index])
    return structure


def with_entry(index, position, value):
    def change(t):
        t[position] = value
        return t

    return changed_structure(index, change)


BAD_FORWARD = {
    "x integer": {"x": torch.zeros(2, 3, 5, 5, 16, dtype=torch.int32)},
    "x half": {"x": torch.zeros(2, 3, 5, 5, 16, dtype=torch.float16)},
    "x four dimensions": {"x": torch.zeros(2, 3, 5, 16)},
    "x lanes": {"x": torch.zeros(2, 3, 5, 5, 12)},
    "x no lanes": {"x": torch.zeros(2, 3, 5, 5, 0)},
    "x nine vectors": {"x": torch.zeros(2, 3, 5, 5, 72)},
    "x empty": {"x": torch.zeros(0, 3, 5, 5, 16)},
    "x strided": {"x": torch.zeros(2, 5, 3, 5, 16).transpose(1, 2)},
    "x channels": {"x": torch.zeros(2, 4, 5, 5, 16)},
    "weight dtype": {"weight": torch.zeros(4, 3, 3, 3, dtype=torch.float64)},
    "weight strided": {"weight": torch.zeros(4, 3, 3, 3).transpose(2, 3)},
    "weight filters": {"weight": torch.zeros(5, 3, 3, 3)},
    "weight kernel": {"weight": torch.zeros(4, 3, 3, 1)},
    "weight kernel 9": {"weight": torch.zeros(4, 3, 9, 9)},
    "weight empty": {"weight": torch.zeros(0, 3, 3, 3)},
    "bias length": {"bias": torch.zeros(3)},
    "bias dtype": {"bias": torch.zeros(4, dtype=torch.float64)},
    "stride 0": {"stride": 0},
    "stride 9": {"stride": 9},
    "padding -1": {"padding": -1},
    "padding huge": {"padding": 1 << 40},
    "halo_in -1": {"halo_in": -1},
    "halo_in too large": {"halo_in": 3},
    "halo_out huge": {"halo_out": 1 << 40},
    "tile -1": {"tile": -1},
    "band -1": {"band": -1},
    "structure short": {"structure": good_structure()[:2]},
    "structure dtype": {"structure": changed_structure(0, lambda t: t.long())},
    "structure pointers short": {"structure": changed_structure(1, lambda t: t[:-1].clone())},
    "structure channel high": {"structure": with_entry(0, 5, 3)},
    "structure channel negative": {"structure": with_entry(0, 5, -1)},
    "structure pointer high": {"structure": with_entry(1, 5, 10**6)},
    "structure pointer negative": {"structure": with_entry(1, 5, -7)},
    "structure pointer decreasing": {"structure": with_entry(1, 5, 0)},
    "structure tap": {"structure": with_entry(2, 5, 9)},
    "structure tap twice": {"structure": with_entry(2, 5, 0)},
    "structure fewer live": {"structure": changed_structure(0, lambda t: t[:-1].clone())},
}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("case", BAD_FORWARD)
def test_forward_refuses(case, pack):
    with pytest.raises(RuntimeError):
        ops.sparse_conv2d_forward(**{**good_call(), "pack": pack, **BAD_FORWARD[case]})


def test_gradients_refuse():
    x, weight, structure = (good_call()[k] for k in ("x", "weight", "structure"))
    y, transposed = torch.zeros(2, 4, 5, 5, 16), ops.sparse_conv2d_structure(MASK, 1, 0, True, False)
    ops.sparse_conv2d_grad_input(y, weight, transposed, 5, 5, 1, 1, 0, 0)
    ops.sparse_conv2d_grad_weight(x, y, structure, torch.zeros_like(weight), 1, 1, 0, 0, True)
    for arguments in [
        (y, weight, structure, 5, 5, 1, 1, 0, 0),
        (y, weight, transposed, 6, 5, 1, 1, 0, 0),
        (y, weight, transposed, -5, 5, 1, 1, 0, 0),
        (y[:, :3].contiguous(), weight, transposed, 5, 5, 1, 1, 0, 0),
        (y, weight, transposed, 5, 5, 1, 1, 0, -1),
    ]:
        with pytest.raises(RuntimeError):
            ops.sparse_conv2d_grad_input(*arguments)
    out = torch.zeros_like(weight)
    for arguments in [
        (x, y, transposed, out, 1, 1, 0, 0, True),
        (x, y, structure, out, 2, 1, 0, 0, True),
        (x, y, structure, out[:, :, :0], 1, 1, 0, 0, True),
        (x, y, structure, out[:, :, :2], 1, 1, 0, 0, True),
        (x, y, structure, out[:3], 1, 1, 0, 0, True),
        (x, y, structure, out.double(), 1, 1, 0, 0, True),
        (x, y, structure, out.transpose(2, 3), 1, 1, 0, 0, True),
        (x, y.double(), structure, out, 1, 1, 0, 0, True),
        (x, y[:1].contiguous(), structure, out, 1, 1, 0, 0, True),
    ]:
        with pytest.raises(RuntimeError):
            ops.sparse_conv2d_grad_weight(*arguments)


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
def test_structure_refuses(arguments):
    with pytest.raises(RuntimeError):
        ops.sparse_conv2d_structure(*arguments, False, False)
