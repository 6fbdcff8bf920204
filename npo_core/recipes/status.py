"""How far a run is: which stages are done, running, failed, or still to come."""

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from npo_core.config import Plateau, RunConfig
from npo_core.errors import ConfigError
from npo_core.names import ERROR_FILE, EVENTS_FILE, LOG_FILE, PLATEAU, SPEC_FILE, STARTED_FILE, STOP_FILE
from npo_core.recipes import follow
from npo_core.recipes.counting import CountingSteps
from npo_core.recipes.run import Run
from npo_core.recipes.work import Work
from npo_core.reporting.costs import label, snapshot_steps
from npo_core.reporting.records import Stage, is_watched, read_decisions, read_stages
from npo_core.reporting.roles import kind_of
from npo_core.stages.workspace import Workspace
from npo_core.timeline import origin, read_fork
from npo_core.timeline.lock import held_here
from npo_core.timeline.segments import read_marks

DONE, RUNNING, FAILED, INTERRUPTED, LEFT = "done", "running", "failed", "interrupted", "left"
ALIVE_S = 120.0  # without a lock to ask, a stage counts as running this long after its last sign of life


@dataclass(frozen=True)
class StageState:
    """A stage and how far it is. `progress` is (done, total); tokens are known once it is done.

    Seconds are those of the work; of a running stage those since it was started, of an ended one up to its last event.
    """

    stage: str
    label: str
    state: str
    progress: tuple[int, int] | None = None
    figures: dict[str, float] | None = None  # of the newest event
    seconds: float | None = None
    tokens: int | None = None
    error: str | None = None


def status(workspace: Workspace) -> dict[str, Any]:
    """What a run has done and has left, JSON-able. Raises DataError where there is no run."""
    config, stages = workspace.config(), read_stages(workspace)
    scratch, busy = scratch_folder(workspace), owner_alive(workspace)
    steps = snapshot_steps(workspace, stages)
    states = [state_of(workspace, stage, scratch, busy, steps) for stage in stages]
    recipe, plateau = started(workspace, stages)
    undone, begun = to_do(workspace, config, stages, recipe, plateau), {stage.folder for stage in stages}
    left = [StageState(work.stage, work.label, LEFT) for work in undone if work.folder not in begun]
    return {
        "workspace": workspace.uri,
        "name": config.name,
        "kind": recipe,
        "stages": [asdict(state) for state in [*states, *left]],
        "stopped": workspace.store.exists(STOP_FILE),
        "finished": recipe is not None and not undone,
        "report": workspace.store.exists("report/report.md"),
        "forked": None if (there := read_fork(workspace.store)) is None else origin(there),
        "error": next((state.error for state in reversed(states) if state.error), None),
    }


def started(workspace: Workspace, stages: list[Stage]) -> tuple[str | None, Plateau | None]:
    """The recipe that was started last, and its own settings; None: nothing was started.

    Runs of before 0.3 did not note it: there the branches tell.
    """
    noted = workspace.store.read_json(STARTED_FILE, default=None)
    if noted is not None:
        return noted["recipe"], noted["plateau"] and Plateau.model_validate(noted["plateau"])
    branches, decisions = workspace.timeline.branches(), read_decisions(workspace)
    if not branches:
        return None, None
    kind = kind_of(branches, is_watched(stages, decisions))
    plans = [d["thresholds"] for d in decisions if d["flow"] == PLATEAU]
    return kind, Plateau.model_validate(plans[-1]) if kind == PLATEAU and plans else None


def to_do(
    workspace: Workspace, config: RunConfig, stages: list[Stage], recipe: str | None, plateau: Plateau | None
) -> list[Work]:
    """The stages of the recipe without a result, as far as they are known: interventions to come are not."""
    done = {stage.folder: stage for stage in stages if stage.record is not None}
    steps = CountingSteps(Run(config, workspace), done)
    if recipe is None:
        return []
    with suppress(ConfigError):  # the recipe itself says what it refuses, when it is started
        follow(recipe, steps, plateau)
    return [work for work in steps.works if work.folder not in done]


def state_of(
    workspace: Workspace, stage: Stage, scratch: Path | None, busy: bool | None, steps: Mapping[str, int]
) -> StageState:
    """A started stage: its result, its error, or how far it is."""
    words = label(stage, steps)
    if stage.record is not None:
        tokens = stage.cost.get("tokens_generated")
        return StageState(
            stage.name,
            words,
            DONE,
            seconds=stage.cost.get("seconds", stage.record["seconds"]),
            tokens=None if tokens is None else int(tokens),
        )
    local = scratch / stage.folder if scratch else None
    event = last_event(local / EVENTS_FILE) if local else None
    progress = (event["done"], event["total"]) if event else committed(workspace, stage, steps)
    figures = {k: v for k, v in (event or {}).items() if k not in ("time", "done", "total")} or None
    error = sentence(local / ERROR_FILE) if local else None
    alive = busy if busy is not None else recently(local)
    has_log = workspace.store.exists(f"{stage.folder}/{LOG_FILE}")
    if error is None and not alive and has_log:
        error = f"Stage {stage.name} ended without a result; its log is {workspace.uri}/{stage.folder}/{LOG_FILE}."
    state = FAILED if error else RUNNING if alive else INTERRUPTED
    seconds = (
        since(local / SPEC_FILE, time.time() if state == RUNNING else (event or {}).get("time")) if local else None
    )
    return StageState(stage.name, words, state, progress, figures, seconds=seconds, error=error)


def since(spec: Path, until: float | None) -> float | None:
    """Seconds since a stage was started, which its specification was written for."""
    with suppress(OSError):
        return None if until is None else max(until - spec.stat().st_mtime, 0.0)
    return None


def committed(workspace: Workspace, stage: Stage, steps: Mapping[str, int]) -> tuple[int, int] | None:
    """Progress of a train stage by its committed parts, where its events are on another machine."""
    if stage.name != "train" or stage.spec["start"] not in steps:
        return None
    marks, start = read_marks(workspace.store, stage.fingerprint), steps[stage.spec["start"]]
    return (marks[-1].step - start, stage.spec["until"] - start) if marks else None


def scratch_folder(workspace: Workspace) -> Path | None:
    """Where the stages of this workspace keep events and errors; None where nothing can be kept."""
    try:
        return workspace.scratch
    except OSError:  # a read-only copy of a workspace
        return None


def last_event(path: Path) -> dict[str, Any] | None:
    """The newest complete line of events."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return json.loads(lines[-1]) if lines else None


def sentence(path: Path) -> str | None:
    """What an error file says."""
    try:
        return json.loads(path.read_text())["message"]
    except FileNotFoundError:
        return None


def recently(folder: Path | None) -> bool:
    """Whether anything in a stage's folder changed lately."""
    if folder is None or not folder.is_dir():
        return False
    return any(time.time() - path.stat().st_mtime < ALIVE_S for path in folder.iterdir())


def owner_alive(workspace: Workspace) -> bool | None:
    """Whether the workspace's lock is held; None where it cannot be told. Never touches the lock itself."""
    if not workspace.store.is_local:
        return workspace.store.read_json("lock.json", default={}).get("expires", 0.0) > time.time()
    owner = workspace.store.read_json(".lock.json", default={})
    if owner.get("host") != socket.gethostname():
        return None
    if owner["pid"] == os.getpid():  # its name stays after the lock
        return held_here(workspace.store)
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
