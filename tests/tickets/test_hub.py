"""Tickets to the Hugging Face Hub and back; the Hub is a folder here."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from ticket_case import foreign_ticket, network_ticket, same

import snn_sparse as ss
from snn_sparse.cli import build_parser, main
from snn_sparse.tickets.hub import model_card

PAGE = (Path(__file__).parents[2] / "docs" / "tickets.md").read_text()


@pytest.mark.parametrize("of_a_file", [False, True])
def test_there_and_back(hub, tmp_path, of_a_file):
    ticket, _ = network_ticket()
    ticket.save(tmp_path / "a")
    address = ss.push_ticket(str(tmp_path / "a") if of_a_file else ticket, "me/mine", token="secret")
    assert address == "https://hub.example/me/mine"
    assert sorted(p.name for p in (hub.root / "me/mine").iterdir()) == ["README.md", "ticket.safetensors"]
    if of_a_file:
        assert (hub.root / "me/mine/ticket.safetensors").read_bytes() == (tmp_path / "a").read_bytes()
    assert same(ss.pull_ticket("me/mine", revision="v1"), ticket)
    assert hub.calls == [("token", "secret"), ("download", "v1", None)]
    assert hub.private == {"me/mine": False}


def test_the_card_loads_the_ticket(hub):
    ticket, _ = network_ticket()
    ticket = dataclasses.replace(ticket, meta={"accuracy": 91.256, "dataset": "cifar10", "method": "imp", "level": 3})
    ss.push_ticket(ticket, "me/mine")
    card = (hub.root / "me/mine/README.md").read_text()
    for said in ("vgg_small", "91.26 %", "cifar10", "imp", f"{ticket.mask.sparsity:.2f} %", "trained and rewind"):
        assert said in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert isinstance(found["model"], ss.models.VGG)
    ticket.config["width"] = 0.25
    assert "- network: vgg_small width 0.25\n" in model_card(ticket, "me/mine")


def test_the_card_of_a_network_of_ones_own():
    ticket = foreign_ticket()
    ticket.rewind = {}
    ticket.meta = {"dataset": "# loud\n[x](y) `z` <script>", "note": "not shown"}
    card = model_card(ticket, "me/mine")
    assert "not one of snn_sparse" in card
    assert "ticket.apply_to(model)" in card
    assert "- dataset: loud x (y) z script\n" in card
    assert "not shown" not in card
    assert "weights in the file: trained\n" in card
    assert "none, only the mask" in model_card(dataclasses.replace(ticket, trained={}), "a/b")


def test_private_means_private(hub):
    ticket = foreign_ticket()
    ss.push_ticket(ticket, "me/new", private=True)
    assert hub.private == {"me/new": True}
    ss.push_ticket(ticket, "me/open")
    before = (hub.root / "me/open/ticket.safetensors").read_bytes()
    ticket.meta["level"] = 2
    with pytest.raises(ValueError, match="me/open is there already and public"):
        ss.push_ticket(ticket, "me/open", private=True)
    assert (hub.root / "me/open/ticket.safetensors").read_bytes() == before


def test_damaged_tickets_neither_go_nor_come(hub, tmp_path):
    foreign_ticket().save(tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[-3] ^= 8
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ss.TicketError, match="digest"):
        ss.push_ticket(tmp_path / "a", "me/mine")
    with pytest.raises(FileNotFoundError, match="no ticket file"):
        ss.push_ticket(tmp_path / "none", "me/mine")
    assert not hub.calls
    (hub.root / "you/yours").mkdir(parents=True)
    (hub.root / "you/yours/other.safetensors").write_bytes(content)
    with pytest.raises(ss.TicketError, match="digest"):
        ss.pull_ticket("you/yours", filename="other.safetensors")
    with pytest.raises(OSError, match="has no ticket"):
        ss.pull_ticket("you/yours")


def test_whatever_the_way_there_raises(hub, monkeypatch):
    class OddError(Exception):
        pass

    def fails(*_, **__):
        raise OddError("no route")

    monkeypatch.setattr(hub, "create_repo", fails)
    with pytest.raises(OSError, match="me/mine: OddError: no route"):
        ss.push_ticket(foreign_ticket(), "me/mine")


def test_without_the_package(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'snn_sparse\[hub\]'"):
        ss.push_ticket(foreign_ticket(), "me/mine")
    with pytest.raises(ImportError, match=r"pip install 'snn_sparse\[hub\]'"):
        ss.pull_ticket("me/mine")
    assert main(["pull", "me/mine", "--out", str(tmp_path / "a")]) == 2
    assert capsys.readouterr().err == (
        "snn-sparse: error: the Hub needs the package huggingface_hub: pip install 'snn_sparse[hub]'\n"
    )


def test_names_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="Repo id"):
        ss.pull_ticket("no name/at all/")


def test_on_the_command_line(hub, tmp_path, capsys):
    ticket, _ = network_ticket()
    path, out = tmp_path / "a.safetensors", tmp_path / "sub" / "b.safetensors"
    ticket.save(path)
    assert main(["push", str(path), "me/mine", "--private"]) == 0
    assert capsys.readouterr().out == "https://hub.example/me/mine\n"
    assert hub.private == {"me/mine": True}
    assert main(["pull", "me/mine", "--out", str(out), "--revision", "v2"]) == 0
    assert capsys.readouterr().out == f"{out}: vgg_small, {ticket.mask.sparsity:.2f} % pruned\n"
    assert same(ss.Ticket.load(out), ticket)
    assert hub.calls[-1] == ("download", "v2", None)
    ss.push_ticket(foreign_ticket(), "me/other")
    assert main(["pull", "me/other", "--out", str(tmp_path / "c")]) == 0
    assert "a network of your own" in capsys.readouterr().out


def test_wrong_commands_are_told_in_one_line(hub, tmp_path, capsys):
    (tmp_path / "there").write_text("mine")
    for command, said in (
        (["push", str(tmp_path / "none"), "me/mine"], "no ticket file"),
        (["push", str(tmp_path / "there"), "me/mine"], "not a ticket file"),
        (["pull", "me/none", "--out", str(tmp_path / "new")], "has no ticket.safetensors"),
        (["pull", "me/mine", "--out", str(tmp_path / "there")], "exists already"),
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_the_page_about_tickets_runs(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for code in blocks:
        exec(compile(code, "docs/tickets.md", "exec"), names)
    assert names["header"].config["arch"] == "vgg_small"
    assert isinstance(names["ticket"].build(), ss.models.VGG)
    commands = re.findall(r"^snn-sparse (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        build_parser().parse_args(command.split())
