"""The engine of a snapshot, for the stages that generate."""

from npo_core.engines import Engine
from npo_core.stages.context import StageContext
from npo_core.stages.specs import Spec


def snapshot_engine(spec: Spec, context: StageContext, snapshot: str, *, batch: int, bf16: bool) -> Engine:
    """The engine that a stage is configured with, on a snapshot; see `TransformersEngine` for the words.

    Raises:
        What `Workspace.snapshot_folder` does where the snapshot is damaged, and what the engine does.
    """
    from npo_core.engines.open import open_engine

    attention = context.workspace.timeline.snapshots.get(snapshot).info.get("attention", "auto")
    how = {"device": context.device, "batch": batch, "attention": attention, "bf16": bf16}
    return open_engine(context.workspace.snapshot_folder(snapshot), spec.engine, **how)
