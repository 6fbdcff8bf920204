"""What a run's engine needs is found out before its first stage."""

import subprocess

import pytest

from npo_core.config import EngineSettings, parse_config
from npo_core.engines.open import require_engine
from npo_core.errors import ConfigError
from tasks.run import open_run


def test_the_default_needs_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("no interpreter is asked"))
    require_engine(EngineSettings(), gpu=False)


@pytest.mark.parametrize("python", ["", "/nowhere/python"])
def test_an_interpreter_without_vllm(python):
    with pytest.raises(ConfigError, match="engine.kind = vllm, but .*python.* is no interpreter that has vLLM"):
        require_engine(EngineSettings(kind="vllm", python=python), gpu=False)


def test_one_with_it(vllm_python):
    require_engine(EngineSettings(kind="vllm", python=vllm_python), gpu=False)


def test_rollouts(vllm_python):
    """They take the trainer's own interpreter, whatever another one has."""
    rollouts = EngineSettings(rollouts=True, python=vllm_python)
    with pytest.raises(ConfigError, match="engine.rollouts = true needs a GPU"):
        require_engine(rollouts, gpu=False)
    with pytest.raises(ConfigError, match="the environment that trains .* has no vLLM"):
        require_engine(rollouts, gpu=True)


def test_a_run_does_not_begin_without_it(tmp_path):
    config = parse_config({"engine": {"rollouts": True}, "execution": {"device": "cpu"}})
    with pytest.raises(ConfigError, match="engine.rollouts"), open_run(config, str(tmp_path / "run")):
        pytest.fail("the run began")
    assert not (tmp_path / "run").exists()
