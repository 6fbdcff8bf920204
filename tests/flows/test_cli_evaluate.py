"""`npo evaluate`."""

import json
import os
import subprocess
from pathlib import Path

import pytest

INSPECT = Path(os.environ.get("NPO_INSPECT_PYTHON", Path(__file__).parents[2] / ".venv-inspect/bin/python"))
READ = """
import json, sys
from inspect_ai.log import read_eval_log
log = read_eval_log(sys.argv[1])
correct = [sample.scores["verifier"].as_float() for sample in log.samples]
metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
told = {"status": log.status, "epochs": log.eval.config.epochs, "answers": len(correct)}
told["mean"], output = sum(correct) / len(correct), log.samples[0].output
print(json.dumps(told | metrics | {"first": output.completion, "stop": output.stop_reason}))
"""


def test_a_snapshot_gets_the_scores_that_its_run_gave_it(auto, config, call):
    files = sorted(Path(auto.uri).glob("evaluations/*/*.json"))
    file = next(file for file in files if json.loads(file.read_text())["step"] > 0)
    snapshot = Path(auto.uri) / "snapshots" / file.stem
    done = call("evaluate", snapshot, "--data", config, "--json")
    found, recorded = json.loads(done.stdout), json.loads(file.read_text())
    assert recorded.pop("snapshot") == file.stem and recorded.pop("step") > 0
    assert recorded.items() <= found.items() and found["model"] == str(snapshot)
    assert f"{recorded['problems']} problems, {recorded['samples']} times each" in done.stderr

    shown = call("evaluate", snapshot, "--data", config, "--set", "evaluation.samples=3").stdout
    assert "pass@3" in shown and "95 % intervals" in shown and "Held-out problems of" in shown


def test_answers_are_written_as_a_log_of_inspect(auto, config, call, tmp_path):
    snapshot = sorted(Path(auto.uri).glob("snapshots/*/manifest.json"))[-1].parent
    file = tmp_path / "answers.json"
    done = call("evaluate", snapshot, "--data", config, "--log", file, "--json")
    found, log = json.loads(done.stdout), json.loads(file.read_text())
    assert log["eval"]["model"] == f"npo/{snapshot}" and f"Wrote {file}" in done.stderr
    rates = [sample["scores"]["verifier"]["value"] for sample in log["samples"]]
    assert len(rates) == found["problems"] * found["samples"]
    assert sum(rates) / len(rates) == pytest.approx(found["pass_rate"]) and {0.0, 1.0} >= set(rates)
    first = [sample for sample in log["samples"] if sample["id"] == log["samples"][0]["id"]]
    assert [sample["epoch"] for sample in first] == list(range(1, found["samples"] + 1))
    if not INSPECT.exists():
        pytest.skip("make setup-inspect was not run: the log is not read by Inspect itself")
    read = subprocess.run([INSPECT, "-c", READ, file], capture_output=True, text=True, env={"HOME": str(tmp_path)})
    assert read.returncode == 0, read.stderr
    told = json.loads(read.stdout)
    assert told["status"] == "success" and told["answers"] == len(rates) and told["epochs"] == found["samples"]
    assert told["accuracy"] == found["pass_rate"] == pytest.approx(told["mean"]) and told["stop"] in (
        "stop",
        "max_tokens",
    )
    assert told["stderr"] == found["standard_error"] and told["first"] == first[0]["output"]["completion"]


def test_a_log_that_cannot_be_written_is_refused_before_anything_is_asked(config, call, tmp_path, auto):
    snapshot = sorted(Path(auto.uri).glob("snapshots/*/manifest.json"))[-1].parent
    for file in (tmp_path / "none" / "log.json", tmp_path, tmp_path / "log.eval"):
        said = call("evaluate", snapshot, "--data", config, "--log", file, code=64).stderr
        assert "name a file that ends in .json, in a folder that is there" in said and "Asking" not in said


def test_what_is_no_model_is_refused(config, call, tmp_path):
    assert "there is no such folder" in call("evaluate", tmp_path / "none", "--data", config, code=64).stderr
