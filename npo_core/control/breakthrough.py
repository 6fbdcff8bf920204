"""The plan of a late-stage plateau breakthrough: where to roll back to, with which guide, as a decision's record."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from npo_core.config import Plateau, Trigger
from npo_core.control.decide import describe, quiet
from npo_core.control.decision import Budget, Decision
from npo_core.control.plateau import find_plateau
from npo_core.control.signals import readings
from npo_core.errors import ConfigError
from npo_core.names import PLATEAU
from npo_core.timeline import SnapshotRef


def plan_rollback(
    plateau: Plateau,
    rows: Sequence[Mapping[str, Any]],
    states: Mapping[int, str],
    *,
    number: int,
    branch: str,
    guide: SnapshotRef,
) -> Decision:
    """Roll back to the step that was given, or to where a plateau is found to begin.

    Args:
        rows: metrics of every update up to the guide. states: step -> snapshot on the path there.

    Raises:
        ConfigError: there is no snapshot at the step that was given.
    """
    step, reason = rollback_step(plateau, rows, [step for step in states if step < guide.step])
    seen = readings(rows, plateau.trigger)
    tokens = [row["tokens_generated"] or 0.0 for row in rows if step is not None and row["step"] > step]
    return Decision(
        number=number,
        flow=PLATEAU,
        branch=branch,
        step=guide.step,
        snapshot=guide.snapshot,
        intervene=step is not None,
        reason=reason,
        delta=None if step is None else guide.step - step,
        rollback=None if step is None else SnapshotRef(step=step, snapshot=states[step]),
        signals=describe(rows, seen, plateau.trigger),
        thresholds=plateau.model_dump(mode="json"),
        probe=None,
        pool_q=None,
        candidates=[],
        left=Budget(),
        expected={"updates": float(0 if step is None else guide.step - step), "tokens": float(sum(tokens))},
    )


def rollback_step(
    plateau: Plateau, rows: Sequence[Mapping[str, Any]], earlier: Sequence[int]
) -> tuple[int | None, str]:
    """The step to roll back to (None: there is no plateau) and the reason."""
    given = plateau.rollback_step
    if given is not None:
        if given not in earlier:
            known = ", ".join(map(str, earlier)) or "none"
            raise ConfigError(
                f"plateau.rollback_step = {given}: there is no snapshot before the guide at this step; choose one of "
                f"{known}."
            )
        return given, f"The rollback to step {given} was given."
    found = find_plateau(rows, plateau.trigger)
    if found is None:
        return None, f"No plateau, so nothing is rolled back: {silent(rows, plateau.trigger)}"
    step = found.rollback_step(earlier)
    if step is None:
        return None, f"The plateau began at update {found.began}, before the first snapshot."
    return step, (
        f"The signals last warn at update {found.warned}; the average pass rate {found.level:.3f} there was nearly "
        f"reached at update {found.began}, and the snapshot of step {step} is the last before that."
    )


def silent(rows: Sequence[Mapping[str, Any]], trigger: Trigger) -> str:
    """Why the signals of a run never warn."""
    last = rows[-1]["step"] if rows else 0
    if last < trigger.warm_up:
        return f"a warm-up (trigger.warm_up) of {trigger.warm_up} updates is longer than the run's {last}."
    if last <= trigger.window:
        return f"a window (trigger.window) of {trigger.window} updates leaves nothing to compare in the run's {last}."
    seen = readings(rows, trigger)
    return "the signals never warn; at the end, " + quiet(seen[-1] if seen else None, trigger)


def branch_name(decision: Decision) -> str:
    """The branch of a plan: `late-<rollback>-<guide>-<6 hex digits of all that decides it>`."""
    content = [decision.back_to.snapshot, decision.snapshot, decision.thresholds]
    digits = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]
    return f"late-{decision.back_to.step}-{decision.step}-{digits}"
