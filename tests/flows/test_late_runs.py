"""A run that waits for a place in the work pool of `make serve` says for whom: in its state, and in its log."""

import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from flows.serve import AFTERWARDS, make_pool, tell_late
from tests.flows.conftest import ask

SENTENCE = "It waits for 'trains'. There is 1 run at a time (make serve RUNS=2 allows more)."


@pytest.fixture
def runs(environment: dict[str, str]) -> dict[str, str]:
    """Runs of a deployment, by their states; no worker is there to take them."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        make_pool(1)
        flow = ask(environment, "flows/", {"name": "waits"})["id"]
        wanted = {"name": "waits", "flow_id": flow, "work_pool_name": "npo", "enforce_parameter_schema": False}
        deployment = ask(environment, "deployments/", wanted)["id"]

        def run(title: str, type_: str, name: str, scheduled: datetime) -> str:
            details = {"scheduled_time": scheduled.isoformat()}
            state = {"type": type_, "name": name, "state_details": details}
            path = f"deployments/{deployment}/create_flow_run"
            return ask(environment, path, {"name": title, "state": state})["id"]

        now = datetime.now(UTC)
        behind = now - timedelta(minutes=1)
        made = {
            "trains": run("trains", "RUNNING", "Running", now),
            "waits": run("waits", "SCHEDULED", "Scheduled", behind),
            "retries": run("retries", "SCHEDULED", "AwaitingRetry", behind),
            "new": run("new", "SCHEDULED", "Scheduled", now),
        }
        yield made
        for path in (*(f"flow_runs/{id_}" for id_ in made.values()), f"deployments/{deployment}"):
            request = urllib.request.Request(f"{environment['PREFECT_API_URL']}/{path}", method="DELETE")
            urllib.request.urlopen(request).close()


def states(environment: dict[str, str], runs: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    found = {name: ask(environment, f"flow_runs/{id_}")["state"] for name, id_ in runs.items()}
    return {name: (state["name"], state["message"]) for name, state in found.items()}


def test_a_late_run_says_what_it_waits_for(environment, runs):
    told = tell_late(1, set())
    assert {(str(run), sentence) for run, sentence in told} == {(runs[name], SENTENCE) for name in ("waits", "retries")}
    assert states(environment, runs) == {
        "trains": ("Running", None),
        "waits": ("Late", f"{SENTENCE} {AFTERWARDS}"),
        "retries": ("AwaitingRetry", None),
        "new": ("Scheduled", None),
    }
    wanted = {"logs": {"flow_run_id": {"any_": [runs["waits"], runs["retries"]]}}}
    assert [line["message"] for line in ask(environment, "logs/filter", wanted)] == [SENTENCE] * 2
    assert tell_late(1, told) == set(), "once is enough"


def test_another_run_in_the_place_is_told_in_the_log(environment, runs):
    told = tell_late(1, set())
    end = {"state": {"type": "COMPLETED", "name": "Completed"}, "force": True}
    ask(environment, f"flow_runs/{runs['trains']}/set_state", end)
    assert {sentence for _, sentence in tell_late(2, told)} == {
        "It waits for a free worker. There are 2 runs at a time (make serve RUNS=3 allows more)."
    }
    assert states(environment, runs)["waits"] == ("Late", f"{SENTENCE} {AFTERWARDS}")
