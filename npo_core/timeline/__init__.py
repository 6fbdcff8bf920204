"""The timeline of a run: storage by URI, snapshots, branches and segments, and the lock of a workspace."""

from npo_core.timeline.forks import Fork, Leg, origin, read_fork
from npo_core.timeline.lock import Lease, workspace_lock
from npo_core.timeline.records import Branch, Segment, SnapshotRef
from npo_core.timeline.share import share_file, share_folder
from npo_core.timeline.snapshots import MANIFEST, FileEntry, Snapshot, Snapshots, snapshot_id
from npo_core.timeline.store import Store, folder_bytes, json_bytes
from npo_core.timeline.timeline import Timeline
from npo_core.timeline.tree import Node, Root, Stretch, Tree, opened

__all__ = [
    "MANIFEST",
    "Branch",
    "FileEntry",
    "Fork",
    "Lease",
    "Leg",
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
    "origin",
    "read_fork",
    "share_file",
    "share_folder",
    "snapshot_id",
    "workspace_lock",
]
