"""Many searches from one file: planned, run side by side or one after the other, taken up again after a stop."""

from snn_sparse.sweep.plan import Plan, PlannedSearch, read_plan
from snn_sparse.sweep.process import Outcome
from snn_sparse.sweep.run import run_sweep
from snn_sparse.sweep.workers import Workers

__all__ = ["Outcome", "Plan", "PlannedSearch", "Workers", "read_plan", "run_sweep"]
