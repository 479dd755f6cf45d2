"""Two processes that make a group, and call functions of the tests' own modules on both."""

import importlib
import os
import socket
import traceback

import torch

SIZE = 2
SECONDS = 100


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _process(rank, port, calls, answers):
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in variables.items()})
    from snn_sparse.training import Group

    group = Group.from_environment()
    while (call := calls.get()) is not None:
        module, name, arguments = call
        try:
            answers.put((rank, True, getattr(importlib.import_module(module), name)(group, *arguments)))
        except Exception:
            answers.put((rank, False, traceback.format_exc()))
    group.close()


class Pair:
    """Calls functions on ranks 0 and 1 of a group; they must live in a module that is no test file."""

    def __init__(self):
        self._processes = []

    def _start(self):
        context = torch.multiprocessing.get_context("spawn")
        self._answers, port = context.Queue(), free_port()
        self._calls = [context.Queue() for _ in range(SIZE)]
        for rank, calls in enumerate(self._calls):
            self._processes.append(context.Process(target=_process, args=(rank, port, calls, self._answers)))
            self._processes[rank].start()

    def __call__(self, function, *arguments):
        """What ``function(group, *arguments)`` returns on each rank: numbers, text, numpy arrays."""
        if not self._processes:
            self._start()
        for calls in self._calls:
            calls.put((function.__module__, function.__name__, arguments))
        found = {}
        try:
            for _ in range(SIZE):
                rank, good, answer = self._answers.get(timeout=SECONDS)
                assert good, f"rank {rank}: {answer}"
                found[rank] = answer
        except BaseException:
            self.close(0)  # the other one may wait for it for ever
            raise
        return [found[rank] for rank in range(SIZE)]

    def close(self, seconds=5):
        for calls in self._calls if self._processes else ():
            calls.put(None)
        for p in self._processes:
            p.join(seconds)
            p.kill()
        self._processes = []
