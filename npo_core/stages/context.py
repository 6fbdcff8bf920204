"""What a running stage has: its workspace, a scratch folder, a device, and where its progress goes."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core.names import EVENTS_FILE
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace

if TYPE_CHECKING:
    from npo_core.engines.dealt import Hosts

EVENT_INTERVAL = 0.2  # seconds; more often nobody looks


def scratch_folder(workspace: Workspace, spec: Spec) -> Path:
    """The stage's local folder: log, events, stop file, checkpoints before they become snapshots."""
    return workspace.scratch / spec.folder


@dataclass
class StageContext:
    """Handed to the function of a stage."""

    workspace: Workspace
    scratch: Path
    device: str
    rank: int = 0  # which process of the stage this is
    hosts: "Hosts | None" = None  # processes that generate; None: this one
    _last: float = field(default=0.0, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process writes; where a stage has several, only the first does."""
        return self.rank == 0

    def progress(self, done: int, total: int, **figures: Any) -> None:
        """Append an event for whoever watches; the last one is never dropped."""
        now = time.time()
        if not self.first or (done < total and now - self._last < EVENT_INTERVAL):
            return
        self._last = now
        with open(self.scratch / EVENTS_FILE, "a") as file:
            file.write(json.dumps({"time": now, "done": done, "total": total, **figures}) + "\n")
