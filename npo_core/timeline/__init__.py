"""The timeline of a run: storage by URI, snapshots, branches and segments, and the lock of a workspace."""

from npo_core.timeline.lock import Lease, workspace_lock
from npo_core.timeline.records import Branch, Segment, SnapshotRef
from npo_core.timeline.snapshots import MANIFEST, FileEntry, Snapshot, Snapshots, snapshot_id
from npo_core.timeline.store import Store, folder_bytes, json_bytes
from npo_core.timeline.timeline import Timeline
from npo_core.timeline.tree import Node, Root, Stretch, Tree, opened

__all__ = [
    "MANIFEST",
    "Branch",
    "FileEntry",
    "Lease",
    "Node",
    "Root",
    "Segment",
    "Snapshot",
    "SnapshotRef",
    "Snapshots",
    "Store",
    "Stretch",
    "Timeline",
    "Tree",
    "folder_bytes",
    "json_bytes",
    "opened",
    "snapshot_id",
    "workspace_lock",
]
