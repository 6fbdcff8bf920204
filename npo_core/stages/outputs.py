"""What a finished stage left behind, and whether it is still there: a result without its outputs is none."""

from collections.abc import Iterator

from npo_core.errors import DamagedError
from npo_core.guidance.cache import check_sizes, read_info
from npo_core.guidance.info import INFO_FILE
from npo_core.stages.results import BaseResult, EvaluateResult, GuideResult, Result, TrainResult
from npo_core.stages.specs import EvaluateSpec, Spec
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import part_files
from npo_core.timeline.snapshots import MANIFEST


def lost(workspace: Workspace, spec: Spec, result: Result) -> dict[str, str]:
    """The outputs of a stage that are missing or of another size than was written: path in the workspace -> why.

    Sizes are looked at, digests are not: who uses a snapshot reads all of it.
    """
    found: dict[str, str] = {}
    if isinstance(result, BaseResult):
        found = dict(lost_snapshots(workspace, [result.snapshot]))
    elif isinstance(result, TrainResult):
        found = dict(lost_snapshots(workspace, list(result.snapshots.values())))
        found |= lost_files(workspace, f"segments/{result.segment}", ["segment.json", *part_files(result.snapshots)])
    elif isinstance(result, GuideResult):
        found = lost_cache(workspace, result.cache)
    elif isinstance(result, EvaluateResult) and isinstance(spec, EvaluateSpec):
        names = [f"{score.snapshot}.json" for score in result.scores]
        found = lost_files(workspace, f"evaluations/{spec.protocol}", names)
    return found


def lost_snapshots(workspace: Workspace, ids: list[str]) -> Iterator[tuple[str, str]]:
    """Of those in S3 it is asked alone whether they are there."""
    snapshots, there = workspace.timeline.snapshots, set(workspace.store.list("snapshots"))
    for id_ in ids:
        if id_ not in there or not workspace.store.exists(f"snapshots/{id_}/{MANIFEST}"):
            yield f"snapshots/{id_}", "is missing"
        elif workspace.store.is_local and (why := snapshots.wrong_size(id_)) is not None:
            yield f"snapshots/{id_}", f"is damaged ({why})"


def lost_files(workspace: Workspace, folder: str, names: list[str]) -> dict[str, str]:
    """What is missing of files in a folder, by path."""
    there = set(workspace.store.list(folder)) if names else set()
    return {f"{folder}/{name}": "is missing" for name in names if name not in there}


def lost_cache(workspace: Workspace, cache: str) -> dict[str, str]:
    """What is missing or damaged of a cache, by path."""
    store = workspace.guidance(cache)
    if not store.exists(INFO_FILE):
        return {f"guidance/{cache}": "is missing"}
    try:
        check_sizes(store, read_info(store))
    except DamagedError as error:
        return {f"guidance/{cache}": f"is damaged ({error})"}
    return {}
