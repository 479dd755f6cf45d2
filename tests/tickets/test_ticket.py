import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import snn_sparse as ss
from snn_sparse.tickets.search import snapshot
from snn_sparse.tickets.ticket import _pack_bits, _unpack_bits


def make_ticket(live=0.1, **options):
    model = ss.build_model("vgg_small", 4, 1, 3, **options)
    mask = ss.Mask({n: torch.rand(p.shape) < live for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    rewind = snapshot(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return ss.Ticket(model.config, mask, snapshot(model), rewind, {"level": 3, "accuracy": 91.25}), model


def test_bits_are_packed_eight_a_byte_first_entry_highest():
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    assert _pack_bits(mask).tolist() == [0b10000011, 0b01000000]
    assert torch.equal(_unpack_bits(torch.tensor([0b10000011, 0b01000000], dtype=torch.uint8), (2, 5)), mask)


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5, 3, 3), (2, 17)])
@pytest.mark.parametrize("live", [0.0, 0.4, 1.0])
def test_bits_come_back(shape, live):
    mask = torch.rand(shape) < live
    assert torch.equal(_unpack_bits(_pack_bits(mask), shape), mask)
    turned = mask.transpose(0, -1)  # not contiguous
    assert torch.equal(_unpack_bits(_pack_bits(turned), turned.shape), turned)


@pytest.mark.parametrize("live", [0.0, 0.1, 1.0])
def test_round_trip(tmp_path, live):
    options = {"neuron": "plif", "neuron_options": {"surrogate": ss.ops.Triangle(0.5)}, "bn_statistics": "pooled"}
    ticket, model = make_ticket(live, **options)
    ticket.save(tmp_path / "a.safetensors")
    loaded = ss.Ticket.load(tmp_path / "a.safetensors")
    assert loaded.mask.equal(ticket.mask)
    assert (loaded.config, loaded.meta) == (ticket.config, ticket.meta)
    for state, expected in ((loaded.trained, ticket.trained), (loaded.rewind, ticket.rewind)):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[k], expected[k]) for k in state)
    built = loaded.build()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(built.eval()(x), model.eval()(x))
    assert str(built) == str(model)


@pytest.mark.parametrize("weights", ["trained", "rewind"])
def test_weights_to_build_with(tmp_path, weights):
    ticket, _ = make_ticket()
    ticket.save(tmp_path / "a.safetensors")
    state, other = (ticket.trained, ticket.rewind) if weights == "trained" else (ticket.rewind, ticket.trained)
    for source in (ticket, ss.Ticket.load(tmp_path / "a.safetensors")):
        built = source.build(weights).state_dict()
        assert all(torch.equal(v, state[n]) for n, v in built.items())
        assert not torch.equal(built["features.0.weight"], other["features.0.weight"])
    assert ticket.build().state_dict()["features.0.weight"].equal(ticket.trained["features.0.weight"])
    assert ticket.build(device="meta").features[0].weight.device.type == "meta"


def test_built_network_keeps_its_mask_and_leaves_the_random_state_alone(tmp_path):
    ticket, _ = make_ticket()
    state = torch.random.get_rng_state()
    model = ticket.build("rewind")
    assert torch.equal(torch.random.get_rng_state(), state)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        ss.temporal_cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.randint(0, 4, (4,))).backward()
        optimizer.step()
    assert all(torch.count_nonzero(p[~ticket.mask[n]]) == 0 for n, p in ss.tickets.prunable(model).items())


def test_file_holds_live_weights_only(tmp_path):
    ticket, _ = make_ticket(0.1)
    ticket.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as f:
        for name, mask in ticket.mask.items():
            assert f.get_slice(f"trained/{name}").get_shape() == [int(mask.sum())]
            assert f.get_slice(f"mask/{name}").get_shape() == [-(-mask.numel() // 8)]


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ticket file"):
        ss.Ticket.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a ticket"):
        ss.Ticket.load(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not a ticket"):
        ss.Ticket.load(tmp_path / "other")
    with pytest.raises(ValueError, match="weights"):
        make_ticket()[0].build("initial")
