"""What a tracker is, and which there are."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from npo_core.tracking.story import Event


@dataclass(frozen=True)
class About:
    """The one run of a workspace in a tracker.

    id, name   of the run, the same whenever it goes on
    group      of runs, the configuration's name
    folder     for what is written to this machine
    config     what the tracker shows of the run: settings by dotted name, workspace, recipe, flow run
    told       updates that the tracker was told, by the ledger
    """

    id: str
    name: str
    project: str
    group: str
    folder: Path
    config: Mapping[str, Any]
    told: int = 0


def without_credentials(text: str) -> str:
    """Text without name and password in the addresses that it holds."""
    return re.sub(r"://[^/@\s]+@", "://", text)


class Tracker(Protocol):
    """One tracker, connected. Steps are updates of all branches together."""

    link: str  # the page, or the folder, where it shows the run

    def newest(self) -> int | None:
        """The last update that it knows; None where it cannot be asked."""
        ...

    def row(self, update: int, values: Mapping[str, float]) -> None:
        """The figures of an update."""
        ...

    def event(self, event: Event) -> None:
        """An event, or a score."""
        ...

    def flush(self) -> None:
        """Return when everything told so far is kept."""
        ...

    def close(self, failed: bool) -> None:
        """End; whatever was told is kept."""
        ...


def connect(name: str, about: About) -> Tracker:
    """Connect to a tracker by its name in the configuration."""
    makers: Mapping[str, tuple[str, str]] = {
        "tensorboard": ("tensorboard_files", "TensorBoard"),
        "trackio": ("trackio_runs", "Trackio"),
        "wandb": ("wandb_runs", "WeightsAndBiases"),
        "mlflow": ("mlflow_runs", "MLflow"),
    }
    module, kind = makers[name]
    make: Callable[[About], Tracker] = getattr(import_module(f"npo_core.tracking.{module}"), kind)
    return make(about)
