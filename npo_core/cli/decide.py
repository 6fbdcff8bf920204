"""`npo decide`."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Overrides, Uri, emit, parse_overrides
from npo_core.cli.output import Data, grid, open_workspace, render

MOST = 12  # differing fields that are listed


def decide(
    workspace: Uri,
    at: Annotated[int, typer.Option(help="Step of the decision.")],
    number: Annotated[int | None, typer.Option(help="Which decision, where a step has several.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a recorded decision once more from its records: the metrics, the probe, and what was left to spend.

    Prints both and whether they are the same; exits with 1 if they differ. With --set, what other thresholds would have
    decided: fields of auto.control.trigger, auto.choice, auto.probe.min_solved and min_prompts, plateau.trigger. At a
    step without a decision, what the signals say there.

    Example: [cyan]npo decide runs/auto --at 140 --set auto.probe.min_solved=0.6[/]
    """
    data = decide_data(workspace, at, number, parse_overrides(overrides or []))
    emit(data, show, as_json)
    if not overrides and not data.get("same", True):
        raise typer.Exit(1)


def decide_data(uri: str, step: int, number: int | None, changes: dict[str, Any]) -> Data:
    """A decision as it was recorded, and as its records lead to it."""
    from npo_core.control.recompute import decide_again

    workspace = open_workspace(uri)
    return decide_again(workspace.store, workspace.config(), step, number, changes)


def show(data: Data, console: Console) -> None:
    """Print the recorded decision beside the recomputed one."""
    from npo_core.control.decision import Decision
    from npo_core.reporting.tables import answer, outcome

    if data["recorded"] is None:
        found = data["recomputed"]
        console.print(Text(f"Nothing was decided at step {found['step']} of branch {found['branch']}.", "bold"))
        console.print(Text(found["reason"]), soft_wrap=True)
        return
    recorded, again = (Decision.model_validate(data[name]) for name in ("recorded", "recomputed"))
    console.print(Text(f"Decision {recorded.number}, {recorded.flow}, step {recorded.step}, {recorded.branch}", "bold"))
    show_decision("Recorded", recorded, console)
    for said in [*answer(data["approval"]), *outcome(data["outcome"])]:
        console.print(Text(said), soft_wrap=True)
    if data["changes"]:
        told = ", ".join(f"{name}={value}" for name, value in data["changes"].items())
        show_decision(f"With {told}", again, console)
    else:
        show_differences(data["differences"], console)


def show_decision(head: str, decision: Any, console: Console) -> None:
    """Verdict, reason, candidates."""
    from npo_core.reporting.decisions import candidates_table, prices_table, thresholds_table, verdict

    console.print(Text(f"{head}: {verdict(decision)}", "cyan"))
    console.print(Text(decision.reason), soft_wrap=True)
    render(thresholds_table(decision), console)
    for table in (candidates_table(decision), prices_table(decision)):
        if table.rows:
            render(table, console)


def show_differences(found: list[Data], console: Console) -> None:
    """Print the fields that differ, at most `MOST` of them."""
    if not found:
        console.print(Text("Recomputed from the records: the same.", "green"))
        return
    console.print(Text(f"Recomputed from the records: {len(found)} fields differ.", "bold red"))
    table = grid("field", "recorded", "recomputed")
    for row in found[:MOST]:
        table.add_row(row["field"], Text(str(row["recorded"])), Text(str(row["recomputed"])))
    console.print(table)
    if len(found) > MOST:
        console.print(f"and {len(found) - MOST} more; --json lists all.")
