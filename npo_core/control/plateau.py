"""Where a recorded run's plateau began, for a rollback to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from npo_core.config import Trigger
from npo_core.control.signals import readings


@dataclass(frozen=True)
class PlateauFound:
    """The newest plateau of a run: `began` is the update at which the average came within min_gain of its level."""

    began: int
    warned: int  # the newest update at which the signals warn
    level: float  # average pass rate there

    def rollback_step(self, snapshots: Iterable[int]) -> int | None:
        """The newest snapshot at or before the beginning; None where there is none."""
        return max((step for step in snapshots if step <= self.began), default=None)


def find_plateau(rows: Sequence[Mapping[str, Any]], trigger: Trigger) -> PlateauFound | None:
    """The plateau that the newest warning tells of, or None where nothing ever warned."""
    seen = readings(rows, trigger)
    newest = max((reading for reading in seen if reading.warning), key=lambda r: r.step, default=None)
    if newest is None:
        return None
    nearly = newest.pass_rate - max(trigger.min_gain, 0.0)
    began = next(r.step for r in seen if r.pass_rate >= nearly)
    return PlateauFound(began, newest.step, newest.pass_rate)
