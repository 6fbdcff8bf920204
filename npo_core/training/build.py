"""From a run's configuration to what `NPOTrainer` takes: arguments, data set, reward function."""

from collections.abc import Callable, Collection
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig

from npo_core.config import Training
from npo_core.problems import Outcome, ProblemSet


def grpo_config(
    training: Training, *, seed: int, output: Path, device: str, processes: int = 1, until: int = 0
) -> GRPOConfig:
    """TRL's arguments for a run; a constant learning rate goes on beyond `training.steps`, up to `until`.

    One generation batch is `prompts_per_step x group_size` completions; it is split into `updates_per_batch` updates.
    """
    per_update = training.batch // training.updates_per_batch // processes
    micro_batch = min(training.micro_batch, per_update)
    return GRPOConfig(
        output_dir=str(output),
        seed=seed,
        max_steps=max(training.steps, until),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=per_update // micro_batch,
        steps_per_generation=training.batch // processes // micro_batch,
        num_generations=training.group_size,
        max_completion_length=training.max_completion_tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_schedule,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        epsilon=training.clip_low,
        epsilon_high=training.clip_high,
        beta=training.kl_coef,
        loss_type=training.loss,
        scale_rewards=training.scale_rewards,
        bf16=training.bf16,
        gradient_checkpointing=training.gradient_checkpointing,
        use_cpu=device == "cpu",
        save_strategy="steps",
        save_steps=training.snapshot_every,
        logging_steps=1,
        logging_first_step=False,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )


def training_data(problems: ProblemSet) -> Dataset:
    """A row a training problem: prompt, prompt_id, answer."""
    rows = [{"prompt": p.prompt, "prompt_id": p.id, "answer": p.answer} for p in problems.train]
    return Dataset.from_list(rows)


def accuracy_reward(problems: ProblemSet, eos_ids: Collection[int]) -> Callable[..., list[float]]:
    """The reward function that TRL calls: 1 for a completion that ended by itself and is verified correct, else 0."""

    def accuracy(completions: list, completion_ids: list[list[int]], answer: list[str], **_: object) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return [
            float(ids[-1] in eos_ids and problems.verify(text, right) is Outcome.CORRECT)
            for ids, text, right in zip(completion_ids, texts, answer, strict=True)
        ]

    return accuracy
