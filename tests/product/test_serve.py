"""What `make serve` sets up, and what a click on Run, Retry and Cancel does, by the calls that the UI makes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from npo_core.config import load_config
from npo_core.stages.workspace import Workspace
from npo_core.timeline import workspace_lock
from tests.product.conftest import ROOT, Served, start, stop

PRESET = {"grpo": "demo", "early-bootstrap": "demo", "auto-npo": "demo", "smoke": "smoke"} | {
    f"{flow}-qwen3-vl-8b": "qwen3-vl-8b-paper" for flow in ("grpo", "early-bootstrap", "auto-npo")
}
PRESET |= {
    "early-bootstrap-gsm8k": "qwen3-0.6b-gsm8k-1gpu",
    "early-bootstrap-qwen3-vl-8b-lora": "qwen3-vl-8b-lora-1gpu",
}


@dataclass
class Begun:
    """Flow runs that were started at once, two of which run at a time while the tests go on."""

    smoke: str
    failing: str
    plateau: str
    endless: str


@pytest.fixture(scope="module", autouse=True)
def begun(served: Served, folder: Path) -> Begun:
    """A Quick run; one that will fail; one on a plateau; one that nobody waits for."""
    blocked = folder / "failing"
    blocked.mkdir()
    (blocked / "guidance").write_text("a file where a folder must be, as after a slip of somebody's hand")
    once = served.preset("early-bootstrap/smoke", execution={"retries": 0})
    flat = {"steps": 140, "snapshot_every": 20, "learning_rate": 1e-9}  # learns nothing, which makes the plateau
    every = {"bootstrap": {"scout_steps": 20}, "evaluation": {"every": 140}}
    still = served.preset("early-bootstrap/smoke", training=flat, **every)
    plateau = {"config": still, "workspace": str(folder / "plateau"), "announce_plateau": True}
    return Begun(
        served.run("early-bootstrap/smoke"),
        served.run("early-bootstrap/early-bootstrap", config=once, workspace=str(blocked)),
        served.run("grpo/grpo", **plateau),
        served.run("grpo/grpo", config=endless(served), workspace=str(folder / "endless")),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def endless(served: Served) -> dict[str, Any]:
    """The smoke run's configuration with more updates than anybody waits for."""
    training, every = {"steps": 200_000, "snapshot_every": 20}, {"every": 20}
    return served.preset("early-bootstrap/smoke", training=training, bootstrap={"scout_steps": 20}, evaluation=every)


def deployments(served: Served) -> dict[str, dict[str, Any]]:
    return {deployment["name"]: deployment for deployment in served.ask("deployments/filter", {})}


def test_forms_are_filled_with_the_presets(served):
    found = deployments(served)
    assert set(found) == set(PRESET) | {"plateau-breakthrough"}
    for name, preset in PRESET.items():
        config = load_config(ROOT / f"deployments/configs/{preset}.yaml").model_dump(mode="json")
        assert found[name]["parameters"] == {"config": config}, name


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


def test_every_field_of_the_forms_is_explained(served):
    for deployment in deployments(served).values():
        schema = deployment["parameter_openapi_schema"]
        for group in [schema, *schema["definitions"].values()]:
            for name, field in group["properties"].items():
                shown = {**schema["definitions"].get(field.get("$ref", "").rpartition("/")[2], {}), **field}
                assert shown.get("title") and shown.get("description") and "position" in shown, name
                numbers = [f for f in [field, *field.get("anyOf", [])] if f.get("type") in ("integer", "number")]
                assert all("inimum" in str(f.keys()) for f in numbers), f"{name} has no lower bound"


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


def test_the_smoke_run_completes_with_its_artifacts(served, begun):
    smoke = served.wait(begun.smoke, {"COMPLETED"})
    artifacts = served.artifacts(begun.smoke)
    stages = ["base", "train-scout-to-12", "guidance", "branch-replay", "train-replay-to-24", "evaluation", "report"]
    assert {f"smoke-{stage}" for stage in stages} <= set(artifacts)
    assert "data:image/png" in artifacts["smoke-report"]
    assert smoke["name"] == "smoke seed 0" and smoke["run_count"] == 1
    assert (served.home / "runs" / f"smoke-{begun.smoke[:8]}" / "report/report.md").exists()


def test_retry_after_a_failure_does_not_run_finished_stages_again(served, begun, folder):
    failed = served.wait(begun.failing, {"FAILED"})
    assert "guidance" in failed["state"]["message"]
    [scout] = (folder / "failing").glob("stages/train-*/result.json")
    finished = scout.stat().st_mtime_ns

    (folder / "failing/guidance").unlink()
    served.set_state(begun.failing, "SCHEDULED", "AwaitingRetry")
    done = served.wait(begun.failing, {"COMPLETED"})
    assert done["run_count"] == 2 and scout.stat().st_mtime_ns == finished
    assert any("train scout to 12 was done already" in line for line in served.logs(begun.failing))


def test_cancel_ends_every_process_and_frees_the_workspace(served, begun, folder):
    served.wait_for_task(begun.endless, "train main to 200000")
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


def test_no_more_runs_at_a_time_than_asked_for(served, begun):
    """Three were started at once; the limit is two, and holds across deployments."""
    runs = [served.wait(run) for run in (begun.smoke, begun.plateau, begun.endless)]
    for run in runs:
        beside = [other for other in runs if other["start_time"] <= run["start_time"] < other["end_time"]]
        assert len(beside) <= 2, [(r["name"], r["start_time"], r["end_time"]) for r in runs]


def test_killed_with_a_run_and_started_again(tmp_path_factory, prefect_database, served):
    """SIGKILL of `make serve` leaves no process; the next one calls the run crashed, and Retry goes on."""
    home = tmp_path_factory.mktemp("killed")
    os.symlink(served.home / "models", home / "models")
    other = start(home, prefect_database)
    run = other.run("grpo/grpo", config=endless(other))
    other.wait_for_task(run, "train main to 200000")
    other.process.send_signal(signal.SIGKILL)
    other.process.wait()
    deadline = time.monotonic() + 60
    while other.alive():
        assert time.monotonic() < deadline, other.alive()
        time.sleep(0.2)
    again = start(home, None, other.port)
    try:
        assert again.ask(f"flow_runs/{run}")["state_type"] == "CRASHED"
        again.set_state(run, "SCHEDULED", "AwaitingRetry")
        deadline = time.monotonic() + 300
        while not any("base model was done already" in line for line in again.logs(run)):
            assert time.monotonic() < deadline, again.logs(run)
            time.sleep(0.2)
        assert [path.name for path in (home / "runs").iterdir()] == [f"smoke-{run[:8]}"]
        assert len(again.ask("automations/filter", {})) == 2
    finally:
        stop(again)


def test_a_port_in_use_is_named(served):
    command = [sys.executable, "-m", "npo_core", "serve", "--port", str(served.port)]
    other = served.environment | {"NPO_HOME": str(served.home / "other")}
    done = subprocess.run(command, cwd=ROOT, env=other, capture_output=True, text=True, timeout=300)
    assert done.returncode == 64 and f"Port {served.port} cannot be used" in done.stderr
