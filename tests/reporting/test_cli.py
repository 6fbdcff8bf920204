"""The command line: what scripts read, exit codes, and sentences instead of tracebacks."""

import json
import re
import socket
import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.cli.options import parse_overrides
from npo_core.errors import ConfigError, OutOfMemoryError, StageError
from npo_core.reporting.report import figures
from npo_core.reporting.run_data import load

runner = CliRunner()


def ask(*args):
    """The JSON that a command prints."""
    result = runner.invoke(app, [*args, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def states(data):
    return [(stage["label"], stage["state"]) for stage in data["stages"]]


def test_status_of_a_running_stage_shows_its_progress(begun):
    data = ask("status", begun().uri)
    assert states(data) == [("base model", "done"), ("train main 0-8", "running"), ("evaluate 5 snapshots", "left")]
    assert data["stages"][1]["progress"] == [3, 8] and data["stages"][1]["figures"]["entropy"] == 0.5


def test_status_of_a_failed_stage_shows_its_sentence(begun):
    workspace = begun(error="The loss is not finite at step 4.")
    data = ask("status", workspace.uri)
    assert data["error"] == "The loss is not finite at step 4." and data["stages"][1]["state"] == "failed"
    assert "The loss is not finite" in runner.invoke(app, ["status", workspace.uri]).stdout


def test_status_of_an_interrupted_stage(begun):
    workspace = begun()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    workspace.store.write_json(".lock.json", {"pid": child.pid, "host": socket.gethostname()})
    assert states(ask("status", workspace.uri))[1] == ("train main 0-8", "interrupted")


def test_status_writes_nothing_where_no_run_is(tmp_path):
    result = runner.invoke(app, ["status", str(tmp_path / "none")])
    assert result.exit_code == 65
    assert "holds no run" in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "none").exists()


def test_runs_side_by_side(bootstrap, grpo, begun, tmp_path, monkeypatch):
    begun()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text('{"nonsense": 1}')
    monkeypatch.setenv("NPO_RUNS", str(tmp_path))
    found = {run["workspace"].rpartition("/")[2]: run for run in ask("runs")}
    assert set(found) == {"npo", "grpo", "begun", "broken"}
    assert (found["begun"]["state"], found["npo"]["flow"]) == ("running", "early-bootstrap")
    assert found["npo"]["updates"] == 12 and found["npo"]["steps"] == 8  # the scout's four are paid as well
    assert found["npo"]["pass_rate"] is not None and found["grpo"]["updates"] == 8
    assert found["broken"]["state"] == "cannot be read" and "nonsense" in found["broken"]["error"]
    shown = runner.invoke(app, ["runs", str(tmp_path)], env={"COLUMNS": "200"}).stdout
    assert "8 of 8" in shown and "held-out pass rate" in shown and "there is no such field" in shown
    assert runner.invoke(app, ["runs", str(tmp_path / "none")]).exit_code == 65


def test_timeline(bootstrap):
    data = ask("timeline", bootstrap.uri)
    assert [(s["branch"], s["t0"], s["t1"]) for s in data["segments"]] == [
        ("replay", 0, 4),
        ("replay", 4, 8),
        ("scout", 0, 4),
    ]
    assert data["snapshots"] == 7 and "guided by scout4" in data["drawing"]
    assert "replayfrom4" in runner.invoke(app, ["timeline", bootstrap.uri], env={"COLUMNS": "160"}).stdout


def test_timeline_tells_why_each_branch_was_opened(auto):
    data = ask("timeline", auto.uri)
    assert [branch["name"] for branch in data["branches"]] == ["main", "replay-1", "replay-2"]
    shown = runner.invoke(app, ["timeline", auto.uri], env={"COLUMNS": "160"}).stdout
    assert re.search(r"replay-2 +6 +cache-2 +rollback", shown)


def test_cache_of_a_workspace_and_of_a_folder(bootstrap, grpo):
    of_workspace, of_folder = ask("cache", bootstrap.uri), ask("cache", f"{bootstrap.uri}/guidance/cache-1")
    assert of_workspace["caches"] == of_folder["caches"] and of_folder["caches"][0]["rows"] == 2
    assert ask("cache", grpo.uri)["caches"] == []
    assert "has no guidance cache" in runner.invoke(app, ["cache", grpo.uri]).stdout
    assert "coverage Q" in runner.invoke(app, ["cache", bootstrap.uri]).stdout
    assert runner.invoke(app, ["cache", f"{grpo.uri}/segments"]).exit_code == 65


def test_report(bootstrap, grpo):
    result = runner.invoke(app, ["report", bootstrap.uri, "--baseline", grpo.uri], env={"COLUMNS": "160"})
    assert result.exit_code == 0 and "not reached" in result.stdout and "report.md" in result.stdout
    assert bootstrap.store.read_json("report/report.json")["comparison"]["levels"]


def test_damage_has_its_exit_code(bootstrap):
    bootstrap.store.write_bytes("guidance/cache-1/part-00000.parquet", b"short")
    result = runner.invoke(app, ["cache", bootstrap.uri])
    assert result.exit_code == 66 and "part-00000.parquet" in result.stderr


def test_config_explains_every_field():
    wide = {"COLUMNS": "200"}
    text = runner.invoke(app, ["config"], env=wide).stdout
    for said in ("training.learning_rate", "problems.train.columns.prompt", "multiple of 8", "off | guide", "jsonl"):
        assert said in text
    narrow = runner.invoke(app, ["config"], env={"COLUMNS": "80"}).stdout
    assert "training.learning_rate   default: 0.0002" in narrow and "    AdamW (number, > 0)" in narrow
    preset = runner.invoke(app, ["config", "--preset", "demo"], env={"COLUMNS": "80"}).stdout
    assert "bootstrap.scout_steps   value: 60   default: 60" in preset and "None *" not in preset
    assert "steps" in ask("config")["$defs"]["Training"]["properties"]
    result = runner.invoke(app, ["config", "--preset", "no-such"])
    assert result.exit_code == 64 and "There is no preset no-such" in result.stderr


@pytest.fixture
def flow(monkeypatch, grpo):
    """Stands in for the flows; remembers what it was asked."""
    asked = {}

    def run_flow(flow_name, config, workspace, baseline):
        asked.update(name=flow_name, config=config, workspace=workspace, baseline=baseline)
        if config.seed == 9:
            raise OutOfMemoryError("Out of memory: lower training.micro_batch.")
        return figures(load(grpo), None, None)

    monkeypatch.setitem(sys.modules, "flows.run", types.SimpleNamespace(run_flow=run_flow))
    return asked


def test_run_resolves_settings_and_shows_the_report(flow, grpo, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {steps: 40}\nbootstrap: {scout_steps: 20}\nproblems: {kind: chain}\n")
    args = [
        "run",
        "grpo",
        "--config",
        str(file),
        "--workspace",
        str(tmp_path / "new"),
        "--seed",
        "4",
        "--set",
        "training.steps=100",
        "--set",
        "problems.difficulties=[3, 4]",
        "--baseline",
        "s3://b/x",
    ]
    result = runner.invoke(app, args)
    assert result.exit_code == 0, result.output
    config = flow["config"]
    assert (config.seed, config.training.steps, config.problems.difficulties) == (4, 100, [3, 4])
    assert (flow["name"], flow["workspace"], flow["baseline"]) == ("grpo", str(tmp_path / "new"), "s3://b/x")
    assert "held-out pass rate" in result.stdout
    assert json.loads(runner.invoke(app, [*args, "--json"]).stdout)["kind"] == "grpo"


def test_run_reports_errors_by_code(flow, grpo, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    common = ["--config", str(file), "--workspace", str(tmp_path / "new")]
    failed = runner.invoke(app, ["run", "early-bootstrap", *common, "--seed", "9"])
    assert failed.exit_code == 71 and failed.stderr.strip() == "Error: Out of memory: lower training.micro_batch."
    assert runner.invoke(app, ["run", "grpo", *common, "--set", "training.stepz=1"]).exit_code == 64
    assert runner.invoke(app, ["run", "grpo", *common, "--set", "steps"]).exit_code == 64
    flow.clear()
    other = runner.invoke(app, ["run", "grpo", "--config", str(file), "--workspace", grpo.uri])
    assert other.exit_code == 64 and "give another workspace" in other.stderr and not flow
    assert runner.invoke(app, ["run", "grpo"]).exit_code == 2


def test_overrides_are_yaml():
    assert parse_overrides(["a.b=1", "c=[1, 2]", "d=x=y"]) == {"a.b": 1, "c": [1, 2], "d": "x=y"}
    with pytest.raises(ConfigError, match="write FIELD=VALUE"):
        parse_overrides(["=1"])


@pytest.mark.parametrize(("equal", "code"), [(True, 0), (False, 1)])
def test_prove_replay_exits_by_its_verdict(monkeypatch, equal, code):
    asked = {}

    def prove_replay(uri, segment, steps, watch):
        watch({"done": 1, "total": 20, "time": 1.0})
        asked.update(segment=segment, steps=steps)
        row = {"what": "token ids", "equal": equal, "detail": "update 3, prompt ab: differs"}
        processes = {"original": [1, 2], "replay": [2]}
        return {"equal": equal, "segment": "5d0c", "steps": 20, "compared": [row], "processes": processes}

    monkeypatch.setitem(sys.modules, "npo_core.stages.prove", types.SimpleNamespace(prove_replay=prove_replay))
    result = runner.invoke(app, ["prove-replay", "/w", "--segment", "5d", "--steps", "20"])
    assert result.exit_code == code and "update 3, prompt ab" in result.stdout
    assert "The original was trained in 1 and 2 processes, the replay in 2" in result.stdout
    assert asked == {"segment": "5d", "steps": 20} and "replay" in result.stderr
    assert json.loads(runner.invoke(app, ["prove-replay", "/w", "--json"]).stdout)["equal"] is equal


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ZeroDivisionError("by zero"), 70, "ZeroDivisionError: by zero"),
        (PermissionError("read-only"), 70, "PermissionError: read-only"),
        (StageError("Stage train was killed by signal 9.", exit_code=-9, retryable=True), 74, "killed by signal 9"),
    ],
)
def test_errors_that_nobody_foresaw_have_a_code_of_their_own(monkeypatch, error, code, said):
    """1 means that a proof found a difference."""

    def prove_replay(*args, **kwargs):
        raise error

    monkeypatch.setitem(sys.modules, "npo_core.stages.prove", types.SimpleNamespace(prove_replay=prove_replay))
    result = runner.invoke(app, ["prove-replay", "/w"])
    assert (result.exit_code, said in result.stderr) == (code, True)
    assert (
        runner.invoke(app, ["prove-replay"]).exit_code
        == runner.invoke(app, ["prove-replay", "/w", "--x"]).exit_code
        == 2
    )


def test_an_error_sends_no_control_characters_to_the_terminal(monkeypatch):
    """A message may hold a piece of somebody's data."""

    def prove_replay(*args, **kwargs):
        raise ConfigError("row 1 (\x1b[2Jq\u202e1):\n  is empty")

    monkeypatch.setitem(sys.modules, "npo_core.stages.prove", types.SimpleNamespace(prove_replay=prove_replay))
    result = runner.invoke(app, ["prove-replay", "/w"])
    assert result.exit_code == 64 and result.stderr.strip().endswith("Error: row 1 (\\x1b[2Jq\\u202e1):\n  is empty")


def test_help_teaches():
    text = runner.invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert text.index("Run") < text.index("Look") < text.index("Prove") < text.index("Exit codes")
    for command in ("status", "timeline", "cache", "report", "config", "prove-replay"):
        assert "Example:" in runner.invoke(app, [command, "--help"]).stdout, command


def test_help_imports_nothing_heavy():
    assert not loaded_by("npo_core.cli.app") & {"torch", "matplotlib", "pyarrow", "prefect"}


def test_reporting_imports_no_torch():
    assert "torch" not in loaded_by("npo_core.reporting.report, npo_core.recipes.status, npo_core.reporting.segment")


def loaded_by(modules):
    """The modules that a new interpreter has after importing some."""
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
