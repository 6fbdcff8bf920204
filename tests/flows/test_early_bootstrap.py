"""Early bootstrapping against a real server: `npo run`, killed and started again, local and on S3."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import boto3
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from npo_core.stages.workspace import Workspace
from npo_core.timeline import workspace_lock
from npo_core.timeline.segments import OUTCOME_SCHEMA, read_outcomes
from tests.flows.conftest import ROOT, artifacts, family, finish, npo, outcome, wait_for


@pytest.fixture(scope="session")
def grpo(call, config, tmp_path_factory) -> Path:
    """A finished baseline."""
    workspace = tmp_path_factory.mktemp("runs") / "grpo"
    call("run", "grpo", "--config", config, "--workspace", workspace)
    return workspace


@pytest.fixture(scope="session")
def early(call, config, grpo) -> Path:
    """A finished early-bootstrap run beside it."""
    workspace = grpo.parent / "early"
    call("run", "early-bootstrap", "--config", config, "--workspace", workspace, "--baseline", grpo)
    return workspace


def test_the_flow_does_what_the_method_says(early, grpo):
    workspace = Workspace(early)
    timeline = workspace.timeline
    scout, replay, rest = (s for name in ("scout", "replay") for s in timeline.segments() if s.branch == name)
    assert (scout.t0, scout.t1, replay.t0, replay.t1, rest.t0, rest.t1) == (0, 12, 0, 12, 12, 24)
    assert scout.start == replay.start and scout.cache is None and rest.cache is None
    assert timeline.branch("replay").guide == [scout.end] and timeline.branch("replay").cache == replay.cache
    injected = [row for row in read_outcomes(workspace.store, replay).to_pylist() if row["injected"]]
    assert injected and all(row["pass_rate"] < 0.6 for row in injected)
    cache = workspace.open_cache(replay.cache, None, {})
    assert all(row["prompt_id"] in cache for row in injected)
    # The same prompts in the same order, and up to the first injection the same completions.
    prompts = [[row["prompt_id"] for row in read_outcomes(workspace.store, s).to_pylist()] for s in (scout, replay)]
    assert prompts[0] == prompts[1]
    first = read_outcomes(workspace.store, scout).to_pylist()[:8]
    for a, b in zip(first, read_outcomes(workspace.store, replay).to_pylist()[:8], strict=True):
        assert (a["tokens"] == b["tokens"]) == (not b["injected"])
    # The scout is the baseline's own beginning.
    assert Workspace(grpo).timeline.segments()[0].snapshots[12] == scout.end


def test_artifacts_and_report(early, environment):
    found = artifacts(environment)
    keys = [
        "base",
        "train-scout-to-12",
        "guidance",
        "branch-replay",
        "train-replay-to-12-guided",
        "train-replay-to-24",
        "evaluation",
        "report",
    ]
    assert {f"tiny-{key}" for key in keys} <= set(found)
    trained = found["tiny-train-replay-to-12-guided"]
    assert "data:image/png;base64," in trained and "guidance cache" in trained and "tokens_generated" in trained
    assert all(len(data) < 200_000 for data in found.values() if isinstance(data, str))
    report = json.loads((early / "report/report.json").read_text())
    assert report["complete"] and report["comparison"]
    assert (early / "report/curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_call_runs_nothing_again(early, call, config, grpo):
    before = {p: p.stat().st_mtime_ns for p in early.glob("stages/*/result.json")}
    done = call("run", "early-bootstrap", "--config", config, "--workspace", early, "--baseline", grpo)
    assert done.stderr.count("done already") == 6, done.stderr
    assert {p: p.stat().st_mtime_ns for p in early.glob("stages/*/result.json")} == before


def test_killed_and_started_again_equals_uninterrupted(early, environment, call, config, tmp_path):
    """Begun with Prefect it goes on without it, and the other way round: the workspace is all that they share."""
    workspace = tmp_path / "killed"
    command = npo("run", "early-bootstrap", "--config", config, "--workspace", workspace)
    moments = [
        ("stages/guide-*/shards/*.parquet", signal.SIGKILL, []),
        ("branches/replay.json", signal.SIGTERM, ["--local"]),
    ]
    for pattern, sign, how in moments:
        assert not list(workspace.glob(pattern)), f"{pattern} was there before the run that is to make it"
        process = subprocess.Popen([*command, *how], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(workspace, pattern, process)
        processes = family(process)
        process.send_signal(sign)
        assert process.wait(timeout=120) != 0
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert len(processes) >= 2 and not alive, [p.cmdline() for p in alive]
    call(*command[3:])
    assert outcome(workspace) == outcome(early)


def test_killed_while_the_base_model_is_made(grpo, environment, config, tmp_path):
    """A home of its own, so that the model is not there yet; made again it is the same model, bit for bit."""
    workspace = tmp_path / "run"
    elsewhere = environment | {"NPO_HOME": str(tmp_path / "home")}
    command = npo("run", "grpo", "--config", config, "--workspace", workspace, "--local")
    process = subprocess.Popen(command, env=elsewhere, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(workspace, ".scratch/stages/base-*/events.jsonl", process)
    process.kill()
    process.wait()
    assert not list(workspace.glob("snapshots/*"))
    assert finish(command, elsewhere).returncode == 0
    assert outcome(workspace) == outcome(grpo)


def test_a_workspace_in_use_is_refused_with_its_owner(early, call, config):
    with workspace_lock(Workspace(early).store, owner="the test"):
        done = call("run", "early-bootstrap", "--config", config, "--workspace", early, code=75)
    assert str(os.getpid()) in done.stderr


def test_a_workspace_on_s3_gives_the_same_run(early, environment, call, config, monkeypatch):
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        boto3.client(
            "s3",
            endpoint_url=keys["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="id",
            aws_secret_access_key="secret",
        ).create_bucket(Bucket="runs")
        uri = "s3://runs/early"
        command = npo("run", "early-bootstrap", "--config", config, "--workspace", uri, "--local")
        done = finish(command, environment | keys)
        assert done.returncode == 0, done.stderr
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        ids = [[s["id"] for s in json.loads(call("timeline", w, "--json").stdout)["segments"]] for w in (uri, early)]
        assert ids[0] == ids[1]
        proof = finish(npo("prove-replay", uri, "--steps", 8, "--json"), environment | keys)
        assert proof.returncode == 0 and json.loads(proof.stdout)["equal"], proof.stdout + proof.stderr
    finally:
        server.stop()


def test_prove_replay_tells_equal_from_different(early, call, tmp_path):
    call("prove-replay", early)
    forged = tmp_path / "forged"
    shutil.copytree(early, forged)
    scout = next(s for s in Workspace(forged).timeline.segments() if s.branch == "scout")
    part = forged / f"segments/{scout.id}/outcomes-000008.parquet"
    rows = pq.read_table(part).to_pylist()
    rows[3]["tokens"] = "0" * 16
    pq.write_table(pa.Table.from_pylist(rows, OUTCOME_SCHEMA), part)
    found = json.loads(call("prove-replay", forged, "--json", code=1).stdout)
    assert not found["equal"] and rows[3]["prompt_id"] in json.dumps(found["compared"])


def test_proof_across_epochs_windows_and_a_kill(environment, call, config, tmp_path):
    """Several updates a batch, snapshots inside a generation window, an epoch edge in the segment, and a SIGKILL."""
    workspace = tmp_path / "run"
    settings = [
        "problems.train=40",
        "training.updates_per_batch=2",
        "training.snapshot_every=3",
        "training.steps=15",
        "bootstrap.scout_steps=15",
        "evaluation.every=15",
    ]
    command = npo("run", "grpo", "--config", config, "--workspace", workspace, *(f"--set={s}" for s in settings))
    process = subprocess.Popen([*command, "--local"], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(workspace, "segments/*/mark-000003.json", process)
    process.kill()
    process.wait()
    call(*command[3:])
    tries = (next(workspace.glob("stages/train-*")) / "log.txt").read_text()
    proof = call("prove-replay", workspace, "--json").stdout
    found = json.loads(proof)
    assert found["equal"] and found["steps"] == 15, proof + tries
    assert any("buffer" in row["what"] for row in found["compared"]), "no snapshot lay inside a window"


def test_other_settings_on_the_same_workspace_are_refused(early, call, config):
    command = ("run", "early-bootstrap", "--config", config, "--workspace", early)
    done = call(*command, "--set", "training.learning_rate=0.5", code=64)
    assert "training.learning_rate = 0.0002, not 0.5" in done.stderr
