"""`npo fork`."""

from typing import Annotated, Any

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, Baseline, Local, Overrides, Uri, emit, parse_overrides
from npo_core.cli.report import show
from npo_core.names import FORK
from npo_core.shipped import pipeline


def fork(
    workspace: Uri,
    at: Annotated[int, typer.Option(min=0, help="Step whose snapshot both runs share; the run goes on from there.")],
    overrides: Overrides = None,
    into: Annotated[
        str | None,
        typer.Option(
            "--workspace", help="Of the fork, empty; default: <run>-fork-<step>-<6 hex digits> below $NPO_RUNS."
        ),
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Branch of the run; default: its final one.")] = None,
    baseline: Baseline = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Run again from a step with changed settings: a workspace of its own that shares what stays the same.

    Snapshots and guidance up to the step are hard links where the disk allows it. From there it trains up to
    training.steps as plain GRPO, guided where the run before was. What is shared counts as spent. The same command
    again goes on where it was.

    Example: [cyan]npo fork runs/grpo --at 120 --set training.learning_rate=1e-4 --workspace runs/slower[/]
    """
    found = run_fork(workspace, at, parse_overrides(overrides or []), into, branch, baseline, local)
    emit(found["report"], show, as_json)
    if not as_json:
        said = f"The report is in {found['workspace']}/report/report.md"
        Console().print(said, markup=False, soft_wrap=True)


def run_fork(
    origin: str,
    at: int,
    changes: dict[str, Any],
    into: str | None,
    branch: str | None,
    baseline: str | None,
    local: bool,
) -> dict[str, Any]:
    """Make the fork's workspace and train on in it; the workspace and the report.

    Raises:
        NPOError: bad input, refused before anything is written; or a stage that failed, what was finished stays.
    """
    from npo_core.cli.run import run_here
    from npo_core.recipes.forking import Request, fork_run
    from npo_core.recipes.run import look_first
    from npo_core.stages.workspace import absolute

    start = None if local else pipeline("flows.run").run_flow  # refused where Prefect is not there
    request = Request(origin, at, changes, branch)
    place = fork_run(request, into)
    look_first(None, place)
    beside = absolute(baseline) if baseline else None
    if start is None:
        report = run_here(FORK, None, place, beside)
    else:
        asked = {"origin": request.origin, "at": at, "changes": request.plain_changes, "branch": branch}
        report = start(FORK, None, place, beside, **asked)
    return {"workspace": place, "report": report}
