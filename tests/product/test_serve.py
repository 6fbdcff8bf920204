"""What `make serve` sets up, and what a click on Run, Retry and Cancel does, by the calls that the UI makes."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml

from flows.form import FORMS, plain
from npo_core.config import load_config, parse_config
from npo_core.stages.workspace import Workspace
from npo_core.timeline import workspace_lock
from tests.product.conftest import ROOT, Served

PRESET = {
    "grpo": "demo",
    "pool-rescue": "pool-rescue",
    "early-bootstrap": "demo",
    "auto-npo": "demo",
    "smoke": "smoke",
} | {f"{flow}-qwen3-vl-8b": "qwen3-vl-8b-paper" for flow in ("grpo", "early-bootstrap", "auto-npo")}
PRESET |= {
    "early-bootstrap-gsm8k": "qwen3-0.6b-gsm8k-1gpu",
    "early-bootstrap-qwen3-vl-8b-lora": "qwen3-vl-8b-lora-1gpu",
}


@dataclass
class Begun:
    """Flow runs that were started at once, two of which run at a time while the tests go on."""

    smoke: str
    plateau: str
    endless: str


@pytest.fixture(scope="module", autouse=True)
def begun(served: Served, folder: Path) -> Begun:
    """A Quick run; one on a plateau; one that nobody waits for."""
    flat = {"steps": 140, "snapshot_every": 20, "learning_rate": 1e-9}  # learns nothing, which makes the plateau
    every = {"bootstrap": {"scout_steps": 20}, "evaluation": {"every": 140}}
    still = served.preset("early-bootstrap/smoke", training=flat, **every)
    plateau = {"config": still, "workspace": str(folder / "plateau"), "announce_plateau": True}
    return Begun(
        served.run("early-bootstrap/smoke"),
        served.run("grpo/grpo", **plateau),
        served.run("grpo/grpo", config=endless(served), workspace=str(folder / "endless")),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def endless(served: Served) -> dict[str, Any]:
    """The smoke run's configuration with more updates than anybody waits for."""
    training, every = {"steps": 20_000, "snapshot_every": 20}, {"every": 20}
    return served.preset("early-bootstrap/smoke", training=training, bootstrap={"scout_steps": 20}, evaluation=every)


def deployments(served: Served) -> dict[str, dict[str, Any]]:
    return {deployment["name"]: deployment for deployment in served.ask("deployments/filter", {})}


def test_forms_are_filled_with_the_presets(served):
    found = deployments(served)
    assert set(found) == set(PRESET) | {"plateau-breakthrough", "breakthrough-sweep", "compare", "fork"}
    for name, preset in PRESET.items():
        flow = found[name]["entrypoint"].rpartition(":")[2].replace("_", "-")
        config = load_config(ROOT / f"deployments/configs/{preset}.yaml", recipe=flow)
        assert found[name]["parameters"] == {"config": FORMS[flow].fill(config)}, name
        assert parse_config(plain(found[name]["parameters"]["config"])) == config, name
        assert not found[name]["parameter_openapi_schema"].get("required"), "a Quick run would ask for it"


def test_as_many_runs_as_asked_for_and_no_schedule_is_active(served):
    pool = served.ask("work_pools/npo")
    assert pool["concurrency_limit"] == 2 and pool["type"] == "process"
    schedules = [s for deployment in deployments(served).values() for s in deployment["schedules"]]
    assert schedules and not any(schedule["active"] for schedule in schedules)


def test_there_is_one_server(served):
    """A client that missed the address would start another over the same database, and each would lock the other."""
    below = psutil.Process(served.process.pid).children(recursive=True)
    servers = [p.cmdline() for p in below if {"uvicorn", "flows.server"} & set(p.cmdline())]
    assert len(servers) == 1, servers


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a form, at any depth, by its title."""
    for field in schema.get("properties", {}).values():
        yield field.get("title", ""), field
        for group in [field, *field.get("anyOf", [])]:
            yield from fields(group)


def test_every_field_of_the_forms_is_explained(served):
    for deployment in deployments(served).values():
        schema = deployment["parameter_openapi_schema"]
        for group in [schema, *schema.get("definitions", {}).values()]:
            for name, field in fields(group):
                of = schema.get("definitions", {}).get(field.get("$ref", "").rpartition("/")[2], {})
                assert (name or of.get("title")) and "position" in field, (name, field)
                assert (of | field).get("description"), (name, field)
                numbers = [f for f in [field, *field.get("anyOf", [])] if f.get("type") in ("integer", "number")]
                assert all("inimum" in str(f.keys()) for f in numbers), f"{name} has no lower bound"


def test_forms_begin_with_what_decides_most(served):
    """Where it lies, what it is called and how long it is; then what the flow is about; seldom changed last."""
    about = {"grpo": [], "smoke": ["bootstrap.scout_steps"], "auto-npo": ["method", "auto.approval"]}
    for name, found in deployments(served).items():
        properties = found["parameter_openapi_schema"]["properties"]
        first = {"compare": ["workspaces"], "fork": ["origin", "at"], "breakthrough-sweep": ["folder", "at_most"]}.get(
            name, ["workspace", "baseline"]
        )
        assert list(properties)[: len(first)] == first
        if name in about:
            titles = [title for title, _ in fields({"properties": {"config": properties["config"]}})]
            assert titles[:4] == ["config", "name", "seed", "training.steps"]
            assert titles[4 : 4 + len(about[name])] == about[name]
            assert titles.index("evaluation.every") < titles.index("advanced") < titles.index("execution.retries")
    plateau = deployments(served)["plateau-breakthrough"]["parameter_openapi_schema"]["properties"]["plateau"]
    assert list(plateau["properties"])[:2] == ["guide_step", "rollback_step"]


def lines_of(served: Served, run: str, number: int) -> list[str]:
    """The log's lines about workspace and result, once there are as many: a log arrives behind the state."""
    deadline = time.monotonic() + 60
    while True:
        lines = [line for line in served.logs(run) if line.startswith(("Workspace: ", "Held-out "))]
        if len(lines) >= number or time.monotonic() > deadline:
            return lines
        time.sleep(0.5)


def test_the_smoke_run_completes_with_its_artifacts(served, begun):
    smoke = served.wait(begun.smoke, {"COMPLETED"})
    artifacts = served.artifacts(begun.smoke)
    stages = ["base", "train-scout-to-12", "guidance", "branch-replay", "train-replay-to-24", "evaluation", "report"]
    assert {f"smoke-{stage}" for stage in stages} <= set(artifacts)
    assert "data:image/png" in artifacts["smoke-report"]
    workspace = served.home / "runs" / f"smoke-{begun.smoke[-8:]}"
    assert smoke["run_count"] == 1 and (workspace / "report/report.md").exists()
    assert re.fullmatch(r"early-bootstrap smoke seed 0, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", smoke["name"])
    held_out = r"Held-out 0\.\d{3} ± 0\.\d{3} after 24 steps\. Report: "
    assert re.fullmatch(held_out + re.escape(f"{workspace}/report/report.md"), smoke["state"]["message"])
    assert lines_of(served, begun.smoke, 2) == [f"Workspace: {workspace}", smoke["state"]["message"]]
    assert all(f"`{workspace}`" in artifacts[key] for key in ("smoke-plan", "smoke-report"))
    tagged = {"flow_runs": {"tags": {"all_": [f"workspace:{workspace}"]}}}
    assert [run["id"] for run in served.ask("flow_runs/filter", tagged)] == [begun.smoke]


def test_cancel_ends_every_process_and_frees_the_workspace(served, begun, folder):
    served.wait_for_task(begun.endless, "train main to 20000")
    processes = served.of_runs(begun.endless)
    assert len(processes) >= 3
    served.set_state(begun.endless, "CANCELLING", "Cancelling")
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    with workspace_lock(Workspace(folder / "endless").store, owner="the test"):
        pass
    assert served.wait(begun.endless, {"CANCELLED"})["state"]["name"] == "Cancelled"


def test_a_grpo_run_on_a_plateau_starts_plateau_breakthrough(served, begun, folder):
    served.wait(begun.plateau, {"COMPLETED"})
    wanted = {"flows": {"name": {"any_": ["plateau-breakthrough"]}}}
    deadline = time.monotonic() + 120
    while not (found := served.ask("flow_runs/filter", wanted)):
        assert time.monotonic() < deadline, "the event started nothing"
        time.sleep(0.2)
    assert [run["parameters"]["workspace"] for run in found] == [str(folder / "plateau")]
    served.wait(found[0]["id"], {"COMPLETED"})
    assert list(folder.glob("plateau/branches/late-*.json"))
    tagged = {"flow_runs": {"tags": {"all_": [f"workspace:{folder / 'plateau'}"]}}}
    assert {run["id"] for run in served.ask("flow_runs/filter", tagged)} == {begun.plateau, found[0]["id"]}


def test_no_more_runs_at_a_time_than_asked_for(served, begun):
    """Three were started at once; the limit is two, and holds across deployments."""
    runs = [served.wait(run) for run in (begun.smoke, begun.plateau, begun.endless)]
    for run in runs:
        beside = [other for other in runs if other["start_time"] <= run["start_time"] < other["end_time"]]
        assert len(beside) <= 2, [(r["name"], r["start_time"], r["end_time"]) for r in runs]


def test_deploying_again_changes_nothing(served):
    def everything() -> tuple[set, list]:
        automations = sorted(automation["name"] for automation in served.ask("automations/filter", {}))
        return {(d["id"], d["name"]) for d in deployments(served).values()}, automations

    before = everything()
    assert before[1] == ["Crash runs of dead machines", "Plateau detected"]
    command = [sys.executable, "-m", "prefect", "deploy", "--all"]
    environment = served.environment | {"PREFECT_API_URL": f"{served.url}/api"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert everything() == before


@contextmanager
def quick_automation(served: Served, runs: Iterable[str]) -> Iterator[None]:
    """The automation for dead machines, of some runs alone, which takes thirty seconds for nine minutes."""
    [values] = yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
    values["trigger"] |= {"within": 30, "match": {"prefect.resource.id": [f"prefect.flow-run.{run}" for run in runs]}}
    made = served.ask("automations/", values | {"name": "Quick"})
    try:
        yield
    finally:
        url = f"{served.url}/api/automations/{made['id']}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def emit(served: Served, event: str, run: str) -> None:
    """What a flow run's process tells the server."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    told = {"event": event, "resource": resource, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}
    request = urllib.request.Request(
        f"{served.url}/api/events", json.dumps([told]).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()


def test_a_run_that_waits_for_approval_is_not_taken_for_dead(served):
    """Nor where the server lost the event that it was suspended: the run told that it waits, too."""
    flow = served.ask("flows/filter", {})[0]["id"]
    made = {n: served.ask("flow_runs/", {"flow_id": flow, "name": n}) for n in ("dead", "suspended", "told")}
    runs = {name: run["id"] for name, run in made.items()}
    with quick_automation(served, runs.values()):
        for run in runs.values():
            served.set_state(run, "RUNNING", "Running")
            emit(served, "prefect.flow-run.heartbeat", run)
        time.sleep(5)  # events that come at once may be taken in another order
        state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
        served.ask(f"flow_runs/{runs['suspended']}/set_state", {"state": state, "force": True})
        emit(served, "npo.flow-run.waits", runs["told"])
        served.wait(runs["dead"], {"CRASHED"})
        time.sleep(10)  # whatever would end the others has had its time as well
    kept = {name: served.ask(f"flow_runs/{runs[name]}")["state_type"] for name in ("suspended", "told")}
    assert kept == {"suspended": "PAUSED", "told": "RUNNING"}
    served.set_state(runs["told"], "COMPLETED", "Completed")


@pytest.mark.thorough
def test_a_run_cancelled_while_the_worker_takes_it_frees_its_place_within_minutes(served):
    """Nobody has it then: it stays in Cancelling until the server looks after it."""
    found, pending = deployments(served)["smoke"]["id"], {"state": {"type": "PENDING", "name": "Pending"}}
    run = served.ask(f"deployments/{found}/create_flow_run", pending)["id"]
    served.set_state(run, "CANCELLING", "Cancelling")
    assert served.ask(f"flow_runs/{run}")["state_type"] == "CANCELLING"
    began = time.monotonic()
    served.wait(run, {"CANCELLED"})
    assert time.monotonic() - began < 250


def test_a_port_in_use_is_named(served):
    command = [sys.executable, "-m", "npo_core", "serve", "--port", str(served.port)]
    other = served.environment | {"NPO_HOME": str(served.home / "other")}
    done = subprocess.run(command, cwd=ROOT, env=other, capture_output=True, text=True, timeout=300)
    assert done.returncode == 64 and f"Port {served.port} cannot be used" in done.stderr
