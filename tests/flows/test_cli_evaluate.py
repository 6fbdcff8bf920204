"""`npo evaluate`."""

import json
from pathlib import Path


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


def test_what_is_no_model_is_refused(config, call, tmp_path):
    assert "there is no such folder" in call("evaluate", tmp_path / "none", "--data", config, code=64).stderr
