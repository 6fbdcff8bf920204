"""Materialization events: what a run made and where, so that an automation can start from "a snapshot exists".

The events are those of Prefect's assets (`prefect.asset.materialization.succeeded`), with labels by which a trigger
chooses: `npo.kind` (snapshot, cache, report), `npo.run`, `npo.workspace`. Any server takes them.
"""

from collections.abc import Sequence
from pathlib import Path

from prefect.events import emit_event

from npo_core.stages.launch import StageResult
from npo_core.stages.workspace import Workspace

EVENT = "prefect.asset.materialization.succeeded"
MADE_BY = {"prefect.resource.id": "npo", "prefect.resource.role": "asset-materialized-by"}


def address(workspace: Workspace, rel: str) -> str:
    """The URI of a part of a workspace: of a local one, `file:///...`."""
    uri = workspace.uri
    return f"{uri if '://' in uri else Path(uri).absolute().as_uri()}/{rel}"


def materialized(
    workspace: Workspace, kind: str, rel: str, run_name: str, made_from: Sequence[str] = (), **payload: object
) -> None:
    """Say that a part of a workspace is there; `rel` and `made_from` are folders in it."""
    resource = {
        "prefect.resource.id": address(workspace, rel),
        "prefect.resource.name": f"{kind} of {run_name}",
        "npo.kind": kind,
        "npo.run": run_name,
        "npo.workspace": workspace.uri,
    }
    parents = [{"prefect.resource.id": address(workspace, one), "prefect.resource.role": "asset"} for one in made_from]
    emit_event(EVENT, resource=resource, related=[*parents, MADE_BY], payload={"workspace": workspace.uri, **payload})


def snapshots_made(
    workspace: Workspace, run_name: str, result: StageResult, snapshots: dict[int, str], start: str
) -> None:
    """One event a snapshot that a stage made; none where the stage had been done before."""
    if result.reused:
        return
    for step, snapshot in sorted(snapshots.items()):
        made_from = [f"snapshots/{start}"] if start else []
        materialized(workspace, "snapshot", f"snapshots/{snapshot}", run_name, made_from, snapshot=snapshot, step=step)
