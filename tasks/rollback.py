"""Task: open a branch at a snapshot; training on it restores weights, optimizer, schedule and data position."""

from prefect import task

from npo_core.recipes import records
from npo_core.recipes.run import Run
from npo_core.recipes.steps import Guidance
from npo_core.timeline import Branch, SnapshotRef
from tasks.artifacts import key_of, publish, table
from tasks.perform import worth_retrying


@task(name="open-branch", task_run_name="open branch {name}", retry_condition_fn=worth_retrying)
def open_branch(run: Run, name: str, at: SnapshotRef, reason: str, guidance: Guidance | None) -> Branch:
    """A new branch at a snapshot, whose files are checked; a rollback is a branch at an older snapshot."""
    branch = records.open_branch(run, name, at, reason, guidance)
    publish(
        key_of(run.config.name, "branch", name),
        f"Branch {name}: {reason}",
        f"## Branch {name}",
        table(
            {
                "leaves snapshot": f"`{branch.parent}` (step {branch.parent_step})",
                "reason": reason,
                "guides": ", ".join(f"`{id_}`" for id_ in branch.guide) or "none",
                "guidance cache": f"`{branch.cache}`" if branch.cache else "none",
            }
        ),
        "### Timeline",
        f"```\n{run.workspace.timeline.draw()}\n```",
    )
    return branch
