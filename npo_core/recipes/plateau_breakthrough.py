"""Late-stage plateau breakthrough (paper, section 3.1), on a run that was trained before or is trained here.

find the plateau -> the later snapshot guides -> roll back -> replay guided -> go on unguided -> evaluate -> report
"""

from npo_core.config import Plateau, RunConfig
from npo_core.control.breakthrough import branch_name, rollback_step
from npo_core.control.decision import Decision
from npo_core.errors import ConfigError
from npo_core.recipes.steps import Report, Steps
from npo_core.timeline import SnapshotRef


def plateau_breakthrough(do: Steps, plateau: Plateau = Plateau()) -> Report:  # noqa: B008, a frozen model
    """Roll a run back to where its plateau began and replay it guided by its own later snapshot.

    The same settings on the same run are the same intervention, taken up where it was.
    """
    base = do.base()
    decision = do.planned(plateau) or find(do, plateau, base)
    last = break_through(do, plateau, decision) if decision.intervene else decision.branch
    do.evaluate(decision.branch, last)
    return do.report()


def find(do: Steps, plateau: Plateau, base: SnapshotRef) -> Decision:
    """Train as far as the guide, if need be, and find where to roll back to."""
    check_end(do.config, plateau)
    branch = plateau.branch or do.final()
    if branch is None:
        branch = "main"
        do.branch(branch, at=base, reason="GRPO")
    states, training = do.snapshots(branch), do.config.training
    newest = max(states)
    guide = plateau.guide_step or max(newest, training.steps)
    to_come = [step for step in range(0, guide, training.snapshot_every) if step > newest]
    rollback_step(plateau, [], [step for step in [*states, *to_come] if step < guide])  # refused before training
    if guide > newest:
        start = SnapshotRef(step=newest, snapshot=states[newest])
        states |= do.train(branch, start=start, until=guide).snapshots
    if guide not in states:
        raise ConfigError(
            f"plateau.guide_step = {guide}: branch {branch} has snapshots of the steps "
            f"{', '.join(map(str, sorted(states)))}; choose one of them, or a later step."
        )
    return do.plan_rollback(plateau, branch, SnapshotRef(step=guide, snapshot=states[guide]))


def break_through(do: Steps, plateau: Plateau, decision: Decision) -> str:
    """Guidance from the later snapshot, rollback, guided replay, and on; the new branch."""
    name, rollback = branch_name(decision), decision.back_to
    guidance = None
    if plateau.guided:
        guidance = do.guide([decision.at], rollback=rollback, branch=decision.branch)

    do.branch(name, at=rollback, reason=f"plateau breakthrough, decision {decision.number}", guidance=guidance)
    fresh = int(plateau.fresh_randomness)
    replay = do.train(name, start=rollback, until=decision.step, guidance=guidance, fresh=fresh)
    do.outcome(decision, name)

    end = plateau.until or max(do.config.training.steps, decision.step)
    if end > decision.step:
        do.train(name, start=replay.last, until=end, fresh=fresh)
    return name


def check_end(config: RunConfig, plateau: Plateau) -> None:
    """Refuse steps that cannot be trained, before anything is.

    Raises:
        ConfigError: the end lies before the guide, or beyond the learning rate's schedule.
    """
    training = config.training
    guide, end = plateau.guide_step or 0, plateau.until or 0
    if 0 < end < guide:
        raise ConfigError(
            f"plateau.until = {end} is before plateau.guide_step = {guide}: the replay ends at the guide."
        )
    if max(guide, end) > training.steps and not training.lr_schedule.startswith("constant"):
        raise ConfigError(
            f"plateau.until or guide_step = {max(guide, end)} is beyond training.steps = {training.steps}, where the "
            f"learning rate of training.lr_schedule = {training.lr_schedule} has ended: stay within it."
        )
