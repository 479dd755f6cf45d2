"""``snn-sparse explain`` on networks of a file that a user wrote: tables, reasons, single lines of error."""

import re
import sys

import pytest
import torch

import snn_sparse as ss
from snn_sparse.cli import main

NETS = '''
import torch
from torch import nn
from spikingjelly.activation_based import neuron


class Net(nn.Module):
    """A time loop over one stage and the logits."""

    def __init__(self, steps=3):
        super().__init__()
        self.conv, self.bn, self.lif = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), neuron.LIFNode()
        self.fc, self.steps = nn.Linear(4, 5), steps

    def forward(self, x):
        out = 0
        for _ in range(self.steps):
            out += self.fc(self.lif(self.bn(self.conv(x))).mean((-2, -1)))
        return out


class Frames(Net):
    def forward(self, x, gain):
        return sum(self.fc(self.lif(self.bn(self.conv(x[t]))).mean((-2, -1))) for t in range(len(x))) * gain


class DataDependent(Net):
    def forward(self, x):
        if x.mean() > 0:
            x = x + 1
        return super().forward(x)


class Home:
    shelf = Net(2)


class Izhikevich(Net):
    def __init__(self):
        super().__init__()
        self.lif = neuron.IzhikevichNode()


def needs(size):
    return Net(size)


def broken():
    raise RuntimeError("out of\\ncheese")


net = Net()
number = 3
'''


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Name of a module in the current folder, which is not on Python's path."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS)
    (tmp_path / "half_written.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def rows(capsys):
    head, names, rule, *found, count = capsys.readouterr().out.splitlines()
    assert set(rule.strip()) == {"─"}
    assert re.split(r"\s{2,}", names.strip()) == ["stage or module", "its layers, or why it was left"]
    return head, [tuple(re.split(r"\s{2,}", line.strip())) for line in found], count


@pytest.mark.parametrize("name", ["Net", "net", "Home.shelf"])
def test_stages_of_a_time_loop(name, nets, capsys):
    assert main(["explain", f"{nets}:{name}", "--input", "2,3,8,8"]) == 0
    head, found, count = rows(capsys)
    assert head == "Net on [2, 3, 8, 8]"
    assert found == [("stage 0", "conv -> bn -> lif"), ("stage 1", "fc")]
    assert count == "4 modules run in 2 stages, 0 were left as they are"


def test_what_was_left_and_why(nets, capsys):
    assert main(["explain", f"{nets}:Izhikevich", "--input", "2,3,8,8"]) == 0
    _, found, count = rows(capsys)
    left = dict(found)["lif"]
    assert left.startswith("left: ")
    assert "Izhikevich" in left
    assert count.endswith(", 1 were left as they are")


def test_the_table_is_that_of_explain(nets, capsys):
    assert main(["explain", f"{nets}:Net", "--input", "4,3,9,9"]) == 0
    _, found, _ = rows(capsys)
    model = sys.modules[nets].Net()
    assert found == ss.explain(ss.fuse(model, torch.rand(4, 3, 9, 9))).rows()


def test_missing_operators_are_told(nets, capsys, monkeypatch):
    monkeypatch.setattr("snn_sparse.fusion.explanation.library_problem", lambda: "they were not built")
    assert main(["explain", f"{nets}:Net", "--input", "2,3,8,8"]) == 0
    count, plain = capsys.readouterr().out.splitlines()[-2:]
    assert count == "4 modules run in 2 stages, 0 were left as they are"
    assert plain == "on a CPU they run on plain PyTorch, which is slow: they were not built"


def test_several_inputs_and_time_in_front(nets, capsys):
    assert main(["explain", f"{nets}:Frames", "--input", "2,3,8,8", "--input", "1,1", "--timesteps", "4"]) == 0
    head, found, _ = rows(capsys)
    assert head == "Frames on [4, 2, 3, 8, 8], [4, 1, 1]"
    assert found[0] == ("stage 0", "conv -> bn -> lif")


def test_two_images_of_32_pixels_are_the_default(nets, capsys):
    assert main(["explain", f"{nets}:Net"]) == 0
    assert rows(capsys)[0] == "Net on [2, 3, 32, 32]"


def test_a_network_that_cannot_be_captured_is_told_with_its_line(nets, capsys):
    assert main(["explain", f"{nets}:DataDependent", "--input", "2,3,8,8"]) == 0
    head, reason = capsys.readouterr().out.splitlines()
    assert head == "DataDependent on [2, 3, 8, 8]"
    line = 1 + NETS.splitlines().index("        if x.mean() > 0:")
    assert reason.startswith("runs as it was written: control flow depends on the data")
    assert f"{nets}.py:{line}: if x.mean() > 0:" in reason


BAD = {
    "nets": "MODULE:NAME",
    "nets:": "MODULE:NAME",
    "nets:Nothing": "no 'Nothing'",
    "nets:Home.Nothing": "no 'Home.Nothing'",
    "nets:number": "a int, not a torch.nn.Module",
    "nets:Home": "a Home, not a torch.nn.Module",
    "nets:needs": "TypeError",
    "nets:broken": "out of cheese",
    "no_such_module:Net": "no module 'no_such_module'",
    "no.such.module:Net": "no module 'no.such.module'",
    "half_written:Net": "nothing_of_that_name",
    "leaves:Net": "importing leaves fails",
    "nets:Net --input 2,three": "input",
    "nets:Net --input 2,0,8,8": "input",
    "nets:Net --input 2,3,8,8 --timesteps 0": "timesteps",
    "nets:Net --input 2,4,8,8": "forward fails on [2, 4, 8, 8]: RuntimeError",
    "nets:Net --input 2,3,8,8 --input 1": "forward fails on [2, 3, 8, 8], [1]: TypeError",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(arguments, nets, capsys):
    assert main(["explain", *arguments.replace("nets:", f"{nets}:", 1).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"snn-sparse: error: .+\n", err)
    assert BAD[arguments] in err
