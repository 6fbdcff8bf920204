"""SIGKILL of everything that can be killed, at several moments of a run: it ends as if nothing had happened."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import wait_until_healthy
from tests.flows.test_early_bootstrap import outcome
from tests.product.conftest import Served, start, stop

DEPLOYMENT = "early-bootstrap/smoke"
# Long enough that a slow machine, too, finds what to kill before the moment has passed.
LONGER = {
    "training": {"steps": 240},
    "bootstrap": {"scout_steps": 60},
    "guidance": {"chunk_prompts": 4},
    "evaluation": {"every": 120},
    "execution": {"retry_delay": 0.1},
}


@pytest.fixture(scope="module")
def own(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A `make serve` of this module's own, for its server and worker are killed."""
    running = start(tmp_path_factory.mktemp("kills"), prefect_database)
    yield running
    stop(running)


@pytest.fixture(scope="module")
def config(own: Served) -> dict[str, Any]:
    return own.preset(DEPLOYMENT, **LONGER)


@pytest.fixture(scope="module")
def uninterrupted(own: Served, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    workspace = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run = own.run(DEPLOYMENT, config=config, workspace=str(workspace))
    own.wait(run, {"COMPLETED"})
    return run, workspace


def child(parent: psutil.Process, module: str) -> psutil.Process | None:
    return next((p for p in parent.children() if module in p.cmdline()), None)


def server(served: Served, run: str) -> psutil.Process | None:
    return child(psutil.Process(served.process.pid), "flows.server")


def worker(served: Served, run: str) -> psutil.Process | None:
    return child(psutil.Process(served.process.pid), "flows.worker")


def flow(served: Served, run: str) -> psutil.Process | None:
    return next((p for p in served.of_runs(run) if "prefect.engine" in p.cmdline()), None)


def fork_server(served: Served, run: str) -> psutil.Process | None:
    return child(flow(served, run), "npo_core.stages")


def stage(served: Served, run: str) -> psutil.Process | None:
    return child(fork_server(served, run), "npo_core.stages")


def machine(served: Served, run: str) -> psutil.Process:
    return psutil.Process(served.process.pid)


# What is killed, and when: once so many files are in the workspace.
MOMENTS = (
    (stage, "segments/*/mark-000004.json", 1),  # within the scout
    (worker, "stages/guide-*/shards/*.parquet", 1),  # within guidance
    (flow, "branches/replay.json", 1),  # between two stages
    (fork_server, "segments/*/mark-000008.json", 2),  # within the guided replay
    (server, "segments/*/mark-000064.json", 1),  # within the last segment
    (machine, "segments/*/mark-000200.json", 1),  # all of it, a little later
)


def wait_for(workspace: Path, pattern: str, number: int, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while len(list(workspace.glob(pattern))) < number:
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.01)


def results(workspace: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in workspace.glob("stages/*/result.json")}


def kill(served: Served, run: str, victim: Callable[[Served, str], psutil.Process | None]) -> None:
    """SIGKILL; what a person has to do then is press Retry where the run's own process is gone, and nothing else; and
    start `make serve` again where that was killed, which left no process."""
    family, process = served.of_runs(run), victim(served, run)
    assert process is not None, f"there is no {victim.__name__} at this moment"
    process.kill()
    if victim is machine:
        start_again(served)
    process.wait(60)
    if victim in (flow, worker, machine):
        wait(served, run, "CRASHED")
        assert_gone(family)
        if victim is flow:
            wait_for_worker(served)
        served.set_state(run, "SCHEDULED", "AwaitingRetry")


def start_again(served: Served) -> None:
    served.process.wait(60)
    deadline = time.monotonic() + 60
    while served.alive():
        assert time.monotonic() < deadline, served.alive()
        time.sleep(0.2)
    served.process = start(served.home, None, served.port).process


def wait(served: Served, run: str, state: str) -> dict[str, Any]:
    """Until a run is in a state; the server may have been killed before, and the run goes on without it."""
    wait_until_healthy(served.process, f"{served.url}/api")
    return served.wait(run, {state})


def wait_for_worker(served: Served, seconds: float = 4) -> None:
    """Until the worker has looked after a dead run: it reports the end twice, some seconds apart, while a process of
    its own reads the flow. The second report would hit a run that was retried before."""
    quiet = time.monotonic()
    while time.monotonic() - quiet < seconds:
        if served.of_runs():
            quiet = time.monotonic()
        time.sleep(0.1)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive, [process.cmdline() for process in alive]


@pytest.mark.parametrize(
    "moments",
    [pytest.param(MOMENTS, marks=pytest.mark.thorough, id="all six"), pytest.param(MOMENTS[2::3], id="flow, machine")],
)
def test_killed_at_several_moments(own, config, uninterrupted, tmp_path, moments):
    workspace = tmp_path / "run"
    run = own.run(DEPLOYMENT, config=config, workspace=str(workspace))
    finished: dict[str, dict[str, Any]] = {}
    for victim, pattern, number in moments:
        there = len(list(workspace.glob(pattern)))
        assert there < number, f"{pattern} was there before the run that is to make it"
        wait_for(workspace, pattern, number)
        finished |= results(workspace)
        kill(own, run, victim)
    done = wait(own, run, "COMPLETED")
    assert done["run_count"] == 1 + sum(victim in (flow, worker, machine) for victim, *_ in moments)
    assert outcome(workspace) == outcome(uninterrupted[1])
    assert finished.items() <= results(workspace).items(), "a stage that had its result ran again"
    assert set(own.artifacts(run)) >= {key for key in own.artifacts(uninterrupted[0]) if "progress" not in key}
    assert len(own.ask("automations/filter", {})) == 2
    assert_gone(own.of_runs())
