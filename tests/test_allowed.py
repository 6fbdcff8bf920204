"""What a shared machine refuses to run, before anything of it was imported or started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from npo_core.config import EngineSettings, parse_config
from npo_core.engines.open import require_engine
from npo_core.engines.vllm import VLLMWorker
from npo_core.errors import ConfigError
from npo_core.problems.functions import OwnFunction
from npo_core.recipes.run import look_first

REWARD = "def reward(prompt, completion, answer, **row):\n    return True\n"


@pytest.fixture
def modules(tmp_path, monkeypatch) -> Path:
    """A folder of modules; importing one leaves a file, so that a test sees whether somebody did."""
    for name in ("team/__init__.py", "team/rewards.py", "teammate.py", "borrowed.py"):
        file = tmp_path / "modules" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(file)!r} + '.imported', 'w').close()\n{REWARD}")
    (tmp_path / "modules/borrowed.py").write_text(
        "import os.path\nfrom teammate import reward\n\nclass Own:\n    os = os\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]))
    yield tmp_path / "modules"
    for name in ("team", "team.rewards", "teammate", "borrowed"):
        sys.modules.pop(name, None)


def imported(modules: Path) -> set[str]:
    return {str(mark.relative_to(modules)).removesuffix(".py.imported") for mark in modules.rglob("*.imported")}


def test_on_a_machine_of_ones_own_anything_may_run(modules, monkeypatch):
    monkeypatch.delenv("NPO_ALLOWED_MODULES", raising=False)
    monkeypatch.delenv("NPO_ALLOWED_INTERPRETERS", raising=False)
    assert OwnFunction.load("teammate:reward", accuracy=True).path == "teammate:reward"
    require_engine(EngineSettings(python="/anything"), gpu=False)


@pytest.mark.parametrize("allowed", ["team", "other, team.rewards", "team.rewards,"])
def test_an_allowed_module(modules, monkeypatch, allowed):
    monkeypatch.setenv("NPO_ALLOWED_MODULES", allowed)
    OwnFunction.load("team.rewards:reward", accuracy=True)
    assert imported(modules) == {"team/__init__", "team/rewards"}


@pytest.mark.parametrize("allowed", ["", "team.rewards", "teammate", "tea"])
def test_another_module_is_not_imported(modules, monkeypatch, allowed):
    monkeypatch.setenv("NPO_ALLOWED_MODULES", allowed)
    with pytest.raises(ConfigError, match=r"function team:reward comes from the module team, .*NPO_ALLOWED_MODULES"):
        OwnFunction.load("team:reward", accuracy=True)
    assert not imported(modules)


@pytest.mark.parametrize("path", ["borrowed:reward", "borrowed:os.system", "borrowed:Own.os.popen", "borrowed:os"])
def test_what_an_allowed_module_only_imports_is_refused(modules, monkeypatch, path):
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "borrowed")
    with pytest.raises(ConfigError, match=f"function {path} .*does not allow"):
        OwnFunction.load(path, accuracy=True)


def test_a_run_is_refused_before_the_module_is_imported(modules, tmp_path, monkeypatch):
    """By the look that every flow and command takes first, in the process that would import it."""
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 9)
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    problems = {"kind": "data", "train": {"path": str(tmp_path / "rows.jsonl")}, "held_out_rows": 1}
    values = {
        "problems": problems | {"verifier": {"kind": "function", "path": "teammate:reward"}},
        "model": {"kind": "pretrained", "path": str(tmp_path / "model")},
        "training": {"prompts_per_step": 2},
    }
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "team")
    with pytest.raises(ConfigError, match="teammate:reward comes from the module teammate"):
        look_first(parse_config(values), str(tmp_path / "run"))
    assert not imported(modules) and not (tmp_path / "run").exists()
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "team, teammate")
    look_first(parse_config(values), str(tmp_path / "run"))
    assert imported(modules) == {"teammate"}


@pytest.fixture
def program(tmp_path) -> str:
    """A program that says it is an interpreter, and leaves a file where it was started."""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize("allowed", ["", "/opt/vllm/bin/python", "{folder}"])
def test_another_interpreter_is_not_started(program, tmp_path, monkeypatch, allowed):
    monkeypatch.setenv("NPO_ALLOWED_INTERPRETERS", allowed.format(folder=tmp_path))
    settings = EngineSettings(kind="vllm", python=program)
    for start in (lambda: require_engine(settings, gpu=False), lambda: VLLMWorker(settings, "cpu")):
        with pytest.raises(ConfigError, match=f"engine.python = {program} is no interpreter that this machine allows"):
            start()
    with pytest.raises(ConfigError, match="this machine allows"):  # the same file by another path
        require_engine(EngineSettings(kind="vllm", python=f"{tmp_path}/../{tmp_path.name}/python"), gpu=False)
    assert not (tmp_path / "started").exists()


def test_an_allowed_interpreter_and_the_workers_own(program, tmp_path, monkeypatch):
    monkeypatch.setenv("NPO_ALLOWED_INTERPRETERS", os.pathsep.join(["/opt/vllm/bin/python", program]))
    require_engine(EngineSettings(kind="vllm", python=program), gpu=False)
    assert (tmp_path / "started").exists()
    with pytest.raises(ConfigError, match="has no vLLM|no interpreter that has vLLM"):
        require_engine(EngineSettings(kind="vllm"), gpu=False)  # allowed, and asked


def test_the_environment_of_stages_keeps_the_lists():
    """A stage, and what it starts, have them from the worker."""
    code = (
        "from npo_core.config import Execution; from npo_core.stages.forked import environment\n"
        "print(environment(Execution())['NPO_ALLOWED_MODULES'])"
    )
    own = {**os.environ, "NPO_ALLOWED_MODULES": "team"}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "team"
