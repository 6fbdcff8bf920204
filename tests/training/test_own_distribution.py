"""A model's own generation_config.json has no say in what is sampled, and stays with the model."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from npo_core.engines.transformers import TransformersEngine
from npo_core.models.sampling import own_distribution
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.trainer import NPOTrainer

HOSTILE = {
    "do_sample": False, "temperature": 0.01, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "typical_p": 0.1,
    "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1,
    "guidance_scale": 3.0, "suppress_tokens": [2, 3, 4], "begin_suppress_tokens": [5], "bad_words_ids": [[6]],
    "min_new_tokens": 3, "min_length": 40, "num_beams": 4, "num_return_sequences": 2, "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": [1, 10.0], "stop_strings": ["1"], "max_time": 1e-4, "use_cache": False,
    "return_dict_in_generate": True, "output_scores": True,
}  # fmt: skip


@pytest.fixture
def hostile_folder(base_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with a generation config that leaves nothing as it is, but for the special tokens."""
    folder = tmp_path / "hostile"
    shutil.copytree(base_folder, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | HOSTILE))
    return folder


def sampled(folder: Path, problem_set) -> list[list[int]]:
    engine = TransformersEngine(folder)
    answers = engine.generate(problem_set.train[:16], samples=4, max_tokens=3, seed=5)
    return [completion.token_ids for given in answers for completion in given]


def trained(folder: Path, problem_set, settings, output: Path) -> list[str]:
    """Hashes of the token ids of every group of two updates; a checkpoint is written after the second."""
    trainer = NPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=Rewards(problem_set, {1}).functions,
        args=grpo_config(settings(steps=2), seed=3, output=output, device="cpu"),
        train_dataset=training_data(problem_set),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
    )
    seen = []
    record = trainer._record_groups
    trainer._record_groups = lambda *args: (record(*args), seen.extend(o.tokens for o in trainer.outcomes))
    trainer.train()
    return seen


def test_engines_sample_the_same_tokens(base_folder, hostile_folder, problem_set):
    tokens = sampled(base_folder, problem_set)
    assert len({tuple(ids) for ids in tokens}) > 8  # else greedy decoding would do
    assert sampled(hostile_folder, problem_set) == tokens


def test_training_samples_the_same_tokens_and_snapshots_keep_the_file(
    base_folder, hostile_folder, problem_set, train_settings, tmp_path
):
    tokens = trained(base_folder, problem_set, train_settings, tmp_path / "a")
    assert len(set(tokens)) == 8
    assert trained(hostile_folder, problem_set, train_settings, tmp_path / "b") == tokens
    kept = json.loads((tmp_path / "b" / "checkpoint-2" / "generation_config.json").read_text())
    assert {name: kept[name] for name in HOSTILE} == HOSTILE


def test_adapters_sample_from_their_own_distribution_too(hostile_folder):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(hostile_folder), LoraConfig(task_type="CAUSAL_LM", r=2))
    with own_distribution(model):
        settings, base = model.generation_config, model.get_base_model().generation_config
        assert settings.num_beams is None and base.repetition_penalty is None and base.eos_token_id == 1
    assert model.generation_config.num_beams == model.get_base_model().generation_config.num_beams == 4
