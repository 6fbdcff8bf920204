"""`npo prune`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import Data, grid, open_workspace


def prune(
    workspace: Uri,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is written.")] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="A snapshot that is never pruned, by the beginning of its id."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete the snapshots that nothing needs any more, and the optimizer's state where nothing trains on it.

    Kept whole: the base, where branches and segments start, ends of branches, what is pinned, the path of a run that
    is not over. Kept as weights: what wrote guidance or was weighed in a decision. Everything else goes but its
    manifest. Reports, proofs and a second start of the run stay as they are; a fork starts at a step that is whole.

    Example: [cyan]npo prune runs/npo[/] shows what would go, [cyan]npo prune runs/npo --yes[/] deletes it
    """
    from npo_core.recipes import prune as pruning

    place = open_workspace(workspace)
    if pin:
        pruning.pin(place, pin)
    found = pruning.prune(place) if yes else pruning.plan(place)
    data = {"deleted": yes, "bytes": sum(one.bytes for one in found), "snapshots": [asdict(one) for one in found]}
    emit(data, show, as_json)


def show(data: Data, console: Console) -> None:
    """A line a snapshot, and the sum."""
    table = grid(">step", "snapshot", "keeps", "why", ">goes, MB")
    for one in data["snapshots"]:
        goes = f"{one['bytes'] / 1e6:,.1f}" if one["files"] else ""
        table.add_row(str(one["step"]), one["snapshot"], one["keeps"], one["why"], goes)
    console.print(table)
    total = f"{data['bytes'] / 1e6:,.1f} MB"
    console.print(f"{total} deleted." if data["deleted"] else f"{total} would go: npo prune WORKSPACE --yes")
