"""`npo config`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from npo_core.cli.options import AsJson, emit
from npo_core.cli.output import Data, render
from npo_core.shipped import preset_file

if TYPE_CHECKING:
    from npo_core.config import RunConfig

WIDE = 150  # columns of a terminal in which the table of all settings is readable


def config(
    preset: Annotated[str | None, typer.Option(help="A file of deployments/configs by name, for example demo.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain every setting: default, allowed values, unit and meaning.

    Prints a table; with --preset also that file's values, changed ones marked with an asterisk. --json prints the JSON
    schema, or with --preset the resolved values.

    Example: [cyan]npo config --preset demo[/]
    """
    from npo_core.config import load_config

    chosen = None if preset is None else load_config(preset_file(preset))
    emit(config_data(chosen), lambda data, console: show(chosen, console), as_json)


def config_data(config: "RunConfig | None") -> Data:
    """The JSON schema of a configuration, or the values of one."""
    from npo_core.config import RunConfig

    return RunConfig.model_json_schema() if config is None else config.model_dump(mode="json")


def show(config: "RunConfig | None", console: Console) -> None:
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
