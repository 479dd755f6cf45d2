"""``python -m benchmarks [CASE]``: run one case, or all of them, and write their rows."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

import torch

from benchmarks import compiled, fusing, levels, neuron, search, spikes, train_step
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
    compiling = commands.add_parser("compile", help=(compiled.__doc__ or "").splitlines()[0])
    compiled.add_flags(compiling)
    surviving = commands.add_parser("survive", help=(survival.__doc__ or "").splitlines()[0])
    survival.add_flags(surviving)
    comparing = commands.add_parser("tickets", help=(tickets.__doc__ or "").splitlines()[0])
    tickets.add_flags(comparing)
    args = parser.parse_args(argv)
    if args.case == "publish":
        publish()
        publish_tickets()
        return 0
    if args.case == "survive":
        return survival.run(args)
    if args.case == "tickets":
        return tickets.run(args)
    if args.case == "compile":
        return compiled.run(args)
    failed = False
    for name in [args.case] if args.case else ALL:
        chosen = args if args.case else parsers[name].parse_args([])
        if chosen.device.startswith("cuda") and not torch.cuda.is_available():
            parser.exit(2, "benchmarks: error: --device cuda, but torch sees no GPU\n")
        try:
            rows = CASES[name].run(chosen)
        except ValueError as error:
            parser.exit(2, f"benchmarks: error: {error}\n")
        path = write(rows, name)
        if CASES[name] is fusing:
            publish_fusing()
        print(f"{table(rows)}\nrows: {path}")
        failed = failed or any(r.reason and r.provider.startswith("fused") for r in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
