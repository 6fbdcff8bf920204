"""`NPOTrainer`: TRL's GRPOTrainer that takes a guidance cache.

A drop-in: without a cache it is GRPO with exact resumption and more metrics. With one, where the policy fails a prompt
(on-policy pass rate below `tau_gate`) and the cache has a trajectory for it, the last completion of the group gives way
to that trajectory's token ids. Reward, verifier, advantages and objective stay TRL's (docs/method.md).

Shape suffixes: P prompts (groups), G completions of a group, T tokens, B = P * G rows, F reward functions.
"""

import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from accelerate.utils import gather, gather_object

from npo_core.engines.check import k3, refuse_stale
from npo_core.errors import ConfigError, DataError, DivergedError
from npo_core.guidance.trajectory import Trajectory
from npo_core.training import injection
from npo_core.training.exact_trainer import ExactTrainer

# Positions in what GRPOTrainer._generate returns; tests/training/test_trl_contract.py holds them.
COMPLETION_IDS, COMPLETIONS, LOGPROBS = 1, 3, 4


class Guidance(Protocol):
    """What the trainer asks of a guidance cache; a dict from prompt id to Trajectory also serves."""

    def get(self, prompt_id: str) -> Trajectory | None: ...


@dataclass(frozen=True)
class InjectionSettings:
    """How guidance enters a group; the defaults are the paper's."""

    tau_gate: float = 0.6  # a group takes guidance when its on-policy pass rate is below this
    importance_sampling: Literal["off", "guide"] = "off"  # ratio of the guide's slot: 1, or pi_policy / pi_guide
    baseline: Literal["mixed", "on_policy_only"] = "mixed"  # whose mean the advantages are taken against


class PromptOutcome(NamedTuple):
    """What happened to one prompt in one generation batch."""

    prompt_id: str
    pass_rate: float  # on-policy, over all n samples
    injected: bool
    tokens: str  # 16 hex digits: hash of the group's token ids as trained on


class NPOTrainer(ExactTrainer):
    """GRPOTrainer with guidance by token id, per-prompt outcomes, and exact resumption.

    Args:
        guidance: maps a prompt id to its verified trajectory; None trains plain GRPO. The data set then needs a
            column `prompt_id`.
        injection_settings: gate, importance sampling and baseline.
        sampling_seed, generation_batch: see `ExactTrainer`.
        images: gives the images of a prompt id; see `ImageTrainer`.
        max_kl: nats a token from vLLM to this model, where vLLM samples, above which its weights are taken to be stale.
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
    injection_settings = InjectionSettings()
    max_kl = 0.005
    outcomes: Sequence[PromptOutcome] = ()  # of the newest generation batch
    _rollout: Sequence[dict] | None = None  # the rows being generated, by a trainer that trains
    _scored: torch.Tensor | None = None  # [B, F] rewards after injection, of all processes
    _loss_inputs: dict | None = None
    _entropies: torch.Tensor | None = None  # [B, T] of the micro batch whose loss is computed
    _logged_step: int | None = None

    def __init__(
        self,
        *args: Any,
        guidance: Guidance | None = None,
        injection_settings: InjectionSettings | None = None,
        max_kl: float = 0.005,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.guidance = guidance
        self.injection_settings = injection_settings or InjectionSettings()
        self.max_kl = max_kl
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, since the last log
        self._guide_rows: dict[int, Trajectory] = {}  # injected rows of this process
        self._guide_ratios: list[tuple[int, injection.GuideRatio]] = []  # with tokens, since the last log
        self._raw_loss = 0.0  # summed since the last log
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance is None:
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
        if self.injection_settings.importance_sampling == "guide" and np.isnan(trajectory.logprobs).any():
            raise ConfigError(
                f"guidance[{prompt_id!r}] has no log-probabilities, which importance_sampling = guide needs: give them "
                "to Trajectory.from_text, or set it to off."
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

    # --- injection -------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):
        self._rollout, self._guide_rows, self._scored = inputs if self.model.training else None, {}, None
        output = super()._generate_and_score_completions(inputs)
        # Log-probabilities of a rollout function are its own matter; without the correction TRL computes no others.
        if self.use_vllm and self.rollout_func is None and "old_per_token_logps" in output:
            self._check_weights(output)
        if self.model.training and self.guidance is not None:
            self._attach_guidance(output)
        self._rollout = self._scored = None
        return output

    def _check_weights(self, output: dict) -> None:
        """Stop where vLLM's log-probabilities are not this model's; a guide's slot has none of vLLM."""
        sampled = output["sampling_per_token_logps"]
        known = (output["completion_mask"] * output.get("tool_mask", 1)).bool() & ~sampled.isnan()
        log_r = (output["old_per_token_logps"] - sampled)[known].float().cpu().numpy()
        mine = [k3(log_r) * len(log_r), len(log_r)] if len(log_r) else [0.0, 0.0]
        total, tokens = gather(torch.tensor([mine], device=sampled.device)).sum(0).tolist()
        kl = total / max(tokens, 1)
        self._metrics["train" if self.model.training else "eval"]["sampling/kl"].append(kl)
        refuse_stale(kl, self.max_kl, f"the policy after update {self.state.global_step}")

    def _generate(self, prompts, *args, **kwargs):
        if self._rollout is None or self.rollout_func is not None:  # in evaluation; or rewards need the whole rollout
            return super()._generate(prompts, *args, **kwargs)
        started = time.perf_counter()
        try:
            with self._shared_noise():
                generated = super()._generate(prompts, *args, **kwargs)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise DivergedError(
                f"After update {self.state.global_step} the policy's probabilities are not finite: "
                f"lower training.learning_rate (now {self.args.learning_rate}) or "
                "training.max_grad_norm; snapshots from before are kept."
            ) from error
        self.seconds["generate"] += time.perf_counter() - started
        started = time.perf_counter()
        completion_ids, completions = generated[COMPLETION_IDS], generated[COMPLETIONS]
        rewards_BF = super()._calculate_rewards(self._rollout, prompts, completions, completion_ids)
        self.seconds["verify"] += time.perf_counter() - started
        self._metrics["train"]["tokens_generated"].append(sum(gather_object([sum(map(len, completion_ids))])))
        return self._inject(generated, rewards_BF)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """The rewards found before injection, so that nothing is verified twice; in evaluation, TRL's."""
        if self._scored is not None:
            return self._scored
        rewards_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._rollout is None:
            return rewards_BF
        tokens = sum(map(len, completion_ids_list))
        self._metrics["train"]["tokens_generated"].append(sum(gather_object([tokens])))
        pass_rate_P = injection.pass_rates(rewards_BF[:, 0], self.num_generations)
        self._record_groups(pass_rate_P, torch.zeros_like(pass_rate_P, dtype=torch.bool), completion_ids_list)
        return self._without_unknown(rewards_BF)

    def _inject(self, generated: tuple, rewards_BF: torch.Tensor) -> tuple:
        """Replace the last slot of failing groups in what was generated, and in the rewards."""
        pass_rate_P = injection.pass_rates(rewards_BF[:, 0], self.num_generations)
        local = slice(self.accelerator.process_index * len(self._rollout), None)
        open_B = injection.last_slots(
            injection.gate(pass_rate_P, self.injection_settings.tau_gate), self.num_generations
        )[local][: len(self._rollout)]
        if self.guidance is not None:
            candidates = {
                row: self.guidance.get(self._rollout[row]["prompt_id"]) for row in open_B.nonzero()[:, 0].tolist()
            }
            self._guide_rows = {row: trajectory for row, trajectory in candidates.items() if trajectory is not None}
        self._scored, injected_P = self._replace_rewards(self._without_unknown(rewards_BF))
        generated = self._replace_completions(generated)
        self._record_groups(pass_rate_P, injected_P, generated[COMPLETION_IDS])
        return generated

    def _replace_completions(self, generated: tuple) -> tuple:
        completion_ids, completions, logprobs = (generated[i] for i in (COMPLETION_IDS, COMPLETIONS, LOGPROBS))
        for row, trajectory in self._guide_rows.items():
            completion_ids[row] = trajectory.token_ids.tolist()
            text = self.processing_class.batch_decode([completion_ids[row]], skip_special_tokens=True)[0]
            completions[row] = text if isinstance(completions[row], str) else [{"role": "assistant", "content": text}]
            if logprobs is not None:  # the engine's own log-probs do not exist for this row: no correction
                logprobs[row] = [None] * len(completion_ids[row])
        return generated

    def _without_unknown(self, rewards_BF: torch.Tensor) -> torch.Tensor:
        """NaN in all of a row whose weighted rewards are: TRL leaves such rows out, others it would take for 0."""
        weighed_BF = rewards_BF[:, self.reward_weights.to(rewards_BF.device) != 0]
        return torch.where(weighed_BF.isnan().all(1, keepdim=True), torch.nan, rewards_BF)

    def _replace_rewards(self, rewards_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards [B, F] of all processes with the guide's in its slots, and [P] which groups took one."""
        mine = torch.full((len(self._rollout), rewards_BF.shape[1] + 1), 0.0, device=rewards_BF.device)
        for row, trajectory in self._guide_rows.items():
            if len(trajectory.rewards) != rewards_BF.shape[1]:
                raise other_rewards(trajectory.prompt_id, len(trajectory.rewards), rewards_BF.shape[1])
            mine[row, 0] = 1.0
            mine[row, 1:] = torch.tensor(trajectory.rewards, device=mine.device)
        everyone = gather(mine)
        injected_B = everyone[:, 0].bool()
        rewards_BF = torch.where(injected_B[:, None], everyone[:, 1:], rewards_BF)
        return rewards_BF, injected_B.view(-1, self.num_generations).any(1)

    def _attach_guidance(self, output: dict) -> None:
        """Put the guide's mask and log-probs beside the batch, and what the settings make of them."""
        ids = output["completion_ids"]
        mask, logps = torch.zeros_like(ids), torch.zeros(ids.shape, device=ids.device)
        for row, trajectory in self._guide_rows.items():
            mask[row, : len(trajectory.token_ids)] = 1
            logps[row, : len(trajectory.token_ids)] = torch.tensor(trajectory.logprobs, device=ids.device)
        output["guide_mask"], output["guide_logps"] = mask, logps
        if self.injection_settings.importance_sampling == "guide" and "old_per_token_logps" in output:
            old = output["old_per_token_logps"]
            output["old_per_token_logps"] = torch.where(mask.bool(), logps.to(old.dtype), old)
        if self.injection_settings.baseline == "on_policy_only":
            output["advantages"] = self._on_policy_advantages()

    def _on_policy_advantages(self) -> torch.Tensor:
        weights = self.reward_weights.to(self._scored.device)
        rewards_B = torch.where(self._scored.isnan().all(1), torch.nan, (self._scored * weights).nansum(dim=1))
        rewards_PG = rewards_B.view(-1, self.num_generations)
        mine = torch.zeros(len(self._rollout), dtype=torch.bool, device=rewards_PG.device)
        mine[list(self._guide_rows)] = True
        injected_PG = gather(mine).view_as(rewards_PG)
        advantages = injection.on_policy_advantages(rewards_PG, injected_PG, self.scale_rewards).view(-1)
        start = self.accelerator.process_index * len(self._rollout)
        return advantages[start : start + len(self._rollout)]

    # --- loss ------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        self._loss_inputs = inputs if "guide_mask" in inputs else None
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
        if self._loss_inputs is not None and self._loss_inputs["guide_mask"].any():
            self._relate_to_guide(self._loss_inputs, result[0].detach())
        return result

    def _record_entropy(self, inputs: dict) -> None:
        """The mean entropy of the policy's own tokens, as TRL takes that of all, nats a token."""
        metrics = self._metrics["train"]
        if self._loss_inputs is None:
            metrics["entropy_on_policy"].append(metrics["entropy"][-1])
            return
        own = inputs["completion_mask"] * inputs.get("tool_mask", 1) * ~inputs["guide_mask"].any(1, keepdim=True)
        sums = torch.stack([(self._entropies * own).sum(), own.sum().float()])
        total, tokens = self.accelerator.reduce(sums.detach(), reduction="sum")
        if tokens > 0:
            metrics["entropy_on_policy"].append((total / tokens).item())

    def _relate_to_guide(self, inputs: dict, policy_logps: torch.Tensor) -> None:
        """Record the distance to the guide; with importance sampling on, give its slots their own denominator."""
        mask, guide_logps = inputs["guide_mask"], inputs["guide_logps"].to(policy_logps.dtype)
        if (known := mask.bool() & ~guide_logps.isnan()).any():  # of a text that somebody wrote they are unknown
            self._guide_ratios.append((int(known.sum()), injection.guide_ratio(policy_logps, guide_logps, known)))
        if self.injection_settings.importance_sampling == "guide" and "old_per_token_logps" not in inputs:
            inputs["old_per_token_logps"] = torch.where(mask.bool(), guide_logps, policy_logps)

    # --- records ---------------------------------------------------------------------------------------------------

    def _record_groups(self, pass_rate_P: torch.Tensor, injected_P: torch.Tensor, completion_ids: list) -> None:
        counts = injection.count_groups(pass_rate_P, injected_P)
        metrics = self._metrics["train"]
        metrics["pass_rate"].append(pass_rate_P.nanmean().item())
        for name, value in counts._asdict().items():
            metrics[f"groups/{name}"].append(value)
        ids = gather_object([row.get("prompt_id", "") for row in self._rollout])[:: self.num_generations]
        rows = gather_object(completion_ids)
        groups = (rows[i : i + self.num_generations] for i in range(0, len(rows), self.num_generations))
        self.outcomes = [
            PromptOutcome(*fields, hashlib.sha256(repr(group).encode()).hexdigest()[:16])
            for *fields, group in zip(ids, pass_rate_P.tolist(), injected_P.tolist(), groups, strict=True)
        ]

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


def other_rewards(prompt_id: str, found: int, functions: int) -> DataError:
    return DataError(
        f"The trajectory of prompt {prompt_id} has {found} rewards for {functions} reward functions: generate guidance "
        "again with these, or give one reward for each."
    )
