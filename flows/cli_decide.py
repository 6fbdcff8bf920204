"""The commands about decisions: look at them, make them once more, answer them, and draw the signals behind them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.options import AsJson, Overrides, Uri, emit, parse_overrides


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
    from flows import show_decisions

    data = show_decisions.decide_data(workspace, at, number, parse_overrides(overrides or []))
    emit(data, show_decisions.decide, as_json)
    if not overrides and not data.get("same", True):
        raise typer.Exit(1)


def signals(
    workspace: Uri,
    out: Annotated[
        Path | None, typer.Option(help="PNG file to write; default: report/signals.png in the workspace.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Draw pass rate, entropy, warnings, decisions and rollbacks along all updates, and Q, V and S of every decision.

    Works on every run, plain GRPO too: the signals are computed from its metrics. --set takes fields of
    auto.control.trigger. Prints what the signals said at every snapshot.

    Example: [cyan]npo signals runs/auto --set auto.control.trigger.window=40[/]
    """
    from flows import show_decisions

    found = show_decisions.signals_data(workspace, parse_overrides(overrides or []))
    written = show_decisions.draw_signals(found, workspace, out)
    emit(found.plain() if as_json else found, show_decisions.signals, as_json)
    if not as_json:
        Console().print(f"Written: {written}", markup=False, soft_wrap=True)


def approve(
    workspace: Uri,
    accept: Annotated[bool, typer.Option("--accept", help="Carry out the proposed rollback.")] = False,
    delta: Annotated[int | None, typer.Option(help="Roll back by so many updates instead, one of the Deltas.")] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Go on without intervening.")] = False,
    as_json: AsJson = False,
) -> None:
    """Answer the intervention that a run with auto.approval=ask waits for; then start the run again.

    Without an answer it shows the decision that waits.

    Example: [cyan]npo approve runs/auto --accept[/]
    """
    from flows import show_decisions

    given = {"accept": accept, "other": delta is not None, "decline": decline}
    chosen = [name for name, wanted in given.items() if wanted]
    if len(chosen) > 1:
        Console(stderr=True).print("Give one of --accept, --delta and --decline.")
        raise typer.Exit(2)
    answer = chosen[0] if chosen else None
    emit(show_decisions.approve_data(workspace, answer, delta), show_decisions.approve, as_json)
