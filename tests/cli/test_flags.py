"""No flag of ``train`` and ``evaluate`` is dropped: each reaches what computes, and its absence means the ticket's."""

import json
from pathlib import Path

import pytest
import torch

from snn_sparse import training
from snn_sparse.cli import common, main
from snn_sparse.tickets import Ticket, retrain
from snn_sparse.tickets.settings import Settings

RUN = Path(__file__).parents[1] / "golden" / "run_snip"
TICKET = str(RUN / "level_01" / "ticket.safetensors")
SEARCHED = json.loads((RUN / "config.json").read_text())["settings"]


@pytest.fixture
def loaded(monkeypatch, tiny):
    """Calls of ``load_dataset``; whatever is asked for, a few digits come back under that name."""
    calls = []

    def load_dataset(name, data_dir, *, download, image_size, timesteps):
        given = {"dataset": name, "data_dir": data_dir, "download": download, "image_size": image_size}
        calls.append(given | {"timesteps": timesteps})
        return training.Dataset(name, tiny.train, tiny.test, tiny.num_classes, tiny.augmentation)

    monkeypatch.setattr(training, "load_dataset", load_dataset)
    return calls


@pytest.fixture
def evaluate(monkeypatch, loaded, capsys):
    """Runs ``evaluate`` with flags: what the network, the images and the precision were, and the line printed."""

    def run(*flags):
        found = {}

        def spy(model, data, dtype):
            found.update(model=model, images=data.images, dtype=dtype)
            return 12.345

        monkeypatch.setattr(training, "evaluate", spy)
        assert main(["evaluate", "--ticket", TICKET, *flags]) == 0
        return {**found, **loaded[-1], "line": capsys.readouterr().out}

    return run


def modules(model):
    return {type(m).__name__ for m in model.modules()}


def test_evaluate_as_the_ticket_says(evaluate):
    found = evaluate("--device", "cpu")
    assert found["line"] == "vgg_small on digits, 98.13 % pruned, T = 3: test accuracy 12.35 %\n"
    assert (found["dataset"], found["data_dir"], found["download"], found["image_size"]) == (
        "digits",
        "dataset/",
        False,
        None,
    )
    assert found["timesteps"] == SEARCHED["timestep"]
    assert found["model"].timesteps == 3
    assert found["dtype"] == torch.float32
    assert any(name.startswith("Fused") for name in modules(found["model"]))


def test_evaluate_timestep(evaluate):
    found = evaluate("--timestep", "2")
    assert found["model"].timesteps == 2
    assert "T = 2:" in found["line"]


def test_evaluate_backend(evaluate):
    assert not any(name.startswith("Fused") for name in modules(evaluate("--backend", "plain")["model"]))


def test_evaluate_precision(evaluate):
    assert evaluate("--precision", "bf16")["dtype"] == torch.bfloat16


def test_evaluate_at_the_precision_of_the_search(evaluate, monkeypatch):
    load = common.load_ticket

    def searched_in_bf16(path):
        ticket = load(path)
        ticket.meta["settings"]["precision"] = "bf16"
        return ticket

    monkeypatch.setattr(common, "load_ticket", searched_in_bf16)
    assert evaluate()["dtype"] == torch.bfloat16
    assert evaluate("--precision", "fp32")["dtype"] == torch.float32


def test_evaluate_of_a_ticket_from_before_there_was_precision(evaluate, monkeypatch):
    load = common.load_ticket

    def older(path):
        ticket = load(path)
        del ticket.meta["settings"]["precision"]
        return ticket

    monkeypatch.setattr(common, "load_ticket", older)
    assert evaluate()["dtype"] == torch.float32


def test_evaluate_dataset_and_where_it_lies(evaluate):
    found = evaluate("--dataset", "mnist", "--data_dir", "elsewhere", "--download", "--image_size", "48")
    assert (found["dataset"], found["data_dir"], found["download"], found["image_size"]) == (
        "mnist",
        "elsewhere",
        True,
        48,
    )
    assert found["line"].startswith("vgg_small on mnist,")


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_missing_data_is_told_with_its_directory(command, tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert main([command, "--ticket", TICKET, "--dataset", "mnist", "--data_dir", str(missing)]) == 2
    assert f"data_dir {missing} does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "train"])
@pytest.mark.parametrize(("device", "message"), [("cuda:99", "is not available"), ("abacus", "unknown --device")])
def test_device_is_checked(command, device, message, loaded, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--ticket", TICKET, "--device", device]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there_is_one", [False, True])
def test_the_default_device(there_is_one, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    assert common.pick_device(None) == ("cuda" if there_is_one else "cpu")
    assert common.pick_device("cpu") == "cpu"


@pytest.fixture
def computed_on(monkeypatch):
    """Devices that commands ask for; ``cuda`` is there, or so they think, and everything is computed on the CPU."""
    asked = []

    def device(name):
        asked.append(name)
        return "cpu"

    monkeypatch.setattr(common, "pick_device", device)
    return asked


@pytest.mark.parametrize("name", ["cpu", "cuda:1", None])
def test_evaluate_device(name, computed_on, evaluate, monkeypatch):
    moved = []
    build, to = Ticket.build, training.Dataset.to
    monkeypatch.setattr(Ticket, "build", lambda self, *, device=None: moved.append(("network", device)) or build(self))
    monkeypatch.setattr(
        training.Dataset, "to", lambda self, device: moved.append(("images", device)) or to(self, "cpu")
    )
    evaluate(*(["--device", name] if name else []))
    assert computed_on == [name]
    assert sorted(moved) == [("images", "cpu"), ("network", "cpu")]


@pytest.fixture
def train(monkeypatch, loaded, tmp_path):
    """Runs ``train`` up to the training itself: the search that was made ready, and how data were loaded."""

    def run(*flags, out=("--out", str(tmp_path / "out"))):
        found = []
        monkeypatch.setattr(retrain, "retrain", lambda search, ticket: found.append((search, ticket)))
        monkeypatch.setattr(common, "write_and_show", lambda runs, out: None)
        assert main(["train", "--ticket", TICKET, *flags, *out]) == 0
        ((search, ticket),) = found
        assert ticket.meta["level"] == 1
        return search, loaded[-1]

    return run


def test_train_as_the_search_did(train):
    search, data = train("--device", "cpu")
    assert search.settings.as_dict() == {**Settings().as_dict(), **SEARCHED, "method": "train", "device": "cpu"}
    given = {"dataset": "digits", "data_dir": "dataset/", "download": False, "image_size": None}
    assert data == given | {"timesteps": SEARCHED["timestep"]}
    assert search.progress.print_freq == SEARCHED["end_iter"] // 6
    assert search.progress.levels == 2


CHANGES = [
    ("learning_rate", "0.025", 0.025),
    ("timestep", "2", 2),
    ("precision", "bf16", "bf16"),
    ("dataset", "mnist", "mnist"),
    ("backend", "plain", "plain"),
    ("end_iter", "7", 7),
]


@pytest.mark.parametrize(("name", "text", "value"), CHANGES, ids=[c[0] for c in CHANGES])
def test_train_flag(name, text, value, train):
    search, data = train("--device", "cpu", f"--{name}", text)
    assert data["timesteps"] == search.settings.timestep
    expected = {**Settings().as_dict(), **SEARCHED, "method": "train", "device": "cpu", name: value}
    assert search.settings.as_dict() == expected


def test_train_where_data_lie(train):
    _, data = train("--dataset", "svhn", "--data_dir", "elsewhere", "--download", "--image_size", "48")
    given = {"dataset": "svhn", "data_dir": "elsewhere", "download": True, "image_size": 48}
    assert data == given | {"timesteps": SEARCHED["timestep"]}


@pytest.mark.parametrize("name", ["cpu", "cuda:1", None])
def test_train_device(name, computed_on, train):
    search, _ = train(*(["--device", name] if name else []))
    assert computed_on == [name]
    assert search.settings.device == search.data.train.images.device.type == "cpu"


def test_train_progress_and_directory(train, monkeypatch, tmp_path):
    search, _ = train("--print_freq", "3")
    assert search.progress.print_freq == 3
    assert search.files.root == tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    search, _ = train(out=())
    assert search.files.root == Path("runs/train-run_snip-level_01")


def test_train_computes_what_the_flags_say(loaded, tmp_path, capsys):
    """To the end, without stand-ins for the training: epochs, T and learning rate as they were used."""
    flags = ["--end_iter", "2", "--timestep", "2", "--learning_rate", "0.02", "--backend", "plain", "--device", "cpu"]
    assert main(["train", "--ticket", TICKET, *flags, "--out", str(tmp_path / "run")]) == 0
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(m["level"], m["epoch"], m["epochs"], m["timesteps"]) for m in metrics] == [(1, 1, 2, 2), (1, 2, 2, 2)]
    assert [m["learning_rate"] for m in metrics] == pytest.approx([0.02, 0.01])  # cosine over two epochs
    (level,) = json.loads((tmp_path / "run" / "report.json").read_text())["levels"]
    assert (level["epochs"], level["timesteps"]) == (2, 2)
    assert level["sparsity"] == pytest.approx(98.13, abs=0.01)
    out = capsys.readouterr().out
    assert f"training {TICKET}: 98.13 % pruned, T = 2, in {tmp_path / 'run'}\n" in out
    assert f"report: {tmp_path / 'run' / 'report.html'}\n" in out
