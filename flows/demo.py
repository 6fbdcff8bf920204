"""`make demo`: plain GRPO and early-stage bootstrapping on the built-in task, and what came of it.

    python -m flows.demo [--folder .npo/demo] [--config deployments/configs/demo.yaml]

Every stage that is done stays done, so a second call only shows the comparison.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from flows.run import run_flow
from flows.server import local_server, prefect_home
from npo_core.cli import report, timeline
from npo_core.config import RunConfig, load_config
from npo_core.errors import NPOError
from npo_core.shipped import preset_file
from npo_core.stages.forked import fork_server, forks


def demo(config: RunConfig, folder: Path) -> None:
    """Run both flows on one server and print the comparison and where everything lies."""
    console, started = Console(), time.monotonic()
    grpo, npo = str(folder / "grpo"), str(folder / "early-bootstrap")
    if forks(config.execution):
        fork_server(config.execution)
    with local_server():
        console.print("[bold]1 of 2  plain GRPO, the baseline[/]")
        run_flow("grpo", config.model_copy(update={"name": "demo-grpo"}), grpo)
        console.print("[bold]2 of 2  NPO: scout, guidance, rollback, guided replay[/]")
        run_flow("early-bootstrap", config.model_copy(update={"name": "demo-npo"}), npo, baseline=grpo)
    report.show(report.report_data(npo, grpo), console)
    console.print(f"\n[bold]Timeline[/] ({npo})")
    timeline.show(timeline.timeline_data(npo), console)
    console.print(
        f"\nCurves      {npo}/report/curves.png, training.png\nReport      {npo}/report/report.md\n"
        f"Workspaces  {grpo}  {npo}\nProof       npo prove-replay {npo}\n"
        f"UI          make serve  (database in {prefect_home()})\n"
        f"Took        {time.monotonic() - started:.0f} s",
        soft_wrap=True,
        highlight=False,
    )


def main() -> None:
    """`make demo`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".npo/demo"))
    parser.add_argument("--config", type=Path, default=preset_file("demo"))
    options = parser.parse_args()
    try:
        demo(load_config(options.config), options.folder.absolute())
    except NPOError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
