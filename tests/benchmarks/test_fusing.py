"""Other people's networks before and after: what the rows say, and the table of docs/fusing.md made of them."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import benchmarks.rows
import snn_sparse as ss
from benchmarks import fusing, publish
from benchmarks.__main__ import main
from benchmarks.model_zoo import count_neurons, networks
from benchmarks.rows import RESULTS, SKIPPED, read

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_case import row


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page and the rows of a run that leaves those of the repository alone."""
    path = tmp_path / "fusing.md"
    path.write_text(f"# before\n\n{publish.BEGIN}\n{publish.END}\n\nbehind\n")
    monkeypatch.setattr(publish, "FUSING", path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    return path


def test_a_captured_network_and_one_that_is_not(page, monkeypatch, capsys):
    monkeypatch.setattr(fusing, "READING", 0.0)
    assert main(["fusing", "--rounds", "1", "--networks", "linears", "data_if"]) == 0
    rows = read(page.parent / "fusing.jsonl")
    found = {case.partition(":")[0]: metrics for (case, _), metrics in publish.groups(rows).items()}
    zoo = networks()
    for name, fused in (("linears", zoo["linears"].neurons), ("data_if", 0)):
        value = {metric: one[fusing.FUSED].median for metric, one in found[name].items() if fusing.FUSED in one}
        assert value[fusing.NEURONS] == zoo[name].neurons
        assert value[fusing.FOUND] == fused
        assert value[fusing.OUTPUTS] <= 1e-9
        assert value[fusing.GRADIENTS] <= 1e-7
        assert value[fusing.FASTER] == pytest.approx(value[fusing.BEFORE] / value[fusing.AFTER])
    reason = found["data_if"][SKIPPED][fusing.WHOLE].reason
    assert reason.startswith("control flow depends on the data (odd.py:")
    assert SKIPPED not in found["linears"]
    text = page.read_text()
    assert text.startswith("# before\n")
    assert text.endswith("behind\n")
    assert f"- data_if, the network: {reason}" in text
    assert f"| linears | {zoo['linears'].style} | {zoo['linears'].neurons} of {zoo['linears'].neurons} |" in text
    capsys.readouterr()


def test_a_difference_is_found(monkeypatch):
    network = networks()["linears"]
    model, inputs = network.build(), network.inputs()
    assert max(fusing.differences(model, inputs, network.reset, torch.float64)) <= 1e-9

    def wrong(twin):
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.5)
        return twin

    monkeypatch.setattr(ss, "fuse", wrong)
    before = copy.deepcopy(model.state_dict())
    assert min(fusing.differences(model, inputs, network.reset, torch.float64)) > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("flags", [["--networks", "nothing"], ["--networks", "linears", "--rounds", "0"]])
def test_bad_input_is_one_line(flags, page, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fusing", *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flags[-2].removeprefix("--") in line


def test_the_table(page):
    values = {
        fusing.NEURONS: 3.0,
        fusing.FOUND: 2.0,
        fusing.OUTPUTS: 0.0,
        fusing.GRADIENTS: 2e-16,
        fusing.BEFORE: 12.34,
        fusing.AFTER: 4.0,
        fusing.FASTER: 3.085,
    }
    rows = [row(fusing.FUSED, metric, value, "CPU", "net: style: odd") for metric, value in values.items()]
    line = "| net | style: odd | 2 of 3 | 0e+00 | 2e-16 | 12.3 | 4.0 | 3.08x |"
    assert publish.fusing_table(rows).splitlines()[-1] == line
    single = [*rows, row(fusing.FUSED, fusing.SINGLE, 1.0, "CPU", "net: style: odd")]
    assert "| 0e+00 (float32) | 2e-16 (float32) |" in publish.fusing_table(single)
    assert publish.fusing_table([]) == ""
    left = [*rows, row("lif2", SKIPPED, 0.0, "CPU", "net: style: odd", "it is no neuron")]
    assert publish.fusing_table(left).splitlines()[-3:] == [
        "Left as it was written:",
        "",
        "- net, lif2: it is no neuron",
    ]
    assert publish.fusing_table([*rows, *(replace(r, device="other") for r in rows)]).count(line) == 2


def test_the_page_shows_the_rows():
    text = publish.FUSING.read_text()
    assert publish.with_tables(text, publish.fusing_table(read(RESULTS / "fusing.jsonl"))) == text


def test_neurons_of_spikingjelly_are_counted():
    assert count_neurons(networks()["SpikingJelly spiking_vgg11_bn"].build()) == 8
