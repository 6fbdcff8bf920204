"""Task: make, or take in, the model that the run starts from."""

from typing import Any

from prefect import task

from npo_core.reporting.tables import markdown, problems_table
from npo_core.stages.launch import StageResult
from npo_core.stages.results import BaseResult
from npo_core.stages.specs import BaseSpec
from npo_core.stages.workspace import Workspace
from tasks.artifacts import Section, key_of, publish, table
from tasks.assets import snapshots_made
from tasks.outside import pausable
from tasks.perform import perform, worth_retrying


@task(name="base-model", task_run_name="base model", retry_condition_fn=worth_retrying)
@pausable
def make_base(spec: BaseSpec, label: str, run_name: str) -> StageResult[BaseResult]:
    """Snapshot of step 0; a built-in model is trained once and kept for later runs."""
    result = perform(spec, label, run_name)
    made = result.result
    publish(
        key_of(run_name, "base"),
        "The model that the run starts from",
        "## Base model",
        table(
            {
                "snapshot": f"`{made.snapshot}`",
                "trained in this run": made.made,
                "bytes": made.bytes,
                "seconds": result.seconds,
            }
        ),
        "### What went in",
        table(spec.model.model_dump(), ("setting", "value")),
        *describe_problems(made.problems),
    )
    snapshots_made(Workspace(spec.workspace), run_name, result, {0: made.snapshot}, "")
    return result


def describe_problems(problems: dict[str, Any] | None) -> list[Section]:
    """What became of the rows of problems from data."""
    return ["### Problems", markdown(problems_table(problems))] if problems else []
