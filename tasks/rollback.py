"""Task: open a branch at a snapshot; training on it restores weights, optimizer, schedule and data position."""

from prefect import task

from npo_core.timeline import Branch
from tasks.artifacts import key_of, publish, table
from tasks.perform import worth_retrying
from tasks.run import Run


@task(name="open-branch", task_run_name="open branch {name}", retry_condition_fn=worth_retrying)
def open_branch(
    run: Run, name: str, at: str, reason: str, guide: list[str] | None = None, cache: str | None = None
) -> Branch:
    """A new branch at snapshot `at`, whose files are checked; a rollback is a branch at an older snapshot."""
    timeline = run.workspace.timeline
    snapshot = timeline.snapshots.get(at)
    run.workspace.snapshot_folder(at)
    branch = timeline.add_branch(
        Branch(name=name, parent=at, parent_step=snapshot.step, reason=reason, guide=guide or [], cache=cache)
    )
    publish(
        key_of(run.config.name, "branch", name),
        f"Branch {name}: {reason}",
        f"## Branch {name}",
        table(
            {
                "leaves snapshot": f"`{at}` (step {snapshot.step})",
                "reason": reason,
                "guides": ", ".join(f"`{id_}`" for id_ in branch.guide) or "none",
                "guidance cache": f"`{cache}`" if cache else "none",
            }
        ),
        "### Timeline",
        f"```\n{timeline.draw()}\n```",
    )
    return branch
