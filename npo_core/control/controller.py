"""What a watched run keeps beside its weights: signals and mistake pool, as a file of every snapshot."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from npo_core.config import Control, Pool
from npo_core.control.pool import MistakePool
from npo_core.control.signals import Reading, Signals
from npo_core.errors import DataError

CONTROLLER_FILE = "npo_controller.json"


class Controller:
    """Told every update; says whether there is reason to look closer.

    Args:
        quiet_until: a warning at or before this update does not count (cooldown, or nothing may be done about it).
    """

    def __init__(self, control: Control, quiet_until: int = 0):
        self.signals, self.pool = Signals(control.trigger), MistakePool(control.pool)
        self.quiet_until = quiet_until
        self.reading: Reading | None = None

    @property
    def warning(self) -> bool:
        """Whether the newest update warns."""
        return self.reading is not None and self.reading.warning and self.reading.step > self.quiet_until

    def update(self, row: Mapping[str, Any], outcomes: Iterable[tuple[str, float]]) -> None:
        """Take in the metrics of an update and (prompt id, pass rate) of its generation batch."""
        self.reading = self.signals.update(row) or self.reading
        self.pool.add(row["step"], outcomes)

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        state = {"signals": self.signals.state(), "pool": self.pool.state()}
        (folder / CONTROLLER_FILE).write_text(json.dumps(state, sort_keys=True))

    def load(self, folder: Path) -> None:
        """Go on from the state in a snapshot's folder; one that was not watched has none, and the state is empty."""
        if (file := folder / CONTROLLER_FILE).exists():
            state = json.loads(file.read_text())
            self.signals.restore(state["signals"])
            self.pool.restore(state["pool"])


def read_pool(folder: Path) -> MistakePool:
    """The mistake pool of a snapshot. Raises DataError where the run was not watched."""
    file = folder / CONTROLLER_FILE
    if not file.exists():
        raise DataError(
            f"Snapshot {folder.name} has no mistake pool ({CONTROLLER_FILE}): only runs of the flow auto-npo keep one."
        )
    pool = MistakePool(Pool())
    pool.restore(json.loads(file.read_text())["pool"])
    return pool
