"""`npo runs`."""

from typing import Annotated

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, emit
from npo_core.cli.output import render


def runs(
    folder: Annotated[
        str | None, typer.Argument(help="With workspaces right below it; default: $NPO_RUNS, else runs in $NPO_HOME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show all runs side by side: state, flow, seed, steps, held-out pass rate, and what they cost so far.

    Reads only files, so it works while runs go on.

    Example: [cyan]npo runs runs[/]
    """
    from npo_core.recipes.runs import all_runs, runs_folder, runs_table
    from npo_core.stages.workspace import absolute

    place = absolute(folder) if folder else runs_folder()
    found = all_runs(place)

    def show(rows: list[dict], console: Console) -> None:
        render(runs_table(place, rows), console)
        for run in rows:
            if "error" in run:
                console.print(f"{run['workspace']}: {run['error']}", style="red", markup=False, soft_wrap=True)

    emit(found, show, as_json)
