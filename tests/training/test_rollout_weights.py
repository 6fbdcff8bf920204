"""Rollouts by vLLM in TRL's own path, with a stand-in for vLLM's engine."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from npo_core.config import EngineSettings, Execution, Injection, RolloutCorrection
from npo_core.errors import EngineError
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.trainer import NPOTrainer
from tests.training import stand_in


@pytest.fixture
def trainer(base_folder, problem_set, train_settings, tmp_path, monkeypatch):
    def make(stale: bool, correction: dict | None = None, **settings) -> NPOTrainer:
        stand_in.install(monkeypatch, stale=stale)
        tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")
        training = train_settings(
            steps=4, snapshot_every=1000, learning_rate=1e-2, rollout_correction=RolloutCorrection(**correction or {})
        )
        engine = EngineSettings(rollouts=True)
        args = grpo_config(training, seed=0, output=tmp_path / "out", device="cpu", engine=engine)
        args.save_strategy = "no"
        made = NPOTrainer(
            AutoModelForCausalLM.from_pretrained(base_folder),
            reward_funcs=Rewards(problem_set, {tokenizer.eos_token_id}).functions,
            train_dataset=training_data(problem_set),
            args=args,
            processing_class=tokenizer,
            **settings,
        )
        made.remove_callback(PrinterCallback)
        return made

    return make


@pytest.mark.parametrize("level", ["sequence", "off"])
def test_the_policys_own_weights_train(trainer, level):
    fresh = trainer(stale=False, correction={"level": level})
    fresh.train()
    rows = [row for row in fresh.state.log_history if "sampling/kl" in row]
    assert len(rows) == 4 and max(row["sampling/kl"] for row in rows) < 1e-6
    assert [row.get("sampling/ratio") for row in rows] == (
        [None] * 4 if level == "off" else [pytest.approx(1, abs=1e-4)] * 4
    )


@pytest.mark.parametrize("level", ["sequence", "off"])
def test_stale_weights_stop_training_at_the_first_batch_from_them(trainer, level):
    stale = trainer(stale=True, correction={"level": level})
    with pytest.raises(EngineError, match="policy after update 1 does.* nats a token, engine.max_kl = 0.005"):
        stale.train()


def test_the_bound_is_a_setting(trainer):
    trainer(stale=True, max_kl=1e6).train()


def test_the_settings_reach_trl(train_settings, tmp_path):
    """The arguments of a run with rollouts by vLLM; TRL itself needs a GPU for the rest."""
    engine = EngineSettings(rollouts=True, rollout_memory=0.4, tensor_parallel=2, max_model_len=512)
    args = grpo_config(train_settings(), seed=0, output=tmp_path, device="cpu", engine=engine)
    assert (args.use_vllm, args.vllm_mode, args.vllm_max_model_length) == (True, "colocate", 512)
    assert (args.vllm_gpu_memory_utilization, args.vllm_tensor_parallel_size) == (0.4, 2)
    assert args.temperature == args.top_p == 1.0 and args.top_k == 0
    assert not grpo_config(train_settings(), seed=0, output=tmp_path, device="cpu").use_vllm


@pytest.mark.parametrize(
    ("correction", "mode"),
    [
        ({}, (True, "sequence_mask", 3.0)),  # what TRL 1.16 does by itself
        ({"level": "off"}, (False, "sequence_mask", 3.0)),
        ({"level": "token", "beyond": "truncate", "cap": 2}, (True, "token_truncate", 2.0)),
    ],
)
def test_the_correction_reaches_trl(train_settings, tmp_path, correction, mode):
    training = train_settings(rollout_correction=RolloutCorrection(**correction))
    args = grpo_config(training, seed=0, output=tmp_path, device="cpu", engine=EngineSettings(rollouts=True))
    name = "vllm_importance_sampling_"
    assert tuple(getattr(args, name + part) for part in ("correction", "mode", "clip_max")) == mode
    assert args.vllm_importance_sampling_clip_min is None


def test_a_sharded_model_gives_whole_weights_to_the_engine_of_each_process(bench, monkeypatch):
    """FSDP2 and vLLM: the run of two processes that hold the model, rows beside the batch and their ratios included."""
    stand_in.install(monkeypatch)
    ground = bench({"train": 12}, prompts_per_step=3, micro_batch=2)
    scout = ground.train("scout", 2)
    cache = ground.guide([scout.end], scout.id, samples=8).cache
    injection = Injection(tau_gate=1.0, place="append", importance_sampling="guide")
    settings = {"cache": cache, "injection": injection, "engine": EngineSettings(rollouts=True)}
    generate = stand_in.Engine.generate

    def checked(engine, *args, **kwargs):
        names = [name for name, _ in engine.model.named_parameters()]
        assert sorted(engine.syncs[-1]) == sorted(names) and not engine.loaded
        return generate(engine, *args, **kwargs)

    monkeypatch.setattr(stand_in.Engine, "generate", checked)
    two = Execution(device="cpu", threads=1, processes=2)
    split = two.model_copy(update={"sharding": "fsdp2"})
    whole, sharded = (ground.train(name, 4, execution=how, **settings) for name, how in (("w", two), ("s", split)))
    assert sharded.outcomes == whole.outcomes and any(row["groups_injected"] % 2 for row in sharded.steps)
    for row, other in zip(sharded.steps, whole.steps, strict=True):
        assert row["rollout_kl"] < 1e-6 and row["rollout_ratio"] == pytest.approx(1, abs=1e-4)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
