"""What NPOTrainer relies on in TRL. A new version of TRL that breaks one of these fails here first, by name."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler, add_fused_lm_head

from npo_core.training import exact, mixing_trainer
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.exact_trainer import NO_MORE, TAKEN, ExactTrainer
from npo_core.training.sharing_trainer import SharingTrainer
from npo_core.training.trainer import NPOTrainer
from npo_core.training.vision import IMAGES, ImageTrainer

ROOT = Path(__file__).parents[2]
# What NPOTrainer overrides, with the parameters that TRL gives it.
OVERRIDDEN = {
    "__init__": None,
    "_set_signature_columns_if_needed": ["self"],
    "_get_train_sampler": ["self", "dataset"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "create_model_card": None,
    "_save_rng_state": ["self", "output_dir"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_compute_loss": ["self", "model", "inputs"],
    "log": ["self", "logs", "start_time"],
}


def pinned(file: str) -> str:
    return re.search(r"^\W*trl==([\d.]+)", (ROOT / file).read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_the_pinned_version_is_the_one_installed(file):
    assert pinned(file) == importlib.metadata.version("trl") == "1.16.0"


def test_what_is_overridden_is_what_is_checked_here():
    written = {**vars(NPOTrainer), **vars(ExactTrainer), **vars(SharingTrainer), **vars(ImageTrainer)}
    ours = {name for name in written if callable(getattr(NPOTrainer, name)) and hasattr(GRPOTrainer, name)}
    inherited = {name for name in vars(object) if name != "__init__"}
    assert ours - inherited == {*OVERRIDDEN, "_get_per_token_logps_and_entropies"}


@pytest.mark.parametrize("name", [name for name, expected in OVERRIDDEN.items() if expected])
def test_signature(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == OVERRIDDEN[name]


def test_signature_of_the_sampler():
    expected = ["data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed"]
    assert list(inspect.signature(RepeatSampler).parameters) == expected


def test_the_order_of_calls_that_injection_needs():
    """Generation before rewards, rewards once, and nothing reads the completions' ids in between but padding."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert source.count("self._generate(") == source.count("self._calculate_rewards(") == 1
    assert source.index("self._generate(") < source.index("self._calculate_rewards(")
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert loss.index("self._get_per_token_logps_and_entropies(") < loss.index('inputs.get("old_per_token_logps")')


def test_where_images_go_beside_a_prompt():
    """Given as fields and not as images, they reach generation and nothing else; scoring takes the same fields."""
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    leading = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    assert parameters[: len(leading)] == leading
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} <= set(parameters)
    generate = inspect.getsource(GRPOTrainer._generate)
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in generate
    returned = generate[generate.rindex("return ") :].split(", ")
    assert returned[IMAGES] == "images"


def test_what_a_packed_row_is_given_to():
    """The head that TRL puts on a model: labels of its own for what is left of the row, and arguments passed on."""
    head = inspect.getsource(add_fused_lm_head)
    assert "shift_labels=None" in head and "labels = shift_labels" in head
    assert "getattr(self, backbone_attr)(*args, **kwargs)" in head and "backbone_outputs.last_hidden_state" in head
    init = inspect.getsource(GRPOTrainer.__init__)
    assert init.count('outputs=("log_probs", "entropy")') == 1


def test_what_rows_that_are_left_out_hang_on():
    """What may add to the gradient of a row of advantage 0; each is looked at in `SharingTrainer._live`."""
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert loss.count("loss = loss - apply_coef * entropy_loss") == 1
    assert loss.count("loss = loss + self.router_aux_loss_coef * aux_loss / normalizer") == 1
    assert loss.count("per_token_loss = per_token_loss + self.beta * per_token_kl") == 1
    assert len(re.findall(r"loss = (?:per_token_)?loss [+-] ", loss)) == 3


def test_how_completions_are_spoken():
    """As `MixingTrainer._ended` does it, so that what is verified early is not verified again."""
    generate = inspect.getsource(GRPOTrainer._generate)
    assert "completions = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)" in generate


def test_where_a_checkpoint_is_written():
    """Weights by the name that is replaced, the two others by what `_save_optimizer_and_scheduler` is replaced with."""
    weights = inspect.getsource(PreTrainedModel.save_pretrained)
    assert weights.count("safe_save_file(") == weights.count("safe_save_file(shard_state_dict, filename, metadata") == 1
    save = inspect.getsource(Trainer._save_optimizer_and_scheduler)
    assert "torch.save(self.optimizer.state_dict(), os.path.join(output_dir, OPTIMIZER_NAME))" in save
    assert "torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))" in save


def test_where_a_batch_is_shuffled_and_cut():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "generation_batch = shuffle_sequence_dict(generation_batch)" in source
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source


def test_what_sampling_by_key_reads(plain):
    grpo = plain()
    assert set(grpo.generation_kwargs) <= {*NO_MORE, *TAKEN}
    assert {name: grpo.generation_kwargs.get(name) or default for name, default in NO_MORE.items()} == NO_MORE
    assert grpo.max_completion_length == grpo.generation_kwargs["max_new_tokens"]
    assert grpo.eos_token_ids == grpo.generation_kwargs["eos_token_id"]
    assert (grpo.temperature, grpo.use_vllm, grpo.use_transformers_continuous_batching) == (1.0, False, False)
    generate = inspect.getsource(GRPOTrainer._generate)
    assert "completion_ids, logprobs = self._generate_single_turn(" in generate


@pytest.fixture
def plain(base_folder, problem_set, train_settings, tmp_path):
    def make(**changes):
        tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")
        return GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(base_folder),
            processing_class=tokenizer,
            reward_funcs=Rewards(problem_set, {tokenizer.eos_token_id}).functions,
            args=grpo_config(train_settings(**changes), seed=0, output=tmp_path, device="cpu"),
            train_dataset=training_data(problem_set),
        )

    return make


def test_generate_returns_what_injection_replaces(plain, problem_set):
    grpo = plain()
    grpo.model.train()
    prompts = [problem.prompt for problem in problem_set.train[:2] for _ in range(4)]
    generated = grpo._generate(prompts)
    assert isinstance(generated, tuple)
    assert len(generated) == 8
    ids, texts = generated[mixing_trainer.COMPLETION_IDS], generated[mixing_trainer.COMPLETIONS]
    assert (mixing_trainer.COMPLETION_IDS, mixing_trainer.COMPLETIONS, mixing_trainer.LOGPROBS) == (1, 3, 4)
    assert generated[mixing_trainer.PROMPT_IDS] == grpo._tokenize_prompts(prompts)[0]
    assert isinstance(ids, list) and all(isinstance(row, list) and isinstance(row[0], int) for row in ids)
    assert len(ids) == len(texts) == 8
    assert texts == grpo.processing_class.batch_decode(ids, skip_special_tokens=True)
    eos = grpo.processing_class.eos_token_id
    assert any(row[-1] == eos for row in ids)  # the end-of-sequence token is one of a completion's ids
    assert generated[mixing_trainer.LOGPROBS] is None  # only an inference engine gives them


def test_the_batch_has_the_keys_that_are_read(plain, problem_set):
    grpo = plain()
    grpo.model.train()
    rows = [row for row in training_data(problem_set).select(range(4)) for _ in range(4)]
    batch = grpo._generate_and_score_completions(rows)
    assert {"completion_ids", "completion_mask", "advantages"} <= set(batch)
    assert "old_per_token_logps" not in batch
    assert batch["advantages"].shape == (16,)
    assert batch["completion_ids"].shape[0] == 16
    assert isinstance(grpo._metrics["train"]["reward"], list)
    two = plain(updates_per_batch=2)
    two.model.train()
    assert two._generate_and_score_completions(rows)["old_per_token_logps"].shape == batch["completion_ids"].shape


def test_log_probabilities_come_first_of_three(plain, problem_set):
    grpo = plain()
    ids = torch.tensor(grpo.processing_class([p.prompt + "12" for p in problem_set.train[:2]])["input_ids"])
    result = grpo._get_per_token_logps_and_entropies(grpo.model, ids, torch.ones_like(ids), 2, compute_entropy=True)
    assert len(result) == 3
    logits = grpo.model(input_ids=ids).logits[:, -3:-1]
    expected = torch.log_softmax(logits, -1).gather(2, ids[:, -2:, None])[:, :, 0]
    assert torch.allclose(result[0], expected, atol=1e-5)


def test_buffer_and_step_counter_are_where_snapshots_look(plain):
    grpo = plain()
    assert grpo._step == 0
    assert grpo._buffered_inputs is None
    assert grpo.num_iterations == 1
    assert isinstance(grpo._get_train_sampler(), RepeatSampler)
    assert issubclass(exact.EpochSampler, RepeatSampler)
