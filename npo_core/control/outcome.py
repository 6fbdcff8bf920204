"""What an intervention brought: the replay against the branch it left, over the same steps and prompts."""

from collections.abc import Sequence
from typing import Any

from npo_core.control.decision import Decision
from npo_core.control.records import Result, Window
from npo_core.control.way import way_rows
from npo_core.timeline import Timeline

LAST = 5  # the last fifth of the replayed steps is compared


def compare_branches(timeline: Timeline, decision: Decision, replay: str) -> Result:
    """Training pass rate and entropy of both branches at the end of the replayed steps."""
    t0, t1 = decision.rollback.step, decision.step
    old, new = ([row for row in way_rows(timeline, name, t1) if row["step"] > t0] for name in (decision.branch, replay))
    windows = [summarise(name, rows) for name, rows in ((replay, new), (decision.branch, old))]
    return Result(
        number=decision.number,
        t0=t0,
        t1=new[-1]["step"],
        replay=windows[0],
        abandoned=windows[1],
        difference=windows[0].pass_rate - windows[1].pass_rate,
        groups_injected=int(sum(row["groups_injected"] or 0 for row in new)),
        groups_rescued=int(sum(row["groups_rescued"] or 0 for row in new)),
    )


def summarise(branch: str, rows: Sequence[dict[str, Any]]) -> Window:
    last = rows[-max(len(rows) // LAST, 1) :]
    return Window(branch=branch, pass_rate=mean(last, "pass_rate"), entropy=mean(last, "entropy"))


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values)
