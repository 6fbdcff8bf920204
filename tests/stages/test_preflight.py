"""What every command refuses before it spends anything: models that are not there, functions, too few rows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.config import parse_config
from npo_core.errors import ConfigError, DataError
from npo_core.models.there import check_model
from npo_core.problems.count import part_rows
from npo_core.stages.preflight import preflight

runner = CliRunner()
ROWS = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(20)]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No network; functions are looked for in the test's folder, as a user's PYTHONPATH has them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder of which the names alone say that it holds a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def values(tmp_path, model) -> dict:
    """A configuration of 16 training and 4 held-out rows of a file, all in order."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {
        "problems": {"kind": "data", "train": {"path": str(file)}, "held_out_rows": 4, "chat": "never"},
        "model": {"kind": "pretrained", "path": str(model)},
        "training": {"prompts_per_step": 4},
    }


def changed(values: dict, **fields: dict) -> dict:
    return {name: {**values[name], **fields.get(name, {})} for name in values}


def commands(tmp_path: Path, values: dict) -> list[list[str]]:
    """The command line of everything that looks first."""
    file, workspace = tmp_path / "config.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(values))
    run = ["run", "grpo", "--config", str(file), "--workspace", str(workspace)]
    path = values["model"]["path"]
    return [
        ["problems", str(file)],
        ["plan", str(file)],
        run,
        [*run, "--local"],
        ["evaluate", path, "--data", str(file)],
    ]


def test_a_path_that_is_not_there_is_refused_by_every_command_and_nothing_is_imported(values, tmp_path):
    for command in commands(tmp_path, changed(values, model={"path": str(tmp_path / "gone")})):
        result = runner.invoke(app, command)
        assert result.exit_code == 64 and "there is no such folder" in result.stderr, (command, result.output)
        assert str(tmp_path / "gone") in result.stderr and "Repo id" not in result.output
    assert not (tmp_path / "run").exists()


def test_it_takes_no_torch(values, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(values, model={"path": "./gone"})))
    code = f"""
import sys
from npo_core.cli.app import app
try:
    app(["run", "grpo", "--config", {str(file)!r}, "--workspace", {str(tmp_path / "run")!r}, "--local"])
except SystemExit as end:
    assert end.code == 64
assert not {{"torch", "transformers", "prefect", "datasets"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("path", "files", "said"),
    [
        ("./gone", [], "no such folder"),
        ("~/gone", [], "write /"),
        ("a/b/c", [], "no such folder"),
        ("some model", [], "no such folder"),
        ("folder", ["model.Q4_K_M.gguf"], "holds a GGUF model (model.Q4_K_M.gguf): weights quantized for llama.cpp"),
        ("folder", ["config.json", "model.gguf"], "has its weights as GGUF alone"),
        ("folder/model.gguf", ["model.gguf"], "is a GGUF file"),
        ("folder/model.safetensors", ["model.safetensors"], "is a file, no folder"),
        ("folder", ["README.md"], "holds no config.json"),
        ("folder", ["config.json"], "holds no weights"),
        ("bartowski/Qwen3-0.6B-GGUF", [], "is a GGUF model by its name"),
        ("nobody/nothing", [], "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_no_model_is_named_with_what_to_do(path, files, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in files:
        (Path("folder") / name).write_text("{}")
    with pytest.raises(ConfigError) as caught:
        check_model(path, weights=True)
    assert said in str(caught.value) and f"{path}" in str(caught.value)


def test_an_adapter_needs_its_base(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    for base, error in ((str(model), None), ("model", None), ("/gone", "/gone: there is no such folder")):
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        if error is None:
            check_model(str(adapter), weights=True)
        else:
            with pytest.raises(ConfigError, match=error):
                check_model(str(adapter), weights=True)


def test_a_model_that_is_there_passes(values):
    preflight(parse_config(values))


FUNCTIONS = """
NUMBER = 7
def fine(prompt, completion, answer, **row): return completion == answer
def other(prompt, completion): return True
def needs(prompt, completion, answer, rubric): return True
def raising(prompt, completion, answer, **row): raise KeyError("level")
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone:fine", "ModuleNotFoundError"),
        ("reward:gone", "AttributeError"),
        ("reward:NUMBER", "cannot be called"),
        ("reward:other", "does not take answer"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_by_every_command(values, tmp_path, name, said):
    (tmp_path / "reward.py").write_text(FUNCTIONS)
    wrong = changed(values, problems={"verifier": {"kind": "function", "path": name}})
    for command in commands(tmp_path, wrong):
        result = runner.invoke(app, command)
        assert result.exit_code == 64 and name in result.stderr and said in result.stderr, (command, result.output)


def test_a_function_is_looked_for_where_stages_will(values, tmp_path, monkeypatch):
    """Not in the folder of whoever calls `python -m npo_core`, which stages do not look in."""
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "reward.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="reward:fine cannot be imported"):
        preflight(parse_config(changed(values, problems={"verifier": {"kind": "function", "path": "reward:fine"}})))


def test_too_few_rows_are_refused_with_a_number_that_works(values, tmp_path):
    wanted = changed(values, training={"prompts_per_step": 17, "group_size": 2, "micro_batch": 2})
    for command in commands(tmp_path, wanted)[1:-1]:
        result = runner.invoke(app, command)
        assert result.exit_code == 64 and "There are 16 training problems" in result.stderr, (command, result.output)
        assert "set training.prompts_per_step = 16" in result.stderr
    preflight(parse_config(changed(wanted, training={"prompts_per_step": 16})))


def test_rows_are_counted_without_reading_them(values, tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    for source in ("rows.jsonl", "rows.parquet", "rows.json", "saved"):
        problems = {"train": {"path": str(tmp_path / source)}, "held_out": {"path": str(tmp_path / source), "limit": 7}}
        config = parse_config(changed(values, problems=problems | {"held_out_rows": None}))
        assert part_rows(config.problems) == {"train": 20, "held_out": 7}, source
    hub = parse_config(changed(values, problems={"train": {"path": "openai/gsm8k"}}))
    assert part_rows(hub.problems) == {"train": None, "held_out": 4}
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        preflight(parse_config(changed(values, problems={"train": {"path": str(tmp_path / "gone.jsonl")}})))


def test_it_is_quick(values, tmp_path):
    started = time.process_time()
    with pytest.raises(ConfigError):
        preflight(parse_config(changed(values, model={"path": "/gone"})))
    assert time.process_time() - started < 4.0
