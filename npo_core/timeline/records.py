"""The records of a run: branches and segments."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # it becomes a file's name
SnapshotId = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    """Base of what is stored: frozen, and nothing unknown is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SnapshotRef(Record):
    """A snapshot by step and id."""

    step: int
    snapshot: SnapshotId


class Branch(Record):
    """A line of training that leaves a snapshot.

    Example:
        Branch(name="replay", parent="3f2a9c0d11e0b7aa", parent_step=0, reason="guided replay",
               guide=["8c1d22e09a4b5f61"], cache="c41f77aa01b2c3d4")
    """

    name: Name
    parent: SnapshotId | None  # the snapshot it starts from; None: the base model, as its first segment finds it
    parent_step: int = Field(ge=0)
    reason: str
    guide: list[str] = []  # snapshots whose trajectories are injected
    cache: str | None = None  # the guidance cache they lie in
    order: int = Field(0, ge=0)  # how many branches there were when it was opened; the timeline sets it


class Segment(Record):
    """The steps (t0, t1] trained on one branch.

    Example:
        Segment(id="5d0c...", branch="replay", start="3f2a...", end="77aa...", t0=0, t1=60,
                snapshots={20: "91bc...", 40: "a0f3...", 60: "77aa..."}, parts=[20, 40, 60], cache="c41f...",
                cost={"tokens_generated": 1.2e6, "updates": 60, "seconds": 410.0})
    """

    id: Name
    branch: Name
    start: SnapshotId  # after step t0
    end: SnapshotId  # after step t1
    t0: int = Field(ge=0)
    t1: int
    snapshots: dict[int, SnapshotId]  # step -> snapshot, in (t0, t1]
    parts: list[int]  # the steps at which a part of the metrics ends, in (t0, t1]
    cache: str | None = None  # the guidance cache that was injected from
    cost: dict[str, float] = {}  # tokens_generated, updates, seconds, ...

    @model_validator(mode="after")
    def _steps_fit(self) -> Segment:
        if self.t1 <= self.t0:
            raise ValueError(f"segment {self.id} ends at step {self.t1}, not after its start {self.t0}")
        outside = [step for step in [*self.snapshots, *self.parts] if not self.t0 < step <= self.t1]
        if outside:
            raise ValueError(f"segment {self.id} covers ({self.t0}, {self.t1}] but names the steps {outside}")
        if self.snapshots.get(self.t1, self.end) != self.end:
            raise ValueError(f"segment {self.id} ends in {self.end} but has {self.snapshots[self.t1]} at {self.t1}")
        return self

    def produced(self) -> dict[int, str]:
        """The snapshots it made: step -> id, the end included."""
        return {**self.snapshots, self.t1: self.end}
