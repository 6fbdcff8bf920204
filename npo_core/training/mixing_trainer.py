"""GRPOTrainer whose batches are mixed: other prompts, trajectories in groups, rows beside them; a `Mixer` says which.

Shape suffixes: P prompts (groups), G completions of a group, B = P * G rows, F reward functions.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object

from npo_core.engines.sampling import Ended, Sampled
from npo_core.errors import DataError, DivergedError
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix import Batch, Group, Mixer
from npo_core.seeds import derive_seed
from npo_core.training import beside, injection
from npo_core.training.exact_trainer import ExactTrainer
from npo_core.training.injection import InjectionSettings

# Positions in what GRPOTrainer._generate returns; tests/training/test_trl_contract.py holds them.
PROMPT_IDS, COMPLETION_IDS, COMPLETIONS, LOGPROBS = 0, 1, 3, 4


class Drawn(NamedTuple):
    """A completion of a rollout with its verdict, as every process knows it."""

    token_ids: list[int]
    logprobs: list[float]  # NaN where they are not known
    entropies: list[float]  # empty where they are not known
    rewards: list[float]
    may_inject: bool
    verdict: str = ""


class MixingTrainer(ExactTrainer):
    """ExactTrainer with a mixer.

    Args:
        mixer: what is mixed in; None: nothing.
        injection_settings: how a trajectory enters a group.
        may_inject: asked with rows of the rollout judged last, numbers in this process: which of them may be injected.
            None: every right one.
        verdicts: the verifier's words for the rows judged last, in this process. None: told from their accuracy.
        begin_verifying: told prompt ids, texts and token ids of completions that are there while others of the rollout
            are still sampled; the reward functions are asked of all of them afterwards. None: they are not told before.
    """

    # TRL runs code of its own before, and without, `__init__`: what it reaches of ours needs a value by then.
    mixer = Mixer()
    injection_settings = InjectionSettings()
    may_inject: Callable[[Sequence[int]], Sequence[bool]] | None = None
    verdicts: Callable[[], Sequence[str]] | None = None
    begin_verifying: Callable[[Sequence[str], Sequence[str], Sequence[list[int]]], None] | None = None
    _asking: Sequence[dict] = ()  # the rows of this process that completions are drawn for
    _rollout: list[dict] = []  # the rows being generated; none in evaluation
    _scored: torch.Tensor | None = None  # [B, F] rewards after injection, of all processes

    def __init__(
        self,
        *args: Any,
        mixer: Mixer | None = None,
        injection_settings: InjectionSettings | None = None,
        may_inject: Callable[[Sequence[int]], Sequence[bool]] | None = None,
        verdicts: Callable[[], Sequence[str]] | None = None,
        begin_verifying: Callable[[Sequence[str], Sequence[str], Sequence[list[int]]], None] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.mixer = mixer or Mixer()
        self.injection_settings = injection_settings or InjectionSettings()
        self.may_inject, self.verdicts, self.begin_verifying = may_inject, verdicts, begin_verifying
        self._verdicts: list[str] = []  # of the rows of this process
        self._generated: tuple | None = None  # what TRL's generation gave, after injection
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, since the last log
        self._guide_rows: dict[int, Trajectory] = {}  # injected rows of this process
        self._rows_beside: list[beside.RowBeside] = []  # of all processes
        self._grown: torch.Tensor | None = None  # [B] advantages over groups that grew
        self._counts: dict[str, float] = {}  # what sources counted in this batch

    @property
    def _update(self) -> int:
        """The optimizer update that trains on the generation batch under way first."""
        return self.state.global_step + 1

    # --- which prompts ---------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):
        self._guide_rows, self._rows_beside, self._grown, self._scored, self._draws = {}, [], None, None, 0
        if not self.model.training:
            self._rollout = []
            return super()._generate_and_score_completions(inputs)
        self._rollout = self._asked(inputs)
        output = super()._generate_and_score_completions(self._rollout)
        output = self._attach(output)
        self._keep_samples(output)
        self._rollout, self._scored, self._generated = [], None, None
        return output

    def _keep_samples(self, output: dict) -> None:
        """Keep what people want to read of the batch; rows beside it are the last of `output`."""

    def _asked(self, inputs: list[dict]) -> list[dict]:
        """The rows of this process, with other prompts where the mixer wants some."""
        if not self.mixer.prompts:
            return list(inputs)
        planned = gather_object([row["prompt_id"] for row in inputs])[:: self.num_generations]
        chosen = self.mixer.choose(self._update, planned)
        self._metrics["train"]["mix/prompts_chosen"].append(
            float(sum(new != old for new, old in zip(chosen, planned, strict=True)))
        )
        first = self.accelerator.process_index * len(inputs)
        ids = [chosen[(first + i) // self.num_generations] for i in range(len(inputs))]
        return [row if row["prompt_id"] == id_ else self._row(id_) for row, id_ in zip(inputs, ids, strict=True)]

    def _row(self, prompt_id: str) -> dict:
        return self.train_dataset[self._number_of[prompt_id]]

    # --- rollouts --------------------------------------------------------------------------------------------------

    def _generate(self, prompts, *args, **kwargs):
        if not self._rollout or self.rollout_func is not None:  # in evaluation; or rewards need the whole rollout
            return super()._generate(prompts, *args, **kwargs)
        generated, rewards_BF = self._roll_out(prompts, self._rollout)
        self._metrics["train"]["tokens_generated"].append(
            float(sum(gather_object([sum(map(len, generated[COMPLETION_IDS]))])))
        )
        return self._mix(generated, rewards_BF)

    def _roll_out(self, prompts: list, rows: Sequence[dict]) -> tuple[tuple, torch.Tensor]:
        """What TRL generates for the rows of this process, and the rewards [B, F] of those of all."""
        started, self._asking = time.perf_counter(), rows
        try:
            with self._shared_noise():
                generated = super()._generate(prompts)
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
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        self._verdicts = list(self.verdicts()) if self.verdicts else []
        self.seconds["verify"] += time.perf_counter() - started
        return generated, rewards_BF

    def _ended(self) -> Ended | None:
        if (begin := self.begin_verifying) is None:
            return None

        def tell(places: list[int], token_ids: list[list[int]]) -> None:
            prompt_ids = [self._asking[place]["prompt_id"] for place in places]
            texts = self.processing_class.batch_decode(token_ids, skip_special_tokens=True)
            begin(prompt_ids, texts, token_ids)

        return tell

    def _draw(self, prompt_ids: Sequence[str]) -> list[list[Drawn]]:
        """A group more of completions of each prompt, verified, the same on every process."""
        n, world = self.num_generations, self.accelerator.num_processes
        each = -(-len(prompt_ids) // world)  # groups of a process; the last prompt fills up
        asked = [*prompt_ids, *[prompt_ids[-1]] * (each * world - len(prompt_ids))]
        first = self.accelerator.process_index * each
        rows = [self._row(id_) for id_ in asked[first : first + each] for _ in range(n)]
        self._draws += 1
        with self._aside(rows):
            generated, rewards_BF = self._roll_out([row["prompt"] for row in rows], rows)
            drawn = gather_object(self._drawn(generated, rewards_BF, len(rows)))[: len(prompt_ids) * n]
        tokens = float(sum(len(row.token_ids) for row in drawn))
        self._metrics["train"]["tokens_generated"][-1] += tokens
        self._counts["tokens_extra"] = self._counts.get("tokens_extra", 0.0) + tokens
        return [drawn[i : i + n] for i in range(0, len(drawn), n)]

    @contextmanager
    def _aside(self, rows: Sequence[dict]) -> Iterator[None]:
        """Inside it, what a rollout leaves behind is not the generation batch's."""
        names = ("_sampled", "_numbers", "_pending_metrics", "_pending_extra_logs", "_verdicts")
        kept = {name: getattr(self, name) for name in names}
        lengths = {name: len(values) for name, values in self._metrics["train"].items()}
        tokens = self.state.num_input_tokens_seen
        self._pending_metrics: dict[str, list] = defaultdict(list)
        self._pending_extra_logs: dict[str, list] = defaultdict(list)
        if self.open_images is not None:
            self._numbers = torch.tensor([self._number_of[row["prompt_id"]] for row in rows])
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)
            self.state.num_input_tokens_seen = tokens
            metrics = self._metrics["train"]
            for name in [name for name in metrics if name not in lengths]:
                del metrics[name]
            for name, length in lengths.items():
                del metrics[name][length:]

    def _drawn(self, generated: tuple, rewards_BF: torch.Tensor, rows: int) -> list[Drawn]:
        """The completions of this process."""
        first = self.accelerator.process_index * rows
        rewards = rewards_BF[first : first + rows].tolist()
        right = [i for i, row in enumerate(rewards) if row[0] == 1]
        may = dict(zip(right, self.may_inject(right) if self.may_inject else [True] * len(right), strict=True))
        logprobs = generated[LOGPROBS]
        found = []
        for i, ids in enumerate(generated[COMPLETION_IDS]):
            sampled = self._sampled[i] if self._sampled is not None else None
            logps = sampled.logprobs if sampled else logprobs[i] if logprobs is not None else [np.nan] * len(ids)
            verdict = self._verdicts[i] if self._verdicts else ""
            entropies = sampled.entropies if sampled else []
            found.append(Drawn(ids, logps, entropies, rewards[i], bool(may.get(i)), verdict))
        return found

    def _right(self, generated: tuple, rewards_BF: torch.Tensor) -> list[Drawn | None]:
        """The completions of all processes that may be injected; None for the others."""
        drawn = self._drawn(generated, rewards_BF, len(self._rollout))
        return gather_object([row if row.may_inject else None for row in drawn])

    # --- what is mixed in ------------------------------------------------------------------------------------------

    def _mix(self, generated: tuple, rewards_BF: torch.Tensor) -> tuple:
        """Put trajectories into what was generated, and into the rewards."""
        self._counts = {}
        # Asked before anything else is drawn and judged: which of this rollout's right ones may be injected.
        right = None
        if self.mixer.wants_successes:
            right = self._right(generated, rewards_BF)
        if self.mixer.dynamic is not None:
            rewards_BF = self._filled_up(generated, rewards_BF, right, self.mixer.dynamic.settings.rounds)
        pass_rate_P = injection.pass_rates(rewards_BF[:, 0], self.num_generations)
        groups = self._groups(pass_rate_P, right)
        batch = Batch(self._update, groups, self.num_generations, self._extra_groups, self._seed_of, self._counts)
        settings, found = self.injection_settings, {}
        if self.mixer.injects:
            open_P = injection.gate(pass_rate_P, settings).tolist()
            wanted = [group.prompt_id for group, is_open in zip(groups, open_P, strict=True) if is_open]
            found = self.mixer.find(wanted, batch, settings.slots)
        taken = self._taken(groups, found, wanted if found else ())
        rewards_BF = self._without_unknown(rewards_BF)
        if settings.place == "append":
            self._grow(taken, rewards_BF)
        else:
            rewards_BF = self._replace(taken, generated, rewards_BF)
        self._scored, self._generated = rewards_BF, generated
        self.mixer.learn(batch, found)
        for name, value in batch.counts.items():
            self._metrics["train"][f"mix/{name}"].append(value)
        self._replay([group.prompt_id for group in groups])
        sources = [found[g.prompt_id][0] if i in taken else "" for i, g in enumerate(groups)]
        self._record_groups(pass_rate_P, sources, generated[COMPLETION_IDS])
        return generated

    def _record_groups(self, pass_rate_P: torch.Tensor, sources: Sequence[str], completion_ids: list) -> None:
        """Keep what became of each group; `sources`: which source a group took a trajectory of, or an empty name."""

    def _seed_of(self, *parts: Any) -> int:
        return derive_seed("source", self.sampling_seed, self._update, *parts)

    def _groups(self, pass_rate_P: torch.Tensor, right: list[Drawn | None] | None) -> list[Group]:
        """The groups of all processes; with their right completions where a source or the store looks at them."""
        n = self.num_generations
        ids = gather_object([row.get("prompt_id", "") for row in self._rollout])[::n]
        return [
            Group(id_, rate, [] if right is None else self._trajectories(id_, right[n * i : n * (i + 1)]))
            for i, (id_, rate) in enumerate(zip(ids, pass_rate_P.tolist(), strict=True))
        ]

    def _trajectories(self, prompt_id: str, drawn: Sequence[Drawn | None]) -> list[Trajectory]:
        """Those of a group's completions that may be injected."""
        return [
            Trajectory(
                prompt_id=prompt_id,
                token_ids=np.array(row.token_ids, np.int32),
                logprobs=np.array(row.logprobs, np.float32),
                rewards=np.array(row.rewards, np.float32),
                outcome="correct",
                guide="policy",
                guide_step=self._update,
                sample=i,
                samples=len(drawn),
                seed=self._rollout_seed,
            )
            for i, row in enumerate(drawn)
            if row is not None and row.may_inject
        ]

    def _extra_groups(self, prompt_ids: Sequence[str]) -> list[Group]:
        """`Batch.draw`: groups of more completions, with the right ones among them."""
        return [
            Group(id_, float(np.nanmean([row.rewards[0] for row in drawn] or [np.nan])), self._trajectories(id_, drawn))
            for id_, drawn in zip(prompt_ids, self._draw(prompt_ids), strict=True)
        ]

    def _taken(self, groups: Sequence[Group], found: dict, wanted: Sequence[str]) -> dict[int, list[Trajectory]]:
        """Which groups, by their place in the batch, take which trajectories."""
        known = set(wanted)
        return {i: found[g.prompt_id][1] for i, g in enumerate(groups) if g.prompt_id in known and g.prompt_id in found}

    def _replace(self, taken: dict[int, list[Trajectory]], generated: tuple, rewards_BF: torch.Tensor) -> torch.Tensor:
        """Let trajectories take the place of completions; the rewards of all processes then."""
        n, rows, place = self.num_generations, len(self._rollout), self.injection_settings.place
        first, rewards_BF = self.accelerator.process_index * rows, rewards_BF.clone()
        for number in list(taken):
            [trajectory] = taken[number]
            if len(trajectory.rewards) != rewards_BF.shape[1]:
                raise other_rewards(trajectory.prompt_id, len(trajectory.rewards), rewards_BF.shape[1])
            accuracy = rewards_BF[n * number : n * (number + 1), 0].tolist()
            slot = injection.slot(accuracy, place, self._seed_of("slot", number))
            if slot is None:
                del taken[number]
                continue
            row = n * number + slot
            rewards_BF[row] = torch.tensor(trajectory.rewards.tolist(), device=rewards_BF.device)
            if first <= row < first + rows:
                self._guide_rows[row - first] = trajectory
        self._replace_completions(generated)
        return rewards_BF

    def _replace_completions(self, generated: tuple) -> None:
        completion_ids, completions, logprobs = (generated[i] for i in (COMPLETION_IDS, COMPLETIONS, LOGPROBS))
        for row, trajectory in self._guide_rows.items():
            completion_ids[row] = trajectory.token_ids.tolist()
            text = self.processing_class.batch_decode([completion_ids[row]], skip_special_tokens=True)[0]
            completions[row] = text if isinstance(completions[row], str) else [{"role": "assistant", "content": text}]
            if logprobs is not None:  # the engine's own log-probs do not exist for this row: no correction
                logprobs[row] = [None] * len(completion_ids[row])

    def _grow(self, taken: dict[int, list[Trajectory]], rewards_BF: torch.Tensor) -> None:
        """Append trajectories to groups; advantages are taken over the grown groups."""
        own_PG, slots = self._weighted(rewards_BF).view(-1, self.num_generations), self.injection_settings.slots
        extra_PM = torch.full((len(own_PG), slots), torch.nan, device=own_PG.device)
        for number, trajectories in taken.items():
            if len(trajectories[0].rewards) != rewards_BF.shape[1]:
                raise other_rewards(trajectories[0].prompt_id, len(trajectories[0].rewards), rewards_BF.shape[1])
            rows = torch.tensor(np.stack([t.rewards for t in trajectories]), device=own_PG.device)
            extra_PM[number] = self._weighted(rows)
        rewards_PG = torch.cat([own_PG, extra_PM], dim=1)
        baseline_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
        if self.injection_settings.baseline == "on_policy_only":
            baseline_PG[:, self.num_generations :] = False
        advantages_PG = injection.group_advantages(rewards_PG, baseline_PG, self.scale_rewards)
        self._grown = advantages_PG[:, : self.num_generations].reshape(-1)
        ratio = self.injection_settings.importance_sampling
        self._rows_beside += [
            beside.RowBeside(
                trajectory, advantages_PG[number, self.num_generations + i].item(), ratio=ratio, group=number
            )
            for number, trajectories in taken.items()
            for i, trajectory in enumerate(trajectories)
        ]

    def _replay(self, asked: Sequence[str]) -> None:
        """Stored successes that are trained on beside the batch."""
        if self.mixer.settings.replay is None:
            return
        rows = self.mixer.replayed(self._update, asked)
        ratio = "guide" if self.mixer.settings.replay.ratio == "clip" else "off"
        self._rows_beside += [beside.RowBeside(row.trajectory, weight=row.weight, ratio=ratio) for row in rows]
        self._metrics["train"]["mix/rows_replayed"].append(float(len(rows)))

    def _filled_up(
        self, generated: tuple, rewards_BF: torch.Tensor, right: list[Drawn | None] | None, rounds: int
    ) -> torch.Tensor:
        """Other prompts, with their completions, in place of dead groups, in a few rounds (dynamic sampling).

        Changes what was generated, and `right`, in place; the rewards then.
        """
        n, rows, rewards_BF = self.num_generations, len(self._rollout), rewards_BF.clone()
        first = self.accelerator.process_index * rows
        for round_ in range(rounds):
            rates = injection.pass_rates(rewards_BF[:, 0], n).tolist()
            dead = [i for i, rate in enumerate(rates) if rate in (0.0, 1.0)]
            asked = gather_object([row["prompt_id"] for row in self._rollout])[::n]
            others = self.mixer.others(self._update, round_, asked, len(dead)) if dead else []
            if not others:
                break
            for number, id_, drawn in zip(dead, others, self._draw(others), strict=False):
                for i, row in enumerate(drawn):
                    place = n * number + i
                    rewards_BF[place] = torch.tensor(row.rewards, device=rewards_BF.device)
                    if right is not None:
                        right[place] = row if row.may_inject else None
                    if first <= place < first + rows:
                        self._exchange(generated, place - first, id_, row)
        left = injection.pass_rates(rewards_BF[:, 0], n).tolist()
        self._counts["groups_left_dead"] = float(sum(rate in (0.0, 1.0) for rate in left))
        return rewards_BF

    def _exchange(self, generated: tuple, place: int, prompt_id: str, drawn: Drawn) -> None:
        """Another prompt and its completion in a row of this process."""
        row = self._rollout[place] = self._row(prompt_id)
        generated[PROMPT_IDS][place] = self._tokens_of(prompt_id)
        generated[COMPLETION_IDS][place] = list(drawn.token_ids)
        text = self.processing_class.batch_decode([drawn.token_ids], skip_special_tokens=True)[0]
        spoken = isinstance(generated[COMPLETIONS][place], str)
        generated[COMPLETIONS][place] = text if spoken else [{"role": "assistant", "content": text}]
        if generated[LOGPROBS] is not None:
            generated[LOGPROBS][place] = list(drawn.logprobs)
        if self._verdicts:
            self._verdicts[place] = drawn.verdict
        if self._sampled is not None:
            self._sampled[place] = Sampled(drawn.token_ids, drawn.logprobs, drawn.entropies)
        if self._numbers is not None:
            self._numbers[place] = self._number_of[row["prompt_id"]]

    def _tokens_of(self, prompt_id: str) -> list[int]:
        """The token ids of a training prompt."""
        if self.open_images is not None:
            return list(self._prompt(self._number_of[prompt_id]).ids)
        return list(self._tokenize_prompts([self._row(prompt_id)["prompt"]])[0][0])

    # --- rewards ---------------------------------------------------------------------------------------------------

    def _without_unknown(self, rewards_BF: torch.Tensor) -> torch.Tensor:
        """NaN in all of a row whose weighted rewards are: TRL leaves such rows out, others it would take for 0."""
        weighed_BF = rewards_BF[:, self.reward_weights.to(rewards_BF.device) != 0]
        return torch.where(weighed_BF.isnan().all(1, keepdim=True), torch.nan, rewards_BF)

    def _weighted(self, rewards_BF: torch.Tensor) -> torch.Tensor:
        """[B] what rows are trained on, NaN where nobody can tell."""
        weights = self.reward_weights.to(rewards_BF.device)
        return torch.where(rewards_BF.isnan().all(1), torch.nan, (rewards_BF * weights).nansum(dim=1))

    # --- the batch -------------------------------------------------------------------------------------------------

    def _attach(self, output: dict) -> dict:
        """Put the trajectories' masks and log-probs beside the batch, and rows beside its own."""
        if not (self.mixer.injects or self.mixer.settings.replay):
            return output
        ids, settings = output["completion_ids"], self.injection_settings
        mask, logps = torch.zeros_like(ids), torch.zeros(ids.shape, device=ids.device)
        ratio = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for row, trajectory in self._guide_rows.items():
            mask[row, : len(trajectory.token_ids)] = 1
            logps[row, : len(trajectory.token_ids)] = torch.tensor(trajectory.logprobs, device=ids.device)
            ratio[row] = beside.RATIOS.index(settings.importance_sampling)
        output[beside.GUIDE_MASK], output[beside.GUIDE_LOGPS], output[beside.RATIO] = mask, logps, ratio
        if self._grown is not None:
            output["advantages"] = self._own(self._grown)
        elif settings.baseline == "on_policy_only" and self._scored is not None:
            output["advantages"] = self._own(self._on_policy_advantages())
        return self._with_rows_beside(output) if self._rows_beside else output

    def _own(self, values_B: torch.Tensor) -> torch.Tensor:
        """This process's share of the values of all rows."""
        start = self.accelerator.process_index * len(self._rollout)
        return values_B[start : start + len(self._rollout)]

    def _on_policy_advantages(self) -> torch.Tensor:
        """[B] of all processes, against the mean of each group's own completions."""
        rewards_PG = self._weighted(self._scored).view(-1, self.num_generations)
        mine = torch.zeros(len(self._rollout), dtype=torch.bool, device=rewards_PG.device)
        mine[list(self._guide_rows)] = True
        injected_PG = self.accelerator.gather(mine).view_as(rewards_PG)
        return injection.group_advantages(rewards_PG, ~injected_PG, self.scale_rewards).view(-1)

    def _with_rows_beside(self, output: dict) -> dict:
        """The batch with this process's share of the rows beside it, and their old log-probabilities if it has any."""
        rows, before = self._rows_beside, len(output["advantages"])
        ids = [row.trajectory.prompt_id for row in rows]
        shares = beside.Shares(
            loss=self.loss_type,
            rows=before * self.accelerator.num_processes,
            processes=self.accelerator.num_processes,
            parts=self.args.steps_per_generation,
            max_tokens=self.max_completion_length,
        )
        output = beside.append(
            output,
            rows,
            [self._tokens_of(id_) for id_ in ids],
            [self._number_of[id_] for id_ in ids],
            shares,
            self.accelerator.process_index,
            self._tokenizer.pad_token_id,
        )
        if "old_per_token_logps" in output:
            output["old_per_token_logps"][before:] = self._logps_of(output, slice(before, None))
        return output

    @torch.no_grad()
    def _logps_of(self, output: dict, rows: slice) -> torch.Tensor:
        """The policy's log-probabilities [rows, T] of the completions of some rows."""
        ids, mask = (
            torch.cat([output[f"prompt_{name}"][rows], output[f"completion_{name}"][rows]], dim=1)
            for name in ("ids", "mask")
        )
        kept, numbers = output["completion_ids"].shape[1], self._numbers
        if self.open_images is not None:
            self._numbers = output[beside.NUMBERS][rows]
        logps, _, _ = self._get_per_token_logps_and_entropies(
            self.model, ids, mask, kept, self.args.per_device_train_batch_size
        )
        self._numbers = numbers
        return logps


def other_rewards(prompt_id: str, found: int, functions: int) -> DataError:
    return DataError(
        f"The trajectory of prompt {prompt_id} has {found} rewards for {functions} reward functions: generate guidance "
        "again with these, or give one reward for each."
    )
