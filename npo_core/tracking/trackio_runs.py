"""Trackio: a local database, or the Space or server that its own variables name."""

from collections.abc import Mapping

import trackio

from npo_core.tracking.story import Event
from npo_core.tracking.tracker import About

LEVELS = {"info": trackio.AlertLevel.INFO, "warn": trackio.AlertLevel.WARN, "error": trackio.AlertLevel.ERROR}


class Trackio:
    """A run by its name. It is left after every flush and taken up again, which is how Trackio says that it has all."""

    def __init__(self, about: About):
        self.about = about
        self._run = self._open()
        where = self._run.url or f"`trackio show --project {about.project}` ({trackio.TRACKIO_DIR})"
        self.link = f"{where}, run {about.name}"

    def _open(self) -> "trackio.Run":
        return trackio.init(
            project=self.about.project,
            name=self.about.name,
            group=self.about.group,
            config=dict(self.about.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @property
    def run(self) -> "trackio.Run":
        """The run, taken up again where it was left."""
        if self._run is None:
            self._run = self._open()
        return self._run

    def newest(self) -> int | None:
        return trackio.SQLiteStorage.get_max_step_for_run(self.about.project, self.about.name, run_id=self.run.id)

    def row(self, update: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=update)

    def event(self, event: Event) -> None:
        if event.values:
            self.run.log(dict(event.values), step=event.update)
            return
        self.run.log({f"event/{event.kind}": 1.0}, step=event.update)
        self.run.alert(event.title, event.text or None, LEVELS[event.level], step=event.update)

    def flush(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def close(self, failed: bool) -> None:
        self.flush()
