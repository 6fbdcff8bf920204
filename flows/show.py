"""What the read-only commands print. Each has a function for the data (JSON-able) and one that renders it with rich.

Imports late: `npo --help` must not wait for pyarrow or matplotlib.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.reporting.tables import Table as Figures

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "left": "dim"}
Data = dict[str, Any]
WIDE = 150  # columns of a terminal in which the table of all settings is readable


def open_workspace(uri: str):
    from npo_core.stages.workspace import Workspace

    return Workspace(uri)


def status_data(uri: str) -> Data:
    """Stages done, running, failed and left."""
    from npo_core.reporting.status import status

    return status(open_workspace(uri))


def status(data: Data, console: Console) -> None:
    console.print(
        f"[bold]{escape(data['name'])}[/]  {data['kind'] or 'not begun'}  {escape(data['workspace'])}", soft_wrap=True
    )
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
    return "Running." if "running" in states else "Not running: start the same `npo run` again, it goes on from here."


def timeline_data(uri: str) -> Data:
    """Branches and segments."""
    from npo_core.reporting.overview import timeline

    return timeline(open_workspace(uri))


def timeline(data: Data, console: Console) -> None:
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


def cache_data(uri: str) -> Data:
    """Guidance caches of a workspace, or the one in a folder."""
    from npo_core.reporting.overview import caches

    return caches(open_workspace(uri))


def cache(data: Data, console: Console) -> None:
    from npo_core.reporting.tables import guidance_table

    for summary in data["caches"]:
        render(guidance_table([summary]), console)
    if not data["caches"]:
        console.print(f"{data['uri']} has no guidance cache: plain GRPO makes none.", soft_wrap=True)


def report_data(uri: str, baseline: str | None) -> Data:
    """Write the report; its figures."""
    from npo_core.reporting.report import write_report

    return write_report(open_workspace(uri), open_workspace(baseline) if baseline else None)


def report(data: Data, console: Console) -> None:
    """The tables that matter most; everything is in the files."""
    from npo_core.reporting.report import report_tables

    for table in report_tables(data):
        render(table, console)


def config_data(config: "RunConfig | None") -> Data:
    """The JSON schema of a configuration, or the values of one."""
    from npo_core.config import RunConfig

    return RunConfig.model_json_schema() if config is None else config.model_dump(mode="json")


def settings(config: "RunConfig | None", console: Console) -> None:
    """Every field of the configuration, with the values of `config` where one is given."""
    from npo_core.reporting.compare import flatten
    from npo_core.reporting.fields import fields_table

    table = fields_table(flatten(config.model_dump(mode="json")) if config else None)
    if console.width >= WIDE:
        return render(table, console, text=True)
    for field, *values, allowed, meaning in table.rows:
        said = dict(zip(table.header[1:], values, strict=False))
        if not said.get("value", "here"):
            continue  # of a kind that the preset does not choose
        console.print(
            Text(field, "bold"), *(f"{name}: {value}" for name, value in said.items()), sep="   ", markup=False
        )
        console.print(Padding(Text(f"{meaning} ({allowed})"), (0, 0, 0, 4)))


def proof(data: Data, console: Console) -> None:
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


def render(table: "Figures", console: Console, text: bool = False) -> None:
    """A table of the reporting package in the terminal; with `text` all columns are words, not figures."""
    shown = grid(*(name if text or table.is_text(i) else f">{name}" for i, name in enumerate(table.header)))
    shown.title, shown.title_justify, shown.title_style = table.title, "left", "bold"
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    if table.note:
        console.print(Text(table.note, "dim"))
    console.print()


def grid(*columns: str) -> Table:
    """An empty table; columns that begin with > hold figures."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        justify = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, overflow="fold", no_wrap=i == 0)
    return table


def plain(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def share(progress: Iterable[int] | None) -> str:
    return "" if progress is None else " of ".join(map(str, progress))


def figures(values: Data | None) -> str:
    """The newest figures of a running stage."""
    names = {"pass_rate": "pass rate", "entropy": "entropy", "groups_injected": "injected"}
    known = {word: values[name] for name, word in names.items() if values and values.get(name) is not None}
    return "  ".join(f"{word} {value:.3g}" for word, value in known.items())
