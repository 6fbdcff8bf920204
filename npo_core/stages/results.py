"""What each stage gives back: typed records, kept as `result` in the stage's result.json."""

from typing import Any, ClassVar

from pydantic import Field

from npo_core.control.probe import ProbeResult
from npo_core.evaluation.score import SnapshotScore
from npo_core.timeline.records import Record, SnapshotRef


class Cost(Record):
    """What a stage spent; None: it has no such cost."""

    updates: float | None = Field(None, description="optimizer updates")
    tokens_generated: float | None = Field(None, description="by a policy or a guide")
    samples: float | None = Field(None, description="completions drawn from guides")
    seconds: float | None = Field(None, description="of the work itself, over all tries")
    snapshot_seconds: float | None = Field(None, description="in which training waited for snapshots")

    def as_dict(self) -> dict[str, float]:
        """The costs that there are, by name."""
        return self.model_dump(exclude_none=True)


class Result(Record):
    """Fields of every result."""

    stage: ClassVar[str]

    cost: Cost = Cost()

    def as_json(self) -> dict[str, Any]:
        """What result.json keeps: the fields that were set."""
        return self.model_dump(mode="json", exclude_unset=True)


class BaseResult(Result):
    """The model that a run starts from."""

    stage: ClassVar[str] = "base"

    snapshot: str = Field(description="id of the snapshot of step 0")
    made: bool = Field(description="whether this stage trained it")
    bytes: int
    problems: dict[str, Any] | None = Field(None, description="the report of problems from data, by part")


class TrainResult(Result):
    """A trained segment."""

    stage: ClassVar[str] = "train"

    segment: str
    end: str = Field(description="id of its last snapshot")
    step: int = Field(description="update at which it ended")
    ended: str = Field(description="why it ended there: until, warning, tokens or rescued")
    snapshots: dict[int, str] = Field(description="step -> id of every snapshot it made")

    @property
    def last(self) -> SnapshotRef:
        """The last snapshot."""
        return SnapshotRef(step=self.step, snapshot=self.end)

    def at(self, step: int) -> SnapshotRef:
        """The snapshot after an update of the segment."""
        return SnapshotRef(step=step, snapshot=self.snapshots[step])


class GuideResult(Result):
    """A guidance cache."""

    stage: ClassVar[str] = "guide"

    cache: str
    rows: int = Field(description="trajectories in it")
    coverage: float | None = Field(description="share of the asked prompts that have one, Q")
    asked: int = Field(description="prompts asked")
    skipped: int = Field(description="prompts that were passed already")


class ProbeStageResult(Result):
    """The estimates of a probe."""

    stage: ClassVar[str] = "probe"

    probe: ProbeResult


class EvaluateResult(Result):
    """Scores of snapshots, in the order they were asked for."""

    stage: ClassVar[str] = "evaluate"

    scores: list[SnapshotScore]


RESULTS: dict[str, type[Result]] = {
    kind.stage: kind for kind in (BaseResult, TrainResult, GuideResult, ProbeStageResult, EvaluateResult)
}
