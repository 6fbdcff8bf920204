"""AutoNPO's decision as a record: what was seen, what was weighed, what was chosen."""

from typing import Any, Literal

from pydantic import Field

from npo_core.control.probe import Candidate
from npo_core.timeline.records import Record, SnapshotRef


class Price(Record):
    """What an intervention is expected to cost."""

    updates: float = Field(description="optimizer updates that are replayed")
    tokens: float = Field(description="generated: in the replay, by a guide, as extra samples")
    seconds: float = Field(
        description="by what updates and tokens took so far; in no choice, as no two runs agree on it"
    )


class Scored(Candidate):
    """A candidate with its variance cost and effective signal; `kl` is the KL that V takes, by choice.kl_estimator."""

    rescued: float | None = Field(None, description="failures that it is expected to solve")
    price: Price | None = None
    per_price: float | None = Field(None, description="failures solved / V / tokens")
    v: float | None = Field(description="V = exp(kl_scale x KL), the variance cost")
    s: float | None = Field(description="S = Q / V, the effective signal")
    excluded: str | None = Field(description="why it cannot be chosen; null: it can")


class Budget(Record):
    """What may still be spent, all branches counted; null: no limit."""

    updates: int | None = None
    tokens: int | None = None
    interventions: int | None = None


class Decision(Record):
    """What was seen, what was chosen, and why. Kept as `decisions/NNNN.json`; never changed."""

    number: int
    flow: Literal["auto-npo", "plateau-breakthrough"]
    branch: str
    step: int
    snapshot: str
    intervene: bool
    reason: str
    delta: int | None
    rollback: SnapshotRef | None
    signals: dict[str, Any] = Field(description="the reading that led here, and the window of updates behind it")
    thresholds: dict[str, Any]
    probe: str | None = Field(description="fingerprint of the probe stage")
    pool_q: float | None = Field(description="pass rate on all probed failures")
    candidates: list[Scored]
    left: Budget
    expected: dict[str, float] = Field(description="what the intervention costs: updates, tokens")
    choices: dict[str, int | None] = Field({}, description="the Delta that each rule would have chosen")

    @property
    def at(self) -> SnapshotRef:
        """The snapshot that was decided at, which guides."""
        return SnapshotRef(step=self.step, snapshot=self.snapshot)

    @property
    def back_to(self) -> SnapshotRef:
        """The snapshot that an intervention rolls back to. Raises ValueError where nothing is rolled back."""
        if self.rollback is None:
            raise ValueError(f"Decision {self.number} rolls nothing back.")
        return self.rollback

    @property
    def guide(self) -> SnapshotRef | None:
        """The snapshot behind that guides where nothing is rolled back; None: there is none."""
        chosen = next((c for c in self.candidates if c.delta == self.delta), None)
        if chosen is None or chosen.delta >= 0:
            return None
        return SnapshotRef(step=chosen.step, snapshot=chosen.snapshot)

    def complaint(self, answer: str, delta: int | None) -> str:
        """Why an answer to this proposal cannot be carried out; empty: it can."""
        able = [c.delta for c in self.candidates if c.excluded is None]
        if answer != "other" or delta in able:
            return ""
        return f"Delta = {delta} is no candidate: choose one of {', '.join(map(str, able))}. "

    def answered(self, answer: str, delta: int | None) -> "Decision":
        """This decision after somebody accepted it, chose another Delta, or declined."""
        if answer == "decline":
            return self.model_copy(update={"intervene": False, "delta": None, "rollback": None})
        if answer == "accept":
            return self
        chosen = next(c for c in self.candidates if c.delta == delta)
        return self.model_copy(update={"delta": delta, "rollback": rollback_of(chosen)})


def rollback_of(chosen: Candidate | None) -> SnapshotRef | None:
    """The snapshot to go back to; None where nothing is rolled back."""
    if chosen is None or chosen.delta <= 0:
        return None
    return SnapshotRef(step=chosen.step, snapshot=chosen.snapshot)
