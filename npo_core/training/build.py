"""From a run's configuration to what `NPOTrainer` takes: arguments, data set, reward functions."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from npo_core.config import EngineSettings, RolloutCorrection, Training
from npo_core.problems import Completion, Judge, Outcome, ProblemSet, Verdict
from npo_core.problems.judge import begin
from npo_core.seeds import library_seed

COUNTED = (Outcome.UNPARSABLE, Outcome.TIMEOUT, Outcome.CRASH)  # beside the pass rate, they say why not


def grpo_config(
    training: Training,
    *,
    seed: int,
    output: Path,
    device: str,
    processes: int = 1,
    sharded: bool = False,
    until: int = 0,
    reward_weights: list[float] | None = None,
    engine: EngineSettings | None = None,
) -> GRPOConfig:
    """TRL's arguments for a run; a constant learning rate goes on beyond `training.steps`, up to `until`.

    One generation batch is `prompts_per_step x group_size` completions; it is split into `updates_per_batch` updates.
    """
    per_update = training.batch // training.updates_per_batch // processes
    micro_batch = min(training.micro_batch, per_update)
    return GRPOConfig(
        output_dir=str(output),
        seed=library_seed(seed),
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
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        epsilon=training.clip_low,
        epsilon_high=training.clip_high,
        beta=training.kl_coef,
        reward_weights=reward_weights,
        loss_type=training.loss,
        scale_rewards=training.scale_rewards,
        bf16=training.bf16,
        gradient_checkpointing=training.gradient_checkpointing,
        use_cpu=device == "cpu",
        save_strategy="steps",
        save_only_model=sharded,  # NPOTrainer takes it back, see `sharded.prepare`
        save_steps=training.snapshot_every,
        logging_steps=1,
        logging_first_step=False,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        **vllm_rollouts(engine or EngineSettings(), training.rollout_correction),
    )


def vllm_rollouts(engine: EngineSettings, correction: RolloutCorrection) -> dict[str, Any]:
    """TRL's arguments for rollouts by vLLM on the trainer's own GPUs; all that decides the objective is said."""
    if not engine.rollouts:
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": engine.rollout_memory,
        "vllm_tensor_parallel_size": engine.tensor_parallel,
        "vllm_max_model_length": engine.max_model_len,
        "vllm_importance_sampling_correction": correction.level != "off",
        "vllm_importance_sampling_mode": f"{correction.level}_{correction.beyond}".replace("off", "sequence"),
        "vllm_importance_sampling_clip_max": correction.cap,
        "vllm_importance_sampling_clip_min": None,
    }


def training_data(problems: ProblemSet) -> Dataset:
    """A row a training problem: prompt, prompt_id, answer."""
    rows = [{"prompt": p.prompt, "prompt_id": p.id, "answer": p.answer} for p in problems.train]
    return Dataset.from_list(rows)


class Rewards:
    """The reward functions that TRL calls, in the order of `ProblemSet.reward_names`; the first judges the batch.

    Example:
        GRPOTrainer(model, reward_funcs=Rewards(problems, {eos}).functions, args=GRPOConfig(...), ...)
    """

    def __init__(
        self,
        problems: ProblemSet,
        eos_ids: Collection[int],
        processes: int = 1,
        *,
        accept_fallback: bool = False,
        opinion: Judge | None = None,
    ):
        self.problems, self.eos_ids, self.processes = problems, eos_ids, processes
        self.accept_fallback, self.opinion = accept_fallback, opinion
        self.by_id = {problem.id: problem for problem in problems.train}
        self.verdicts: list[Verdict] = []
        self._judged: list[Completion] = []

    @property
    def functions(self) -> list[Callable[..., list[float]]]:
        return [getattr(self, name) for name in self.problems.reward_names]

    @property
    def weights(self) -> list[float]:
        """Training is on the last one alone."""
        return [0.0] * (len(self.problems.reward_names) - 1) + [1.0]

    def accuracy(
        self,
        completions: list,
        completion_ids: list[list[int]],
        prompt_id: list[str],
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        **_: object,
    ) -> list[float]:
        """1 for a completion that ended by itself and is verified correct, else 0; NaN where nobody can tell."""
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        self._judged = self._completions(prompt_id, texts, completion_ids)
        self.verdicts = self.problems.judge(self._judged)
        for outcome in COUNTED:  # TRL takes the mean over processes
            log_metric(f"verified/{outcome}", float(self.processes * sum(v.outcome is outcome for v in self.verdicts)))
        return [verdict.accuracy for verdict in self.verdicts]

    def _completions(
        self, prompt_ids: Sequence[str], texts: Sequence[str], token_ids: Sequence[list[int]]
    ) -> list[Completion]:
        return [
            Completion(self.by_id[id_], text, len(ids), ids[-1] in self.eos_ids)
            for id_, text, ids in zip(prompt_ids, texts, token_ids, strict=True)
        ]

    @property
    def may_begin(self) -> bool:
        """Whether the verifier has workers, for which `begin` is worth it."""
        return begin(self.problems.judge, [])

    def begin(self, prompt_ids: Sequence[str], texts: Sequence[str], token_ids: Sequence[list[int]]) -> None:
        """Have completions of the batch that is judged next verified while others of it are still sampled."""
        begin(self.problems.judge, self._completions(prompt_ids, texts, token_ids))

    def outcomes(self) -> list[str]:
        """The verifier's words for what was judged last."""
        return [verdict.outcome.value for verdict in self.verdicts]

    def may_inject(self, rows: Sequence[int]) -> list[bool]:
        """Which of the right completions judged last may be injected: no guesses, and none that the opinion refuses."""
        may = [self.verdicts[row].may_guide(self.accept_fallback) for row in rows]
        if self.opinion is None or not any(may):
            return may
        seconds = iter(self.opinion([self._judged[row] for row, asked in zip(rows, may, strict=True) if asked]))
        return [asked and next(seconds).may_guide(self.accept_fallback) for asked in may]

    def reward(self, **_: object) -> list[float]:
        """What the batch that was judged last is trained on."""
        return [verdict.reward for verdict in self.verdicts]
