"""A workspace's branches and caches as plain values."""

from typing import Any

from npo_core.errors import DataError
from npo_core.guidance.cache import summary
from npo_core.guidance.info import INFO_FILE
from npo_core.reporting.records import Workspace
from npo_core.timeline import opened, origin, read_fork


def timeline(workspace: Workspace) -> dict[str, Any]:
    """Branches as opened, finished segments and snapshots, and a drawing. Raises DataError where there is no run."""
    config, line = workspace.config(), workspace.timeline
    segments = line.segments()
    made = {id_ for segment in segments for id_ in [segment.start, *segment.produced().values()]}
    return {
        "workspace": workspace.uri,
        "name": config.name,
        "forked": None if (there := read_fork(workspace.store)) is None else origin(there),
        "drawing": line.draw(),
        "snapshots": len(made),
        "branches": [branch.model_dump(mode="json") for branch in opened(line.branches())],
        "segments": [segment.model_dump(mode="json") for segment in segments],
    }


def caches(workspace: Workspace) -> dict[str, Any]:
    """Summaries of all guidance caches of a workspace, or of the one in the folder itself.

    Raises:
        DataError: the folder holds neither a run nor a cache.
        DamagedError: a cache is damaged.
    """
    if workspace.store.exists(INFO_FILE):
        return {"uri": workspace.uri, "caches": [summary(workspace.store)]}
    if not workspace.store.exists("config.json"):
        raise DataError(
            f"{workspace.uri} holds neither a run nor a guidance cache (there is no config.json and no "
            f"{INFO_FILE}): give a workspace, or a folder guidance/ID of one."
        )
    folders = [workspace.guidance(name) for name in workspace.store.list("guidance")]
    return {"uri": workspace.uri, "caches": [summary(folder) for folder in folders if folder.exists(INFO_FILE)]}
