"""Tickets on the Hugging Face Hub: a repository holds one ticket file and a card that says what it is."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snn_sparse.tickets.settings import network_name
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.training.files import write_atomic

TICKET = "ticket.safetensors"
_SHOWN = ("dataset", "method", "accuracy", "timesteps", "epochs", "seed")  # of meta, on the card


def push_ticket(
    ticket: Ticket | str | Path, repo_id: str, *, private: bool = False, token: str | bool | None = None
) -> str:
    """Upload a ticket and a model card, in one commit; the repository is made if there is none.

    Args:
        ticket: a ticket, or the path of a ticket file, which is checked and uploaded as it is.
        repo_id: ``user/name`` on the Hub. Its ``ticket.safetensors`` and ``README.md`` are replaced.
        private: whether only its owners may see it.
        token: of the Hub; by default that of ``hf auth login``.

    Returns:
        Address of the repository.

    Raises:
        ImportError: ``huggingface_hub`` is not installed. FileNotFoundError, TicketError: no ticket file.
        ValueError: ``repo_id`` is no name, or ``private`` and the repository is there already and public.
        OSError: the Hub refused, or cannot be reached.
    """
    hub = _require_hub()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / TICKET
        if isinstance(ticket, Ticket):
            ticket.save(file)
        else:
            path, ticket = Path(ticket), Ticket.load(ticket)
            write_atomic(file, path.read_bytes())
        (Path(folder) / "README.md").write_text(model_card(ticket, repo_id), encoding="utf-8")
        with _talking(repo_id):
            api = hub.HfApi(token=token)
            address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            if private and not api.repo_info(repo_id).private:
                raise ValueError(f"repo_id {repo_id} is there already and public: nothing was uploaded")
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload ticket")
    return address


def pull_ticket(
    repo_id: str, *, filename: str = TICKET, revision: str | None = None, token: str | bool | None = None
) -> Ticket:
    """Download a ticket and check it; nothing in it is run.

    Args:
        repo_id: ``user/name`` on the Hub.
        filename: of the ticket, in the repository.
        revision: branch, tag or commit; a commit makes sure that the ticket stays the same.
        token: of the Hub, for private repositories; by default that of ``hf auth login``.

    Raises:
        ImportError: ``huggingface_hub`` is not installed. TicketError: the file is no ticket, or damaged.
        ValueError: ``repo_id`` is no name. OSError: there is no such file, or the Hub cannot be reached.
    """
    hub = _require_hub()
    with _talking(repo_id):
        path = hub.hf_hub_download(repo_id, filename, revision=revision, token=token)
    return Ticket.load(path)


def model_card(ticket: Ticket, repo_id: str) -> str:
    """Write the Markdown that a repository shows: what the ticket is, and how to load it."""
    lines = [f"- network: {_plain(network_name(ticket.config) if ticket.config else 'not one of snn_sparse')}"]
    lines.append(f"- weights pruned: {ticket.mask.sparsity:.2f} % ({ticket.mask.live} of {ticket.mask.size} are alive)")
    for name in _SHOWN:
        value = ticket.meta.get(name)
        if value is not None:
            lines.append(f"- {name}: {f'{value:.2f} %' if name == 'accuracy' else _plain(value)}")
    groups = [group for group, state in (("trained", ticket.trained), ("rewind", ticket.rewind)) if state]
    lines.append(f"- weights in the file: {' and '.join(groups) or 'none, only the mask'}")
    use = "model = ticket.build()" if ticket.config else "ticket.apply_to(model)  # your network of the same parameters"
    return f"""---
library_name: snn_sparse
tags:
- spiking-neural-network
- lottery-ticket
- pruning
---

# A winning ticket of a spiking neural network

{chr(10).join(lines)}

```python
import snn_sparse as ss  # pip install "snn_sparse[hub]"

ticket = ss.pull_ticket("{repo_id}")
{use}
```
"""


def _plain(value: Any) -> str:
    """A value of a file that may be a stranger's, on one line and without Markdown."""
    kept = (c if c.isalnum() or c in ".,:+-_/%()" else " " for c in str(value)[:80])
    return " ".join("".join(kept).split())


def _require_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("the Hub needs the package huggingface_hub: pip install 'snn_sparse[hub]'") from None
    return huggingface_hub


@contextmanager
def _talking(repo_id: str) -> Iterator[None]:
    """Make an OSError of whatever goes wrong on the way."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # which HTTP client is used, and what that raises, depends on huggingface_hub's version
        raise ConnectionError(f"{repo_id}: {type(error).__name__}: {error}") from error
