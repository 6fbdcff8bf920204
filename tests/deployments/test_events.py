"""A real server hears what a run made and decided: automations start from it, people are told, spot runs go on."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from flows.gpus import wanted
from npo_core.config import RunConfig
from tasks.assets import EVENT, address
from tests.deployments.conftest import deployed_run
from tests.flows.conftest import AUTO, ROOT, TINY, ask, finish

PREFECT = (sys.executable, "-m", "prefect")


def post(server: dict, path: str, body: dict) -> dict | list:
    request = urllib.request.Request(
        f"{server['PREFECT_API_URL']}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(what: str, look, seconds: float = 300):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def made(server: dict, place: Path, kind: str) -> list[dict]:
    """The materialization events of a workspace, oldest first."""
    found = post(server, "events/filter", {"filter": {"event": {"name": [EVENT]}, "order": "ASC"}, "limit": 50})
    of = [event for event in found["events"] if event["payload"]["workspace"] == str(place)]
    return [event for event in of if event["resource"]["npo.kind"] == kind]


@pytest.fixture(scope="module")
def spot(server, tmp_path_factory) -> Iterator[tuple[Path, str, str]]:
    """A run whose first machine is taken away: workspace, id, and the deployment that an automation starts."""
    folder = tmp_path_factory.mktemp("spot")
    place = folder / "run"
    run = deployed_run(server, "spot", place, {"snapshot_every": 2})
    deployment = ask(server, f"flow_runs/{run}")["deployment_id"]
    command = [sys.executable, "-m", "flows.spot", "start", "--pool", "spot", "--type", "process", "--limit", "1"]
    with open(folder / "log", "wb") as log:
        machine = subprocess.Popen(command, env=server, cwd=ROOT, stdout=log, stderr=log)
        try:
            wait_for("no snapshot", lambda: list(place.glob("segments/*/mark-*.json")))
            family = psutil.Process(machine.pid).children(recursive=True)
            machine.send_signal(signal.SIGTERM)
            assert machine.wait(timeout=120) == 0, (folder / "log").read_text()
        finally:
            machine.kill()
    assert len(family) > 2 and not psutil.wait_procs(family, 10)[1]
    yield place, run, deployment


def test_a_run_whose_machine_is_taken_away_waits_for_another_and_goes_on(server, spot):
    place, run, deployment = spot
    state = ask(server, f"flow_runs/{run}")["state"]
    assert (state["type"], state["name"]) == ("SCHEDULED", "AwaitingRetry") and "taken away" in state["message"]
    trigger = {"type": "event", "posture": "Reactive", "expect": [EVENT], "threshold": 1, "within": 0}
    match = {"npo.kind": "snapshot", "npo.workspace": str(place)}
    action = {"type": "run-deployment", "source": "selected", "deployment_id": deployment}
    action |= {"parameters": {"workspace": "{{ event.payload.workspace }}/{{ event.payload.step }}"}}
    wanted = {"name": "Snapshot", "trigger": trigger | {"match": match}, "actions": [action]}
    automation = post(server, "automations/", wanted)
    worker = [*PREFECT, "worker", "start", "--pool", "spot", "--type", "process", "--run-once"]
    done = finish(worker, server)
    found = ask(server, f"flow_runs/{run}")
    assert found["state"]["type"] == "COMPLETED" and found["run_count"] == 2, found["state"]["message"] + done.stderr
    assert len(list(place.glob("stages/train-*/result.json"))) == 1

    of = {"deployments": {"id": {"any_": [deployment]}}}
    started = wait_for(
        "the automation started nothing",
        lambda: len(f := [r for r in post(server, "flow_runs/filter", of) if r["id"] != run]) >= 12 and f,
    )
    assert {r["parameters"]["workspace"] for r in started} == {f"{place}/{step}" for step in range(2, 25, 2)}
    url = f"{server['PREFECT_API_URL']}/automations/{automation['id']}"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()
    for one in started:
        urllib.request.urlopen(
            urllib.request.Request(f"{server['PREFECT_API_URL']}/flow_runs/{one['id']}", method="DELETE")
        ).close()


def test_what_a_run_made_is_told_once_with_what_it_was_made_from(server, spot):
    place, _, _ = spot
    snapshots = made(server, place, "snapshot")
    assert [event["payload"]["step"] for event in snapshots] == [0, *range(2, 25, 2)]
    for event in snapshots:
        folder = event["resource"]["prefect.resource.id"].removeprefix("file://")
        assert Path(folder, "manifest.json").exists() and event["resource"]["npo.run"] == "tiny"
    base = snapshots[0]["resource"]["prefect.resource.id"]
    roles = {one["prefect.resource.role"]: one["prefect.resource.id"] for one in snapshots[1]["related"]}
    assert roles["asset"] == base and roles["asset-materialized-by"] == "npo"
    wait_for("no report", lambda: made(server, place, "report"))
    [report] = made(server, place, "report")
    assert report["payload"]["step"] == 24 and 0 <= report["payload"]["pass_rate"] <= 1


def test_a_workspace_on_s3_keeps_its_address():
    class Remote:
        uri = "s3://bucket/runs/a"

    assert address(Remote(), "report") == "s3://bucket/runs/a/report"


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict]]]:
    """An address that takes messages, and what it got."""
    got: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/hooks/s3cret", got
        serving.shutdown()


def test_people_are_told_of_failures_decisions_and_questions_and_the_address_stays_secret(server, receiver, tmp_path):
    url, got = receiver
    command = [sys.executable, "deployments/notify.py"]
    assert "NPO_NOTIFY_URL must be set" in finish(command, server).stderr
    for _ in range(2):  # the second time replaces the first
        done = finish(command, server | {"NPO_NOTIFY_URL": url})
        assert done.returncode == 0 and "3 automations" in done.stdout, done.stderr
    assert len([a for a in post(server, "automations/filter", {}) if a["name"].startswith("Tell of")]) == 3
    block = ask(server, "block_types/slug/custom-webhook/block_documents/name/npo-notify")
    assert "s3cret" not in json.dumps(block)

    config = tmp_path / "auto.yaml"
    config.write_text(yaml.safe_dump(TINY | {"name": "told", "auto": AUTO}))
    run = [sys.executable, "-m", "npo_core", "run", "auto-npo", "--config", str(config), "--workspace"]
    assert finish([*run, str(tmp_path / "run")], server).returncode == 0
    wait_for("nobody was told of a decision", lambda: [m for m in got if m["text"].startswith("NPO: a decision")])
    decided = next(m["text"] for m in got if m["text"].startswith("NPO: a decision"))
    assert "Decision 1 at step" in decided and f"Workspace: {tmp_path / 'run'}" in decided

    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/guidance").write_text("a file where a folder must be")
    again = [sys.executable, "-m", "npo_core", "run", "early-bootstrap", "--config", str(config), "--workspace"]
    assert finish([*again, str(tmp_path / "bad"), "--set", "execution.retries=0"], server).returncode != 0
    wait_for("nobody was told of a failure", lambda: [m for m in got if m["text"].startswith("NPO: a run Failed")])
    assert any("guidance" in m["text"] for m in got if m["text"].startswith("NPO: a run Failed"))

    asking = post(server, "flow_runs/filter", {"flows": {"name": {"any_": ["auto-npo"]}}, "limit": 1})[0]
    code = f"from uuid import UUID; from tasks.outside import tell_that_it_waits as t; t(UUID({asking['id']!r}))"
    assert finish([sys.executable, "-c", code], server).returncode == 0
    waits = "NPO: a run waits for an answer"
    wait_for("nobody was told of a question", lambda: [m for m in got if m["text"].startswith(waits)])
    [text] = [m["text"] for m in got if m["text"].startswith(waits)]
    assert f"{asking['name']} (http" in text and text.endswith(": press Resume to see the question")

    [cache, *_] = made(server, tmp_path / "run", "cache")
    folder = Path(cache["resource"]["prefect.resource.id"].removeprefix("file://"))
    assert folder == tmp_path / "run/guidance" / cache["payload"]["cache"] and cache["payload"]["rows"] >= 0
    assert json.loads((folder / "cache.json").read_text())["rows"] == cache["payload"]["rows"]
    [guide] = [one["prefect.resource.id"] for one in cache["related"] if one["prefect.resource.role"] == "asset"]
    assert Path(guide.removeprefix("file://"), "manifest.json").exists()


HOLD = """
import sys, time
from unittest.mock import patch
from npo_core.config import RunConfig
import flows.gpus as gpus
import os
with patch.object(gpus, "deployment", type("D", (), {"id": "some"})), patch.object(gpus, "get_run_logger") as logger:
    logger.return_value.info = lambda said, *_: print(said[:5], flush=True)
    config = RunConfig.model_validate({"execution": {"device": sys.argv[1]}})
    with gpus.own_gpus(config):
        print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
        time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("nodes", "generating", "gpus"), [(1, 4, 4), (2, 4, 2), (2, 5, 3), (2, None, 2)])
def test_a_deployed_run_takes_its_part_of_each_machine(nodes, generating, gpus):
    execution = {"device": "cuda", "processes": 2 * nodes, "nodes": nodes, "generation_processes": generating}
    assert wanted(RunConfig.model_validate({"execution": execution})) == gpus


def test_a_gpu_serves_one_deployed_run_at_a_time_and_a_killed_one_frees_it(tmp_path):
    """Three runs on two GPUs: the third gets the GPU of the one that is killed. A run on the CPU takes none."""
    environment = os.environ | {"NPO_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "4,GPU-7"}

    def run(device: str = "cuda", seconds: float = 600) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, device, str(seconds)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    started: list[subprocess.Popen] = []
    try:
        for shown in ("4", "GPU-7"):
            started.append(run())
            assert [started[-1].stdout.readline().strip() for _ in range(2)] == ["Has t", shown]
        assert run("cpu", 0).stdout.readline().strip() == "4,GPU-7"
        started.append(run())
        assert started[-1].stdout.readline().strip() == "Waits"
        started[1].kill()
        assert [started[-1].stdout.readline().strip() for _ in range(2)] == ["Has t", "GPU-7"]
    finally:
        for process in started:
            process.kill()
            process.wait()
