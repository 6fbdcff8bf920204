"""A recipe's steps as Prefect tasks: one task a kind of stage, a decision and a rollback tasks of their own."""

import time
from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import State

from flows.approval import ask
from flows.conclusion import done, failed, one_sentence_each, tell_where
from flows.gpus import own_gpus
from flows.seeds import with_fresh_seed
from flows.workspace import choose_workspace
from npo_core import recipes
from npo_core.config import Execution, Plateau, RunConfig
from npo_core.control.decision import Decision
from npo_core.errors import ConfigError, NPOError, WorkspaceBusyError
from npo_core.recipes import records
from npo_core.recipes.local import LocalSteps
from npo_core.recipes.run import Run, look_first, open_run
from npo_core.stages.launch import StageResult
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace
from tasks.announce import announce
from tasks.artifacts import wait_until_published
from tasks.base import make_base
from tasks.decide import decide, plan_rollback, record_outcome
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.outside import Interrupted, watched
from tasks.overview import publish_runs, publish_trackers
from tasks.plan import check_plan
from tasks.probe import probe
from tasks.report import report
from tasks.rollback import open_branch
from tasks.train import train

TAKEN_OVER = 60.0  # seconds that a run which goes on waits for the process that had its workspace
STAGES = {"base": make_base, "train": train, "guide": generate_guidance, "probe": probe, "evaluate": evaluate}
TASKS = {
    records.open_branch: open_branch,
    records.decide: decide,
    records.plan_rollback: plan_rollback,
    records.record_outcome: record_outcome,
}


def follow(
    recipe: str,
    config: RunConfig | ConfigError | None,
    workspace: str | None,
    baseline: str | None,
    plateau: Plateau | None = None,
    announce_plateau: bool = False,
    fresh_seed: bool = False,
) -> State[dict]:
    """Plan, then take the steps of a recipe as tasks; how it ended, with the report's figures.

    Args:
        announce_plateau: emit an event where it ends on a plateau.
        fresh_seed: another seed for every flow run, in place of the configuration's.

    Raises:
        Pause, Abort: somebody paused the run, or took it over; what was finished is in the workspace.
    """
    one_sentence_each()
    place = None
    try:
        if isinstance(config, ConfigError):
            raise config
        if not workspace and config is None:
            raise ConfigError(f"{recipe} needs a workspace with a run, or a config to train one: give either.")
        config = with_fresh_seed(config) if fresh_seed and config is not None else config
        place = choose_workspace(workspace, config.name if config else "")
        tell_where(place)
        with watched() as watch:
            try:
                config = look_when_free(config, place)
                figures = take_steps(recipe, config, place, baseline, plateau)
                if announce_plateau:
                    call(announce, config.execution, Run(config, Workspace(place)), "main")
            except (CancelledRun, Interrupted):
                if watch is not None:
                    watch.leave()
                raise
    except NPOError as error:
        return failed(error, place)
    return done(recipe, figures, place, plateau)


def look_when_free(config: RunConfig | None, place: str) -> RunConfig:
    """The run's configuration, after `look_first`; who goes on with a run waits for the process that had it before."""
    deadline = time.monotonic() + (TAKEN_OVER if (flow_run.run_count or 0) > 1 else 0.0)
    while True:
        try:
            return look_first(config, place)
        except WorkspaceBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def take_steps(
    recipe: str, config: RunConfig, place: str, baseline: str | None, plateau: Plateau | None
) -> dict[str, Any]:
    """The figures of a run that was planned and followed to its end."""
    check_plan(config, place, recipe)
    publish_runs()
    about = {"flow_run_id": str(flow_run.id), "flow_run_url": str(flow_run.ui_url)}
    try:
        with own_gpus(config), open_run(config, place, recipe, plateau, about) as run:
            publish_trackers(run)
            try:
                return dict(recipes.follow(recipe, PrefectSteps(run, baseline), plateau))
            finally:
                wait_until_published()
    finally:
        publish_runs()  # once the workspace is free: a run that has it counts as running
        wait_until_published()


def call(task: Task, execution: Execution, *args: Any) -> Any:
    """A task's result, with the retries of the run's configuration.

    Raises:
        Interrupted: the task ended as Cancelled, since somebody changed the state of the flow run (`tasks.outside`).
    """
    found = task.with_options(retries=execution.retries, retry_delay_seconds=execution.retry_delay)(*args)
    if isinstance(found, State):  # Prefect gives it as it is
        raise Interrupted(found.message)
    return found


class PrefectSteps(LocalSteps):
    """Where local steps call a function, these call its task, which publishes what came of it, too."""

    def start(self, spec: Spec, label: str) -> StageResult:
        return call(STAGES[spec.stage], self.config.execution, spec, label, self.config.name)

    def perform(self, function: Callable[..., Any], *args: Any) -> Any:
        return call(TASKS[function], self.config.execution, *args) if function in TASKS else function(*args)

    def approve(self, decision: Decision) -> Decision:
        return records.approve(self.run, decision, ask)

    def write(self) -> dict[str, Any]:
        return call(report, self.config.execution, self.run, self.baseline)
