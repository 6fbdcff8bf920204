"""One Prefect server and one home for all flow tests; flows run as `npo run` in processes of their own, or here."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.config import RunConfig, override, parse_config
from npo_core.recipes.local import run_local
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import TIMINGS, read_outcomes, read_steps

ROOT = Path(__file__).parents[2]
TINY = {
    "name": "tiny",
    "problems": {"kind": "chain", "train": 96, "held_out": 16, "operands": 3, "difficulties": [1, 2]},
    "model": {"kind": "built-in", "layers": 1, "width": 32, "heads": 2, "steps": 150, "batch": 32},
    "training": {"steps": 24, "prompts_per_step": 8, "group_size": 4, "max_completion_tokens": 3, "snapshot_every": 4},
    "bootstrap": {"scout_steps": 12},
    "guidance": {"chunk_prompts": 16, "samples": 4},
    "evaluation": {"every": 12, "samples": 2, "target": 0.5},
    "execution": {"start": "fork", "retry_delay": 0.1},
}
# With these thresholds the signals warn from update 4 on: a pass rate cannot gain 1, and entropy does not double.
ALWAYS = {"ema": 0.5, "window": 3, "min_gain": 1.0, "min_entropy_drop": -1.0, "warm_up": 3}
AUTO = {
    "control": {"trigger": ALWAYS},
    "probe": {"min_solved": 0.0, "min_prompts": 1, "prompts": 16, "samples": 2},
    "choice": {"max_delta": 8},
    "cooldown": 4,
    "max_interventions": 2,
}


def tiny(changes: dict) -> RunConfig:
    """The tiny configuration with changes by dotted fields."""
    return parse_config(override(copy.deepcopy(TINY | {"auto": AUTO}), changes))


@pytest.fixture(scope="session")
def environment(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands, with a server that lives as long as the session."""
    from flows.server import QUIET, start_server, wait_until_healthy

    home = tmp_path_factory.mktemp("home")
    (home / "prefect").mkdir()
    shutil.copy(prefect_database, home / "prefect/prefect.db")
    later = {"PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "600"}  # as `make serve`: it says itself who is late
    own = {"NPO_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "HF_HUB_OFFLINE": "1"}
    with patch.dict(os.environ, {**QUIET, **later, **own}):
        process, url = start_server()
        try:
            wait_until_healthy(process, url)
            yield {**os.environ, "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def start(environment: dict[str, str]) -> Iterator[Callable[..., Workspace]]:
    """Runs a flow in this process: name, folder, changes to the tiny configuration (none: the run's own) or another
    configuration, settings."""
    with patch.dict(os.environ, {name: environment[name] for name in ("PREFECT_API_URL", "OMP_NUM_THREADS")}):
        from flows.run import run_flow

        def run(flow: str, folder: Path, changes: dict | RunConfig | None, **settings: object) -> Workspace:
            config = tiny(changes) if isinstance(changes, dict) else changes
            run_flow(flow, config, str(folder), **settings)
            return Workspace(folder)

        yield run


@pytest.fixture(scope="session")
def local(start: Callable[..., Workspace]) -> Callable[..., Workspace]:
    """As `start`, without Prefect: the same stages, ids and records, and no artifacts, which cost most of a flow."""

    def run(recipe: str, folder: Path, changes: dict | RunConfig | None, **settings: Any) -> Workspace:
        config = tiny(changes) if isinstance(changes, dict) else changes or Workspace(folder).config()
        run_local(recipe, config, str(folder), **settings)
        return Workspace(folder)

    return run


@pytest.fixture(scope="session")
def call(start: Callable[..., Workspace]) -> Callable[..., Result]:
    """The command in this process, whose stages fork from a parent that tests share; `code` is what it ends with."""

    def run(*arguments: object, code: int = 0) -> Result:
        with patch.dict(os.environ):  # what a command sets would end with its process
            result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def auto(start: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished AutoNPO run with two interventions."""
    return start("auto-npo", tmp_path_factory.mktemp("runs") / "auto", {"name": "auto"})


def npo(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "npo_core", *map(str, arguments)]


def finish(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)


def ask(environment: dict[str, str], path: str, body: dict | None = None) -> Any:
    """What the server answers to a GET, or to a POST with a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{environment['PREFECT_API_URL']}/{path}", data, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def artifacts(environment: dict[str, str]) -> dict[str, str]:
    """What the newest artifact of each key shows."""
    return {found["key"]: found["data"] for found in ask(environment, "artifacts/latest/filter", {"limit": 200})}


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """The process and everything below it."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def outcome(uri: str | Path) -> dict:
    """Everything that must not depend on interruptions: ids, metrics, outcomes, caches, scores."""
    workspace = Workspace(uri)
    segments = workspace.timeline.segments()
    return {
        "snapshots": [s.id for s in workspace.timeline.snapshots.list()],
        "segments": [(s.id, s.branch, s.start, s.end, s.snapshots, s.cache) for s in segments],
        "steps": [read_steps(workspace.store, s).drop_columns(list(TIMINGS)).to_pylist() for s in segments],
        "outcomes": [read_outcomes(workspace.store, s).to_pylist() for s in segments],
        "caches": workspace.store.list("guidance"),
        "scores": [
            workspace.store.read_json(f"evaluations/{protocol}/{name}")
            for protocol in workspace.store.list("evaluations")
            for name in workspace.store.list(f"evaluations/{protocol}")
        ],
    }


def wait_for(path: Path, pattern: str, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not list(path.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.02)
