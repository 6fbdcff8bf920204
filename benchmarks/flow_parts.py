"""Where a flow's wall time went, from what its stages left in the workspace."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npo_core.names import EVENTS_FILE, RESULT_FILE, SPEC_FILE
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_steps

PHASES = ("seconds_generate", "seconds_verify", "seconds_update")


def parts(folder: Path, started: float, ended: float) -> dict[str, float]:
    """Name -> seconds, in the order of the run; indented names are shares of the line above and not added again.

    Args:
        folder: a local workspace. started, ended: of the flow's process, seconds since the epoch.
    """
    workspace = Workspace(folder)
    stages = sorted((read_stage(path) for path in (folder / "stages").iterdir()), key=lambda stage: stage["started"])
    found: dict[str, float] = {"start: interpreter, Prefect server, fork server": stages[0]["started"] - started}
    between = 0.0
    for number, stage in enumerate(stages):
        found[f"stage {number + 1}, {label(stage)}"] = stage["seconds"]
        if stage["stage"] == "train":
            found |= {f"- {number + 1}: {name}": seconds for name, seconds in training_parts(workspace, stage).items()}
        if number:
            between += stage["started"] - end(stages[number - 1])
    report = max(path.stat().st_mtime for path in (folder / "report").iterdir())
    found[f"between stages ({len(stages) - 1} times): task, artifact, start of a process"] = between
    found["last artifact, and report"] = report - end(stages[-1])
    found["end: report's artifact, server, exit"] = ended - report
    return found


def read_stage(folder: Path) -> dict[str, Any]:
    """A stage's result with its specification and the time of its first progress event."""
    record = json.loads((folder / RESULT_FILE).read_text())
    events = (folder / EVENTS_FILE).read_text().splitlines() if (folder / EVENTS_FILE).exists() else []
    return record | {
        "spec": json.loads((folder / SPEC_FILE).read_text()),
        "first_event": json.loads(events[0])["time"] if events else None,
    }


def end(stage: Mapping[str, Any]) -> float:
    return stage["started"] + stage["seconds"]


def label(stage: Mapping[str, Any]) -> str:
    spec = stage["spec"]
    if stage["stage"] == "train":
        return f"train {spec['branch']} to {spec['until']}" + (" guided" if spec["cache"] else "")
    return {"base": "base model taken in", "guide": "guidance", "evaluate": "evaluation"}[stage["stage"]]


def training_parts(workspace: Workspace, stage: Mapping[str, Any]) -> dict[str, float]:
    """What a training stage spent before its first step, in its steps, on snapshots, and on the rest."""
    segment = workspace.timeline.segment(stage["result"]["segment"])
    seconds = [sum(row[phase] or 0.0 for phase in PHASES) for row in read_steps(workspace.store, segment).to_pylist()]
    before = stage["first_event"] - stage["started"] - seconds[0]
    snapshots = segment.cost["snapshot_seconds"]
    return {
        "until the first step: model, trainer, data": before,
        "steps: generate, verify, update": sum(seconds),
        "snapshots: state copied, the one before awaited": snapshots,
        "the rest: optimizer, log": stage["seconds"] - before - sum(seconds) - snapshots,
    }
