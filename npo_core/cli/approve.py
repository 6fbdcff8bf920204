"""`npo approve`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.decide import show_decision
from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import Data, open_workspace
from npo_core.errors import DataError


def approve(
    workspace: Uri,
    accept: Annotated[bool, typer.Option("--accept", help="Carry out what is proposed.")] = False,
    delta: Annotated[int | None, typer.Option(help="Another of the Deltas instead.")] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Go on without intervening.")] = False,
    as_json: AsJson = False,
) -> None:
    """Answer the intervention that a run with auto.approval=ask waits for; then start the run again.

    Without an answer it shows the decision that waits.

    Example: [cyan]npo approve runs/auto --accept[/]
    """
    given = {"accept": accept, "other": delta is not None, "decline": decline}
    chosen = [name for name, wanted in given.items() if wanted]
    if len(chosen) > 1:
        Console(stderr=True).print("Give one of --accept, --delta and --decline.")
        raise typer.Exit(2)
    answer = chosen[0] if chosen else None
    emit(approve_data(workspace, answer, delta), show, as_json)


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


def show(data: Data, console: Console) -> None:
    """Print what waits, or what was answered."""
    from npo_core.control.decision import Decision
    from npo_core.reporting.tables import answer

    decision = Decision.model_validate(data["decision"])
    if data["approval"] is None:
        show_decision(f"Decision {decision.number} waits", decision, console)
        console.print("Answer with --accept, --delta N or --decline.")
        return
    said = "; ".join(answer(data["approval"]))
    console.print(Text(f"Decision {decision.number} at step {decision.step}: {said}. Start the run again to go on."))
