"""`npo signals`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Overrides, Uri, emit, parse_overrides
from npo_core.cli.output import open_workspace, render
from npo_core.errors import ConfigError

if TYPE_CHECKING:
    from npo_core.reporting.signals import SignalsData


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
    found = signals_data(workspace, parse_overrides(overrides or []))
    written = draw_signals(found, workspace, out)
    emit(found.plain() if as_json else found, show, as_json)
    if not as_json:
        Console().print(f"Written: {written}", markup=False, soft_wrap=True)


def signals_data(uri: str, changes: dict[str, Any]) -> "SignalsData":
    """The signals of a run, with some thresholds changed."""
    from npo_core.config import override, parse_config
    from npo_core.reporting.signals import read_signals

    for name in changes:
        if not name.startswith("auto.control.trigger."):
            raise ConfigError(f"{name} does not change the signals: give a field of auto.control.trigger.")
    workspace = open_workspace(uri)
    config = parse_config(override(workspace.config().model_dump(mode="json"), changes))
    return read_signals(workspace, config.auto.control.trigger)


def draw_signals(found: "SignalsData", uri: str, out: Path | None) -> str:
    """Write the picture into the given file, or into the workspace; where it is."""
    from npo_core.reporting.signals import PICTURE, signals_png

    if out is None:
        open_workspace(uri).store.write_bytes(PICTURE, signals_png(found))
        return f"{uri.rstrip('/')}/{PICTURE}"
    try:
        out.write_bytes(signals_png(found))
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}): give a file in an existing folder."
        ) from None
    return str(out)


def show(found: "SignalsData", console: Console) -> None:
    """Print the readings and the reason of each decision."""
    from npo_core.reporting.signals import readings_table

    render(readings_table(found), console)
    for decision in found.decisions:
        console.print(Text(f"Decision {decision.number} at step {decision.step}: {decision.reason}"), soft_wrap=True)
