"""Task: what the run will need, before anything is spent on it."""

from prefect import task
from prefect.logging import get_run_logger

from npo_core.config import RunConfig
from npo_core.planning import Plan, plan_run
from npo_core.planning.tables import conclusion, plan_tables
from npo_core.reporting.tables import markdown
from tasks.artifacts import Section, key_of, publish, wait_until_published, where


@task(name="plan", task_run_name="plan")
def check_plan(config: RunConfig, workspace: str, flow: str) -> Plan:
    """Memory, disk and tokens of the whole run; no time is measured for it.

    Raises:
        ConfigError: it cannot fit; says what to change. The workspace is not touched.
    """
    made = plan_run(config, workspace, flow)
    publish(key_of(config.name, "plan"), "What the run needs, and what there is", where(workspace), *describe(made))
    if made.refused:
        wait_until_published()
    made.require()
    for sentence in made.changes:
        get_run_logger().warning("This may not fit. %s", sentence)
    return made


def describe(made: Plan) -> list[Section]:
    """The sections of the artifact."""
    data = made.as_dict()
    tables = [text for table in plan_tables(data) for text in (f"### {table.title}", markdown(table))]
    sentences = [*made.changes, *made.unknown, *made.assumptions]
    return ["## Plan", conclusion(data), *tables, "### What this rests on", "\n".join(f"* {s}" for s in sentences)]
