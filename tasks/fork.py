"""Task: the workspace of a fork, which shares a run's path up to a step."""

from prefect import task

from npo_core.recipes.forking import Request, fork_run
from npo_core.stages.workspace import Workspace
from npo_core.timeline import read_fork
from tasks.artifacts import key_of, publish, table, where
from tasks.perform import worth_retrying

RETRIES, DELAY = 2, 5.0  # the run's own are in the configuration, which this task makes


@task(
    name="fork",
    task_run_name="fork at step {request.step}",
    retries=RETRIES,
    retry_delay_seconds=DELAY,
    retry_condition_fn=worth_retrying,
)
def make_fork(request: Request, workspace: str | None) -> str:
    """Make the workspace, or find it made by the same request; its URI."""
    made = Workspace(fork_run(request, workspace))
    there = read_fork(made.store)
    if there is not None:
        publish(
            key_of(made.config().name, "fork"),
            there.in_words(),
            where(made.uri),
            "## Fork",
            table(
                {
                    "run before": f"`{there.workspace}`",
                    "branch": there.branch,
                    "step": there.step,
                    "snapshot": f"`{there.snapshot}`",
                }
            ),
            "### Settings that changed",
            table(dict(there.changes), ("setting", "value")) if there.changes else "None.",
            "### Timeline",
            f"```\n{made.timeline.draw()}\n```",
        )
    return made.uri
