"""`NPOTrainer`: TRL's GRPOTrainer that takes a guidance cache.

A drop-in: without a cache it is GRPO with exact resumption and more metrics. With one, where the policy fails a prompt
(on-policy pass rate below `tau_gate`) and the cache has a trajectory for it, the last completion of the group gives way
to that trajectory's token ids. Reward, verifier, advantages and objective stay TRL's (docs/method.md).

Shape suffixes: P prompts (groups), G completions of a group, T tokens, B = P * G rows, F reward functions.
"""

import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate.utils import gather, gather_object

from npo_core.engines.check import k3, refuse_stale
from npo_core.errors import ConfigError
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix import Mixer
from npo_core.training import injection, live_rows
from npo_core.training import samples as kept
from npo_core.training.beside import GUIDE_LOGPS, GUIDE_MASK, RATIO, RATIOS, RowBeside
from npo_core.training.injection import InjectionSettings
from npo_core.training.mixing_trainer import COMPLETION_IDS, COMPLETIONS, other_rewards
from npo_core.training.taught_trainer import TaughtTrainer

__all__ = ["Guidance", "InjectionSettings", "NPOTrainer", "PromptOutcome"]


class Guidance(Protocol):
    """What the trainer asks of a guidance cache; a dict from prompt id to Trajectory also serves."""

    def get(self, prompt_id: str) -> Trajectory | None: ...


class PromptOutcome(NamedTuple):
    """What happened to one prompt in one generation batch."""

    prompt_id: str
    pass_rate: float  # on-policy, over all n samples
    injected: bool
    tokens: str  # 16 hex digits: hash of the group's token ids as trained on
    source: str = ""  # of the trajectory that it took; empty: none


class NPOTrainer(TaughtTrainer):
    """GRPOTrainer with guidance by token id, per-prompt outcomes, and exact resumption.

    Args:
        guidance: maps a prompt id to its verified trajectory; None trains plain GRPO. The data set then needs a
            column `prompt_id`.
        mixer: sources beside a guidance cache, success store, replay and prompts; it has the guidance in it then.
        teacher, privileged: see `TaughtTrainer`.
        may_inject, verdicts, begin_verifying: see `MixingTrainer`.
        injection_settings: how a trajectory enters a group: gate, place, importance sampling and baseline.
        sampling_seed, generation_batch: see `ExactTrainer`.
        images: gives the images of a prompt id; see `ImageTrainer`.
        max_kl: nats a token from vLLM to this model, where vLLM samples, above which its weights are taken to be stale.
        kept_groups: groups of each generation batch whose completions are left in `samples`, for people to read.
        Everything else is GRPOTrainer's. The first reward function is the accuracy in [0, 1] that the gate reads; NaN,
            or None, where nobody can tell: such a completion counts in no pass rate and is not trained on.

    Raises:
        ConfigError: if guidance is combined with tools or a rollout function, or the data set has no `prompt_id`.
        EngineError: while training, if vLLM samples from other weights than this model's.

    Example:
        trainer = NPOTrainer(model, reward_funcs=accuracy, args=GRPOConfig(...), train_dataset=dataset,
                             guidance=GuidanceCache.open(Store("run/guidance/4f1c")))
        trainer.train()
    """

    # TRL runs code of its own before, and without, `__init__`: what it reaches of ours needs a value by then.
    guidance: Guidance | None = None
    max_kl = 0.005
    outcomes: Sequence[PromptOutcome] = ()  # of the newest generation batch
    kept_groups = 0
    samples: Sequence[dict[str, Any]] = ()  # of the newest generation batch, rows as `samples.rows` makes them
    _loss_inputs: dict | None = None
    _entropies: torch.Tensor | None = None  # [B, T] of the micro batch whose loss is computed
    _logged_step: int | None = None

    def __init__(
        self,
        *args: Any,
        guidance: Guidance | None = None,
        mixer: Mixer | None = None,
        max_kl: float = 0.005,
        kept_groups: int = 0,
        **kwargs: Any,
    ):
        super().__init__(*args, mixer=mixer or Mixer(guidance=guidance), **kwargs)
        self.guidance = guidance
        self.max_kl, self.kept_groups = max_kl, kept_groups
        self._guide_ratios: list[tuple[int, injection.GuideRatio]] = []  # with tokens, since the last log
        self._raw_loss = 0.0  # summed since the last log
        self._check_guidance()

    def _check_guidance(self) -> None:
        if not (self.mixer.injects or self.mixer.settings.online):
            return
        if self.tools or self.rollout_func is not None:
            raise ConfigError(
                "Guidance cannot be injected into completions with tools or from a rollout function: "
                "remove `tools` and `rollout_func`, or train without `guidance`."
            )
        columns = self.train_dataset.column_names
        if columns is not None and "prompt_id" not in columns:
            raise ConfigError(
                f"The training data has columns {columns} and no `prompt_id`: add the ids under which "
                "the guidance cache keeps its trajectories."
            )
        if isinstance(self.guidance, Mapping):
            for prompt_id, trajectory in self.guidance.items():
                self._check_trajectory(prompt_id, trajectory)

    def _check_trajectory(self, prompt_id: str, trajectory: object) -> None:
        """Raises ConfigError, or DataError, where this trainer cannot inject what a dict holds."""
        if not isinstance(trajectory, Trajectory):
            raise ConfigError(
                f"guidance[{prompt_id!r}] is a {type(trajectory).__name__}, not a Trajectory: make one of a text by "
                "Trajectory.from_text(tokenizer, text)."
            )
        if len(trajectory.rewards) != len(self.reward_funcs):
            raise other_rewards(prompt_id, len(trajectory.rewards), len(self.reward_funcs))
        ratio = self.injection_settings.importance_sampling
        if ratio in ("guide", "shaped_guide") and np.isnan(trajectory.logprobs).any():
            raise ConfigError(
                f"guidance[{prompt_id!r}] has no log-probabilities, which importance_sampling = {ratio} needs: give "
                "them to Trajectory.from_text, or set it to off."
            )

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "prompt_id" not in self._signature_columns:
            self._signature_columns.append("prompt_id")

    def training_step(self, model, inputs, *args, **kwargs):
        started = time.perf_counter()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.seconds["step"] += time.perf_counter() - started
        self._raw_loss += loss.item()
        self._logged_step = self.state.global_step if self._logged_step is None else self._logged_step
        return loss

    # --- rollouts --------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.use_vllm and self.rollout_func is None:  # its log-probabilities are its own matter
            self._check_weights(output)
            self._record_correction(output)
        if self.model.training:
            self._count_trained(output)
            replace_old_logps(output)
        return output

    def _check_weights(self, output: dict) -> None:
        """Stop where vLLM's log-probabilities are not this model's.

        Where TRL needed none of this model's, they are computed for a micro batch of each process.
        """
        sampled, known = output["sampling_per_token_logps"], sampled_by_vllm(output)
        if (own := output.get("old_per_token_logps")) is None:
            some = slice(self.args.per_device_train_batch_size)
            own, sampled, known = self._logps_of(output, some), sampled[some], known[some]
        log_r = (own - sampled)[known].float().cpu().numpy()
        mine = [k3(log_r) * len(log_r), len(log_r)] if len(log_r) else [0.0, 0.0]
        total, tokens = gather(torch.tensor([mine], device=sampled.device)).sum(0).tolist()
        kl = total / max(tokens, 1)
        self._metrics["train" if self.model.training else "eval"]["sampling/kl"].append(kl)
        refuse_stale(kl, self.max_kl, f"the policy after update {self.state.global_step}")

    def _record_correction(self, output: dict) -> None:
        """How far the loss is corrected for vLLM's log-probabilities: mean weight, share of ratios above the cap."""
        if (weights := output.get("importance_sampling_ratio")) is None:
            return
        counted, cap = sampled_by_vllm(output), self.vllm_importance_sampling_clip_max
        log_r = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).masked_fill(~counted, 0.0)
        if self.vllm_importance_sampling_mode.startswith("sequence"):
            log_r, counted = log_r.sum(1, keepdim=True), counted.any(1, keepdim=True)
        beyond = counted & (log_r.exp() > (math.inf if cap is None else cap))
        sums = torch.stack([(weights * counted).sum(), beyond.sum(), counted.sum()]).float()
        total, above, number = gather(sums[None]).sum(0).tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["sampling/ratio"].append(total / max(number, 1))
        metrics["sampling/beyond"].append(above / max(number, 1))

    def _count_trained(self, output: dict) -> None:
        """Completion tokens of the rows that can move the policy, of all processes; where all are computed, all."""
        mask = output["completion_mask"]
        tokens = (mask if self._all_live else mask[live_rows.moving_rows(output, mask)]).sum()
        self._metrics["train"]["tokens_trained"].append(gather(tokens[None]).sum().item())

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """The rewards found before injection, so that nothing is verified twice; in evaluation, TRL's."""
        if self._scored is not None:
            return self._scored
        rewards_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self._rollout:
            return rewards_BF
        tokens = sum(map(len, completion_ids_list))
        self._metrics["train"]["tokens_generated"].append(sum(gather_object([tokens])))
        pass_rate_P = injection.pass_rates(rewards_BF[:, 0], self.num_generations)
        self._record_groups(pass_rate_P, [""] * len(pass_rate_P), completion_ids_list)
        return self._without_unknown(rewards_BF)

    # --- loss ------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        self._loss_inputs = inputs if GUIDE_MASK in inputs else None
        try:
            loss = super()._compute_loss(model, inputs)
            if self.model.training:
                self._record_entropy(inputs)
            return loss
        finally:
            self._loss_inputs = self._entropies = None

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._entropies = result[1]
        if self._loss_inputs is not None and self._loss_inputs[GUIDE_MASK].any():
            return (self._relate_to_guide(self._loss_inputs, result[0]), *result[1:])
        return result

    def _record_entropy(self, inputs: dict) -> None:
        """The mean entropy of the policy's own tokens, as TRL takes that of all, nats a token."""
        metrics = self._metrics["train"]
        if self._loss_inputs is None:
            metrics["entropy_on_policy"].append(metrics["entropy"][-1])
            return
        own = inputs["completion_mask"] * inputs.get("tool_mask", 1) * ~inputs[GUIDE_MASK].any(1, keepdim=True)
        sums = torch.stack([(self._entropies * own).sum(), own.sum().float()])
        total, tokens = self.accelerator.reduce(sums.detach(), reduction="sum")
        if tokens > 0:
            metrics["entropy_on_policy"].append((total / tokens).item())

    def _relate_to_guide(self, inputs: dict, logps: torch.Tensor) -> torch.Tensor:
        """Record the distance to the guide; log-probabilities that give its tokens the ratios asked for."""
        mask, guide_logps = inputs[GUIDE_MASK].bool(), inputs[GUIDE_LOGPS].to(logps.dtype)
        policy_logps = logps.detach()
        if (known := mask & ~guide_logps.isnan()).any():  # of a text that somebody wrote they are unknown
            self._guide_ratios.append((int(known.sum()), injection.guide_ratio(policy_logps, guide_logps, known)))
        if not inputs[RATIO].any():
            return logps
        inputs.setdefault("old_per_token_logps", policy_logps)
        replace_old_logps(inputs)
        of = {name: mask & (inputs[RATIO] == number)[:, None] for number, name in enumerate(RATIOS)}
        gamma = self.injection_settings.gamma
        shaped = torch.where(of["shaped_guide"], injection.log_shaped(logps - guide_logps, gamma), logps)
        return torch.where(of["shaped_policy"], injection.log_shaped(logps, gamma), shaped)

    # --- records ---------------------------------------------------------------------------------------------------

    def _record_groups(self, pass_rate_P: torch.Tensor, sources: Sequence[str], completion_ids: list) -> None:
        injected_P = torch.tensor([bool(name) for name in sources], device=pass_rate_P.device)
        counts = injection.count_groups(pass_rate_P, injected_P)
        metrics = self._metrics["train"]
        metrics["pass_rate"].append(pass_rate_P.nanmean().item())
        for name, value in counts._asdict().items():
            metrics[f"groups/{name}"].append(value)
        ids = gather_object([row.get("prompt_id", "") for row in self._rollout])[:: self.num_generations]
        rows = gather_object(completion_ids)
        groups = (rows[i : i + self.num_generations] for i in range(0, len(rows), self.num_generations))
        self.outcomes = [
            PromptOutcome(id_, rate, bool(source), hashlib.sha256(repr(group).encode()).hexdigest()[:16], source)
            for id_, rate, source, group in zip(ids, pass_rate_P.tolist(), sources, groups, strict=True)
        ]

    def _keep_samples(self, output: dict) -> None:
        """Leave the completions of `kept_groups` groups in `samples`, the same on every process."""
        if not self.kept_groups or self._generated is None or self._scored is None:
            return
        n, groups = self.num_generations, []
        mine = self._own_samples(self._generated, self._scored, output["advantages"].tolist())
        found = gather_object(mine)
        for number, outcome in enumerate(self.outcomes):
            group = found[n * number : n * (number + 1)]
            prompt = group[0].prompt
            group += [
                self._stored_sample(row, "injected", outcome.source, prompt)
                for row in self._rows_beside
                if row.group == number
            ]
            groups.append(kept.SampledGroup(outcome.pass_rate, group))
        replayed = [row for row in self._rows_beside if row.group is None][: self.kept_groups]
        beside = [self._stored_sample(row, "replayed", kept.REPLAY) for row in replayed]
        self.samples = kept.rows(groups, beside, self.kept_groups)

    def _own_samples(
        self, generated: tuple, rewards_BF: torch.Tensor, advantages: Sequence[float]
    ) -> list[kept.Sample]:
        """The rows of this process as they are trained on."""
        rewards = self._own(self._weighted(rewards_BF)).tolist()
        accuracies, found = self._own(rewards_BF[:, 0]).tolist(), []
        first = self.accelerator.process_index * len(self._rollout)
        for i, row in enumerate(self._rollout):
            trajectory = self._guide_rows.get(i)
            verdict = self._verdicts[i] if self._verdicts else kept.word(accuracies[i])
            found.append(
                kept.Sample(
                    row.get("prompt_id", ""),
                    kept.spoken(row["prompt"]),
                    kept.spoken(generated[COMPLETIONS][i]),
                    len(generated[COMPLETION_IDS][i]),
                    trajectory.outcome if trajectory else verdict,
                    rewards[i],
                    advantages[i],
                    "injected" if trajectory else "policy",
                    self.outcomes[(first + i) // self.num_generations].source if trajectory else "",
                )
            )
        return found

    def _stored_sample(self, row: RowBeside, kind: str, source: str, prompt: str | None = None) -> kept.Sample:
        """A row beside the batch."""
        trajectory = row.trajectory
        prompt = kept.spoken(self._row(trajectory.prompt_id)["prompt"]) if prompt is None else prompt
        text = self.processing_class.batch_decode([trajectory.token_ids.tolist()], skip_special_tokens=True)[0]
        reward = self._weighted(torch.tensor([trajectory.rewards.tolist()], device=self.accelerator.device)).item()
        advantage = math.nan if row.advantage is None else row.advantage
        tokens, verdict = len(trajectory.token_ids), trajectory.outcome
        return kept.Sample(trajectory.prompt_id, prompt, text, tokens, verdict, reward, advantage, kind, source)

    def _log_guide_ratios(self) -> None:
        """The mean over the guide's tokens of all processes, where there were any."""
        if ratios := gather_object(self._guide_ratios):
            tokens = [count for count, _ in ratios]
            for name in injection.GuideRatio._fields:
                values = [getattr(ratio, name) for _, ratio in ratios]
                self._metrics["train"][f"guide/{name}"] = [statistics.fmean(values, tokens)]
        self._guide_ratios = []

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """TRL's log with the loss unrounded and the seconds of each phase since the last log."""
        if "loss" in logs and self.model.training:
            raw_loss = statistics.fmean(gather_object([self._raw_loss]))
            logs["loss"] = raw_loss / (self.state.global_step - self._logged_step)
            self._raw_loss, self._logged_step = 0.0, self.state.global_step
            self._log_guide_ratios()
            for phase in ("generate", "verify", "step"):
                logs[f"seconds/{phase}"] = self.seconds.pop(phase, 0.0)
        super().log(logs, *args, **kwargs)


def sampled_by_vllm(batch: dict) -> torch.Tensor:
    """[B, T] bool: tokens with a log-probability by vLLM. Those of a guide have none, beside the batch neither."""
    known = (batch["completion_mask"] * batch.get("tool_mask", 1)).bool() & ~batch["sampling_per_token_logps"].isnan()
    return known & ~batch[GUIDE_MASK].bool() if GUIDE_MASK in batch else known


def replace_old_logps(batch: dict) -> None:
    """What the ratio of a guide's tokens is taken against, where they have one; a shaped ratio is all in the other
    log-probability."""
    if "old_per_token_logps" not in batch or RATIO not in batch:
        return
    old, mask = batch["old_per_token_logps"], batch[GUIDE_MASK].bool()
    exact = mask & (batch[RATIO] == RATIOS.index("guide"))[:, None]
    shaped = mask & (batch[RATIO] > RATIOS.index("guide"))[:, None]
    old = torch.where(exact, batch[GUIDE_LOGPS].to(old.dtype), old)
    batch["old_per_token_logps"] = torch.where(shaped, torch.zeros_like(old), old)
