"""A fork through Prefect: its stages are tasks, its artifact says where it was forked from, errors are one sentence."""

import json
from pathlib import Path

import pytest

from npo_core.stages.workspace import Workspace
from npo_core.timeline import read_fork
from tests.flows.conftest import artifacts, ask


@pytest.fixture(scope="module")
def grpo(start, tmp_path_factory) -> Workspace:
    return start("grpo", tmp_path_factory.mktemp("runs") / "grpo", {"name": "forked"})


def test_the_command_forks_with_prefect_and_publishes(grpo, call, environment, tmp_path):
    place = tmp_path / "fork"
    asked = ["fork", grpo.uri, "--at", 16, "--set", "name=other", "--workspace", place, "--baseline", grpo.uri]
    done = call(*asked, "--json")
    assert json.loads(done.stdout)["kind"] == "fork"
    made = Workspace(place)
    assert made.timeline.states("fork-16") == grpo.timeline.states("main")
    found = artifacts(environment)
    assert grpo.uri in found["other-fork"] and "| name | other |" in found["other-fork"]
    assert {"other-train-fork-16-to-24", "other-report"} <= set(found) and "Forked from" in found["other-report"]
    runs = ask(environment, "flow_runs/filter", {"flows": {"name": {"any_": ["fork"]}}})
    [run] = [run for run in runs if run["parameters"]["workspace"] == str(place)]
    assert run["name"].startswith("fork of grpo at step 16, ")
    assert run["state"]["message"].startswith("Held-out ") and f"workspace:{place}" in run["tags"]


@pytest.fixture
def server(environment):
    """Prefect's settings, which this process may have read before there was a server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        yield


def test_the_form_makes_the_same_fork_however_often(grpo, start, server, tmp_path, monkeypatch):
    """As the deployment calls it: without a workspace, twice."""
    from flows.fork import fork

    monkeypatch.setenv("NPO_RUNS", str(tmp_path))
    for _ in range(2):
        figures = fork(origin=grpo.uri, at=20, changes={"evaluation.samples": 1})
        assert figures["complete"] and figures["forked"]["step"] == 20
    [place] = Path(tmp_path).iterdir()
    assert read_fork(Workspace(place).store).changes == {"evaluation.samples": 1}


def test_a_step_without_a_snapshot_ends_the_run_with_one_sentence(grpo, start, server, tmp_path):
    from flows.fork import fork

    state = fork(origin=grpo.uri, at=10, workspace=str(tmp_path / "fork"), return_state=True)
    assert state.is_failed() and "at = 10: branch main" in state.message and "Traceback" not in state.message
    assert not (tmp_path / "fork").exists()
