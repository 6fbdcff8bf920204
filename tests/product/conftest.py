"""`make serve` as people use it: a server, a worker and the deployments, on a free port, with a home of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.form import plain
from flows.server import free_port
from flows.worker import MARK

ROOT = Path(__file__).parents[2]
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Served:
    """A running `make serve`."""

    process: subprocess.Popen
    port: int
    home: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: dict | None = None) -> Any:
        """GET, or POST where there is a body, as the UI does."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, {"Content-Type": "application/json"})
        for attempt in range(5):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:  # 503: SQLite is locked under load; Prefect's client waits too
                if error.code != 503 or attempt == 4:
                    raise
                time.sleep(1)

    def run(self, deployment: str, **parameters: Any) -> str:
        """Press Run on `flow/deployment`; the id of the flow run."""
        found = self.ask(f"deployments/name/{deployment}")
        return self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

    def preset(self, name: str, **groups: Any) -> dict[str, Any]:
        """What the form of a deployment is filled with, as a file has it, some fields changed."""
        config = plain(self.ask(f"deployments/name/{name}")["parameters"]["config"])
        for group, change in groups.items():
            config[group] = {**config[group], **change} if isinstance(change, dict) else change
        return config

    def set_state(self, run: str, type_: str, name: str) -> None:
        """Press Cancel or Retry: the UI proposes a state, and the server says what comes of it."""
        answer = self.ask(f"flow_runs/{run}/set_state", {"state": {"type": type_, "name": name}})
        assert answer["status"] == "ACCEPT", answer

    def wait(self, run: str, states: set[str] = ENDED, seconds: float = 600) -> dict[str, Any]:
        """The flow run, once it is in one of these states."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.ask(f"flow_runs/{run}")
            if found["state_type"] in states:
                return found
            assert time.monotonic() < deadline and found["state_type"] not in ENDED, (found["state"], self.logs(run))
            time.sleep(0.5)  # the server has other work

    def wait_for_task(self, run: str, name: str, state: str = "RUNNING", seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while (name, state) not in {(task["name"], task["state_type"]) for task in self.tasks(run)}:
            assert time.monotonic() < deadline, (self.tasks(run), self.logs(run))
            time.sleep(0.5)  # the server has other work

    def tasks(self, run: str) -> list[dict[str, Any]]:
        return self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def logs(self, run: str) -> list[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.ask("logs/filter", wanted)]

    def wait_for_log(self, run: str, text: str, seconds: float = 60) -> None:
        """Until a line of a run's log has the text."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.logs(run)):
            assert time.monotonic() < deadline, (text, self.logs(run))
            time.sleep(0.5)

    def artifacts(self, run: str) -> dict[str, str]:
        found = self.ask("artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
        return {artifact["key"]: artifact["data"] for artifact in found if artifact["key"]}

    def of_runs(self, run: str | None = None) -> list[psutil.Process]:
        """The processes of one flow run, or of all: the flow, what forks its stages, and these."""
        worker = next(p for p in psutil.Process(self.process.pid).children() if "flows.worker" in p.cmdline())
        found = []
        for process in worker.children(recursive=True):
            with suppress(psutil.Error):  # it ended meanwhile
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and run in (None, process.environ().get("PREFECT__FLOW_RUN_ID")):
                    found.append(process)
        return found

    def alive(self) -> list[str]:
        """Every process that carries the mark of this server's home and still lives."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if MARK in environment and environment.get("NPO_HOME") == str(self.home):
                    found.append(" ".join(process.cmdline()))
        return found


def start(home: Path, database: Path | None, port: int | None = None, runs: int = 1, checkout: Path = ROOT) -> Served:
    """Start `make serve`, over a copy of a database (None: over its own), and wait until it says that it is ready."""
    port = port or free_port()
    if database:
        (home / "prefect").mkdir()
        shutil.copy(database, home / "prefect/prefect.db")
    strange = ("PREFECT_", "NPO_", "PYTHON")  # a PYTHONPATH would bring modules of another checkout
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment = inherited | {"NPO_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "npo_core", "serve", "--port", str(port), "--runs", str(runs)]
    out = home / "serve.log"
    with open(out, "w") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while "Ready after" not in out.read_text():
        assert process.poll() is None and time.monotonic() < deadline, out.read_text()
        time.sleep(0.1)
    return Served(process, port, home, environment)


def stop(served: Served) -> None:
    """Ctrl-C, after which nothing is left."""
    served.process.send_signal(signal.SIGINT)
    served.process.wait(timeout=120)
    assert not served.alive()


@pytest.fixture(scope="module")
def served(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`make serve RUNS=2`."""
    running = start(tmp_path_factory.mktemp("served"), prefect_database, runs=2)
    yield running
    stop(running)
