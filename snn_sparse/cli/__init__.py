"""Command ``snn-sparse``, a file a group of commands. Only running one imports torch, so ``--help`` is quick."""

from snn_sparse.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
