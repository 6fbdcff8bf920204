"""Task: the report of a run, beside a baseline where one is named."""

import re

from prefect import task

from npo_core.recipes.run import Run
from npo_core.reporting.report import write_report
from npo_core.stages.workspace import Workspace
from npo_core.tracking import links
from tasks.artifacts import key_of, picture, publish, trackers, wait_until_published, where
from tasks.assets import materialized
from tasks.perform import worth_retrying


@task(name="report", task_run_name="report", retry_condition_fn=worth_retrying)
def report(run: Run, baseline: str | None) -> dict:
    """Tables and curves in the workspace's folder `report`, and as an artifact."""
    wait_until_published()  # two pictures are not drawn at once
    figures = write_report(run.workspace, Workspace(baseline) if baseline else None)
    store = run.workspace.store
    text = store.read_bytes("report/report.md").decode()
    for name in re.findall(r"\]\((\w+\.png)\)", text):
        text = text.replace(f"]({name})", "](" + picture(store.read_bytes(f"report/{name}"), name).split("](", 1)[1])
    publish(
        key_of(run.config.name, "report"), "Report of the run", where(run.workspace.uri), trackers(links(store)), text
    )
    last = figures["final"] or {}
    rate = last.get("pass_rate")
    materialized(run.workspace, "report", "report", run.config.name, step=last.get("step"), pass_rate=rate)
    return figures
