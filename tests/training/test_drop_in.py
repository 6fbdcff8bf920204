"""NPOTrainer where GRPOTrainer was: without `__init__`, streamed data, rollout functions, TRL's own images, texts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from npo_core.config import SelfTeacher
from npo_core.errors import ConfigError, DataError
from npo_core.guidance import Trajectory
from npo_core.problems.chain import solve
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.exact import tensor_digest
from npo_core.training.trainer import InjectionSettings, NPOTrainer
from npo_core.training.vision import fields_of_part


@pytest.fixture
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder, padding_side="left")


@pytest.fixture
def make(base_folder, tokenizer, problem_set, train_settings, tmp_path):
    """A trainer on the tiny model; `training` changes its settings."""

    def trainer(*, kind=NPOTrainer, training=None, output="out", **changes):
        settings = {"steps": 4, "snapshot_every": 2, **(training or {})}
        given = {
            "reward_funcs": Rewards(problem_set, {tokenizer.eos_token_id}).functions,
            "args": grpo_config(train_settings(**settings), seed=3, output=tmp_path / output, device="cpu"),
            "train_dataset": training_data(problem_set),
            "processing_class": tokenizer,
        }
        made = kind(AutoModelForCausalLM.from_pretrained(base_folder), **{**given, **changes})
        made.remove_callback(PrinterCallback)
        return made

    return trainer


def weights(trainer) -> str:
    return tensor_digest(trainer.model.state_dict())


@pytest.mark.parametrize("vllm", [True, False])
def test_a_rollout_function_is_called_where_init_never_ran(vllm):
    """TRL's own tests make a trainer without `__init__`, with what its `_generate` reads and no more."""
    trainer = object.__new__(NPOTrainer)
    trainer.accelerator = SimpleNamespace(device=torch.device("cpu"), is_main_process=True, gather=lambda t: t)
    trainer.args = SimpleNamespace(report_to=[])
    trainer.model = SimpleNamespace(training=True)
    trainer.state = SimpleNamespace(global_step=2, num_input_tokens_seen=0)
    trainer._tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0)
    trainer.eos_token_ids, trainer.tools, trainer.use_vllm, trainer._last_loaded_step = [2], None, vllm, 1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
    trainer.processing_class = SimpleNamespace(batch_decode=lambda ids, **_: ["text"])
    trainer._metrics = {"train": defaultdict(list)}
    trainer.rollout_func = lambda prompts, trainer: {
        "prompt_ids": [[1]], "completion_ids": [[2]], "logprobs": [[-0.1]], "env_mask": [[1]],
    }  # fmt: skip
    generated = trainer._generate(["prompt"])
    assert [generated[i] for i in (0, 1, 2)] == [[[1]], [[2]], [[1]]]
    assert trainer._last_loaded_step == (2 if vllm else 1)


def test_streamed_data_has_checkpoints_and_goes_on_from_them(make, problem_set, tmp_path):
    def trainer(output):
        return make(train_dataset=training_data(problem_set).to_iterable_dataset(), output=output)

    whole, broken = trainer("whole"), trainer("broken")
    whole.train()
    broken.args.max_steps = 2
    broken.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-2"))
    assert resumed.state.global_step == 4 and weights(resumed) == weights(whole) != weights(broken)


def test_a_rollout_function_gives_rewards_its_fields(make, tokenizer):
    """Its log-probabilities are sampling ones without old ones of the policy; rewards come after its further fields."""
    seen = []

    def rollout(prompts, trainer):
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        drawn = [[3 + number % 4, tokenizer.eos_token_id] for number in range(len(prompts))]
        logprobs = [[-1.0, -0.5]] * len(prompts)
        return {
            "prompt_ids": ids,
            "completion_ids": drawn,
            "logprobs": logprobs,
            "solved": [n % 2 for n in range(len(prompts))],
        }

    def reward(completions, solved, **_):
        seen.append(solved)
        return [float(value) for value in solved]

    trainer = make(reward_funcs=reward, rollout_func=rollout, training={"steps": 1, "snapshot_every": 1000})
    trainer.train()
    assert seen == [[0, 1] * 8]  # verified once
    assert [outcome.pass_rate for outcome in trainer.outcomes] == [0.5] * 4
    (log,) = [row for row in trainer.state.log_history if "reward" in row]
    assert (log["reward"], log["pass_rate"], log["groups/injected"], log["tokens_generated"]) == (0.5, 0.5, 0, 32)


def test_it_is_grpo_where_nothing_of_ours_is_asked(make):
    """The samples of TRL's own trainer in its first step, with the same seeds."""
    from npo_core.training.exact import seed_step

    class Seeded(GRPOTrainer):
        def training_step(self, *args, **kwargs):
            seed_step(self.args.seed, self._step, 0, 0)
            return super().training_step(*args, **kwargs)

    ours, theirs = make(training={"steps": 1}), make(kind=Seeded, training={"steps": 1}, output="theirs")
    for trainer in (ours, theirs):
        trainer._get_train_sampler = lambda dataset=None, t=trainer: GRPOTrainer._get_train_sampler(t, dataset)
        trainer.train()
    assert weights(ours) == weights(theirs)


# --- texts as guidance ----------------------------------------------------------------------------------------------


def guided(problem_set, tokenizer, **fields) -> dict[str, Trajectory]:
    answers = {problem.id: "".join(solve(problem.prompt)) for problem in problem_set.train}
    return {id_: Trajectory.from_text(tokenizer, text, **fields) for id_, text in answers.items()}


def test_texts_are_injected(make, problem_set, tokenizer):
    trainer = make(guidance=guided(problem_set, tokenizer), injection_settings=InjectionSettings(tau_gate=2.0))
    trainer.train()
    assert all(outcome.injected for outcome in trainer.outcomes)
    logged = [row for row in trainer.state.log_history if "groups/injected" in row]
    assert {row["groups/injected"] for row in logged} == {4}
    assert not any("guide/kl" in row for row in logged)  # how likely somebody's text was, nobody knows


def test_texts_with_log_probabilities_take_part_in_importance_sampling(make, problem_set, tokenizer):
    tokens = len(tokenizer(solve_text(problem_set))["input_ids"]) + 1
    settings = InjectionSettings(tau_gate=2.0, importance_sampling="guide")
    guidance = guided(problem_set, tokenizer, logprobs=[-0.5] * tokens)
    trainer = make(guidance=guidance, injection_settings=settings, training={"steps": 1, "snapshot_every": 1000})
    trainer.train()
    assert any(row.get("guide/kl", -1) >= 0 for row in trainer.state.log_history)


def solve_text(problem_set) -> str:
    return "".join(solve(problem_set.train[0].prompt))


@pytest.mark.parametrize(
    ("entry", "settings", "words"),
    [
        (lambda t: "12", {}, r"guidance\['q1'\] is a str, not a Trajectory: make one .* Trajectory.from_text"),
        (
            lambda t: Trajectory.from_text(t, "12", rewards=[1.0, 0.5]),
            {},
            "has 2 rewards for 1 reward functions.*one reward for each",
        ),
        (lambda t: Trajectory.from_text(t, "12"), {"importance_sampling": "guide"}, "has no log-probabilities"),
    ],
)
def test_a_dict_is_looked_at_before_training(make, tokenizer, entry, settings, words):
    with pytest.raises((ConfigError, DataError), match=words):
        make(guidance={"q1": entry(tokenizer)}, injection_settings=InjectionSettings(**settings))


def test_a_teacher_that_is_told_nothing_is_refused_before_training(make):
    with pytest.raises(ConfigError, match="teacher is given without privileged"):
        make(teacher=SelfTeacher())


def test_what_a_text_becomes(tokenizer):
    end = tokenizer.eos_token
    made = Trajectory.from_text(tokenizer, "12")
    assert made.token_ids.tolist() == [*tokenizer("12")["input_ids"], tokenizer.eos_token_id]
    assert np.isnan(made.logprobs).all() and made.rewards.tolist() == [1.0]
    assert Trajectory.from_text(tokenizer, f"12{end}").token_ids.tolist() == made.token_ids.tolist()
    full = Trajectory.from_text(
        tokenizer, "12", logprobs=[-1, -2, -3], prompt_id="0" * 16, guide="me", guide_step=4, seed=7
    )
    assert full.validate() is full and full.guide_step == 4
    with pytest.raises(DataError, match="give the text of a completion"):
        Trajectory.from_text(tokenizer, " ")
    with pytest.raises(DataError, match="3 token_ids but 2 logprobs"):
        Trajectory.from_text(tokenizer, "12", logprobs=[-1, -2])
    with pytest.raises(DataError, match="must be finite"):
        Trajectory.from_text(tokenizer, "12", logprobs=[-1, float("nan"), -1])
    assert replace(made, prompt_id="0" * 16).validate()  # nobody knows any of them
    partly = np.array([-1, np.nan, -1], np.float32)
    with pytest.raises(DataError, match="logprobs lie"):
        replace(made, prompt_id="0" * 16, logprobs=partly).validate()


# --- TRL's own images -----------------------------------------------------------------------------------------------


def chats_with_pictures(count: int) -> Dataset:
    """Every other prompt has two pictures; TRL takes no batch in which some have none."""
    rows = []
    for number in range(count):
        pictures = [Image.new("RGB", (32 + 32 * (number % 2), 32), (40 * number, 99, 9)) for _ in range(1 + number % 2)]
        rows.append(
            {"prompt": [{"role": "user", "content": f"{number}?"}], "images": pictures, "prompt_id": str(number)}
        )
    return Dataset.from_list(rows)


@pytest.mark.parametrize("size", [2, 3])
def test_a_part_of_a_rollout_has_its_own_pictures(tmp_path, monkeypatch, size):
    from npo_core.models.load import load_model, load_processor
    from npo_core.models.tiny import make_tiny

    make_tiny("qwen3_vl", tmp_path / "model")
    given, generate = [], GRPOTrainer._generate_single_turn

    def watch(self, prompt_ids, images, fields, *args, **kwargs):
        given.append((len(prompt_ids), fields))
        return generate(self, prompt_ids, images, fields, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", watch)

    def fields(generation_batch):
        given.clear()
        args = GRPOConfig(
            output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=8, num_generations=2,
            max_completion_length=4, use_cpu=True, report_to=[], save_strategy="no", bf16=False, seed=1,
        )  # fmt: skip
        trainer = NPOTrainer(
            load_model(tmp_path / "model"), reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
            args=args, train_dataset=chats_with_pictures(6), processing_class=load_processor(tmp_path / "model"),
            generation_batch=generation_batch,
        )  # fmt: skip
        trainer.train()
        return list(given)

    ((rows, whole),) = fields(None)
    parts = fields(size)
    assert [count for count, _ in parts] == [min(size, rows - start) for start in range(0, rows, size)]
    for name in ("pixel_values", "image_grid_thw"):
        assert torch.equal(torch.cat([part[name] for _, part in parts if part]), whole[name])
    kept = [row for (_, part) in parts for row in part.get("mm_token_type_ids", [])]
    assert [row for row in kept if any(row)] == [row for row in whole["mm_token_type_ids"] if any(row)]


def test_pictures_that_become_tiles_are_not_divided():
    images = [["a"], ["b", "c"], None, ["d"]]
    of_images = torch.arange(4)
    part = fields_of_part(slice(1, 3), images, {"pixel_values": of_images, "token_type_ids": [[0], [1], [2], [3]]})
    assert part["pixel_values"].tolist() == [1, 2] and part["token_type_ids"] == [[1], [2]]
    assert fields_of_part(slice(2, 3), images, {"pixel_values": of_images}) == {}
    with pytest.raises(ConfigError, match="generation_batch cannot divide the field pixel_values"):
        fields_of_part(slice(0, 2), images, {"pixel_values": torch.arange(9)})
