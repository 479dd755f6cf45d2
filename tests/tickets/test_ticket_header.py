"""What a ticket's header says, and how fast it is read."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from ticket_case import foreign_ticket, network_ticket, repack, same, unpack

import snn_sparse as ss
from snn_sparse.tickets import TicketError, layer_summary, read_header
from snn_sparse.tickets.ticket_file import _described

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("live", [0.0, 0.3, 1.0])
def test_header_says_what_the_ticket_is(tmp_path, live):
    ticket, _ = network_ticket(live)
    ticket.save(tmp_path / "a")
    header = read_header(tmp_path / "a")
    assert (header.config, header.meta) == (ticket.config, ticket.meta)
    assert header.shapes == {n: tuple(m.shape) for n, m in ticket.mask.items()}
    assert header.layers == layer_summary(ticket.mask) == ss.tickets.layer_summary(ticket.mask)
    assert header.sparsity == ticket.mask.sparsity
    assert header.weights == ("trained", "rewind")
    assert len(header.checksum) == 64
    with pytest.raises(AttributeError):
        header.meta = {}


def test_checksum_tells_tickets_apart(tmp_path):
    ticket = foreign_ticket()
    ticket.save(tmp_path / "a")
    ticket.save(tmp_path / "b")
    assert read_header(tmp_path / "a") == read_header(tmp_path / "b")
    ticket.trained["1.bias"][0] += 1
    ticket.save(tmp_path / "b")
    assert read_header(tmp_path / "a").checksum != read_header(tmp_path / "b").checksum


def test_headers_are_read_fast(tmp_path):
    network_ticket()[0].save(tmp_path / "0")
    for number in range(1, 20):
        shutil.copy(tmp_path / "0", tmp_path / str(number))
    start = time.process_time()
    for number in range(1000):
        read_header(tmp_path / str(number % 20))
    assert time.process_time() - start < 2


def test_the_header_does_not_need_the_weights(tmp_path):
    ticket, _ = network_ticket()
    ticket.save(tmp_path / "a")
    header = read_header(tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[-5] ^= 16
    (tmp_path / "a").write_bytes(content)
    assert read_header(tmp_path / "a") == header
    with pytest.raises(TicketError, match="digest"):
        ss.Ticket.load(tmp_path / "a")


def test_old_headers():
    header = read_header(GOLDEN / "ticket_format1.safetensors")
    ticket = ss.Ticket.load(GOLDEN / "ticket_format1.safetensors")
    assert (header.checksum, header.digest) == (None, None)
    assert header.layers == layer_summary(ticket.mask)
    assert header.sparsity == ticket.mask.sparsity
    assert header.shapes["odd.weight"] == (3, 5, 3, 3)


def test_an_old_ticket_is_held_against_its_network_when_it_is_built(tmp_path):
    old = GOLDEN / "run_snip" / "level_01" / "ticket.safetensors"
    assert ss.Ticket.load(old).build().config["arch"] == "vgg_small"
    with pytest.raises(ValueError, match="mask does not fit"):
        ss.Ticket.load(GOLDEN / "ticket_format1.safetensors").build()
    fields, tensors = unpack(old)
    fields["config"]["num_classes"] = 10**6
    repack(tmp_path / "a", fields, tensors)
    with pytest.raises(ValueError, match=r"classifier\.weight"):
        ss.Ticket.load(tmp_path / "a").build()
    tensors["trained/classifier.weight"][3] = torch.nan
    repack(tmp_path / "a", fields, tensors)
    with pytest.raises(TicketError, match=r"trained weight 'classifier\.weight' has a value that is not finite"):
        ss.Ticket.load(tmp_path / "a")


def test_a_network_of_any_size_is_described_for_nothing():
    state = torch.random.get_rng_state()
    start = time.process_time()
    for arch in ss.models.ARCHITECTURES:
        config = f'{{"arch": "{arch}", "num_classes": {10**10}, "in_channels": {10**9}}}'
        shapes = {n: tuple(v.shape) for n, v in _described(config).state_dict().items()}
        assert {v.device.type for v in _described(config).state_dict().values()} == {"meta"}
        last = "fc2.bias" if arch == "resnet19" else "classifier.bias"
        assert shapes[last] == (10**10,)
    assert time.process_time() - start < 2
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("neuron", ["lif", "plif", "leaky", "relu"])
def test_a_described_network_has_the_shapes_of_the_built_one(neuron):
    arch = ss.models.ARCHITECTURES[torch.randint(len(ss.models.ARCHITECTURES), ()).item()]
    options = '{"learn_beta": true}' if neuron == "leaky" else "{}"
    described = _described(f'{{"arch": "{arch}", "neuron": "{neuron}", "neuron_options": {options}}}').state_dict()
    built = ss.build_model(arch, neuron=neuron, neuron_options={"learn_beta": True} if neuron == "leaky" else None)
    assert {n: (v.shape, v.dtype) for n, v in described.items()} == {
        n: (v.shape, v.dtype) for n, v in built.state_dict().items()
    }


def test_a_file_from_before_there_were_widths(tmp_path):
    path, again = tmp_path / "before.safetensors", tmp_path / "again.safetensors"
    network_ticket()[0].save(path)
    now = ss.Ticket.load(path)
    fields, tensors = unpack(path)
    assert fields["config"].pop("width") == 1
    repack(path, fields, tensors)
    before = ss.Ticket.load(path)
    assert "width" not in before.config
    state = now.build().state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.build().state_dict().items())
    before.save(again)
    assert same(ss.Ticket.load(again), now)
