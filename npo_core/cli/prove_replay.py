"""`npo prove-replay`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import Data, grid


def prove_replay(
    workspace: Uri,
    segment: Annotated[
        str | None, typer.Option(help="Id of an unguided segment, see `npo timeline`; the first if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to replay, up to a snapshot; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove exactness: roll back, replay a segment without guidance, and compare it bit for bit with the original.

    Prints what was compared (token ids, losses, weights) and where it first differs. Exits with 1 if anything does.

    Example: [cyan]npo prove-replay runs/npo --steps 20[/]
    """
    from npo_core.recipes.progress import Progress
    from npo_core.stages.prove import prove_replay as prove

    with Progress("replay") as watch:
        found = prove(workspace, segment, steps, watch)
    emit(found, show, as_json)
    if not found["equal"]:
        raise typer.Exit(1)


def show(data: Data, console: Console) -> None:
    """What a replay was compared in."""
    table = grid("compared", "equal", "detail")
    for row in data["compared"]:
        table.add_row(row["what"], Text("yes", "green") if row["equal"] else Text("NO", "bold red"), str(row["detail"]))
    console.print(table)
    verdict = "is equal bit for bit" if data["equal"] else "DIFFERS"
    console.print(f"The replay of segment {data['segment']}, {data['steps']} updates, {verdict}.", soft_wrap=True)
    original, replay = data["processes"].values()
    if original != replay:
        numbers = " and ".join(map(str, original))
        console.print(
            f"The original was trained in {numbers} processes, the replay in {replay[0]}: bits are equal for equal "
            "numbers only (docs/processes.md).",
            soft_wrap=True,
        )
