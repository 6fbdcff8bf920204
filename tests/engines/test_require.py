"""What a run's engine needs is found out before its first stage."""

import subprocess

import pytest

from npo_core.config import EngineSettings, parse_config
from npo_core.engines.open import require_engine
from npo_core.errors import ConfigError
from npo_core.recipes.run import open_run

TEXT = {"kind": "data", "held_out_rows": 8, "train": {"path": "rows.jsonl"}}


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
    with pytest.raises(ConfigError, match="engine.rollouts"), open_run(config, str(tmp_path / "run"), "grpo"):
        pytest.fail("the run began")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"engine": {"rollouts": True}, "model": {"kind": "pretrained", "path": "x", "lora": {"rank": 4}}},
            "engine.rollouts = true would merge the adapters of model.lora",
        ),
        (
            {
                "engine": {"rollouts": True, "tensor_parallel": 3},
                "model": {"kind": "pretrained", "path": "x"},
                "execution": {"processes": 2},
            },
            "engine.tensor_parallel = 3 does not divide execution.processes = 2",
        ),
        (
            {
                "engine": {"kind": "vllm", "max_model_len": 100},
                "model": {"kind": "pretrained", "path": "x"},
                "training": {"max_completion_tokens": 120},
            },
            "engine.max_model_len = 100 has no room for a prompt of 1 and a completion of 120 tokens: set at least 121",
        ),
    ],
)
def test_what_an_engine_cannot_do(values, sentence):
    parse_config({**values, "problems": TEXT, "engine": {}})
    with pytest.raises(ConfigError, match=sentence):
        parse_config({**values, "problems": TEXT})


def test_weights_that_are_split_go_with_rollouts_and_a_correction_needs_them():
    values = {"problems": TEXT, "model": {"kind": "pretrained", "path": "x"}, "engine": {"rollouts": True}}
    values |= {"execution": {"processes": 2, "sharding": "fsdp2"}, "training": {"rollout_correction": {"cap": 2}}}
    assert parse_config(values).training.rollout_correction.cap == 2
    with pytest.raises(ConfigError, match="training.rollout_correction is for completions that vLLM samples"):
        parse_config({**values, "engine": {}})
    with pytest.raises(ConfigError, match="training.rollout_correction.cap.*0.5"):
        parse_config({**values, "training": {"rollout_correction": {"cap": 0.5}}})
    off = {"level": "off", "cap": 2}
    with pytest.raises(ConfigError, match="level = off corrects nothing.*cap = 2.*leave both out"):
        parse_config({**values, "training": {"rollout_correction": off}})
    parse_config({**values, "training": {"rollout_correction": {"level": "off"}}})
    parse_config({**values, "training": {"rollout_correction": off | {"level": "token"}}})
