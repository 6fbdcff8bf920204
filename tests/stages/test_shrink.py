"""A trial keeps what is the user's: rows, tokenizer and verifier; only sizes shrink, and what is replaced is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from npo_core.config import parse_config
from npo_core.errors import ConfigError
from npo_core.models.load import load_model, load_processor
from npo_core.models.tiny import make_tiny, make_tokenizer
from npo_core.stages.shrink import replaced, shrink

REWARD = """
def raising(prompt, completion, answer, **row):
    return row["level"] + 1
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of 2,263 tokens, of which a random one would hardly ever end by itself."""
    folder, tokenizer = tmp_path_factory.mktemp("user") / "model", make_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(2000)])
    make_tiny("qwen2", folder, tokenizer=tokenizer)
    return folder


@pytest.fixture
def values(model, tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(99)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    return {
        "problems": {"kind": "data", "train": {"path": str(tmp_path / "rows.jsonl")}, "held_out_rows": 40},
        "model": {"kind": "pretrained", "path": str(model)},
    }


def test_rows_tokenizer_and_verifier_stay(values, tmp_path, model):
    verifier = {"kind": "function", "path": "reward:raising"}
    full = parse_config(values | {"problems": values["problems"] | {"verifier": verifier, "max_prompt_tokens": 90}})
    small = shrink(full)
    problems = small.problems
    assert (problems.train.path, problems.train.limit, problems.held_out_rows) == (full.problems.train.path, 30, 6)
    assert problems.verifier == full.problems.verifier and problems.max_prompt_tokens == 90
    assert load_processor(small.model.path).get_vocab() == load_processor(model).get_vocab()
    said = " ".join(replaced(full))
    assert f"In place of model.path = {model}: a random model of its type, with its tokenizer." in said
    assert "Rows and verifier are yours" in said


def test_the_built_in_task_for_a_model_of_ones_own_shrinks(values, model):
    full = parse_config({"model": values["model"]})
    small = shrink(full)
    assert (small.problems.kind, small.problems.train, small.model.kind) == ("chain", 96, "pretrained")
    assert small.model.path != full.model.path and f"model.path = {model}" in replaced(full)[-1]


def test_a_tiny_model_of_many_tokens_ends_now_and_then(values):
    small = load_model(shrink(parse_config(values)).model.path)
    tokens = torch.randint(100, 2000, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = small(tokens).logits.softmax(-1)[..., small.generation_config.eos_token_id]
    assert 1 / 60 < ends.mean() < 1 / 3 and ends.min() > 1 / 500


def test_rows_of_a_hub_are_made_up_and_functions_stay(values):
    verifier = {"kind": "function", "path": "reward:raising"}
    hub = {"kind": "data", "train": {"path": "openai/gsm8k"}, "held_out_rows": 40, "verifier": verifier}
    full = parse_config(values | {"problems": hub})
    small = shrink(full)
    assert small.problems.train.path.endswith("train.jsonl") and small.problems.verifier == full.problems.verifier
    exact = parse_config(values | {"problems": hub | {"verifier": {"kind": "exact"}}})
    assert shrink(exact).problems.verifier.kind == "format"
    said = " ".join(replaced(exact))
    assert "In place of what problems.train name at a hub: made-up rows" in said and "ends by itself" in said


def test_a_wrong_path_is_refused(values):
    with pytest.raises(ConfigError, match="there is no such folder"):
        shrink(parse_config(values | {"model": {"kind": "pretrained", "path": "/gone"}}))


def test_the_users_function_judges_the_trial(values, tmp_path):
    """What it raises is told; one that judges well is followed to the report in tests/flows/test_guide.py."""
    problems = values["problems"] | {"verifier": {"kind": "function", "path": "reward:raising"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"problems": problems}))
    command = [sys.executable, "-m", "npo_core", "run", "early-bootstrap", "--config", "config.yaml"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--workspace", "run", "--shrink", "--local"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 65, done.stderr
    assert "A trial: few steps" in done.stderr and "Rows and verifier are yours" in done.stderr
    assert "KeyError: 'level'" in done.stderr and 'return row["level"] + 1' in done.stderr, done.stderr
    assert not (tmp_path / "run/report/report.md").exists()
