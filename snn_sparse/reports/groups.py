"""Groups of runs that are repetitions of each other: they differ in nothing but the seed."""

from typing import Any

from snn_sparse.tickets.settings import Settings

Report = dict[str, Any]
_IMP = ("imp", "imp+et", "transfer")
# Settings that only these methods look at.
ONLY_FOR = {
    "early_time_threshold": ("imp+et", "eb+et"),
    "prune_percent": _IMP,
    "prune_iterations": _IMP,
    "pruning_scope": _IMP,
    "rewinding_epoch": _IMP,
    "sparsity_round": ("eb", "eb+et", "snip"),
}
# They repeat a run (seed, round), change no result (valid_freq), or show as its sparsity.
NO_TRAIT = ("method", "seed", "round", "valid_freq", "sparsity_round", "like")
SHORT = {"timestep": "T", "timesteps_early": "T_early", "early_time_threshold": "threshold"}


def matters(setting: str, method: str) -> bool:
    """Whether a method looks at a setting."""
    return setting not in ONLY_FOR or method in ONLY_FOR[setting]


def _traits(report: Report) -> dict[str, Any]:
    """Settings that tell a run from others of its method, its seed apart; an older run knew fewer settings."""
    method = report["method"]
    settings = Settings().as_dict() | report["settings"]
    traits = {k: v for k, v in settings.items() if k not in NO_TRAIT and matters(k, method)}
    traits["device"] = str(traits["device"]).split(":")[0]
    if method.endswith("+et"):
        traits["timesteps_early"] = report["timesteps_early"]
    return traits


def by_label(reports: list[Report]) -> dict[str, list[Report]]:
    """Group the reports of equal method and settings, in the order in which they appear; seeds come together.

    A label is the method and every setting in which any two of the runs differ: ``imp``, ``imp vgg16``,
    ``imp+et threshold 0.4 T_early 3``.
    """
    traits = [_traits(report) for report in reports]
    values: dict[str, set[Any]] = {}
    for one in traits:
        for key, value in one.items():
            values.setdefault(key, set()).add(value)
    differing = [key for key, found in values.items() if len(found) > 1]
    groups: dict[str, list[Report]] = {}
    for report, one in zip(reports, traits, strict=True):
        words = [report["method"], *(_word(key, one[key]) for key in differing if key in one)]
        groups.setdefault(" ".join(words), []).append(report)
    return groups


def _word(key: str, value: Any) -> str:
    """A value that speaks for itself, or a number behind its name."""
    return value if isinstance(value, str) else f"{SHORT.get(key, key)} {'default' if value is None else value}"
