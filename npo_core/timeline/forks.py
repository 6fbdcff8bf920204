"""Where a run was forked from: the record that a forked workspace keeps beside its configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from npo_core.errors import DamagedError
from npo_core.names import FORK_FILE
from npo_core.timeline.records import Name, Record, SnapshotId, SnapshotRef
from npo_core.timeline.store import Store


class Leg(Record):
    """How a branch went on up to a step: what a fork repeats from there with its own settings.

    Example:
        Leg(until=60, cache="c41f77aa01b2c3d4", guides=["8c1d22e09a4b5f61"])
    """

    until: int = Field(ge=1)
    cache: str | None = None  # the guidance cache that was injected from
    guides: list[str] = []  # the snapshots that wrote it
    fresh: int = 0  # which random numbers it was sampled with, 0 those of the run
    watched: bool = False  # whether AutoNPO's signals and mistake pool were kept
    rescue: bool = False  # whether failures came again, and dead groups were guided


class Fork(Record):
    """Where a run was forked from, what it changed, and how the run before it went on there."""

    workspace: str  # URI of the run before
    step: int = Field(ge=0)
    snapshot: SnapshotId
    branch: Name  # of the run before, whose path is shared
    last: Name | None  # the last branch of that path that was shared; None: nothing was trained on it
    changes: dict[str, Any] = {}  # dotted field -> value
    legs: list[Leg] = []  # of the path beyond the step
    guides: dict[str, int] = {}  # snapshots of the run before that wrote guidance of the path -> their steps

    @property
    def at(self) -> SnapshotRef:
        """The snapshot that both runs share and training goes on from."""
        return SnapshotRef(step=self.step, snapshot=self.snapshot)

    def onward(self, steps: int) -> list[Leg]:
        """The legs from the fork to the end of the run; beyond those of the run before, without guidance."""
        legs = [leg for leg in self.legs if leg.until > self.step]
        last = legs[-1] if legs else Leg(until=steps)
        legs.append(Leg(until=steps, fresh=last.fresh, watched=last.watched))
        found: list[Leg] = []
        for leg in legs:
            leg = leg.model_copy(update={"until": min(leg.until, steps)})
            begins = found[-1].until if found else self.step
            if leg.until <= begins:
                continue
            if found and found[-1].model_copy(update={"until": leg.until}) == leg:
                found.pop()
            found.append(leg)
        return found

    def in_words(self) -> str:
        """One sentence: workspace, step, snapshot, changes."""
        changed = ", ".join(f"{name} = {value!r}" for name, value in self.changes.items())
        with_ = f"with {changed}" if changed else "without changes"
        return f"Forked from {self.workspace} at step {self.step} of {self.branch} (snapshot {self.snapshot}), {with_}."


def read_fork(store: Store) -> Fork | None:
    """Where the run in a workspace was forked from; None: it was not. Raises DamagedError on a damaged record."""
    values = store.read_json(FORK_FILE, default=None)
    try:
        return None if values is None else Fork.model_validate(values)
    except ValidationError as error:
        raise DamagedError(
            f"{store.uri}/{FORK_FILE} is no record of a fork ({error.errors()[0]['msg']}): delete the workspace and "
            "start the same `npo fork` again."
        ) from None


def origin(fork: Fork) -> dict[str, Any]:
    """Where a run was forked from, JSON-able, with a sentence that says it."""
    kept = fork.model_dump(mode="json", include={"workspace", "step", "snapshot", "branch", "changes"})
    return {**kept, "sentence": fork.in_words()}
