"""What an intervention brought: the replay against the branch it left, over the same steps and prompts."""

from collections.abc import Sequence
from typing import Any

from npo_core.control.decision import Decision
from npo_core.control.path import path_rows
from npo_core.control.records import Result, Window
from npo_core.control.signals import watched_entropy
from npo_core.timeline import Timeline

Rows = list[dict[str, Any]]
LAST = 5  # the last fifth of the replayed steps is compared


def compare_branches(timeline: Timeline, decision: Decision, branch: str) -> Result:
    """Training pass rate and entropy at the end of the replayed steps, of both branches; of a rescue, its own alone."""
    new, old = replayed_rows(timeline, decision, branch)
    mine, theirs = summarise(branch, new), summarise(decision.branch, old) if old else None
    return Result(
        number=decision.number,
        t0=(decision.rollback or decision.at).step,
        t1=new[-1]["step"],
        replay=mine,
        abandoned=theirs,
        difference=None if theirs is None else mine.pass_rate - theirs.pass_rate,
        groups_injected=int(sum(row["groups_injected"] or 0 for row in new)),
        groups_rescued=int(sum(row["groups_rescued"] or 0 for row in new)),
    )


def replayed_rows(timeline: Timeline, decision: Decision, branch: str) -> tuple[Rows, Rows]:
    """The updates of the replay, and of the abandoned branch over the same steps: a replay may run out of budget.

    Of a rescue: its updates, and none, as it leaves no branch.
    """
    t0 = (decision.rollback or decision.at).step
    if decision.rollback is None:
        until = next(segment.t1 for segment in timeline.path(branch) if segment.t0 == t0)
        return [row for row in path_rows(timeline, branch, until) if row["step"] > t0], []
    new = [row for row in path_rows(timeline, branch, decision.step) if row["step"] > t0]
    return new, [row for row in path_rows(timeline, decision.branch, new[-1]["step"]) if row["step"] > t0]


def summarise(branch: str, rows: Sequence[dict[str, Any]]) -> Window:
    """Means over the last fifth of the updates that generated."""
    seen = [row for row in rows if row["pass_rate"] is not None]
    last = seen[-max(len(seen) // LAST, 1) :]
    return Window(
        branch=branch,
        pass_rate=mean([row["pass_rate"] for row in last]),
        entropy=mean([nats for row in last if (nats := watched_entropy(row)) is not None]),
    )


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)
