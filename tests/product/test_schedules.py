"""Schedules that fire on a server of `make serve`: a sweep treats finished runs, a run has a fresh seed each time."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from npo_core.config import parse_config
from npo_core.control.records import Decisions
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import ALWAYS, TINY
from tests.product.conftest import ROOT, Served

FLAT = {**TINY, "name": "flat", "training": {**TINY["training"], "learning_rate": 1e-9}}  # learns nothing


@pytest.fixture(scope="module")
def runs(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's $NPO_RUNS with two finished runs on a plateau and one that was never evaluated."""
    config = tmp_path_factory.mktemp("config") / "flat.yaml"
    config.write_text(yaml.safe_dump(FLAT))
    folder = served.home / "runs"
    command = [sys.executable, "-m", "npo_core", "run", "grpo", "--local", "--config", str(config), "--workspace"]
    subprocess.run([*command, str(folder / "flat-a")], cwd=ROOT, env=served.environment, check=True, timeout=600)
    for name in ("flat-b", "unfinished"):
        shutil.copytree(folder / "flat-a", folder / name)
    [evaluated] = (folder / "unfinished/stages").glob("evaluate-*")
    shutil.rmtree(evaluated)
    for age, name in ((200, "flat-a"), (100, "flat-b")):  # the one that waits longest is treated first
        os.utime(folder / name, (time.time() - age,) * 2)
    return folder


@contextmanager
def every(served: Served, deployment: str, seconds: int, **parameters: Any) -> Iterator[str]:
    """An active schedule; the deployment's id."""
    found = served.ask(f"deployments/name/{deployment}")
    schedule = {"schedule": {"interval": seconds}, "active": True, "parameters": parameters}
    [made] = served.ask(f"deployments/{found['id']}/schedules", [schedule])
    try:
        yield found["id"]
    finally:
        url = f"{served.url}/api/deployments/{found['id']}/schedules/{made['id']}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=60).close()


def of(served: Served, deployment: str, *states: str) -> list[dict[str, Any]]:
    """The scheduled runs of a deployment in some states, in the order they began."""
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": list(states)}}}}
    found = served.ask("flow_runs/filter", wanted)
    return sorted((run for run in found if run["auto_scheduled"]), key=lambda run: run["start_time"])


def wait_for(seconds: float, what: str, look: Any) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


@pytest.mark.thorough
def test_a_sweep_treats_finished_runs_one_by_one(served: Served, runs: Path):
    """The first by a schedule, which is then taken away; the next two by Run, one after the other."""
    wanted = {"flows": {"name": {"any_": ["plateau-breakthrough"]}}}
    settings = {"at_most": 1, "trigger": ALWAYS}
    with every(served, "breakthrough-sweep/breakthrough-sweep", 8, **settings) as deployment:
        wait_for(300, "the schedule started nothing", lambda: of(served, deployment, "RUNNING", "COMPLETED"))
    sweeps = [wait_for(300, "no sweep", lambda: of(served, deployment, "COMPLETED"))[0]]
    for _ in range(2):
        for run in served.ask("flow_runs/filter", wanted):
            served.wait(run["id"], {"COMPLETED"})
        again = served.run("breakthrough-sweep/breakthrough-sweep", **settings)
        sweeps.append(served.wait(again, {"COMPLETED"}))
    both = served.ask("flow_runs/filter", wanted)
    assert len(served.ask("flow_runs/filter", wanted)) == 2 and of(served, deployment, "FAILED", "CRASHED") == []
    by_start = sorted(both, key=lambda run: run["created"])
    assert [run["parameters"]["workspace"] for run in by_start] == [str(runs / "flat-a"), str(runs / "flat-b")]
    first, second = sorted((served.ask(f"flow_runs/{run['id']}") for run in both), key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"], "one after the other"
    for name in ("flat-a", "flat-b"):
        [made] = Decisions(Workspace(runs / name).store).all()
        assert made.intervene and list(runs.glob(f"{name}/branches/late-*.json"))
    messages = [sweep["state"]["message"] for sweep in sweeps]
    assert messages[0] == (
        "Looked at 3 runs: 2 stand still and were not treated. Started plateau-breakthrough on flat-a. Left for the "
        "next time: flat-b. Artifact: breakthrough-sweep"
    )
    assert messages[-1].startswith("Looked at 3 runs: 0 stand still and were not treated. Started plateau-breakthrough")
    artifact = served.artifacts(sweeps[0]["id"])["breakthrough-sweep"]
    assert (
        "started: run '" in artifact and "left for the next time" in artifact and "Its state: not running." in artifact
    )
    served.wait_for_log(sweeps[0]["id"], messages[0])


def test_a_scheduled_run_has_a_fresh_seed_each_time_and_retry_keeps_it(served: Served, runs: Path):
    short = {**TINY, "name": "fresh", "training": {**TINY["training"], "steps": 12}}
    config = parse_config(short).model_dump(mode="json")
    with every(served, "grpo/grpo", 15, fresh_seed=True, config=config) as deployment:
        begun = wait_for(
            300,
            "the schedule started too few",
            lambda: len(f := of(served, deployment, "RUNNING", "COMPLETED")) > 1 and f,
        )
    done = [served.wait(run["id"], {"COMPLETED"}) for run in begun[:2]]
    places = [runs / f"fresh-{run['id'][-8:]}" for run in done]
    seeds = [seed_of(place) for place in places]
    assert len({*seeds, 0}) == 3
    assert all(run["name"].startswith("grpo fresh fresh seed, ") for run in done)
    state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
    served.ask(f"flow_runs/{done[0]['id']}/set_state", {"state": state, "force": True})
    wait_for(
        300, "it was not tried again", lambda: (r := served.ask(f"flow_runs/{done[0]['id']}"))["run_count"] == 2 and r
    )
    again = served.wait(done[0]["id"], {"COMPLETED"})
    assert again["state"]["message"] == done[0]["state"]["message"] and seed_of(places[0]) == seeds[0]
    served.wait_for_log(done[0]["id"], "train main to 12 was done already")


def seed_of(workspace: Path) -> int:
    return json.loads((workspace / "config.json").read_text())["seed"]
