"""Proof of exactness: roll back, replay a segment without guidance, and compare bit for bit with the original.

The replay runs as the same stage, in a process of its own, in a workspace of its own that starts from a copy of the
snapshot. What is compared: the token ids of every group (by hash), loss, gradient norm and every other metric of every
update, and the content of every snapshot (weights, optimizer, schedule, data position).
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from npo_core.errors import DataError
from npo_core.names import FUNCTIONS_FILE, RESULT_FILE, SPEC_FILE
from npo_core.stages.launch import Watcher, run_stage
from npo_core.stages.nodes import ADDRESS
from npo_core.stages.problems import copy_problems
from npo_core.stages.specs import TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch, Segment, Snapshot
from npo_core.timeline.segments import TIMINGS, read_marks, read_outcomes, read_steps


def prove_replay(
    uri: str, segment: str | None = None, steps: int | None = None, watch: Watcher = lambda event: None
) -> dict[str, Any]:
    """Replay a finished unguided segment (the first one by default), or its first `steps` updates, and compare.

    Returns:
        equal, segment, branch, t0, t1, steps, compared: [{what, equal, detail}], versions and numbers of processes of
        both runs.

    Raises:
        DataError: no such segment, it was guided, or `steps` is no snapshot of it.
    """
    workspace = Workspace(uri)
    original = choose(workspace, segment)
    until = end_step(original, steps)
    then = versions_of(workspace, original)
    processes = processes_of(workspace, original, until)
    with tempfile.TemporaryDirectory(dir=workspace.scratch, prefix="proof-") as folder:
        copy = Workspace(Path(folder))
        result = run_stage(respecify(workspace, copy, original, until), watch)
        replayed = copy.timeline.segment(result.result.segment)
        compared = compare(workspace, original, copy, replayed, until)
        now = copy.store.read_json(f"stages/train-{replayed.id}/{RESULT_FILE}")["versions"]
    return {
        "equal": all(row["equal"] for row in compared),
        "segment": original.id,
        "branch": original.branch,
        "t0": original.t0,
        "t1": until,
        "steps": until - original.t0,
        "compared": compared,
        "versions": {"original": then, "replay": now},
        "processes": {"original": processes, "replay": processes[-1:]},
    }


def choose(workspace: Workspace, id_: str | None) -> Segment:
    """The segment to prove: the named one, or the first without guidance."""
    segments = workspace.timeline.segments()
    if id_ is not None:
        segments = [s for s in segments if s.id.startswith(id_)]
        if len(segments) != 1:
            raise DataError(
                f"{len(segments)} finished segments of {workspace.uri} begin with '{id_}': see `npo timeline`."
            )
        if segments[0].cache is not None:
            raise DataError(
                f"Segment {segments[0].id} was guided by cache {segments[0].cache}: without guidance its replay "
                "is another run. Choose an unguided segment, see `npo timeline`."
            )
    unguided = [s for s in sorted(segments, key=lambda s: (s.t0, s.branch)) if s.cache is None]
    if not unguided:
        raise DataError(f"{workspace.uri} has no finished unguided segment yet: run a flow on it first.")
    return unguided[0]


def versions_of(workspace: Workspace, segment: Segment) -> dict[str, str]:
    """What a segment was trained with.

    Raises:
        DataError: by npo before 0.3, which drew other random numbers.
    """
    found = workspace.store.read_json(f"stages/train-{segment.id}/{RESULT_FILE}")["versions"]
    if "npo-core" not in found:
        raise DataError(
            f"Segment {segment.id} of {workspace.uri} was trained by npo before 0.3, which drew other random numbers: "
            "prove it with that version."
        )
    return found


def end_step(segment: Segment, steps: int | None) -> int:
    """The step at which the replay ends; it must have a snapshot to compare with."""
    until = segment.t1 if steps is None else segment.t0 + steps
    if until not in segment.produced():
        known = ", ".join(str(step - segment.t0) for step in sorted(segment.produced()))
        raise DataError(f"--steps {steps} ends where the segment has no snapshot: use one of {known}.")
    return until


def processes_of(workspace: Workspace, segment: Segment, until: int) -> list[int]:
    """In how many processes the parts of a segment were trained, each number once; bits are equal for equal numbers."""
    return sorted({mark.processes for mark in read_marks(workspace.store, segment.id) if mark.step <= until})


def respecify(workspace: Workspace, copy: Workspace, original: Segment, until: int) -> TrainSpec:
    """The original's specification, to be run in `copy` up to `until`, in as many processes."""
    values = workspace.store.read_json(f"stages/train-{original.id}/{SPEC_FILE}")
    processes = processes_of(workspace, original, until)[-1]
    execution = values["execution"] | {"processes": processes} | ({"sharding": "none"} if processes == 1 else {})
    several = workspace.store.is_local and ADDRESS in os.environ  # others may be there, and would find the copy
    if not several or processes % execution.get("nodes", 1):  # or another number of machines trained on
        execution["nodes"] = 1
    spec = TrainSpec.model_validate(values | {"workspace": copy.uri, "until": until, "execution": execution})
    start = workspace.timeline.snapshots.get(original.start)
    for id_ in {start.id, *needed(workspace, spec, start)}:
        shutil.copytree(workspace.snapshot_folder(id_, whole=True), copy.store.local(f"snapshots/{id_}"))
    copy_problems(workspace, copy)
    if (known := workspace.store.read_json(FUNCTIONS_FILE, default=None)) is not None:  # machines that join look there
        copy.store.write_json(FUNCTIONS_FILE, known)
    copy.timeline.add_branch(Branch(name=original.branch, parent=start.id, parent_step=start.step, reason="proof"))
    return spec


def needed(workspace: Workspace, spec: TrainSpec, start: Snapshot) -> list[str]:
    """The base model's snapshot, where adapters or a KL need it."""
    if not (spec.training.kl_coef or "base" in start.info):
        return []
    return [snapshot.id for snapshot in workspace.timeline.snapshots.list() if snapshot.step == 0]


def compare(
    workspace: Workspace, original: Segment, copy: Workspace, replayed: Segment, until: int
) -> list[dict[str, Any]]:
    """One row for each thing that must be equal, with where it first differs."""
    both = ((workspace, original), (copy, replayed))
    outcomes = [up_to(read_outcomes(w.store, s), until) for w, s in both]
    steps = [up_to(read_steps(w.store, s), until).drop_columns(list(TIMINGS)) for w, s in both]
    rows = [
        compare_rows("token ids, pass rates and order of prompts", "prompt_id", *outcomes),
        compare_rows("loss, gradient norm and metrics of every update", "step", *steps),
    ]
    for step, id_ in sorted(replayed.produced().items()):
        old, new = (
            w.timeline.snapshots.get(i).content for w, i in ((workspace, original.produced()[step]), (copy, id_))
        )
        differ = [part for part in sorted({*old, *new}) if old.get(part) != new.get(part)]
        rows.append(
            {
                "what": f"snapshot after update {step}: {', '.join(sorted(old))}",
                "equal": not differ,
                "detail": f"{', '.join(differ)} differ" if differ else id_,
            }
        )
    return rows


def up_to(table: pa.Table, step: int) -> pa.Table:
    """The rows up to a step."""
    import pyarrow.compute as pc

    return table.filter(pc.less_equal(table["step"], step))


def compare_rows(what: str, name: str, old: pa.Table, new: pa.Table) -> dict[str, Any]:
    """Compare two tables value by value; NaN equals NaN, nothing is rounded. `name`: the column that names a row."""
    if len(old) != len(new):
        return {"what": what, "equal": False, "detail": f"{len(old)} rows, replayed {len(new)}"}
    for a, b in zip(old.to_pylist(), new.to_pylist(), strict=True):
        for column in a:
            if a[column] != b[column] and not (a[column] != a[column] and b[column] != b[column]):
                where = f"update {a['step']}" + (f", {name} {a[name]}" if name != "step" else "")
                return {
                    "what": what,
                    "equal": False,
                    "detail": f"{where}: {column} {a[column]!r}, replayed {b[column]!r}",
                }
    return {"what": what, "equal": True, "detail": f"{len(old)} rows"}
