"""Steps taken right here, one stage after the other, each a process of its own; Prefect is not needed."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from npo_core.config import Plateau, RunConfig
from npo_core.control.decision import Budget, Decision
from npo_core.errors import NPOError
from npo_core.recipes import follow, records
from npo_core.recipes.prune import prune_own
from npo_core.recipes.run import Run, open_run
from npo_core.recipes.steps import Guidance, Probed, Report
from npo_core.recipes.workspace_steps import WorkspaceSteps
from npo_core.reporting.report import write_report
from npo_core.stages.forked import fork_server, forks
from npo_core.stages.launch import StageResult, Watcher, run_stage
from npo_core.stages.specs import Spec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import SnapshotRef

T = TypeVar("T")
Shown = Callable[[str], AbstractContextManager[Watcher]]  # shows the progress of a stage by its label


def unseen(label: str) -> AbstractContextManager[Watcher]:
    """Shows nothing."""
    return nullcontext(lambda event: None)


class LocalSteps(WorkspaceSteps):
    """Runs stages, with the retries that the configuration allows, and keeps records.

    Args:
        baseline: workspace of a run to compare with in the report.
        shown: shows the progress of each stage.
    """

    def __init__(self, run: Run, baseline: str | None = None, shown: Shown = unseen):
        super().__init__(run)
        self.baseline, self.shown = baseline, shown

    def stage(self, spec: Spec, label: str) -> StageResult:
        if isinstance(spec, TrainSpec):
            self.retain()
        return self.start(spec, label)

    def start(self, spec: Spec, label: str) -> StageResult:
        """A stage's result, with the configured retries."""
        return self.perform(self._once, spec, label)

    def retain(self) -> None:
        """Delete the snapshots that nothing needs any more, where the configuration says so."""
        if self.config.retention == "needed":
            self.perform(prune_own, self.run.workspace)

    def _once(self, spec: Spec, label: str) -> StageResult:
        with self.shown(label) as watch:
            return run_stage(spec, watch)

    def perform(self, call: Callable[..., T], *args: Any) -> T:
        """What a call gives; after a failure of infrastructure it is made again, as often as configured."""
        execution = self.config.execution
        for _ in range(execution.retries):
            try:
                return call(*args)
            except NPOError as error:
                if not error.retryable:
                    raise
                time.sleep(execution.retry_delay)
        return call(*args)

    def branch(self, name: str, at: SnapshotRef, reason: str, guidance: Guidance | None = None) -> None:
        self.perform(records.open_branch, self.run, name, at, reason, guidance)

    def decide(self, number: int, branch: str, at: SnapshotRef, probed: Probed | None, budget: Budget) -> Decision:
        return self.perform(records.decide, self.run, number, branch, at, probed, budget)

    def planned(self, plateau: Plateau) -> Decision | None:
        return self.perform(records.planned, self.run, plateau)

    def plan_rollback(self, plateau: Plateau, branch: str, guide: SnapshotRef) -> Decision:
        return self.perform(records.plan_rollback, self.run, plateau, branch, guide)

    def approve(self, decision: Decision) -> Decision:
        return records.approve(self.run, decision, records.ask_later)

    def outcome(self, decision: Decision, replay: str) -> None:
        self.perform(records.record_outcome, self.run, decision, replay)

    def report(self) -> Report:
        found = self.write()
        self.retain()
        return found

    def write(self) -> Report:
        """The report of the run as it is."""
        baseline = Workspace(self.baseline) if self.baseline else None
        return self.perform(write_report, self.run.workspace, baseline)


def run_local(
    recipe: str,
    config: RunConfig,
    workspace: str,
    baseline: str | None = None,
    plateau: Plateau | None = None,
    shown: Shown = unseen,
) -> Report:
    """Follow a recipe in a workspace to its end; its report.

    Example:
        run_local("grpo", load_config("demo.yaml"), "runs/grpo")

    Raises:
        NPOError: bad input, a workspace in use, or a stage that failed; whatever was finished stays.
    """
    if forks(config.execution):
        fork_server(config.execution)  # imports torch while the workspace is looked at
    with open_run(config, workspace, recipe, plateau) as run:
        return follow(recipe, LocalSteps(run, baseline, shown), plateau)
