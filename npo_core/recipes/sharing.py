"""What a forked workspace shares with the run before: snapshots, segments, guidance, problems and scores of a path.

Big files are shared (`npo_core.timeline.share_folder`), records are written anew. A segment that the path leaves before
its end is shared as the segment that a training up to there would have made: same rows, same snapshots, its own id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from npo_core.config import RunConfig
from npo_core.guidance.info import INFO_FILE
from npo_core.names import DRAWS, FORK, FUNCTIONS_FILE, RESULT_FILE, SPEC_FILE, STARTED_FILE
from npo_core.recipes.run import Run
from npo_core.reporting.records import read_stages
from npo_core.stages.problems import FOLDER as PROBLEMS
from npo_core.stages.problems import RECORD
from npo_core.stages.results import Cost, TrainResult
from npo_core.stages.specs import TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import MANIFEST, Fork, Segment, Stretch, opened, share_file, share_folder
from npo_core.timeline.segments import Mark, part_files, read_marks, read_steps, write_mark


@dataclass(frozen=True)
class Path:
    """A run from its base to a step: configuration, stretches, snapshots by step, guidance caches of it and beyond."""

    config: RunConfig
    stretches: list[Stretch]
    snapshots: dict[int, str]
    caches: set[str]


def share(origin: Workspace, target: Workspace, path: Path, fork: Fork, folder: str) -> None:
    """Let a workspace have a path of another; what it has already stays. `folder`: where relative paths count from.

    Raises:
        DamagedError, StorageError: what is to be shared is damaged, or a disk or S3 refuses.
    """
    base = Run(path.config, origin).base().folder
    ids = dict.fromkeys(
        [origin.store.read_json(f"{base}/{RESULT_FILE}")["result"]["snapshot"], *path.snapshots.values()]
    )
    for id_ in ids:
        origin.timeline.snapshots.get(id_)  # raises where it is damaged
        share_folder(origin.store, target.store, f"snapshots/{id_}", MANIFEST)
    for key in origin.store.list(PROBLEMS):
        share_folder(origin.store, target.store, f"{PROBLEMS}/{key}", RECORD)
    for cache in sorted(path.caches):
        share_folder(origin.store, target.store, f"guidance/{cache}", INFO_FILE)
    for stage in read_stages(origin):
        if stage.folder == base or stage.result.get("cache") in path.caches:
            write_stage(target, stage.folder, stage.spec, stage.record)
    share_branches(origin, target, path)
    for stretch in path.stretches:
        share_segment(origin, target, stretch)
    for rel in scores(origin, set(ids)):
        share_file(origin.store, target.store, rel)
    if origin.store.exists(FUNCTIONS_FILE):
        share_file(origin.store, target.store, FUNCTIONS_FILE)
    note = {"recipe": FORK, "plateau": None, "folder": folder, "draws": DRAWS}
    target.store.write_json(STARTED_FILE, note)


def share_branches(origin: Workspace, target: Workspace, path: Path) -> None:
    """Record the branches of a path, in the order they were opened."""
    names = {stretch.segment.branch for stretch in path.stretches}
    for branch in opened(origin.timeline.branches()):
        if branch.name in names:
            target.timeline.add_branch(branch)


def share_segment(origin: Workspace, target: Workspace, stretch: Stretch) -> None:
    """Record a segment up to where the path leaves it, with its tables, its marks and its stage."""
    old, store = stretch.segment, target.store
    folder = f"stages/train-{old.id}"
    spec = TrainSpec.model_validate(origin.store.read_json(f"{folder}/{SPEC_FILE}") | {"workspace": target.uri})
    record = origin.store.read_json(f"{folder}/{RESULT_FILE}", default=None)
    marks = [mark for mark in read_marks(origin.store, old.id) if mark.step <= stretch.t1]
    if record is None or stretch.t1 < old.t1:  # what was not finished, or not up to here, gets an end here
        spec = spec.model_copy(update={"until": stretch.t1})
        marks[-1] = replace(marks[-1], ended="until")
    segment = up_to(old, spec.fingerprint, stretch.t1)
    for mark in marks:
        for name in part_files([mark.step])[:-1]:
            share_table(origin, target, old.id, segment.id, name)
        write_mark(store, segment.id, mark)
    if segment.id != old.id or record is None:
        segment = segment.model_copy(update={"cost": cost_of(target, segment, marks)})
        record = record_of(origin, record, segment)
    target.timeline.add_segment(segment)
    write_stage(target, spec.folder, spec.model_dump(mode="json"), record)


def share_table(origin: Workspace, target: Workspace, old: str, new: str, name: str) -> None:
    """Let a segment have a table of another."""
    share_file(origin.store, target.store, f"segments/{old}/{name}", f"segments/{new}/{name}")


def up_to(old: Segment, id_: str, step: int) -> Segment:
    """The part of a segment up to one of its snapshots."""
    return old.model_copy(
        update={
            "id": id_,
            "end": old.produced()[step],
            "t1": step,
            "snapshots": {at: snapshot for at, snapshot in old.snapshots.items() if at <= step},
            "parts": [part for part in old.parts if part <= step],
        }
    )


def cost_of(target: Workspace, segment: Segment, marks: list[Mark]) -> dict[str, float]:
    """What was spent on the part of a segment."""
    steps = read_steps(target.store, segment)
    return {
        "updates": float(steps.num_rows),
        "tokens_generated": float(sum(value or 0 for value in steps["tokens_generated"].to_pylist())),
        "seconds": sum(mark.seconds for mark in marks),
    }


def record_of(origin: Workspace, old: dict[str, Any] | None, segment: Segment) -> dict[str, Any]:
    """The result of a stage that trained a segment up to where it is shared; versions are those of the run before."""
    known = old or next(stage.record for stage in read_stages(origin) if stage.record is not None)
    result = TrainResult(
        segment=segment.id,
        end=segment.end,
        step=segment.t1,
        ended="until",
        snapshots=segment.snapshots,
        cost=Cost(**segment.cost),
    )
    return known | {
        "stage": "train",
        "fingerprint": segment.id,
        "result": result.as_json(),
        "seconds": segment.cost["seconds"],
    }


def write_stage(target: Workspace, folder: str, spec: dict[str, Any], record: dict[str, Any] | None) -> None:
    """A stage's specification, in this workspace, and its result."""
    target.store.write_json(f"{folder}/{SPEC_FILE}", spec | {"workspace": target.uri})
    if record is not None:
        target.store.write_json(f"{folder}/{RESULT_FILE}", record)


def scores(origin: Workspace, ids: set[str]) -> Iterator[str]:
    """The files with scores of some snapshots, by any protocol."""
    for protocol in origin.store.list("evaluations"):
        names = origin.store.list(f"evaluations/{protocol}")
        yield from (f"evaluations/{protocol}/{name}" for name in names if name.removesuffix(".json") in ids)
