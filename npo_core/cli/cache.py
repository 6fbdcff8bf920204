"""`npo cache`."""

from typing import Annotated

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, emit
from npo_core.cli.output import Data, open_workspace, render


def cache(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Workspace, or the folder of one guidance cache.")],
    as_json: AsJson = False,
) -> None:
    """Show what guidance holds: trajectories, coverage Q, lengths, guides, and what each trajectory cost.

    Prints a table for every cache of a workspace, or for the one cache in a folder.

    Example: [cyan]npo cache runs/npo[/]
    """
    emit(cache_data(uri), show, as_json)


def cache_data(uri: str) -> Data:
    """Guidance caches of a workspace, or the one in a folder."""
    from npo_core.reporting.overview import caches

    return caches(open_workspace(uri))


def show(data: Data, console: Console) -> None:
    """Print a table for each cache."""
    from npo_core.reporting.tables import guidance_table

    for summary in data["caches"]:
        render(guidance_table([summary]), console)
    if not data["caches"]:
        console.print(f"{data['uri']} has no guidance cache: plain GRPO makes none.", soft_wrap=True)
