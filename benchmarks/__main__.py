"""``python -m benchmarks [CASE]``: run one case, or all of them, and write their rows; or another command."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch

from benchmarks import compiled, fusing, how_to, kernels, levels, neuron, pytest_rows, search, spikes, train_step
from benchmarks.publish import groups, publish, publish_fusing, tables
from benchmarks.rows import Row, write
from benchmarks.survival import command as survival
from benchmarks.tickets import command as tickets
from benchmarks.tickets.page import publish_tickets

CASES: dict[str, ModuleType] = {
    "neuron": neuron,
    "spikes": spikes,
    "train-step": train_step,
    "search": search,
    "fusing": fusing,
    "levels": levels,
}
ALL = [name for name in CASES if name != "levels"]  # which needs a run
OTHERS: dict[str, ModuleType] = {
    "compile": compiled,
    "kernels": kernels,
    "survive": survival,
    "tickets": tickets,
    "rows": pytest_rows,
    "how-to": how_to,
}


def table(rows: list[Row]) -> str:
    """Rows for the terminal: the ratio on every machine, the time on a GPU only; tables where kernels were counted."""
    lines = []
    for (case, device), found in groups(rows).items():
        if "kernels" in found:
            lines.append(tables([r for r in rows if (r.case, r.device) == (case, device)]))
            continue
        lines.append(case)
        for r in (r for r in rows if (r.case, r.device) == (case, device)):
            if r.reason:
                lines.append(f"  {r.provider:26} {r.metric}: {r.reason}")
            elif r.metric not in ("seconds", "peak MB"):
                lines.append(f"  {r.provider:26} {r.median:7.2f} {r.metric} (p20 {r.p20:.2f}, p80 {r.p80:.2f})")
            elif "threads" not in r.device:
                value = f"{1e3 * r.median:9.3f} ms" if r.metric == "seconds" else f"{r.median:9.0f} MB"
                lines.append(f"  {r.provider:26} {value}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="case", metavar="CASE")
    parsers = {}
    for name, module in CASES.items():
        parsers[name] = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        parsers[name].add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
        parsers[name].add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
        module.add_flags(parsers[name])
    commands.add_parser("publish", help="make the tables of README and docs, and the plots, from the rows")
    for name, module in OTHERS.items():
        module.add_flags(commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0]))
    args = parser.parse_args(argv)
    if args.case == "publish":
        publish()
        publish_tickets()
        return 0
    try:
        return OTHERS[args.case].run(args) if args.case in OTHERS else _run_cases(args, parsers)
    except ValueError as error:
        parser.exit(2, f"benchmarks: error: {error}\n")


def _run_cases(args: argparse.Namespace, parsers: Mapping[str, argparse.ArgumentParser]) -> int:
    """Run one case, or all of them; 1 if anything of ours was left out."""
    failed = False
    for name in [args.case] if args.case else ALL:
        chosen = args if args.case else parsers[name].parse_args([])
        if chosen.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError("--device cuda, but torch sees no GPU")
        rows = CASES[name].run(chosen)
        path = write(rows, name)
        if CASES[name] is fusing:
            publish_fusing()
        print(f"{table(rows)}\nrows: {path}")
        failed = failed or any(r.reason and r.provider.startswith("fused") for r in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
