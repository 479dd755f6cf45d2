"""Files of masks that others have written: pickles of arrays and tensors; nothing in a file is run."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from foreign_mask_case import Odd, random_mask_of, small
from torch import nn

import snn_sparse as ss

ENTRIES = {
    "bool": lambda m: m.numpy(),
    "float64": lambda m: m.numpy().astype(float),
    "float32 in Fortran's order": lambda m: np.asfortranarray(m.numpy().astype(np.float32)),
    "float16, big endian": lambda m: m.numpy().astype(">f2"),
    "int64": lambda m: m.numpy().astype(int),
    "uint8": lambda m: m.numpy().astype(np.uint8),
    "tensor": lambda m: m.float(),
    "bool tensor": lambda m: m,
    "transposed tensor": lambda m: m.float().transpose(0, 1).contiguous().transpose(0, 1),
    "parameter": lambda m: nn.Parameter(m.half(), requires_grad=False),
}
CONTAINERS = {
    "list": lambda entries: list(entries.values()),
    "tuple": lambda entries: tuple(entries.values()),
    "dict": lambda entries: dict(reversed(entries.items())),
    "OrderedDict": collections.OrderedDict,
    "nested dict": lambda entries: {"round": 3, "sparsity": np.float64(0.3), "masks": dict(entries)},
    "DataParallel": lambda entries: {f"module.{n}": v for n, v in entries.items()},
}


def written(path, content, protocol=pickle.HIGHEST_PROTOCOL):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_pickles(tmp_path, entry, container):
    model = small()
    mask = random_mask_of(model)
    content = CONTAINERS[container]({n: ENTRIES[entry](m) for n, m in mask.items()})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert ss.Mask.from_file(written(tmp_path / "mask.pkl", content, protocol), model).equal(mask), protocol


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", CONTAINERS)
def test_torch_files(tmp_path, container, zipped):
    mask = random_mask_of(Odd())
    content = CONTAINERS[container]({n: m.float() for n, m in mask.items()})
    if container == "nested dict":
        del content["sparsity"]
    torch.save(content, tmp_path / "mask.pt", _use_new_zipfile_serialization=zipped)
    assert ss.Mask.from_file(str(tmp_path / "mask.pt"), Odd()).equal(mask)


def test_a_list_with_batch_norms_too(tmp_path):
    """Much lottery-ticket code masks whatever has ``weight`` in its name."""
    model = small()
    mask = random_mask_of(model)
    entries = {n: np.ones(p.shape) for n, p in model.named_parameters() if "weight" in n}
    entries |= {n: m.numpy().astype(float) for n, m in mask.items()}
    assert ss.Mask.from_file(written(tmp_path / "a.pkl", list(entries.values())), model).equal(mask)
    entries["features.1.weight"][3] = 0
    with pytest.raises(ValueError, match=r"'features\.1\.weight' is pruned, but has one dimension only"):
        ss.Mask.from_file(written(tmp_path / "a.pkl", list(entries.values())), model)


def test_pickles_of_old_numpy_and_of_python_2(tmp_path):
    model = small()
    mask = random_mask_of(model)
    new = pickle.dumps([m.numpy().astype(float) for m in mask.values()], 2)
    old = new.replace(b"numpy._core", b"numpy.core")
    assert old != new
    (tmp_path / "old.pkl").write_bytes(old)
    assert ss.Mask.from_file(tmp_path / "old.pkl", model).equal(mask)

    class Python2:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            make, arguments, (*state, data) = self.array.__reduce__()
            return make, arguments, (*state, data.decode("latin1"))

    path = written(tmp_path / "old.pkl", [Python2(m.numpy().astype(float)) for m in mask.values()], 2)
    assert ss.Mask.from_file(path, model).equal(mask)


def arrays(model):
    return {n: m.numpy() for n, m in random_mask_of(model).items()}


WRONG = {
    "one missing": (lambda a: list(a.values())[:-1], r"3 masks for 4 weights: none for 'classifier\.weight'"),
    "one too many": (lambda a: [*a.values(), np.ones(3)], r"5 masks for 4 weights: more after 'classifier\.weight'"),
    "another order": (
        lambda a: list(a.values())[::-1],
        r"'features\.0\.weight' is \(4, 128\) there, \(32, 1, 3, 3\) in",
    ),
    "transposed": (
        lambda a: a | {"classifier.weight": a["classifier.weight"].T},
        r"'classifier\.weight' is \(128, 4\)",
    ),
    "unknown name": (lambda a: a | {"head.weight": np.ones((2, 2))}, r"no weight 'head\.weight'"),
    "missing name": (lambda a: {n: m for n, m in a.items() if n != "features.4.weight"}, r"no mask for 'features\.4"),
    "a weight itself": (
        lambda a: a | {"classifier.weight": np.full((4, 128), 0.5)},
        r"'classifier\.weight' has entries",
    ),
    "not a number": (
        lambda a: a | {"classifier.weight": np.full((4, 128), np.nan)},
        r"'classifier\.weight' has entries",
    ),
    "no array": (lambda a: a | {"classifier.weight": [1, 0]}, r"'classifier\.weight' is no array, but a list"),
    "one array": (lambda a: a["classifier.weight"], "no list and no dict"),
    "text": (lambda a: "mask", "no list and no dict of masks, but one str"),
    "empty": (lambda a: {}, r"no mask for 'features\.0\.weight'"),
    "large": (lambda a: [*a.values(), np.zeros(10_000_000)], "too large"),
    "complex": (lambda a: [np.ones(3, complex)], r"asks for numpy\.dtype 'c16'"),
    "objects": (lambda a: [np.array([{}, 1])], r"asks for numpy\.dtype 'O8'"),
    "records": (lambda a: [np.ones(3, [("a", "f4")])], r"asks for numpy\.dtype"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_do_not_fit(tmp_path, wrong):
    change, message = WRONG[wrong]
    path = written(tmp_path / "wrong.pkl", change(arrays(small())))
    with pytest.raises(ValueError, match=message) as error:
        ss.Mask.from_file(path, small())
    assert "wrong.pkl" in str(error.value)


def test_a_dict_that_holds_itself(tmp_path):
    endless = {}
    endless["masks"] = endless
    with pytest.raises(ValueError, match="no mask for"):
        ss.Mask.from_file(written(tmp_path / "endless.pkl", endless), small())


class Calls:
    """Pickled, it asks whoever reads it to call something."""

    def __init__(self, function, *args):
        self.asked = (function, args)

    def __reduce__(self):
        return self.asked


def hostile(witness):
    return {
        "os.system": (Calls(os.system, f"touch {witness}"), r"(posix|nt)\.system"),
        "eval": (Calls(eval, f"open({str(witness)!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        "exec": (Calls(exec, f"open({str(witness)!r}, 'w')"), r"(builtins|__builtin__)\.exec"),
        "open": (Calls(open, str(witness), "w"), r"io\.open"),
        "getattr": (Calls(getattr, {}, "keys"), r"(builtins|__builtin__)\.getattr"),
        "numpy": (Calls(np.save, str(witness), 1), r"numpy\.save"),
        "torch": (Calls(torch.load, str(witness)), r"torch\.serialization\.load"),
        "a class": (Calls(collections.Counter), r"collections\.Counter"),
    }


@pytest.mark.parametrize("name", hostile(""))
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_pickle_asks_for_is_never_called(tmp_path, name, protocol):
    witness = tmp_path / "witness.npy"
    content, asked = hostile(witness)[name]
    path = written(tmp_path / "hostile.pkl", [content, *arrays(small()).values()], protocol)
    with pytest.raises(ValueError, match=rf"hostile\.pkl asks for {asked}, .* nothing of it was run$"):
        ss.Mask.from_file(path, small())
    assert not witness.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_torch_file_asks_for_is_never_called(tmp_path, zipped):
    witness = tmp_path / "witness"
    path = tmp_path / "hostile.pt"
    torch.save([Calls(os.system, f"touch {witness}")], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"hostile\.pt asks for (posix|nt)\.system") as error:
        ss.Mask.from_file(path, small())
    assert "\n" not in str(error.value)
    # A tensor inside a plain pickle brings a torch file of its own.
    inner = Calls(torch.storage._load_from_bytes, path.read_bytes())
    with pytest.raises(ValueError, match=r"outer\.pkl asks for (posix|nt)\.system"):
        ss.Mask.from_file(written(tmp_path / "outer.pkl", [inner]), small())
    assert not witness.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """The BUILD instruction sets attributes of whatever it is given, classes and functions too."""
    model = small()
    mask = random_mask_of(model)
    good = written(tmp_path / "good.pkl", [m.numpy() for m in mask.values()])
    for target in (b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"ccollections\nOrderedDict\n"):
        for state in (b"(NN", b"(N(dS'__call__'\nNst", b"(dS'__class__'\nNs"):
            (tmp_path / "bad.pkl").write_bytes(target + state + b"b.")
            with pytest.raises(ValueError, match=r"bad\.pkl"):
                ss.Mask.from_file(tmp_path / "bad.pkl", model)
    assert ss.Mask.from_file(good, model).equal(mask)


@pytest.mark.parametrize("kind", ["pickle", "zip", "torch"])
def test_truncated_and_damaged_files(tmp_path, kind):
    model = Odd()
    masks = list(random_mask_of(model).values())
    path = tmp_path / "mask"
    if kind == "pickle":
        written(path, [m.numpy() for m in masks])
    else:
        torch.save(masks, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in [0, 1, 2, *torch.randint(3, len(whole) - 1, (20,))]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"mask (is damaged|asks for)"):
            ss.Mask.from_file(path, model)
    with pytest.raises(FileNotFoundError):
        ss.Mask.from_file(tmp_path / "none.pkl", model)


@pytest.mark.parametrize("shape", [(-1, 4), (2**40, 2**40), (3,)])
def test_arrays_that_claim_another_size(tmp_path, shape):
    array = np.ones((2, 4))
    reduced = array.__reduce__()

    class Claims:
        def __reduce__(self):
            return (*reduced[:2], (1, shape, *reduced[2][2:]))

    with pytest.raises(ValueError, match="is damaged"):
        ss.Mask.from_file(written(tmp_path / "claims.pkl", [Claims()]), small())
