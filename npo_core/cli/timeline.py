"""`npo timeline`."""

from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import Data, grid, open_workspace, plain


def timeline(workspace: Uri, as_json: AsJson = False) -> None:
    """Draw a run's branches: where the scout left, where the replay began, which segment was guided by what.

    Prints a tree, then a table of segments with their ids and costs.

    Example: [cyan]npo timeline runs/npo[/]
    """
    emit(timeline_data(workspace), show, as_json)


def timeline_data(uri: str) -> Data:
    """Branches and segments."""
    from npo_core.reporting.overview import timeline

    return timeline(open_workspace(uri))


def show(data: Data, console: Console) -> None:
    """Print the tree, the branches and the segments."""
    if data["forked"]:
        console.print(Text(data["forked"]["sentence"]), soft_wrap=True)
    console.print(Text(data["drawing"]), soft_wrap=True)
    branches = grid("branch", ">from step", "guidance cache", "reason")
    for branch in data["branches"]:
        branches.add_row(branch["name"], str(branch["parent_step"]), branch["cache"] or "none", branch["reason"])
    console.print(branches)
    table = grid("branch", ">steps", ">updates", ">tokens", ">seconds", "segment")
    for segment in data["segments"]:
        cost = segment["cost"]
        table.add_row(
            segment["branch"],
            f"{segment['t0']} → {segment['t1']}",
            plain(cost.get("updates")),
            plain(cost.get("tokens_generated")),
            plain(cost.get("seconds"), 1),
            segment["id"],
        )
    console.print(table)
    console.print(f"{data['snapshots']} snapshots.")
