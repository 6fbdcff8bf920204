"""Tracking of a flow: artifacts name the tracker's folder, the tracker has flow run and workspace."""

import pytest

from tests.flows.conftest import artifacts, ask
from tests.tracking.readers import READERS


def test_links_both_ways(start, environment, tmp_path):
    pytest.importorskip("tensorboard")
    told = tmp_path / "told"
    changes = {"name": "tracked", "tracking.to": ["tensorboard"], "tracking.folder": str(told)}
    run = start("grpo", tmp_path / "run", changes)
    found = artifacts(environment)
    for key in ("tracked-tracking", "tracked-train-main-to-24", "tracked-report"):
        assert f"* tensorboard: {told}/tensorboard" in found[key], key
    config = READERS["tensorboard"](told).config
    flow_run = ask(environment, f"flow_runs/{config['flow_run_id']}")
    assert f"workspace:{run.uri}" in flow_run["tags"] and config["workspace"] == run.uri
    assert config["flow_run_id"] in config["flow_run_url"] and config["recipe"] == "grpo"


def test_a_missing_library_is_said_before_anything_begins(call, config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = call(
        "run", "grpo", "--config", config, "--workspace", tmp_path / "run", "--set", "tracking.to=[mlflow]", code=64
    )
    assert "pip install mlflow-skinny" in words.output.replace("\n", " ") and not (tmp_path / "run").exists()
