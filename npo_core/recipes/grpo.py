"""Plain GRPO, the baseline of every claim; and with `mix`, the methods that need no rollback.

train [-> guidance from a past self, a teacher or a file -> train on guided] -> evaluate -> report
"""

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
        behind = []
        if guide.kind == "snapshot":
            behind = [SnapshotRef(step=guide.step, snapshot=do.snapshots("main")[guide.step])]
        do.train("main", start=start, until=steps, guidance=do.guide_ahead(behind, start, until=steps))
    do.evaluate("main")
    return do.report()
