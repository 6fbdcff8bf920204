"""`npo problems` through the command line."""

import json

import pytest
import yaml
from small_data import make_tokenizer
from typer.testing import CliRunner

from npo_core.cli.app import app

runner = CliRunner()
WIDE = {"COLUMNS": "200"}


@pytest.fixture
def config(files, tmp_path):
    """A configuration of six rows with a model of which there is the tokenizer alone."""
    from transformers import Qwen3Config

    make_tokenizer().save_pretrained(tmp_path / "model")
    Qwen3Config().save_pretrained(tmp_path / "model")
    values = {
        "problems": {"kind": "data", **files},
        "model": {"kind": "pretrained", "path": str(tmp_path / "model")},
        "training": {"prompts_per_step": 3},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "config.yaml")


def test_counts_lengths_and_examples(config):
    shown = runner.invoke(app, ["problems", config], env=WIDE)
    assert shown.exit_code == 0, shown.output
    for said in (
        "train.jsonl",
        "No row was dropped",
        "answer: #### 12",
        "<|user|>A pen costs $3. How much are 4 pens?<|end|>",
    ):
        assert said in shown.stdout
    found = json.loads(runner.invoke(app, ["problems", config, "--json"]).stdout)
    assert (found["report"]["train"]["problems"], len(found["examples"])) == (4, 3)
    assert found["report"]["train"]["prompt_tokens"]["max"] > 40


def test_what_is_dropped_is_said(config):
    shown = runner.invoke(app, ["problems", config, "--set", "problems.max_prompt_tokens=50"], env=WIDE).stdout
    assert "Dropped from training: the prompt has more than problems.max_prompt_tokens = 50 tokens: row 2." in shown


def test_the_verifier_judges_each_reference(config, monkeypatch, tmp_path):
    """With the configured one, and with a function of one's own, before a run would ask it."""
    shown = runner.invoke(app, ["problems", config], env=WIDE).stdout
    assert shown.count("the reference as completion: correct") == 3
    half = "problems.verifier={kind: function, path: 'tests.problems.own:half'}"
    found = json.loads(runner.invoke(app, ["problems", config, "--json", "--set", half]).stdout)
    assert [e["verdict"] for e in found["examples"]] == 3 * [{"outcome": "wrong", "accuracy": 0.5, "reward": 0.5}]
    assert "wrong, reward 0.5" in runner.invoke(app, ["problems", config, "--set", half], env=WIDE).stdout


def test_fewer_rows_than_a_batch_are_shown_and_refused(config):
    asked = ["problems", config, "--set", "problems.max_prompt_tokens=50"]
    assert runner.invoke(app, asked).exit_code == 0
    result = runner.invoke(app, [*asked, "--set", "training.prompts_per_step=4"], env=WIDE)
    assert result.exit_code == 64 and "Dropped from training" in result.stdout
    assert "There are 3 training problems" in result.stderr and "training.prompts_per_step = 3" in result.stderr


def test_without_the_tokenizer(config, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = runner.invoke(app, ["problems", config, "--set", "model.path=none/such"], env=WIDE)
    assert shown.exit_code == 0 and "Shown as plain text" in shown.stdout and "none/such" in shown.stdout
    assert "A pen costs $3" in shown.stdout and "<|user|>" not in shown.stdout


def test_the_built_in_task():
    shown = runner.invoke(app, ["problems", "deployments/configs/smoke.yaml"], env=WIDE).stdout
    assert "built-in task, seed 1" in shown and "96" in shown and "6 / 6 / 6" in shown


def test_what_would_stop_a_run_stops_this(config):
    images = "problems.train.columns={images: [picture]}"
    for fields, code, words in (
        ("problems.train.path=gone.jsonl", 65, "gone.jsonl cannot be read"),
        (images, 64, "takes text alone"),
    ):
        result = runner.invoke(app, ["problems", config, "--set", fields])
        assert result.exit_code == code and words in result.stderr
