"""`npo status`."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import Data, grid, open_workspace, plain
from npo_core.names import FORK

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "left": "dim"}


def status(workspace: Uri, as_json: AsJson = False) -> None:
    """Show how far a run is: stages done, running, failed and left, with their progress and cost.

    Reads only files, so it works while the run goes on, from another terminal.

    Example: [cyan]npo status runs/npo[/]
    """
    from npo_core.recipes.status import status as status_data

    emit(status_data(open_workspace(workspace)), show, as_json)


def show(data: Data, console: Console) -> None:
    """Print a row for each stage."""
    console.print(
        f"[bold]{escape(data['name'])}[/]  {data['kind'] or 'not begun'}  {escape(data['workspace'])}", soft_wrap=True
    )
    if data["forked"]:
        console.print(data["forked"]["sentence"], markup=False, highlight=False, soft_wrap=True)
    table = grid("stage", "state", ">progress", ">seconds", ">tokens", "figures")
    for stage in data["stages"]:
        table.add_row(
            stage["label"],
            Text(stage["state"], STATE_STYLES[stage["state"]]),
            share(stage["progress"]),
            plain(stage["seconds"], 1),
            plain(stage["tokens"]),
            figures(stage["figures"]),
        )
    console.print(table)
    if data["error"]:
        console.print(Text(data["error"], "red"))
    console.print(advice(data), soft_wrap=True)


def advice(data: Data) -> str:
    """What to do next."""
    states = {stage["state"] for stage in data["stages"]}
    if data["stopped"]:
        return "A stop file is in the workspace: remove it and start the same command again to go on."
    if data["finished"]:
        return f"Finished. {'See report/report.md.' if data['report'] else 'Write its report with `npo report`.'}"
    command = "npo fork" if data["kind"] == FORK else "npo run"
    return (
        "Running." if "running" in states else f"Not running: start the same `{command}` again, it goes on from here."
    )


def share(progress: Iterable[int] | None) -> str:
    """Progress as `done of total`; empty where none is known."""
    return "" if progress is None else " of ".join(map(str, progress))


def figures(values: Data | None) -> str:
    """The newest figures of a running stage."""
    names = {"pass_rate": "pass rate", "entropy": "entropy", "groups_injected": "injected"}
    known = {word: values[name] for name, word in names.items() if values and values.get(name) is not None}
    return "  ".join(f"{word} {value:.3g}" for word, value in known.items())
