"""Ticket files of strangers: damaged ones and forged ones are refused in one line, before anything large is made."""

import json
import os
import pickle
import random
import string

import pytest
import torch
from ticket_case import JSON, foreign_ticket, network_ticket, repack, same, unpack

import snn_sparse as ss
from snn_sparse.tickets import TicketError, read_header


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "ticket.safetensors"
    network_ticket()[0].save(path)
    return path


@pytest.fixture
def forged(good, tmp_path):
    """Change header fields and tensors of a good file, with a checksum that agrees, and expect a refusal."""

    def forge(change, named, header_too=True, seal=True):
        path = tmp_path / "forged.safetensors"
        fields, tensors = unpack(good)
        change(fields, tensors)
        repack(path, fields, tensors, seal)
        for read in (ss.Ticket.load, read_header) if header_too else (ss.Ticket.load,):
            with pytest.raises(TicketError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert named in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
        if not header_too:
            assert read_header(path).weights == ("trained", "rewind")

    return forge


NO_COUNTS = [0, -1, True, 2.0, "3", None, [3], {}, 10**10, 10**7, 10**30]


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["num_classes", "in_channels", "timesteps"])
def test_numbers_of_a_config(forged, name, value):
    forged(lambda f, _: f["config"].update({name: value}), f"config.{name} ")


@pytest.mark.parametrize("value", [1001, 10**5])
def test_too_many_timesteps(forged, value):
    forged(lambda f, _: f["config"].update(timesteps=value), "config.timesteps must be an integer from 1 to 1000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("arch", "neuron", "bn_statistics") for value in (None, 3, "none\nsuch", [], {})],
        *[("width", value) for value in (None, 0, -1, True, "1", [1], {}, 16.5, 10**400)],
        *[("neuron_options", value) for value in (None, 3, "tau", [], {"tau": [2.0]}, {"v_reset": {"a": 1}})],
    ],
)
def test_names_of_a_config(forged, name, value):
    forged(lambda f, _: f["config"].update({name: value}), f"config.{name}")


@pytest.mark.parametrize("options", [{"tau": -1}, {"tau": "2"}, {"surrogate": "none"}, {"no_such": 1}, {"self": 1}])
def test_a_neuron_that_cannot_be_made(forged, options):
    forged(lambda f, _: f["config"].update(neuron_options=options), "config describes no network", header_too=False)


def test_fields_of_a_config(forged, good):
    for name in read_header(good).config.keys() - {"width"}:  # a younger one
        forged(lambda f, _, name=name: f["config"].pop(name), f"config.{name} is missing")
    forged(lambda f, _: f["config"].update(extra=1), "config.'extra'")


@pytest.mark.parametrize("field", ["format", "config", "meta", "shapes", "layers", "digest", "checksum"])
def test_fields_of_the_header(forged, field):
    forged(lambda f, _: f.pop(field), field)
    forged(lambda f, _: f.update({field: "[]"}), "checksum" if field == "digest" else field, seal=field in JSON)
    forged(lambda f, _: f.update({f"{field}\n": "1"}), repr(f"{field}\n"))


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "3", '{"a": NaN}', '{"a": [1e999]}', "[" * 10**5, "9" * 5000, '"\\ud8']
)
@pytest.mark.parametrize("field", ["config", "meta", "shapes", "layers"])
def test_what_is_no_json(forged, field, text):
    forged(lambda f, _: f.update({field: text}), f"{field} ")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "level": [-1, 1.5, "1", True, None],
        "epochs": [-1, 2.5, [1]],
        "timesteps": [0, 1001, "5"],
        "timesteps_early": [0, 1.0, 5000],
        "seed": [1.5, "1", None],
        "accuracy": [-0.1, 100.5, "91", True, None],
        "sparsity": [-1, 101, {}],
        "seconds": [-1, "1"],
        "method": [1, None],
        "dataset": [[]],
        "settings": ["x", 1, []],
    }.items(),
)
def test_fields_of_meta(forged, name, values):
    for value in values:
        forged(lambda f, _, value=value: f["meta"].update({name: value}), f"meta.{name} ")


def test_a_format_1_file_with_the_fields_of_format_2(forged):
    forged(lambda f, _: f.update(format="snn_sparse.ticket/1"), "no header field")
    forged(lambda f, _: f.update(format="snn_sparse.ticket/3"), "format is 'snn_sparse.ticket/3'")


SHAPES = [[10**9, 10**9], [10**9] * 9, [], [0], [-1, 9], [2.0], ["2"], [True], None, {}, "ab", [4, 119], [2**70, 2**70]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_do_not_agree_with_the_bits(forged, shape):
    forged(lambda f, _: f["shapes"].update({"classifier.weight": shape}), "shapes.'classifier.weight'")


def test_masks_and_shapes_have_the_same_names(forged):
    forged(lambda f, _: f["shapes"].pop("classifier.weight"), "shapes lacks 'mask/classifier.weight'")
    forged(lambda f, _: f["shapes"].update({"other.weight": [1, 1]}), "shapes.'other.weight' has no mask")
    forged(lambda _, t: t.pop("mask/classifier.weight"), "shapes.'classifier.weight' has no mask")


def test_layers_do_not_agree_with_the_masks(forged):
    def change(**values):
        return lambda f, _: f["layers"][-1].update(values)

    forged(lambda f, _: f["layers"].pop(), "layers must have a row")
    forged(lambda f, _: f["layers"].__setitem__(-1, 3), "layers.'classifier.weight'")
    forged(lambda f, _: f["layers"][-1].pop("density"), "layers.'classifier.weight'")
    forged(change(name="x"), "layers.'classifier.weight' is called 'x'")
    for density in (-1.0, 100.5, "1", None, True):
        forged(change(density=density), "layers.'classifier.weight'.density")
    for name in ("dead_filters", "dead_channels"):
        for value in (-1, 1.0, None, 10**6):
            forged(change(**{name: value}), f"layers.'classifier.weight'.{name}")
    forged(change(density=100.0), "tensor 'trained/classifier.weight'")  # more live weights than there are values
    forged(change(dead_channels=128, dead_filters=4), "layers do not agree", header_too=False)


def test_names_of_tensors(forged):
    for name in ("weights/a", "trained", "trained/", "a" * 10**4, "x/y\n"):
        forged(lambda _, t, name=name: t.update({name: torch.zeros(2)}), "belongs to none of mask, trained, rewind")
    forged(lambda _, t: t.pop("rewind/features.1.bias"), "'features.1.bias' is in only one")
    forged(lambda _, t: t.pop("rewind/classifier.weight"), "'rewind/classifier.weight'")


def test_weights_of_another_network(forged):
    both = ("trained", "rewind")
    forged(lambda f, _: f["config"].update(num_classes=5), "classifier.weight", header_too=False)
    forged(lambda f, _: f["config"].update(num_classes=10**6), "classifier.weight", header_too=False)
    forged(lambda f, _: f["config"].update(arch="vgg19"), "features.", header_too=False)
    forged(lambda _, t: [t.pop(f"{g}/features.1.bias") for g in both], "features.1.bias", header_too=False)
    forged(lambda _, t: t.update({f"{g}/more": torch.ones(2) for g in both}), "more", header_too=False)
    forged(lambda _, t: t.update({"trained/classifier.bias": torch.ones(5)}), "classifier.bias", header_too=False)
    forged(lambda _, t: t.update({"rewind/classifier.bias": torch.ones(4).int()}), "classifier.bias", header_too=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["trained/classifier.weight", "rewind/features.1.running_var", "trained/features.0.bias"]
)
def test_values_that_are_not_finite(forged, name, value):
    group, own = name.split("/")
    where = random.randrange(20)
    forged(lambda _, t: t[name].__setitem__(where % len(t[name]), value), f"{group} weight '{own}'", header_too=False)


def test_values_of_odd_types(forged):
    name = "trained/classifier.bias"
    forged(
        lambda _, t: t.update({name: torch.full((4,), 1e300, dtype=torch.float64)}), "classifier.bias", header_too=False
    )
    forged(lambda _, t: t.update({name: t[name].to(torch.float8_e4m3fn)}), "classifier.bias", header_too=False)
    counter = "trained/features.1.num_batches_tracked"
    for value in (torch.tensor(-1), torch.tensor(1.0), torch.ones(2).long()):
        forged(lambda _, t, value=value: t.update({counter: value}), "num_batches_tracked", header_too=False)


def test_bits_behind_the_last_entry(tmp_path):
    path = tmp_path / "a.safetensors"
    foreign_ticket().save(path)
    fields, tensors = unpack(path)
    assert fields["shapes"]["3.weight"] == [5, 3]
    tensors["mask/3.weight"][-1] |= 1
    repack(path, fields, tensors)
    with pytest.raises(TicketError, match=r"mask '3\.weight' has bits behind"):
        ss.Ticket.load(path)


def test_bits_that_moved(tmp_path):
    path = tmp_path / "a.safetensors"
    foreign_ticket().save(path)
    fields, tensors = unpack(path)
    bits = tensors["mask/0.weight"]
    while torch.equal(bits, tensors["mask/0.weight"]):
        bits = bits[torch.randperm(len(bits))]
    if bits[-1] & 3:  # padding of 54 entries
        return
    tensors["mask/0.weight"] = bits
    repack(path, fields, tensors, seal=False)
    with pytest.raises(TicketError, match="digest"):
        ss.Ticket.load(path)


def test_no_code_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "a").write_bytes(pickle.dumps(Evil()))
    torch.save({"x": Evil()}, tmp_path / "b")
    for name in ("a", "b"):
        for read in (ss.Ticket.load, read_header):
            with pytest.raises(TicketError, match="not a ticket file"):
                read(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def random_json(depth=0):
    kind = random.randrange(8 if depth < 3 else 5)
    if kind < 5:
        word = "".join(random.choices(string.printable, k=random.randrange(6)))
        return [random.randrange(-3, 10**12), random.random() * 1e6, word, random.choice([True, False]), None][kind]
    if kind == 5:
        return [random_json(depth + 1) for _ in range(random.randrange(4))]
    words = ["config", "meta", "shapes", "format", "__metadata__", "dtype", "shape", "data_offsets", "mask/0.weight"]
    return {random.choice(words): random_json(depth + 1) for _ in range(random.randrange(5))}


def with_header(content, header):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") :]


def damaged(content):
    """The bytes of a file, damaged in one of the ways in which files are."""
    kind = random.randrange(7)
    place = random.randrange(len(content))
    changed = bytearray(content)
    if kind == 0:
        for _ in range(random.choice([1, 1, 2, 8])):
            changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        other = random.randrange(len(content))
        changed[place], changed[other] = changed[other], changed[place]
    elif kind == 3:
        changed[place : place + 8] = os.urandom(8)
    elif kind == 4:
        changed += os.urandom(random.randrange(1, 9))
    elif kind == 5:
        return with_header(content, random_json())
    else:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        part = random.choice([header, header["__metadata__"]])
        part[random.choice(list(part))] = random.choice([random_json(), json.dumps(random_json())])
        return with_header(content, header)
    return bytes(changed)


def test_damage_is_noticed_or_does_no_harm(tmp_path):
    path = tmp_path / "a.safetensors"
    ticket = foreign_ticket()
    ticket.save(path)
    content, header = path.read_bytes(), read_header(path)
    refusals = []
    for change in [b"", *[damaged(content) for _ in range(400)]]:
        path.write_bytes(change)
        for read, untouched in (
            (ss.Ticket.load, lambda t: same(t, ticket)),
            (read_header, lambda h: h == header),
        ):
            try:
                result = read(path)
            except TicketError as error:
                refusals.append(str(error))
            else:
                assert untouched(result), change
    assert len(refusals) > 400
    assert all(told.startswith(f"{path}: ") and len(told.splitlines()) == 1 for told in refusals)
