"""Logged completions in a flow: an artifact after each training stage, and `npo samples` on the run."""

import json

from npo_core.timeline.segments import read_completions
from tests.flows.conftest import artifacts


def test_samples_of_a_flow(start, call, environment, tmp_path):
    changes = {"name": "sampled", "training.log_completions": 2, "training.steps": 16, "bootstrap.scout_steps": 8}
    run = start("early-bootstrap", tmp_path / "run", changes)
    replay = next(s for s in run.timeline.segments() if s.branch == "replay" and s.cache)
    rows = read_completions(run.store, replay).to_pylist()
    assert {row["step"] for row in rows} == set(range(1, 9))
    assert len({(row["step"], row["group"]) for row in rows}) == 2 * 8
    assert any(row["kind"] == "injected" for row in rows)
    found = artifacts(environment)
    assert {key for key in found if key.startswith("sampled-") and key.endswith("-samples")} == {
        "sampled-train-scout-to-8-samples",
        "sampled-train-replay-to-8-guided-samples",
        "sampled-train-replay-to-16-samples",
    }
    shown = found["sampled-train-replay-to-8-guided-samples"]
    assert "samples at step 8" in shown and rows[-1]["prompt_id"] in shown
    injected = json.loads(call("samples", run.uri, "--injected", "--json").output)
    assert injected and all(group["branch"] == "replay" and group["step"] <= 8 for group in injected)
    assert "> [injected: " in call("samples", run.uri, "--injected", "--limit", 1).output
    config = run.store.read_json("config.json")
    assert config["training"]["log_completions"] == 2
