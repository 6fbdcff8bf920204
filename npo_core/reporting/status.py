"""How far a run is: which stages are done, running, failed, or still to come."""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from npo_core.config import RunConfig
from npo_core.reporting.costs import label, snapshot_steps
from npo_core.reporting.records import Stage, Workspace, is_watched, read_decisions, read_stages
from npo_core.reporting.roles import EARLY_BOOTSTRAP, SCOUT, kind_of
from npo_core.timeline.segments import read_marks

DONE, RUNNING, FAILED, INTERRUPTED, LEFT = "done", "running", "failed", "interrupted", "left"
ALIVE_S = 120.0  # without a lock to ask, a stage counts as running this long after its last sign of life
ERROR_FILE, EVENTS_FILE, LOG_FILE, STOP = "error.json", "events.jsonl", "log.txt", "stop"


@dataclass(frozen=True)
class StageState:
    """A stage and how far it is. `progress` is (done, total); seconds and tokens are known once it is done."""

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
    branches = workspace.timeline.branches()
    kind = kind_of(branches, is_watched(stages, read_decisions(workspace))) if branches else None
    left = [StageState(stage, words, LEFT) for stage, words in still_to_come(workspace, config, stages, kind)]
    return {
        "workspace": workspace.uri,
        "name": config.name,
        "kind": kind,
        "stages": [asdict(state) for state in [*states, *left]],
        "stopped": workspace.store.exists(STOP),
        "finished": is_evaluated(workspace, [stage for stage in stages if stage.record is not None]),
        "report": workspace.store.exists("report/report.md"),
        "error": next((state.error for state in reversed(states) if state.error), None),
    }


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
    return StageState(stage.name, words, state, progress, figures, error=error)


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
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_evaluated(workspace: Workspace, stages: Iterable[Stage]) -> bool:
    """Whether any of the stages evaluates what the final branch trained, which a flow does when training is over."""
    final = workspace.timeline.final()
    own = [segment for segment in workspace.timeline.segments() if final and segment.branch == final.name]
    made = {id_ for segment in own for id_ in segment.produced().values()}
    return any(stage.name == "evaluate" and made & set(stage.spec["snapshots"]) for stage in stages)


def still_to_come(
    workspace: Workspace, config: RunConfig, stages: list[Stage], kind: str | None
) -> list[tuple[str, str]]:
    """Stages that the flow has not started, as far as they are known: name and label."""
    if is_evaluated(workspace, stages):
        return []
    plan = [("base", "base model", any(stage.name == "base" for stage in stages))]
    if kind == EARLY_BOOTSTRAP:
        plan += bootstrap_plan(config, stages)
    elif kind is not None:
        final = workspace.timeline.final().name
        ends = [stage.result.get("step", stage.spec["until"]) for stage in stages if trains(stage, final)]
        end = config.training.steps
        plan.append(("train", f"train {final} to step {end}", max(ends, default=0) >= end))
    return [(stage, words) for stage, words, started in plan if not started] + [("evaluate", "evaluate")]


def trains(stage: Stage, branch: str) -> bool:
    return stage.name == "train" and stage.spec["branch"] == branch


def bootstrap_plan(config: RunConfig, stages: list[Stage]) -> list[tuple[str, str, bool]]:
    """The stages of early bootstrapping between base model and evaluation, and whether each was started."""
    end, scout, guided = config.training.steps, config.bootstrap.scout_steps, config.bootstrap.guided
    trained = {(stage.spec["branch"], stage.spec["until"]) for stage in stages if stage.name == "train"}
    guides = ", ".join(map(str, config.bootstrap.guide_steps))
    asked = any(stage.name == "guide" for stage in stages)
    return [
        ("train", f"train scout 0-{scout}", (SCOUT, scout) in trained),
        *([("guide", f"guide from step {guides}", asked)] if guided else []),
        ("train", f"train replay 0-{scout}" + " guided" * guided, ("replay", scout) in trained),
        *([("train", f"train replay {scout}-{end}", ("replay", end) in trained)] if end > scout else []),
    ]
