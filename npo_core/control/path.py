"""What was recorded on the path of a branch: metrics of updates, in their order."""

from typing import Any

from npo_core.timeline import Timeline
from npo_core.timeline.segments import read_steps


def path_rows(timeline: Timeline, branch: str, until: int) -> list[dict[str, Any]]:
    """One row of `STEP_SCHEMA` for each update from the root to step `until` on the path to the branch's tip."""
    rows: list[dict[str, Any]] = []
    for stretch in timeline.stretches(branch):
        last = min(stretch.t1, until)
        if last > stretch.t0:
            table = read_steps(timeline.store, stretch.segment)
            rows += [row for row in table.to_pylist() if stretch.t0 < row["step"] <= last]
    return rows
