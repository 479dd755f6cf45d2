"""A planned sweep carried out: the finished is left alone, what needs another search waits, signals are passed on."""

from collections.abc import Callable

from snn_sparse.sweep.on_ray import run_on_ray
from snn_sparse.sweep.planned import Plan, PlannedSearch
from snn_sparse.sweep.process import Outcome, Report, is_finished, lock_file, run_search_process, without
from snn_sparse.sweep.workers import Stop, Workers

Tell = Callable[[str], None]


def run_sweep(plan: Plan, workers: Workers, tell: Tell) -> tuple[list[Outcome], int | None]:
    """Run all searches of a sweep that are not finished.

    Args:
        plan: the sweep.
        workers: how many at a time, and where.
        tell: prints a line of progress.

    Returns:
        how each search ended, in the plan's order, and the signal that stopped the sweep, if one did.

    Raises:
        ValueError: another sweep runs in the same directory, or Ray cannot give what a search needs.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with (plan.out / "sweep.lock").open("ab") as lock:
        if not lock_file(lock, 0):
            raise ValueError(f"out {plan.out}: another sweep runs there")
        return _run(plan, workers, tell)


def _run(plan: Plan, workers: Workers, tell: Tell) -> tuple[list[Outcome], int | None]:
    found: dict[str, Outcome] = {}

    def report(outcome: Outcome) -> None:
        found[outcome.name] = outcome
        ending = f": {outcome.reason}" if outcome.reason else f" in {outcome.seconds:.0f} s"
        tell(f"[{len(found)}/{len(plan.searches)}] {outcome.name} {outcome.state}{ending}")

    for search in plan.searches:
        if is_finished(search):
            report(Outcome(search.name, "done", "finished before"))
    left = [search for search in plan.searches if search.name not in found]
    stop = Stop()
    if left and workers.on_ray:
        run_on_ray(left, dict(found), workers, stop, report)
    elif left:
        if (workers.count or 1) > 1:
            tell("ray is not installed (pip install 'snn_sparse[sweep]'): the searches run one after the other")
        with stop.listening():
            _one_by_one(left, found, workers.cpus, stop, report)
    return [found[search.name] for search in plan.searches], stop.number


def _one_by_one(
    searches: list[PlannedSearch], found: dict[str, Outcome], threads: int | None, stop: Stop, report: Report
) -> None:
    for search in searches:
        needed = found[search.after] if search.after else None
        if stop.number is not None:
            report(Outcome(search.name, "stopped", "not started"))
        elif needed is not None and needed.state != "done":
            report(without(search, needed))
        else:
            report(run_search_process(search, threads, lambda: stop.number))
