"""The steps that recipes are made of.

A recipe is a function of `Steps`. Who takes the steps decides what happens: `local.LocalSteps` runs each stage right
here, Prefect's steps run it as a task, and `counting.CountingSteps` runs nothing and counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from npo_core.config import Plateau, RunConfig
from npo_core.control.decision import Budget, Decision
from npo_core.control.probe import ProbeResult
from npo_core.stages.results import EvaluateResult, TrainResult
from npo_core.timeline import Fork, SnapshotRef

Report = Mapping[str, Any]  # the content of report.json


@dataclass(frozen=True)
class Guidance:
    """A guidance cache, and the snapshots that wrote it."""

    cache: str
    guides: list[str]


@dataclass(frozen=True)
class Probed:
    """What a probe found, and the fingerprint of its stage."""

    result: ProbeResult
    fingerprint: str


class Steps(Protocol):
    """What a recipe may do. Every step that was taken before returns at once with what it gave then."""

    @property
    def config(self) -> RunConfig:
        """Everything that decides the run."""
        ...

    @property
    def budget(self) -> Budget:
        """What `auto.budget_updates` and `auto.budget_tokens` still allow, evaluations not counted."""
        ...

    @property
    def forked(self) -> Fork:
        """Where the run was forked from, and how the run before went on there.

        Raises:
            DataError: it was not forked.
        """
        ...

    def base(self) -> SnapshotRef:
        """The model that the run starts from, as the snapshot of step 0."""
        ...

    def branch(self, name: str, at: SnapshotRef, reason: str, guidance: Guidance | None = None) -> None:
        """Open a branch at a snapshot; where it is older than the newest, that is a rollback."""
        ...

    def final(self) -> str | None:
        """The branch that was opened last; None before the first."""
        ...

    def snapshots(self, branch: str) -> dict[int, str]:
        """The snapshots on the way from the base to the branch's tip: step -> id, rising.

        Raises:
            DataError: there is no such branch.
        """
        ...

    def train(
        self,
        branch: str,
        start: SnapshotRef,
        until: int,
        *,
        guidance: Guidance | None = None,
        fresh: int = 0,
        quiet_until: int | None = None,
        token_limit: int | None = None,
        rescue: bool = False,
    ) -> TrainResult:
        """Train a segment of a branch.

        Args:
            until: optimizer update at which it ends.
            guidance: what is injected; None: plain GRPO.
            fresh: which random numbers to sample with, 0 those of the run; the order of the data stays.
            quiet_until: AutoNPO watches, and a warning after this update ends the segment; None: nobody watches.
            token_limit: generated tokens after which it ends.
            rescue: failures come again and dead groups are guided, without guidance by extra samples, until the
                failures are solved or Q has fallen.
        """
        ...

    def guide(
        self, guides: Sequence[SnapshotRef], rollback: SnapshotRef, branch: str, pool_only: bool = False
    ) -> Guidance:
        """Guidance from later snapshots for the prompts that `branch` met after the snapshot to roll back to.

        `pool_only`: for those of them alone that the last guide's mistake pool holds.
        """
        ...

    def guide_ahead(self, guides: Sequence[SnapshotRef], start: SnapshotRef, until: int) -> Guidance:
        """Guidance for the prompts that a run will ask between a snapshot and an update.

        `guides`: snapshots of the run, from behind; none: what `mix.guide` names.
        """
        ...

    def guide_failures(self, guide: SnapshotRef, at: SnapshotRef) -> Guidance:
        """Guidance from an earlier snapshot for the failures of the one that training goes on from."""
        ...

    def probe(self, number: int, at: SnapshotRef, candidates: Sequence[str]) -> Probed:
        """Roll the policy out on its past failures, and measure how far the candidate snapshots are from it."""
        ...

    def decide(self, number: int, branch: str, at: SnapshotRef, probed: Probed | None, budget: Budget) -> Decision:
        """AutoNPO's decision after a warning, recorded."""
        ...

    def planned(self, plateau: Plateau) -> Decision | None:
        """The rollback that was planned with the same settings before, to be taken up."""
        ...

    def plan_rollback(self, plateau: Plateau, branch: str, guide: SnapshotRef) -> Decision:
        """Where the plateau of a branch began, recorded as a decision."""
        ...

    def approve(self, decision: Decision) -> Decision:
        """The decision as it is carried out: unchanged, with another rollback, or declined.

        Raises:
            ApprovalNeeded: somebody has to answer first.
        """
        ...

    def outcome(self, decision: Decision, replay: str) -> None:
        """Record the replay against the abandoned branch, or what a rescue on the same branch brought."""
        ...

    def evaluate(self, *branches: str) -> EvaluateResult:
        """Score the snapshots on the way to the tips of some branches, or of all."""
        ...

    def report(self) -> Report:
        """Write the run's report."""
        ...
