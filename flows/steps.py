"""A recipe's steps as Prefect tasks: one task a kind of stage, a decision and a rollback tasks of their own."""

from collections.abc import Callable
from typing import Any

from prefect import Task

from flows.approval import ask
from npo_core import recipes
from npo_core.config import Execution, Plateau, RunConfig
from npo_core.control.decision import Decision
from npo_core.recipes import records
from npo_core.recipes.local import LocalSteps
from npo_core.recipes.run import look_first, open_run
from npo_core.stages.launch import StageResult
from npo_core.stages.specs import Spec
from tasks.artifacts import wait_until_published
from tasks.base import make_base
from tasks.decide import decide, plan_rollback, record_outcome
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.plan import check_plan
from tasks.probe import probe
from tasks.report import report
from tasks.rollback import open_branch
from tasks.train import train

STAGES = {"base": make_base, "train": train, "guide": generate_guidance, "probe": probe, "evaluate": evaluate}
TASKS = {
    records.open_branch: open_branch,
    records.decide: decide,
    records.plan_rollback: plan_rollback,
    records.record_outcome: record_outcome,
}


def follow(
    recipe: str, config: RunConfig, workspace: str, baseline: str | None, plateau: Plateau | None = None
) -> dict[str, Any]:
    """Plan, then take the steps of a recipe as tasks; the report's figures."""
    look_first(config, workspace)
    check_plan(config, workspace, recipe)
    with open_run(config, workspace, recipe, plateau) as run:
        try:
            return dict(recipes.follow(recipe, PrefectSteps(run, baseline), plateau))
        finally:
            wait_until_published()


def call(task: Task, execution: Execution, *args: Any) -> Any:
    """A task's result, with the retries of the run's configuration."""
    return task.with_options(retries=execution.retries, retry_delay_seconds=execution.retry_delay)(*args)


class PrefectSteps(LocalSteps):
    """Where local steps call a function, these call its task, which publishes what came of it, too."""

    def stage(self, spec: Spec, label: str) -> StageResult:
        return call(STAGES[spec.stage], self.config.execution, spec, label, self.config.name)

    def perform(self, function: Callable[..., Any], *args: Any) -> Any:
        return call(TASKS[function], self.config.execution, *args) if function in TASKS else function(*args)

    def approve(self, decision: Decision) -> Decision:
        return records.approve(self.run, decision, ask)

    def report(self) -> dict[str, Any]:
        return call(report, self.config.execution, self.run, self.baseline)
