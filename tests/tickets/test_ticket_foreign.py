"""Tickets of networks that are not ours, and files that hold one group of weights only."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ticket_case import network_ticket, same
from torch import nn

import snn_sparse as ss
from snn_sparse.cli import main
from snn_sparse.tickets.retrain import check_trainable, settings_of
from snn_sparse.tickets.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden"


def copy_of(state):
    return {n: v.clone() for n, v in state.items()}


def foreign_model(width=8):
    model = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 16, 5)
    )
    model.register_buffer("seen", torch.tensor([True, False]))
    for _ in range(3):
        model(torch.randn(4, 2, 4, 4))  # running statistics
    return model


def random_mask(model, live=0.3):
    return ss.Mask({n: torch.rand(p.shape) < live for n, p in ss.tickets.prunable(model).items()})


def test_a_network_of_anybodys(tmp_path):
    model, start = foreign_model(), foreign_model().state_dict()
    before, mask = copy_of(model.state_dict()), random_mask(model)
    ticket = ss.Ticket.from_model(model, mask, rewind=start, accuracy=12.5, note=["a", 1])
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())  # nothing was pruned in it
    assert (ticket.config, ticket.meta) == ({}, {"accuracy": 12.5, "note": ["a", 1]})
    ticket.save(tmp_path / "a")
    loaded = ss.Ticket.load(tmp_path / "a")
    assert same(loaded, ticket)
    for group, state in (("trained", before), ("rewind", start)):
        other = foreign_model()
        assert loaded.apply_to(other, group) is other
        for name, value in other.state_dict().items():
            assert torch.equal(value, state[name] * mask[name] if name in mask else state[name])
    optimizer = torch.optim.SGD(other.parameters(), 0.1, 0.9, weight_decay=0.01)
    for _ in range(2):
        other(torch.randn(4, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    assert all(torch.count_nonzero(p[~mask[n]]) == 0 for n, p in ss.tickets.prunable(other).items())
    with pytest.raises(ValueError, match="apply_to"):
        loaded.build()


def test_a_network_of_ours_says_how_it_is_built(tmp_path):
    model = ss.build_model("vgg_small", 4, 1, 3, neuron="plif")
    model.timesteps = 7
    mask = random_mask(model)
    for made in (ss.Ticket.from_model(model, mask), ss.Ticket.from_model(ss.fuse(model), mask, level=0)):
        assert made.config == {**model.config, "timesteps": 7}
        made.save(tmp_path / "a")
        built = ss.Ticket.load(tmp_path / "a").build()
        assert built.timesteps == 7
        mask.apply_(model)
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(built.eval()(x), model.eval()(x))
    model.timesteps = 1001
    with pytest.raises(ValueError, match=r"config\.timesteps"):
        ss.Ticket.from_model(model, mask)


def test_a_network_of_ours_that_was_changed_is_not_ours_any_more(tmp_path):
    model = ss.build_model("vgg_small", 4, 1, 3)
    model.classifier = nn.Linear(128, 9)
    ticket = ss.Ticket.from_model(model, random_mask(model))
    assert ticket.config == {}
    ticket.save(tmp_path / "a")
    ss.Ticket.load(tmp_path / "a").apply_to(model)


@pytest.mark.parametrize("weights", ["trained", "rewind"])
def test_weights_go_into_a_fused_network_in_place_of_another_mask(weights):
    ticket, _ = network_ticket(0.2)
    model = ss.build_model("vgg_small", 4, 1, 3)
    fused = ss.fuse(model, torch.rand(2, 1, 8, 8))
    random_mask(fused, 0.5).apply_(fused)
    ticket.apply_to(fused, weights)
    x = torch.rand(3, 1, 8, 8)
    expected = ticket.build(weights)
    torch.testing.assert_close(fused.eval()(x), expected.eval()(x))
    assert all(torch.equal(v, expected.state_dict()[n]) for n, v in fused.state_dict().items())


def test_networks_that_do_not_fit():
    model = foreign_model()
    ticket = ss.Ticket.from_model(model, random_mask(model))
    wider, other = foreign_model(9), foreign_model()
    other.append(nn.Linear(5, 5))
    for wrong, said in (
        (wider, r"'0\.weight' is torch\.float32 \(8, 2, 3, 3\)"),
        (other, r"'5\.weight' is only in the"),
    ):
        before = copy_of(wrong.state_dict())
        with pytest.raises(ValueError, match=rf"trained weights do not fit the network: {said}"):
            ticket.apply_to(wrong)
        assert all(torch.equal(v, before[n]) for n, v in wrong.state_dict().items())
    del model.seen
    with pytest.raises(ValueError, match=r"'seen' is not in the network"):
        ticket.apply_to(model)
    with pytest.raises(ValueError, match="weights must be"):
        ticket.apply_to(foreign_model(), "initial")


def test_wrong_arguments():
    model = foreign_model()
    mask = random_mask(model)
    with pytest.raises(ValueError, match="mask does not fit"):
        ss.Ticket.from_model(foreign_model(9), mask)
    with pytest.raises(ValueError, match=r"rewind weights do not fit the network: '0\.weight'"):
        ss.Ticket.from_model(model, mask, rewind=foreign_model(9).state_dict())
    with pytest.raises(ValueError, match=r"'0\.bias' is only in the network"):
        ss.Ticket.from_model(model, mask, rewind={n: v for n, v in model.state_dict().items() if n != "0.bias"})
    with pytest.raises(ValueError, match=r"meta\.accuracy"):
        ss.Ticket.from_model(model, mask, accuracy=torch.tensor(91.0))
    with pytest.raises(TypeError, match="'seen' is no tensor, but a int"):
        ss.Ticket.from_model(model, mask, rewind={**model.state_dict(), "seen": 3})


@pytest.mark.parametrize("groups", [("trained",), ("rewind",), ("rewind", "trained")])
def test_weights_that_are_saved(tmp_path, groups):
    ticket, _ = network_ticket(0.3)
    ticket.save(tmp_path / "a", weights=groups)
    loaded = ss.Ticket.load(tmp_path / "a")
    assert set(ss.tickets.read_header(tmp_path / "a").weights) == set(groups)
    for group in ("trained", "rewind"):
        if group in groups:
            assert all(torch.equal(v, getattr(ticket, group)[n]) for n, v in loaded.state(group).items())
            loaded.build(group)
        else:
            with pytest.raises(ValueError, match=f"this ticket has no '{group}' weights"):
                loaded.build(group)
    for wrong in ("trained", (), ("initial",), ("trained", "mask")):
        with pytest.raises(ValueError, match="weights must be some of"):
            ticket.save(tmp_path / "b", weights=wrong)


@pytest.mark.parametrize("percent", [0, 90, 98])
def test_a_file_to_share_is_as_small_as_its_live_weights(tmp_path, percent):
    model = ss.build_model("vgg11")
    mask = ss.magnitude_mask(model, percent=percent) if percent else ss.Mask.dense(model)
    ss.Ticket.from_model(model, mask, rewind=model.state_dict()).save(tmp_path / "a", weights=("trained",))
    dense = sum(v.numel() * v.element_size() for n, v in model.state_dict().items() if n not in mask)
    least = 4 * mask.live + mask.size / 8 + dense
    assert least <= (tmp_path / "a").stat().st_size <= 1.02 * least + 8192


def test_a_ticket_that_does_not_fit_is_not_trained(tiny):
    model = ss.build_model("vgg_small", 10, 1, 3)
    ticket = ss.Ticket.from_model(model, random_mask(model), rewind=model.state_dict())
    settings = Settings(method="train", arch="vgg_small", dataset="digits", timestep=3)
    check_trainable(ticket, settings, tiny)
    for wrong in (replace(settings, arch="vgg11"), replace(settings, arch="resnet19")):
        with pytest.raises(ValueError, match=f"ticket cannot be trained as {wrong.arch} on digits"):
            check_trainable(ticket, wrong, tiny)
    with pytest.raises(ValueError, match=r"classifier\.weight"):
        check_trainable(ticket, settings, replace(tiny, num_classes=12))
    with pytest.raises(ValueError, match="this ticket has no 'rewind' weights"):
        check_trainable(ss.Ticket.from_model(model, ticket.mask), settings, tiny)
    with pytest.raises(ValueError, match="has no 'rewind' weights"):
        ss.Ticket.from_model(model, ticket.mask).apply_to(model, "rewind")
    for missing in ({}, {"settings": settings.as_dict(), "epochs": 3}):
        with pytest.raises(ValueError, match=r"comes from no search of snn-sparse: its meta has no '(settings|level)'"):
            settings_of(replace(ticket, meta=missing))
    assert settings_of(replace(ticket, meta={"settings": settings.as_dict(), "epochs": 3, "level": 1})) == settings


def test_commands_on_tickets_that_come_from_no_search(tmp_path, capsys):
    model = ss.build_model("vgg_small", 10, 1, 3)
    path, mask = tmp_path / "a", random_mask(model)

    def told(command, **meta):
        ss.Ticket.from_model(model, mask, rewind=model.state_dict(), **meta).save(path)
        status = main([*command.split(), "--ticket", str(path), "--device", "cpu"])
        return status, *capsys.readouterr()

    for command, meta, said in (
        ("train", {}, "comes from no search"),
        ("evaluate", {}, "name them by --dataset"),
        ("evaluate", {"dataset": "digits", "settings": {"precision": "fp7"}}, "unknown precision 'fp7'"),
    ):
        status, _, error = told(command, **meta)
        assert (status, len(error.strip().splitlines())) == (2, 1)
        assert said in error
    for command, meta in (("evaluate", {"dataset": "digits"}), ("evaluate --dataset digits", {})):
        status, out, _ = told(command, **meta)
        assert status == 0
        assert "test accuracy" in out
    ss.Ticket.from_model(foreign_model(), random_mask(foreign_model())).save(path)
    assert main(["evaluate", "--ticket", str(path), "--dataset", "digits"]) == 2
    assert "apply_to" in capsys.readouterr().err


def test_a_search_s_ticket_without_its_start_is_not_trained(tmp_path, capsys):
    ticket = ss.Ticket.load(GOLDEN / "run_snip" / "level_01" / "ticket.safetensors")
    for weights, config, said in (
        (("trained",), {}, "has no 'rewind' weights"),
        (("trained", "rewind"), {"arch": "vgg11"}, "cannot be trained as vgg11"),
    ):
        settings = {**ticket.meta["settings"], **config}
        replace(ticket, meta={**ticket.meta, "settings": settings}).save(tmp_path / "a", weights)
        out = tmp_path / "out"
        assert main(["train", "--ticket", str(tmp_path / "a"), "--device", "cpu", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
        assert not out.exists()
