"""The benchmark commands run, compare equals with equals, and leave complete rows."""

import dataclasses
import json

import pytest
import torch

import benchmarks.memory
import benchmarks.rows
import snn_sparse as ss
from benchmarks import publish
from benchmarks.__main__ import CASES, main
from benchmarks.rows import Row, make_rows, read, write
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop
from benchmarks.timing import Timing, interleaved, ratios


def test_quantiles_and_ratios():
    timing = Timing([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (timing.median, timing.quantile(0), timing.quantile(0.2), timing.quantile(1)) == (3.0, 1.0, 1.8, 5.0)
    faster = ratios({"a": Timing([2.0, 4.0]), "b": Timing([1.0, 1.0])}, "a")
    assert faster["b"].seconds == [2.0, 4.0]
    assert faster["a"].seconds == [1.0, 1.0]


def test_variants_take_turns():
    order = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert len(timings["a"].seconds) == 3
    with pytest.raises(ValueError, match="rounds"):
        interleaved({}, rounds=0)


def test_rows_replace_older_ones_of_the_same_case(tmp_path):
    timings = {"ours": Timing([1.0, 2.0, 3.0])}
    first = make_rows("case", "seconds", timings, "cpu")
    write(first, "file", tmp_path)
    other = [dataclasses.replace(first[0], case="other")]
    write(other, "file", tmp_path)
    again = [dataclasses.replace(first[0], median=7.0)]
    assert read(write(again, "file", tmp_path)) == [*other, *again]
    assert json.loads((tmp_path / "file.jsonl").read_text().splitlines()[0]).keys() == {
        f.name for f in dataclasses.fields(Row)
    }


@pytest.mark.parametrize("arch", ["vgg11", "resnet19"])
def test_spikingjelly_networks_compute_the_same(arch):
    model = ss.build_model(arch, 5, 1, 3).double()
    loop, multi = TimeLoop(model).double(), MultiStep(model).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64) * 3
    torch.testing.assert_close(loop(x), model(x))
    pooled = ss.build_model(arch, 5, 1, 3, bn_statistics="pooled").double()
    pooled.load_state_dict(ss.build_model(arch, 5, 1, 3).double().state_dict() | dict(model.named_parameters()))
    torch.testing.assert_close(multi(x), pooled(x))


@pytest.mark.parametrize("case", CASES)
def test_commands_write_rows(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.memory, "RUNS", 1)
    monkeypatch.setattr("benchmarks.__main__.write", lambda rows, name: write(rows, name, tmp_path))
    flags = {
        "neuron": ["--timesteps", "2", "--batch_size", "1"],
        "search": ["--end_iter", "3"],
        "train-step": [
            *("--arch", "vgg11", "--batch_size", "2", "--timestep", "1", "--providers"),
            *("plain", "fused dense", "fused 95 % uniform", "fused 90 % magnitude"),
        ],
    }
    assert main([case, "--rounds", "1", *flags[case]]) == 0
    rows = read(tmp_path / f"{case}.jsonl")
    assert {"seconds", "times faster"} <= {r.metric for r in rows}
    assert all(r.median > 0 and r.commit and r.versions for r in rows)
    assert "times faster" in capsys.readouterr().out


def test_readme_tables_come_from_the_rows():
    text = publish.README.read_text()
    assert publish.readme_with(text, publish.published_rows()) == text
    with pytest.raises(ValueError, match="README"):
        publish.readme_with("no markers", [])


def test_every_row_is_complete():
    files = sorted(benchmarks.rows.RESULTS.glob("*.jsonl"))
    assert files
    for row in (row for file in files for row in read(file)):
        assert row.p20 <= row.median <= row.p80
        assert all(getattr(row, f.name) not in ("", None) for f in dataclasses.fields(Row))


@pytest.mark.parametrize("case", ["neuron", "train-step"])
def test_wrong_arguments_are_one_line_and_status_2(case, capsys):
    with pytest.raises(SystemExit) as stop:
        main([case, "--providers", "nobody"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("benchmarks: error: unknown provider 'nobody'")
