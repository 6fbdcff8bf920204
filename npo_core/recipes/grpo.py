"""Plain GRPO, the baseline of every claim; and with `mix`, the methods that need no rollback.

train [-> guidance from a past self, a teacher or a file -> train on guided] -> evaluate -> report
"""

from collections.abc import Collection

from npo_core.config import ExtrapolatedGuide, Guide, NearestGuide, SnapshotGuide
from npo_core.recipes.steps import Report, Steps
from npo_core.timeline import SnapshotRef


def grpo(do: Steps) -> Report:
    """Train from the base to `training.steps`, evaluate, report."""
    guide, steps, start = do.config.mix.guide, do.config.training.steps, do.base()
    do.branch("main", at=start, reason="GRPO")
    if guide is None:
        do.train("main", start=start, until=steps)
    else:
        if guide.from_step:
            start = do.train("main", start=start, until=guide.from_step).last
        states = do.snapshots("main")
        behind = [SnapshotRef(step=step, snapshot=states[step]) for step in steps_behind(guide, states)]
        do.train("main", start=start, until=steps, guidance=do.guide_ahead(behind, start, until=steps))
    do.evaluate("main")
    return do.report()


def steps_behind(guide: Guide, states: Collection[int]) -> list[int]:
    """The steps of the run's own snapshots that guide, or that a guide is made of."""
    if isinstance(guide, SnapshotGuide):
        return [guide.step]
    if isinstance(guide, ExtrapolatedGuide):
        return [guide.step, guide.from_step]
    if isinstance(guide, NearestGuide):
        return [step for step in sorted(states, reverse=True) if step % guide.every == 0 and step < guide.from_step]
    return []
