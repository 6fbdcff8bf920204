"""Recipes without Prefect: the same stages as with it, killed and started again, asked and answered."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from npo_core.control.records import Approval, Decisions
from npo_core.errors import ApprovalNeeded, ConfigError, DamagedError, DataError
from npo_core.names import RESULT_FILE, STARTED_FILE
from npo_core.recipes.local import run_local
from npo_core.recipes.status import status
from npo_core.reporting.report import write_report
from npo_core.stages.launch import read_result
from npo_core.stages.prove import prove_replay
from npo_core.stages.specs import BaseSpec
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import ROOT, TINY, outcome, wait_for
from tests.recipes.conftest import tiny

NO_PREFECT = "import sys; sys.modules['prefect'] = None; from npo_core.cli.app import main; main()"


def npo(*arguments: object) -> list[str]:
    """The command where Prefect cannot be imported."""
    return [sys.executable, "-c", NO_PREFECT, *map(str, arguments)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


def test_killed_and_started_again_without_prefect_it_is_the_same_run(runs, home, config, tmp_path):
    workspace = tmp_path / "killed"
    command = npo("run", "early-bootstrap", "--config", config, "--workspace", workspace, "--local")
    environment = {**os.environ, "NPO_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(workspace, "segments/*/mark-000004.json", process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=120)
    done = subprocess.run([*command, "--json"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "early-bootstrap" and "train replay to 24" in done.stderr
    assert outcome(workspace) == outcome(runs["early-bootstrap"].uri)


def test_without_prefect_a_run_says_how_to_do_without(config, tmp_path):
    command = npo("run", "grpo", "--config", config, "--workspace", tmp_path / "run")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 64 and "add --local" in done.stderr and not (tmp_path / "run").exists()


def test_an_intervention_waits_for_its_answer(home, tmp_path):
    config = tiny(auto__approval="ask", auto__max_interventions=1, auto__cooldown=24)
    with pytest.raises(ApprovalNeeded, match="npo approve .* --accept"):
        run_local("auto-npo", config, str(tmp_path / "run"))
    workspace = Workspace(tmp_path / "run")
    Decisions(workspace.store).add_approval(1, Approval(answer="decline"))
    run_local("auto-npo", config, str(tmp_path / "run"))
    assert [branch.name for branch in workspace.timeline.branches()] == ["main"]


def test_a_result_of_another_shape_is_refused_by_name(runs, home):
    workspace, config = runs["early-bootstrap"], runs["early-bootstrap"].config()
    common = {"workspace": workspace.uri, "execution": config.execution, "problems": config.problems}
    spec = BaseSpec(model=config.model, **common)
    assert read_result(workspace, spec).result.snapshot
    kept = workspace.store.read_json(f"{spec.folder}/{RESULT_FILE}")
    try:
        workspace.store.write_json(f"{spec.folder}/{RESULT_FILE}", kept | {"result": {"made": True}})
        with pytest.raises(DamagedError, match=r"result\.json is no result of a stage base .*delete the folder"):
            read_result(workspace, spec)
    finally:
        workspace.store.write_json(f"{spec.folder}/{RESULT_FILE}", kept)


def test_a_run_of_before_is_read_but_neither_goes_on_nor_is_proven(runs, home, tmp_path):
    """Its random numbers were others, so a replay would not repeat it."""
    workspace = Workspace(shutil.copytree(runs["grpo"].uri, tmp_path / "old"))
    workspace.store.remove(STARTED_FILE)
    for name in workspace.store.list("stages"):
        record = workspace.store.read_json(f"stages/{name}/{RESULT_FILE}")
        del record["versions"]["npo-core"]
        workspace.store.write_json(f"stages/{name}/{RESULT_FILE}", record)
    assert status(workspace)["finished"] and write_report(workspace)["complete"]
    with pytest.raises(ConfigError, match=r"trained by npo before 0\.3, .*: give another workspace"):
        run_local("grpo", tiny(), workspace.uri)
    with pytest.raises(DataError, match=r"trained by npo before 0\.3, .*: prove it with that version"):
        prove_replay(workspace.uri)
