"""All runs below a folder side by side: how far each is and what came of it so far."""

import os
from pathlib import Path
from typing import Any

from npo_core.control.records import Decisions
from npo_core.errors import DataError, NPOError
from npo_core.names import CONFIG_FILE
from npo_core.recipes.status import owner_alive, started
from npo_core.recipes.status import status as status_of
from npo_core.reporting.records import read_stages
from npo_core.reporting.run_data import load
from npo_core.reporting.tables import NONE, Table, number
from npo_core.stages.workspace import Workspace, absolute, home

FINISHED, RUNNING, WAITS, STOPPED, LEFT, UNREADABLE = (
    "finished",
    "running",
    "waits for approval",
    "stopped",
    "not running",
    "cannot be read",
)


def runs_folder() -> str:
    """Where runs live whose form or command names no workspace: $NPO_RUNS, else `runs` in the home."""
    return absolute(os.environ.get("NPO_RUNS") or str(home() / "runs")).rstrip("/")


def find_runs(folder: str) -> list[Workspace]:
    """The workspaces right below a folder on a disk, those changed last first.

    Raises:
        DataError: the folder is none on this machine's disks.
    """
    if "://" in folder or not Path(folder).is_dir():
        raise DataError(f"{folder} is no folder here: name one that holds workspaces, or set NPO_RUNS to it.")
    configs = sorted(Path(folder).glob(f"*/{CONFIG_FILE}"), key=lambda path: path.parent.stat().st_mtime, reverse=True)
    return [Workspace(path.parent) for path in configs]


def all_runs(folder: str) -> list[dict[str, Any]]:
    """A row a run, JSON-able; one that cannot be read says why."""
    return [row(workspace) for workspace in find_runs(folder)]


def row(workspace: Workspace) -> dict[str, Any]:
    """A run in few figures. Updates and tokens are of everything together, evaluations left out."""
    found: dict[str, Any] = {"workspace": workspace.uri}
    try:
        run, recipe = load(workspace), started(workspace, read_stages(workspace))[0]
        found |= {"name": run.config.name, "flow": recipe, "seed": run.config.seed, "state": state(workspace)}
        found |= {"steps": run.steps_done, "of": run.config.training.steps}
        found |= {"updates": run.total[0], "tokens": run.total[1], "pass_rate": None, "interval": None}
        if run.points:
            last = run.points[-1]
            found |= {"pass_rate": last.pass_rate, "interval": list(last.interval), "evaluated_at": last.step}
        report = f"{workspace.uri}/report/report.md"
        return found | {"report": report if workspace.store.exists("report/report.md") else None}
    except NPOError as error:
        return found | {"state": UNREADABLE, "error": str(error)}


def state(workspace: Workspace) -> str:
    """One word, or few, for how a run stands."""
    data = status_of(workspace)
    if owner_alive(workspace) or any(stage["state"] == RUNNING for stage in data["stages"]):
        return RUNNING
    if data["stopped"] or data["finished"]:
        return STOPPED if data["stopped"] else FINISHED
    asks = workspace.config().auto.approval == "ask"
    return WAITS if asks and Decisions(workspace.store).waiting() else LEFT


def runs_table(folder: str, rows: list[dict[str, Any]]) -> Table:
    """The rows as text; each run is named by its folder."""
    header = ["run", "state", "flow", "seed", "steps", "held-out pass rate", "all updates", "all tokens", "report"]
    cells = [
        [
            str(run["workspace"]).rstrip("/").rsplit("/", 1)[-1],
            run["state"],
            run.get("flow") or NONE,
            str(run.get("seed", NONE)),
            f"{run['steps']} of {run['of']}" if "steps" in run else NONE,
            score(run),
            number(run.get("updates")),
            number(run.get("tokens")),
            "report/report.md" if run.get("report") else NONE,
        ]
        for run in rows
    ]
    note = "Updates and tokens are of everything together: training, abandoned branches, probes and guidance."
    words = ("state", "flow", "steps", "held-out pass rate", "report")
    return Table(f"Runs in {folder}", header, cells, note, words)


def score(run: dict[str, Any]) -> str:
    if run.get("pass_rate") is None:
        return NONE
    low, high = run["interval"]
    return f"{run['pass_rate']:.3f} ({low:.3f} to {high:.3f}) at step {run['evaluated_at']}"
