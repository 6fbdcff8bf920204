"""What of a run's snapshots nothing needs any more, and its removal.

A snapshot is kept *whole* where training may start from it, its *weights* are kept where something may read them, and
all else goes but its manifest, with which the run still knows what it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from npo_core.errors import DataError
from npo_core.reporting.records import read_decisions, read_stages, run_segments
from npo_core.reporting.run_data import load
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Snapshot, workspace_lock
from npo_core.timeline.snapshots import of_optimizer

PINS = "pins.json"  # snapshots that are never pruned
WHOLE, WEIGHTS, NOTHING = "whole", "weights", "nothing"


@dataclass(frozen=True)
class Kept:
    """What stays of a snapshot, why, and how many bytes go now."""

    snapshot: str
    step: int
    keeps: str  # whole, weights or nothing
    why: str
    files: list[str]  # to be deleted
    bytes: int


def plan(workspace: Workspace) -> list[Kept]:
    """What a pruning would leave of each snapshot, in order of steps; nothing is written. Raises DataError: no run."""
    workspace.config()  # says where there is no run
    needed = needs(workspace)
    return [kept(workspace, snapshot, needed) for snapshot in workspace.timeline.snapshots.list()]


def kept(workspace: Workspace, snapshot: Snapshot, needed: dict[str, tuple[str, str]]) -> Kept:
    """The decision about one snapshot."""
    keeps, why = needed.get(snapshot.id, (NOTHING, "nothing starts from it or reads it"))
    gone = workspace.timeline.snapshots.pruned(snapshot.id)
    files = [
        name
        for name in snapshot.files
        if name not in gone and (keeps == NOTHING or (keeps == WEIGHTS and of_optimizer(name)))
    ]
    return Kept(snapshot.id, snapshot.step, keeps, why, files, sum(snapshot.files[name].size for name in files))


def needs(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """Snapshot -> what is needed of it, and why; the first reason of the strongest need."""
    found: dict[str, tuple[str, str]] = {}
    for id_, keeps, why in reasons(workspace):
        if id_ not in found or (keeps == WHOLE and found[id_][0] == WEIGHTS):
            found[id_] = keeps, why
    for id_ in list(found):
        if base := workspace.timeline.snapshots.get(id_).info.get("base"):
            found.setdefault(base, (WEIGHTS, "adapters belong to it"))
    return found


def reasons(workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    """(snapshot, what is needed of it, why): everything that a later start, proof, fork or report may ask for."""
    timeline, stages = workspace.timeline, read_stages(workspace)
    known = {snapshot.id: snapshot.step for snapshot in timeline.snapshots.list()}
    for id_ in workspace.store.read_json(PINS, default=[]):
        yield id_, WHOLE, "pinned"
    for id_, step in known.items():
        if step == 0:
            yield id_, WHOLE, "the base"
    for branch in timeline.branches():
        if branch.parent is not None:
            yield branch.parent, WHOLE, f"branch {branch.name} starts here"
        for id_ in branch.guide:
            yield id_, WEIGHTS, f"wrote guidance of branch {branch.name}"
    for segment in run_segments(workspace, stages):
        yield segment.start, WHOLE, f"segment {segment.id} starts here"
    for branch in timeline.branches():
        for id_ in list(timeline.states(branch.name).values())[-1:]:
            yield id_, WHOLE, f"the end of branch {branch.name}"
    for number, decision in enumerate(read_decisions(workspace)):
        for id_ in sorted(mentioned(decision) & set(known)):
            yield id_, WEIGHTS, f"decision {number} weighed it"
    for stage in stages:
        for id_ in sorted(mentioned(stage.spec.get("guides", [])) & set(known)):
            yield id_, WEIGHTS, "wrote guidance"
    yield from unfinished(workspace, known)


def unfinished(workspace: Workspace, known: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """What a run that is not over may still ask for: any step of its path to go back to, any to be evaluated."""
    if is_over(workspace):
        return
    segments = run_segments(workspace, read_stages(workspace))
    final = workspace.timeline.final()
    path = set(workspace.timeline.states(final.name).values()) if final else set()
    for segment in segments:
        if final is None or segment.branch == final.name:
            path |= set(segment.produced().values())
    for id_ in path:
        yield id_, WHOLE, "the run is not over and may go back to it"
    for id_ in known:
        yield id_, WEIGHTS, "the run is not over and may evaluate it"


def is_over(workspace: Workspace) -> bool:
    """Whether a run was trained and evaluated to its end."""
    return bool(workspace.timeline.branches()) and load(workspace).complete


def mentioned(value: Any) -> set[str]:
    """All strings in nested records, keys of dicts among them."""
    if isinstance(value, dict):
        return set().union(*(mentioned(key) | mentioned(item) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return set().union(*map(mentioned, value))
    return {value} if isinstance(value, str) else set()


def pin(workspace: Workspace, ids: list[str]) -> None:
    """Keep snapshots for ever, by id or the beginning of one. Raises DataError where there is none."""
    found = {workspace.timeline.snapshots.find(id_).id for id_ in ids}
    for id_ in found:
        if workspace.timeline.snapshots.pruned(id_):
            raise DataError(f"--pin {id_}: it was pruned already, and cannot come back. Pin a snapshot that is whole.")
    workspace.store.write_json(PINS, sorted({*workspace.store.read_json(PINS, default=[]), *found}))


def prune(workspace: Workspace) -> list[Kept]:
    """Delete what nothing needs; what it deleted.

    A crash in between leaves a consistent workspace, and the next call goes on.

    Raises:
        WorkspaceBusyError: a run works on it.
    """
    with workspace_lock(workspace.store, "npo prune"):
        return prune_own(workspace)


def prune_own(workspace: Workspace) -> list[Kept]:
    """As `prune`, for whoever holds the workspace's lock."""
    found = plan(workspace)
    for one in found:
        if one.files or workspace.timeline.snapshots.pruned(one.snapshot):  # which may have been broken off
            workspace.timeline.snapshots.prune(one.snapshot, one.files)
    return found
