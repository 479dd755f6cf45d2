import dataclasses

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from ticket_case import network_ticket

import snn_sparse as ss
from snn_sparse.tickets.ticket_file import pack_bits, unpack_bits


def test_bits_are_packed_eight_a_byte_first_entry_highest():
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    assert pack_bits(mask).tolist() == [0b10000011, 0b01000000]
    assert torch.equal(unpack_bits(torch.tensor([0b10000011, 0b01000000], dtype=torch.uint8), (2, 5)), mask)


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5, 3, 3), (2, 17)])
@pytest.mark.parametrize("live", [0.0, 0.4, 1.0])
def test_bits_come_back(shape, live):
    mask = torch.rand(shape) < live
    assert torch.equal(unpack_bits(pack_bits(mask), shape), mask)
    turned = mask.transpose(0, -1)  # not contiguous
    assert torch.equal(unpack_bits(pack_bits(turned), turned.shape), turned)


@pytest.mark.parametrize("live", [0.0, 0.1, 1.0])
def test_round_trip(tmp_path, live):
    options = {"neuron": "plif", "neuron_options": {"surrogate": ss.ops.Triangle(0.5)}, "bn_statistics": "pooled"}
    ticket, model = network_ticket(live, **options)
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
    ticket, _ = network_ticket()
    ticket.save(tmp_path / "a.safetensors")
    state, other = (ticket.trained, ticket.rewind) if weights == "trained" else (ticket.rewind, ticket.trained)
    for source in (ticket, ss.Ticket.load(tmp_path / "a.safetensors")):
        built = source.build(weights).state_dict()
        assert all(torch.equal(v, state[n]) for n, v in built.items())
        assert not torch.equal(built["features.0.weight"], other["features.0.weight"])
    assert ticket.build().state_dict()["features.0.weight"].equal(ticket.trained["features.0.weight"])
    assert ticket.build(device="meta").features[0].weight.device.type == "meta"


def test_built_network_keeps_its_mask_and_leaves_the_random_state_alone(tmp_path):
    ticket, _ = network_ticket()
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
    ticket, _ = network_ticket(0.1)
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
        network_ticket()[0].build("initial")


def test_what_load_would_refuse_is_not_written(tmp_path):
    path = tmp_path / "a.safetensors"

    def refused(named, error=ValueError, **change):
        ticket = dataclasses.replace(network_ticket()[0], **change)
        with pytest.raises(error, match=named):
            ticket.save(path)
        assert not path.exists()

    ticket, _ = network_ticket(0.5)
    name = "classifier.weight"
    broken = ticket.trained[name].clone()
    broken[ticket.mask[name].nonzero()[0].unbind()] = torch.inf
    refused(
        r"trained weight 'classifier\.weight' .* not finite", mask=ticket.mask, trained={**ticket.trained, name: broken}
    )
    refused("'classifier.weight' is missing or of another shape", trained={**ticket.trained, name: broken[:2]})
    refused("'classifier.weight' is missing", rewind={n: v for n, v in ticket.rewind.items() if n != name})
    refused("config.timesteps", config={**ticket.config, "timesteps": 1001})
    refused("config.'classes' is no argument", config={**ticket.config, "classes": 2})
    refused("meta.accuracy", meta={"accuracy": 101})
    refused("JSON", meta={"loss": float("nan")})
    refused("JSON", TypeError, meta={"loss": torch.ones(1)})


def test_pruned_weights_may_hold_anything(tmp_path):
    ticket, _ = network_ticket(0.5)
    value = ticket.trained["classifier.weight"]
    value[~ticket.mask["classifier.weight"]] = torch.nan
    ticket.save(tmp_path / "a")
    loaded = ss.Ticket.load(tmp_path / "a").trained["classifier.weight"]
    assert torch.equal(loaded, value.nan_to_num(0))


def test_a_config_is_written_in_full(tmp_path):
    ticket, model = network_ticket()
    short = {name: ticket.config[name] for name in ("arch", "num_classes", "in_channels", "timesteps")}
    dataclasses.replace(ticket, config=short).save(tmp_path / "a")
    assert ss.Ticket.load(tmp_path / "a").config == model.config


def test_weights_of_one_dimension_and_no_mask_at_all(tmp_path):
    for keep in ({}, {"a": torch.rand(9) < 0.5, "b.weight": torch.rand(2, 3, 4) < 0.5}):
        state = {n: torch.rand(m.shape) * m for n, m in keep.items()}
        ss.Ticket({}, ss.Mask(keep), state, {}).save(tmp_path / "a")
        loaded = ss.Ticket.load(tmp_path / "a")
        assert loaded.mask.equal(ss.Mask(keep))
        assert all(torch.equal(loaded.trained[n], v) for n, v in state.items())
        assert loaded.rewind == {}
