"""What the commands about decisions print: a function for the data and one that renders it, as in `flows/show.py`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from flows.show import Data, grid, open_workspace, render
from npo_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from npo_core.reporting.signals import SignalsData

MOST = 12  # differing fields that are listed


def decide_data(uri: str, step: int, number: int | None, changes: dict[str, Any]) -> Data:
    """A decision as it was recorded, and as its records lead to it."""
    from npo_core.control.recompute import look

    workspace = open_workspace(uri)
    return look(workspace.store, workspace.config(), step, number, changes)


def decide(data: Data, console: Console) -> None:
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
    from npo_core.reporting.decisions import candidates_table, thresholds_table, verdict

    console.print(Text(f"{head}: {verdict(decision)}", "cyan"))
    console.print(Text(decision.reason), soft_wrap=True)
    render(thresholds_table(decision), console)
    if decision.candidates:
        render(candidates_table(decision), console)


def show_differences(found: list[Data], console: Console) -> None:
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


def signals_data(uri: str, changes: dict[str, Any]) -> "SignalsData":
    """The signals of a run, with some thresholds changed."""
    from npo_core.config import override, parse_config
    from npo_core.reporting.signals import read_signals

    for name in changes:
        if not name.startswith("auto.control.trigger."):
            raise ConfigError(f"{name} does not change the signals: give a field of auto.control.trigger.")
    workspace = open_workspace(uri)
    config = parse_config(override(workspace.config().model_dump(mode="json"), changes))
    return read_signals(workspace, config.auto.control.trigger)


def draw_signals(found: "SignalsData", uri: str, out: Path | None) -> str:
    """Write the picture into the given file, or into the workspace; where it is."""
    from npo_core.reporting.signals import PICTURE, signals_png

    if out is None:
        open_workspace(uri).store.write_bytes(PICTURE, signals_png(found))
        return f"{uri.rstrip('/')}/{PICTURE}"
    try:
        out.write_bytes(signals_png(found))
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}): give a file in an existing folder."
        ) from None
    return str(out)


def signals(found: "SignalsData", console: Console) -> None:
    from npo_core.reporting.signals import readings_table

    render(readings_table(found), console)
    for decision in found.decisions:
        console.print(Text(f"Decision {decision.number} at step {decision.step}: {decision.reason}"), soft_wrap=True)


def approve_data(uri: str, answer: str | None, delta: int | None) -> Data:
    """The decision that waits, and the answer to it once it is given.

    Raises:
        DataError: no decision waits, or no candidate has that Delta.
    """
    from npo_core.control.records import Approval, Decisions

    workspace = open_workspace(uri)
    asked, decisions = workspace.config().auto.approval == "ask", Decisions(workspace.store)
    waiting = decisions.waiting() if asked else None
    if waiting is None:
        why = "" if asked else " Its setting auto.approval is auto, so nobody is asked."
        raise DataError(f"No decision of {uri} waits for an answer.{why}")
    if answer is None:
        return {"decision": waiting.model_dump(mode="json"), "approval": None}
    if complaint := waiting.complaint(answer, delta):
        raise DataError(complaint.strip())
    given = decisions.add_approval(waiting.number, Approval(answer=answer, delta=delta))
    return {"decision": waiting.model_dump(mode="json"), "approval": given.model_dump(mode="json")}


def approve(data: Data, console: Console) -> None:
    from npo_core.control.decision import Decision
    from npo_core.reporting.tables import answer

    decision = Decision.model_validate(data["decision"])
    if data["approval"] is None:
        show_decision(f"Decision {decision.number} waits", decision, console)
        console.print("Answer with --accept, --delta N or --decline.")
        return
    said = "; ".join(answer(data["approval"]))
    console.print(Text(f"Decision {decision.number} at step {decision.step}: {said}. Start the run again to go on."))
