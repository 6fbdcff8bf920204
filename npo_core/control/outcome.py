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


def compare_branches(timeline: Timeline, decision: Decision, replay: str) -> Result:
    """Training pass rate and entropy of both branches at the end of the replayed steps."""
    new, old = replayed_rows(timeline, decision, replay)
    windows = [summarise(name, rows) for name, rows in ((replay, new), (decision.branch, old))]
    return Result(
        number=decision.number,
        t0=decision.back_to.step,
        t1=new[-1]["step"],
        replay=windows[0],
        abandoned=windows[1],
        difference=windows[0].pass_rate - windows[1].pass_rate,
        groups_injected=int(sum(row["groups_injected"] or 0 for row in new)),
        groups_rescued=int(sum(row["groups_rescued"] or 0 for row in new)),
    )


def replayed_rows(timeline: Timeline, decision: Decision, replay: str) -> tuple[Rows, Rows]:
    """The updates of the replay, and of the abandoned branch over the same steps: a replay may run out of budget."""
    t0, t1 = decision.back_to.step, decision.step
    new = [row for row in path_rows(timeline, replay, t1) if row["step"] > t0]
    old = [row for row in path_rows(timeline, decision.branch, new[-1]["step"]) if row["step"] > t0]
    return new, old


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
