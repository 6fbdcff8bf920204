"""The pipeline as people use it: a real server and worker, and every click in a real browser."""

import json
import re
from pathlib import Path

import psutil
import pytest

from flows.form import plain
from flows.serve import AFTERWARDS
from npo_core.config import parse_config
from npo_core.stages.workspace import Workspace
from npo_core.timeline import workspace_lock
from tests.browser.ui import UI, SecondUI
from tests.product.conftest import Served


def finished_stages(workspace: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workspace.glob("stages/*/result.json")}


def assert_machine_is_free(served: Served, workspace: Path, flow: list[psutil.Process]) -> None:
    """Nothing of a run is left: no process, no lock."""
    _, alive = psutil.wait_procs(flow, timeout=60)
    assert not alive, [process.cmdline() for process in alive]
    assert not served.of_runs()
    with workspace_lock(Workspace(workspace).store, owner="the test"):
        pass


@pytest.mark.thorough
def test_retry_after_a_failure(ui: UI, served: Served, checkout: Path, tmp_path: Path):
    """Guidance cannot be written; it is repaired, the source is edited meanwhile, and Retry runs only what is left."""
    workspace = tmp_path / "run"
    workspace.mkdir()
    (workspace / "guidance").write_text("in the way")
    ui.open_form("early-bootstrap/smoke")
    ui.type("evaluation.target", 0.7)
    ui.type("execution.retries", 0)
    ui.type("workspace", workspace)
    ui.name_it("my-own run")
    run = ui.start()
    ui.see_state(run, "Failed")
    failed = served.ask(f"flow_runs/{run}")
    message = failed["state"]["message"]
    assert "guidance" in message and message.endswith(f"Workspace: {workspace}")
    assert not any("Traceback" in line for line in served.logs(run))
    assert failed["name"] == "my-own run" and failed["parameters"]["config"]["evaluation"]["target"] == 0.7
    before = finished_stages(workspace)
    assert {path.parent.name.split("-")[0] for path in before} == {"base", "train"}

    (workspace / "guidance").unlink()
    source = checkout / "tasks/train.py"
    source.write_text(source.read_text() + "\n# edited between failure and retry\n")
    ui.confirmed("Retry", "Retry")
    ui.see_state(run, "Completed")
    served.wait_for_log(run, "train scout to 12 was done already")
    after = finished_stages(workspace)
    assert len(after) > len(before) and before.items() <= after.items()
    assert served.ask(f"flow_runs/{run}")["run_count"] == 2


def test_cancel(ui: UI, second: SecondUI, served: Served, tmp_path: Path):
    """In the middle of training, and a run that waits for it, which says so where one looks at it, in either UI."""
    training = {"steps": 20_000, "snapshot_every": 20}
    groups = {"training": training, "bootstrap": {"scout_steps": 20}, "evaluation": {"every": 20}}
    workspace = tmp_path / "run"
    run = served.run("grpo/grpo", config=served.preset("grpo/grpo", **groups), workspace=str(workspace))
    served.wait_for_task(run, "train main to 20000")
    flow = served.of_runs()
    assert len(flow) >= 3  # the flow, what forks stages, the stage
    waits = ui.quick_run("early-bootstrap/smoke")
    waits_for = re.compile(r"It waits for 'grpo demo seed 0, .*'\. There is 1 run at a time \(make serve RUNS=2")
    ui.open_run(waits)
    ui.see(waits_for, 120)
    state = served.wait(waits, {"SCHEDULED"})["state"]
    assert state["name"] == "Late" and waits_for.match(state["message"])
    second.open_run(waits)
    second.see(waits_for)
    second.tab("Details")
    second.see(AFTERWARDS)
    served.ask(f"flow_runs/{waits}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    ui.open_run(run)
    ui.confirmed("Cancel", "Confirm")
    ui.see_state(run, "Cancelled")
    assert_machine_is_free(served, workspace, flow)


def test_a_run_from_the_form_and_approval_in_the_form(ui: UI, served: Served):
    """The preset never warns and never asks; what is typed makes it, and the artifact shows what is to be judged.

    An impossible answer, by the call that the form makes, is asked for again; one in the form is followed. While the
    run waits the machine is free.
    """
    ui.open_form("auto-npo/auto-npo")
    ui.type("method", "auto-npo")  # weighs rollbacks alone
    ui.type("auto.control.trigger.min_gain", 1)
    ui.choose("auto.approval", "ask")
    run = ui.start()
    ui.see_state(run, "Suspended")
    config = plain(served.ask(f"flow_runs/{run}")["parameters"]["config"])
    weighed = parse_config(config).auto
    assert (weighed.choice.rule, weighed.choice.now, weighed.probe.behind) == ("signal", False, 0)
    assert config["auto"]["control"]["trigger"]["min_gain"] == 1 and config["training"]["steps"] == 24
    workspace = served.home / "runs" / f"demo-{run[-8:]}"
    assert_machine_is_free(served, workspace, served.of_runs())
    decision = json.loads((workspace / "decisions/0001.json").read_text())
    ui.open_artifact("demo-decision-0001")
    ui.see(f"Decision {decision['number']} at step {decision['step']}")
    ui.see(decision["reason"])
    pictures = ui.page.locator("article img")
    assert pictures.count() and all(p.evaluate("image => image.naturalWidth") > 300 for p in pictures.all())

    before = finished_stages(workspace)
    ui.leave()
    answer_impossibly(served, run, workspace)
    ui.open_run(run)
    ui.click("Resume")
    ui.see("roll back by Delta")
    ui.choose("Answer", "other")
    ui.type("Delta", 4)
    ui.submit("resume")
    ui.see_state(run, "Completed")
    decisions = workspace / "decisions"
    answer = json.loads((decisions / "0001-approval.json").read_text())
    assert (answer["answer"], answer["delta"], answer["by"]) == ("other", 4, "UI")
    assert json.loads((decisions / "0001-outcome.json").read_text())["replay"]["branch"] == "replay-1"
    assert before.items() <= finished_stages(workspace).items()


def answer_impossibly(served: Served, run: str, workspace: Path) -> None:
    served.ask(f"flow_runs/{run}/resume", {"run_input": {"answer": "other", "delta": 3}})
    served.wait(run, {"RUNNING"})
    again = served.wait(run, {"PAUSED"})
    assert_machine_is_free(served, workspace, served.of_runs())
    assert not (workspace / "decisions/0001-approval.json").exists()
    keyset = again["state"]["state_details"]["run_input_keyset"]
    assert "3" in served.ask(f"flow_runs/{run}/input/{keyset['description']}")
