"""Plans on disk: ``SNN_SPARSE_CACHE`` names another file than that in the user's cache; an empty value is none."""

import json
import os
from pathlib import Path
from typing import Any


class PlanFile:
    """Plans by key, as dictionaries; an unreadable or unwritable file is as good as none."""

    def __init__(self) -> None:
        default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "snn_sparse" / "plans.json"
        name = os.environ.get("SNN_SPARSE_CACHE", str(default))
        self.path = Path(name) if name else None

    def read(self) -> dict[str, Any]:
        """All plans by key."""
        try:
            found = json.loads(self.path.read_text()) if self.path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def get(self, key: str) -> Any:
        """The plan under ``key``, or None."""
        return self.read().get(key)

    def put(self, key: str, plan: dict[str, Any]) -> None:
        """Add a plan, through a temporary file and a rename."""
        if self.path is None:
            return
        plans = self.read() | {key: plan}
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(plans, indent=1))
            os.replace(temporary, self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
