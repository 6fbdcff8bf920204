"""`npo serve`."""

from typing import Annotated

import typer

from npo_core.shipped import pipeline


def serve(
    port: Annotated[int, typer.Option(help="Of the address in the browser.")] = 4200,
    runs: Annotated[int, typer.Option(help="Flow runs at once, one for each GPU.")] = 1,
    trackio: Annotated[int | None, typer.Option(help="Start Trackio's dashboard, too, on this port.")] = None,
) -> None:
    """Serve the Prefect UI with a worker and all deployments on this machine, until Ctrl-C.

    Needs Prefect. Runs are started, watched, cancelled and retried with clicks; `make serve` in a checkout is this.

    Example: [cyan]npo serve --port 4300[/]
    """
    pipeline("flows.serve").main(port, runs, trackio)
