"""Searches that are done, beside the published ones; the paper's findings as checks: status 1 if one does not hold."""

import argparse
import sys

from benchmarks.rows import write
from benchmarks.tickets.findings import NOT_SHOWN, TOO_SHORT, findings
from benchmarks.tickets.page import publish_tickets
from benchmarks.tickets.result_rows import size_rows
from benchmarks.tickets.runs import Size, read_reports, sizes
from benchmarks.tickets.table import HEADER, INSIDE_HEADER, caption, inside, table
from snn_sparse.console import print_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or directories of sweeps")
    parser.add_argument("--no-rows", action="store_true", help="print only: write no rows, leave the page as it is")


def run(args: argparse.Namespace) -> int:
    """Print tables and findings of the runs, a size after the other, and write them as rows.

    Returns:
        exit status: 0, 1 if a finding is not shown by runs that had what it takes, 2 if the runs cannot be read.
    """
    try:
        found = sizes(read_reports(args.runs))
    except (ValueError, OSError) as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    refuted = [_show(size) for size in found]
    if not args.no_rows:
        path = write([row for size in found for row in size_rows(size)], "tickets")
        publish_tickets(path)
        print(f"\nrows: {path}")
    return int(any(refuted))


def _show(size: Size) -> bool:
    """Print everything about runs of one size; whether a finding was refuted."""
    print(caption(size))
    print_table(HEADER, table(size))
    for report in size.of("imp"):
        print(f"\nmasks of imp, seed {report['seed']}")
        print_table(INSIDE_HEADER, inside(report))
    print()
    judged = findings(size)
    for finding in judged:
        print(f"{finding.verdict}: {finding.name}\n    {finding.figures}")
    open_ones = sum(finding.verdict == TOO_SHORT for finding in judged)
    refuted = sum(finding.verdict == NOT_SHOWN for finding in judged)
    print(f"{len(judged) - open_ones - refuted} shown, {refuted} not shown, {open_ones} left open\n")
    return refuted > 0
