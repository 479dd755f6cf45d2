"""Ticket files that somebody has tampered with: the header or tensors of a good one, changed and written again."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import snn_sparse as ss
from snn_sparse.tickets.ticket_file import digest_of
from snn_sparse.tickets.ticket_header import checksum_of

JSON = ("config", "meta", "shapes", "layers")


def network_ticket(live=0.1, **options):
    """A ticket of the small VGG, its rewind weights two thirds of the trained ones; and the network."""
    model = ss.build_model("vgg_small", 4, 1, 3, **options)
    mask = ss.Mask({n: torch.rand(p.shape) < live for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    rewind = {n: v.clone() for n, v in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    trained = {n: v.clone() for n, v in model.state_dict().items()}
    return ss.Ticket(model.config, mask, trained, rewind, {"level": 3, "accuracy": 91.25}), model


def foreign_ticket():
    """A ticket of a few weights that belong to no network of ours, its header longer than its tensors."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 5))
    mask = ss.Mask({n: torch.rand(p.shape) < 0.4 for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    states = [{n: v.clone() for n, v in model.state_dict().items()} for _ in range(2)]
    for name, value in states[0].items():
        states[0][name] = value * 2
    return ss.Ticket({}, mask, *states, {"level": 1, "accuracy": 12.5, "note": "ünïcode"})


def unpack(path):
    """Header fields, those of JSON decoded, and tensors of a file."""
    with safe_open(path, framework="pt") as f:
        fields = f.metadata()
        tensors = {name: f.get_tensor(name).clone() for name in f.keys()}  # noqa: SIM118
    return {k: json.loads(v) if k in JSON else v for k, v in fields.items()}, tensors


def repack(path, fields, tensors, seal=True):
    """Write a file again; ``seal`` makes digest and checksum agree, as a stranger would."""
    fields = {k: json.dumps(v) if k in JSON and not isinstance(v, str) else v for k, v in fields.items()}
    if seal and "digest" in fields:
        fields["digest"] = digest_of(tensors)
    if seal and "checksum" in fields:
        fields["checksum"] = checksum_of(fields)
    save_file(tensors, path, fields)


def same(a, b):
    """Whether two tickets hold exactly the same."""
    return (
        (a.config, a.meta) == (b.config, b.meta)
        and list(a.mask) == list(b.mask)
        and a.mask.equal(b.mask)
        and all(
            x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x)
            for x, y in ((a.trained, b.trained), (a.rewind, b.rewind))
        )
    )
