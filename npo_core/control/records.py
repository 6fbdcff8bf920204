"""Decisions in the workspace: `decisions/NNNN.json`, what came of each, and what people said to it."""

from typing import Any, Literal

from pydantic import Field, ValidationError

from npo_core.control.decision import Decision
from npo_core.errors import DamagedError
from npo_core.names import AUTO_NPO
from npo_core.timeline import Store, json_bytes
from npo_core.timeline.records import Record

FOLDER = "decisions"


class Window(Record):
    """A stretch of a branch: means over the last fifth of the replayed steps."""

    branch: str
    pass_rate: float = Field(description="on-policy, in training")
    entropy: float = Field(description="nats a token")


class Result(Record):
    """What an intervention brought: the replay against the abandoned branch on the same prompts.

    A rescue leaves no branch: `replay` is the branch that went on, over the rescue's updates.
    """

    number: int
    t0: int
    t1: int
    replay: Window
    abandoned: Window | None
    difference: float | None = Field(description="pass rate of the replay minus that of the abandoned branch")
    groups_injected: int
    groups_rescued: int = Field(description="groups that were all wrong and got a correct slot")


class Approval(Record):
    """What somebody said to a proposed intervention."""

    answer: Literal["accept", "other", "decline"]
    delta: int | None = Field(None, description="with `other`: the Delta of another candidate")
    by: str = ""


class Decisions:
    """The decisions of a run. Records are added, never changed."""

    def __init__(self, store: Store):
        self.store = store

    def all(self) -> list[Decision]:
        """Every decision, in order."""
        names = [name.removesuffix(".json") for name in self.store.list(FOLDER)]
        return [self._read(Decision, name) for name in sorted(names) if name.isdigit()]

    def get(self, number: int) -> Decision | None:
        """The decision of this number; None where it is not recorded."""
        return self._read(Decision, f"{number:04d}")

    def add(self, decision: Decision) -> Decision:
        """Keep a decision; one that was recorded under its number before is returned instead."""
        return self._add(decision, f"{decision.number:04d}")

    def waiting(self) -> Decision | None:
        """The newest proposal of AutoNPO, if it was neither answered nor carried out."""
        newest = next((d for d in reversed(self.all()) if d.flow == AUTO_NPO), None)
        if newest is None or not newest.intervene or self.approval(newest.number) is not None:
            return None
        return newest if self.result(newest.number) is None else None

    def result(self, number: int) -> Result | None:
        """The outcome of a decision's replay; None where it is not recorded."""
        return self._read(Result, f"{number:04d}-outcome")

    def add_result(self, result: Result) -> Result:
        """Record an outcome."""
        return self._add(result, f"{result.number:04d}-outcome")

    def approval(self, number: int) -> Approval | None:
        """What somebody answered to a decision; None where nobody did."""
        return self._read(Approval, f"{number:04d}-approval")

    def add_approval(self, number: int, approval: Approval) -> Approval:
        """Record an answer."""
        return self._add(approval, f"{number:04d}-approval")

    def _read(self, kind: type[Record], name: str) -> Any:
        rel = f"{FOLDER}/{name}.json"
        values = self.store.read_json(rel, default=None)
        try:
            return None if values is None else kind.model_validate(values)
        except ValidationError as error:
            raise DamagedError(
                f"{self.store.uri}/{rel} is no record of a decision ({error.errors()[0]['msg']}): restore it."
            ) from error

    def _add(self, record: Record, name: str) -> Any:
        rel = f"{FOLDER}/{name}.json"
        if self.store.create_bytes(rel, json_bytes(record.model_dump(mode="json"))):
            return record
        return self._read(type(record), name)
