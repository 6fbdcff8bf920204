"""MLflow: the server of MLFLOW_TRACKING_URI, else a database in the folder."""

import os
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from npo_core.tracking.story import Event
from npo_core.tracking.tracker import About

COUNTER, RUN = "all/update", "npo.run"  # the metric that is written last of each row; the tag that finds a run
MOST = 500  # characters of a parameter's value; params of one request are at most 100


class MLflow:
    """A run of an experiment, found by its tag."""

    def __init__(self, about: About):
        about.folder.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{about.folder}/mlflow.db"
        self.client = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(about, uri)
        there = self.client.search_runs([experiment], filter_string=f"tags.`{RUN}` = '{about.id}'")
        tags = {RUN: about.id, "group": about.group}
        made = there[0] if there else self.client.create_run(experiment, tags=tags, run_name=about.name)
        self.id = made.info.run_id
        self.client.update_run(self.id, status="RUNNING")
        self._describe(about.config, set(made.data.params))
        self.link = f"{uri}, experiment {about.project}, run {about.name}"

    def _experiment(self, about: About, uri: str) -> str:
        known = self.client.get_experiment_by_name(about.project)
        if known is not None:
            return known.experiment_id
        local = None if "://" in uri and not uri.startswith("sqlite") else str(about.folder / "mlflow-artifacts")
        return self.client.create_experiment(about.project, artifact_location=local)

    def _describe(self, config: Mapping[str, Any], known: set[str]) -> None:
        """Settings as parameters, which never change; what may, such as the flow run, as tags."""
        new = [Param(name, str(value)[:MOST]) for name, value in config.items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.id, params=new[start : start + 100])
        for name in ("flow_run_id", "flow_run_url"):
            if name in config:
                self.client.set_tag(self.id, name, config[name])

    def newest(self) -> int | None:
        return max((m.step for m in self.client.get_metric_history(self.id, COUNTER)), default=None)

    def row(self, update: int, values: Mapping[str, float]) -> None:
        self._log({**values, COUNTER: float(update)}, update)

    def event(self, event: Event) -> None:
        if event.values:
            self._log(event.values, event.update)
            return
        self._log({f"event/{event.kind}": 1.0}, event.update)
        text = f"update {event.update}: {event.title}. {event.text}"
        self.client.log_batch(self.id, tags=[RunTag(f"event/{event.key}", text[:5000])])

    def _log(self, values: Mapping[str, float], update: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, update) for name, value in values.items()])

    def flush(self) -> None:
        """Every call returns when it is kept."""

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")
