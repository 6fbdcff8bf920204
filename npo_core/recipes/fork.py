"""A fork: a run goes on from a snapshot that it shares with the run before, with settings of its own.

train on from there, guided where the run before was -> evaluate -> report

It neither scouts, nor guides anew, nor intervenes: where nothing changed it is the run before, bit for bit.
"""

from npo_core.recipes.steps import Guidance, Report, Steps
from npo_core.timeline import SnapshotRef


def fork(do: Steps) -> Report:
    """Train from the shared snapshot to `training.steps`, evaluate, report."""
    origin, at = do.forked, do.base()
    if origin.last is not None:
        at = SnapshotRef(step=origin.step, snapshot=do.snapshots(origin.last)[origin.step])
    name, legs = f"fork-{origin.step}", origin.onward(do.config.training.steps)
    guidance = [None if leg.cache is None else Guidance(leg.cache, leg.guides) for leg in legs]

    do.branch(name, at=at, reason=f"fork at step {origin.step}", guidance=guidance[0])
    for leg, guided in zip(legs, guidance, strict=True):
        quiet = leg.until if leg.watched else None  # signals and pool are kept, and nothing ends for them
        at = do.train(
            name, start=at, until=leg.until, guidance=guided, fresh=leg.fresh, quiet_until=quiet, rescue=leg.rescue
        ).last
    do.evaluate(name)
    return do.report()
