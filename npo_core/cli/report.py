"""`npo report`."""

from rich.console import Console

from npo_core.cli.options import AsJson, Baseline, Uri, emit
from npo_core.cli.output import Data, open_workspace, render


def report(workspace: Uri, baseline: Baseline = None, as_json: AsJson = False) -> None:
    """Write a run's report anew: report/report.md, report.json and pictures, in the workspace.

    Prints its main tables. With a baseline: what both took to reach pass rates, and what both reach at equal cost.

    Example: [cyan]npo report runs/npo --baseline runs/grpo[/]
    """
    emit(report_data(workspace, baseline), show, as_json)
    if not as_json:
        Console().print(f"Written: {workspace.rstrip('/')}/report/report.md", markup=False, soft_wrap=True)


def report_data(uri: str, baseline: str | None) -> Data:
    """Write the report; its figures."""
    from npo_core.reporting.report import write_report

    return write_report(open_workspace(uri), open_workspace(baseline) if baseline else None)


def show(data: Data, console: Console) -> None:
    """The tables that matter most; everything is in the files."""
    from npo_core.reporting.report import report_tables

    for table in report_tables(data):
        render(table, console)
