"""What commands print with: tables and figures in the terminal.

Each command's module has a function for its data (JSON-able) and one, `show`, that renders it. Imports late:
`npo --help` must not wait for pyarrow or matplotlib.
"""

from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from npo_core.reporting.tables import Table as Figures
    from npo_core.stages.workspace import Workspace

Data = dict[str, Any]


def open_workspace(uri: str) -> "Workspace":
    """The workspace at a URI."""
    from npo_core.stages.workspace import Workspace

    return Workspace(uri)


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
        justify: Literal["right", "left"] = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, overflow="fold", no_wrap=i == 0)
    return table


def plain(value: float | None, digits: int = 0) -> str:
    """A number with thousands separators; empty where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"
