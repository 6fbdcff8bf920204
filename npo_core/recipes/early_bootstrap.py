"""Early-stage bootstrapping (paper, section 3.1).

scout -> guidance -> roll back -> replay guided -> go on unguided -> evaluate -> report
"""

from npo_core.recipes.steps import Report, Steps
from npo_core.stages.results import TrainResult
from npo_core.timeline import SnapshotRef


def early_bootstrap(do: Steps) -> Report:
    """A short scout run from the base; its last checkpoint guides a restart from the base."""
    steps, fresh = do.config.training.steps, int(do.config.bootstrap.fresh_randomness)
    replay = bootstrap(do, do.base())
    if steps > replay.step:
        do.train("replay", start=replay.last, until=steps, fresh=fresh)
    do.evaluate("replay")
    return do.report()


def bootstrap(do: Steps, base: SnapshotRef, watched: bool = False) -> TrainResult:
    """Train a scout, let it guide, roll back to the base, and replay the scout's steps guided; the replay.

    `watched` keeps AutoNPO's signals and mistake pool on the way; no warning ends these segments.
    """
    plan = do.config.bootstrap
    end = do.config.scout_steps
    quiet_until = end if watched else None

    do.branch("scout", at=base, reason="scout")
    scout = do.train("scout", start=base, until=end, quiet_until=quiet_until)

    guidance = None
    if plan.guided:
        guidance = do.guide([scout.at(step) for step in do.config.guide_steps], rollback=base, branch="scout")

    do.branch("replay", at=base, reason="rollback", guidance=guidance)
    fresh = int(plan.fresh_randomness)
    return do.train("replay", start=base, until=end, guidance=guidance, fresh=fresh, quiet_until=quiet_until)
