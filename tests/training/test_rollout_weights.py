"""Rollouts by vLLM in TRL's own path, with a stand-in for vLLM: it samples from the weights it was last given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from npo_core.config import EngineSettings
from npo_core.errors import EngineError
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.trainer import NPOTrainer

COMPLETION = 3  # tokens; all prompts are of one length, too


class StandIn:
    """What NPOTrainer sees of TRL's VLLMGeneration; `stale`: it keeps the weights that it began with."""

    def __init__(self, trainer: NPOTrainer, folder: Path, stale: bool):
        self.trainer, self.stale = trainer, stale
        self.model = AutoModelForCausalLM.from_pretrained(folder)

    def sync_weights(self) -> None:
        if not self.stale:
            self.model.load_state_dict(self.trainer.model.state_dict())

    @torch.no_grad()
    def generate(self, prompts, images, num_generations, profiler):
        ids = torch.tensor(prompts)
        for _ in range(COMPLETION):
            drawn = torch.multinomial(self.model(ids).logits[:, -1].softmax(-1), 1)
            ids = torch.cat([ids, drawn], dim=1)
        logps = self.model(ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])
        return prompts, ids[:, -COMPLETION:].tolist(), logps[:, -COMPLETION:].tolist(), None


@pytest.fixture
def trainer(base_folder, problem_set, train_settings, tmp_path):
    def make(stale: bool, **settings) -> NPOTrainer:
        tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")
        training = train_settings(steps=4, snapshot_every=1000, learning_rate=1e-2)
        args = grpo_config(training, seed=0, output=tmp_path / "out", device="cpu")
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
        made.use_vllm, made.vllm_generation, made._last_loaded_step = True, StandIn(made, base_folder, stale), -1
        return made

    return make


def test_the_policys_own_weights_train(trainer):
    fresh = trainer(stale=False)
    fresh.train()
    kls = [row["sampling/kl"] for row in fresh.state.log_history if "sampling/kl" in row]
    assert len(kls) == 4 and max(kls) < 1e-6


def test_stale_weights_stop_training_at_the_first_batch_from_them(trainer):
    stale = trainer(stale=True)
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
