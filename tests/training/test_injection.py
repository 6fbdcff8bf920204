"""Injection through the real trainer: only the model's sampling is scripted, so that its right answers are known.

Expected numbers are worked out by hand or with the standard library, never with the project's own functions.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import GRPOTrainer

from npo_core.engines import sampling
from npo_core.errors import ConfigError, DataError
from npo_core.guidance.trajectory import Trajectory
from npo_core.models.inputs import PromptInputs
from npo_core.problems import ProblemSet
from npo_core.problems.chain import solve
from npo_core.seeds import derive_seed
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.trainer import InjectionSettings, NPOTrainer

RIGHT, WRONG, SHORT, CUT = "right", "wrong", "short", "cut"  # short: one digit; cut: right, but without an end
GUIDE_LOGPS = np.array([-0.5, -1.0, -0.25], np.float32)
STD_SLACK = 1e-4  # TRL adds it to the standard deviation
PAPER_TABLE = {1: (2.475, -0.354), 2: (1.620, -0.540), 3: (1.208, -0.725), 4: (0.935, -0.935), 5: (0.725, -1.208)}


class Spy(NPOTrainer):
    """The trainer under test; keeps every generation batch and what each loss was computed from."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches, self.losses = [], []

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.batches.append({**output, "rows": [row["prompt_id"] for row in inputs]})
        return output

    def _compute_loss(self, model, inputs):
        self._policy_logps = None
        loss = super()._compute_loss(model, inputs)
        self.losses.append({**inputs, "loss": loss.item(), "policy_logps": self._policy_logps})
        return loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._policy_logps = result[0].detach().clone()
        self.seen_entropies = None if result[1] is None else result[1].detach().clone()
        return result


@pytest.fixture(scope="module")
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder, padding_side="left")


@pytest.fixture
def model(base_folder):
    return AutoModelForCausalLM.from_pretrained(base_folder)


@pytest.fixture
def play(model, tokenizer, problem_set, train_settings, tmp_path):
    """One run of the trainer on scripted groups.

    `groups`: a list of samples a group. `cached`: indices of the groups whose prompt has guidance, all for None.
    """

    def run(groups, *, cached=None, trajectory=None, settings=None, rewards=None, steps=1, guidance=True, **changes):
        problems = ProblemSet(problem_set.train[: len(groups)], problem_set.held_out, problem_set.judge)
        script = dict(zip([p.prompt for p in problems.train], groups, strict=True))
        cached = range(len(groups)) if cached is None else cached
        cache = {problems.train[i].id: (trajectory or guide)(problems.train[i], tokenizer) for i in cached}
        scored = []
        accuracy = Rewards(problems, {tokenizer.eos_token_id}).accuracy

        def counted(completions, prompt_id, **kwargs):
            scored.extend(zip(prompt_id, completions, strict=True))
            return accuracy(completions, prompt_id=prompt_id, **kwargs)

        config = train_settings(
            **{
                "steps": steps,
                "prompts_per_step": len(groups),
                "group_size": len(groups[0]),
                "max_completion_tokens": 4,
                "snapshot_every": 1000,
                **changes,
            }
        )
        args = grpo_config(config, seed=0, output=tmp_path / "out", device="cpu")
        args.save_strategy = "no"
        trainer = Spy(
            model,
            reward_funcs=[counted, *(rewards or [])],
            train_dataset=training_data(problems),
            args=args,
            processing_class=tokenizer,
            guidance=cache if guidance else None,
            injection_settings=InjectionSettings(**(settings or {})),
        )
        trainer.remove_callback(PrinterCallback)
        trainer._generate_single_turn = lambda prompt_ids, *_: (sample(prompt_ids, script, tokenizer), None)
        trainer.train()
        order = [problem.id for problem in problems.train]
        group_of = [order.index(id_) for id_ in trainer.batches[0]["rows"][:: len(groups[0])]]
        return SimpleNamespace(
            trainer=trainer,
            problems=problems.train,
            cache=cache,
            scored=scored,
            groups=group_of,
            log=trainer.state.log_history[0],
            batch=trainer.batches[0],
            losses=trainer.losses,
        )

    return run


def sample(prompt_ids, script, tokenizer):
    """The scripted completions by token id: the i-th row of a prompt is the i-th sample of its group."""
    met, rows = Counter(), []
    for ids in prompt_ids:
        prompt = tokenizer.decode(ids, skip_special_tokens=True)
        rows.append(completion(prompt, script[prompt][met[prompt]], tokenizer))
        met[prompt] += 1
    return rows


def completion(prompt: str, kind: str, tokenizer) -> list[int]:
    first, last = solve(prompt)
    text = {RIGHT: first + last, WRONG: first + plus(last, 1), SHORT: first, CUT: first + last}[kind]
    return [*tokenizer(text)["input_ids"], *([] if kind == CUT else [tokenizer.eos_token_id])]


def plus(digit: str, more: int) -> str:
    return str((int(digit) + more) % 10)


def guide_text(prompt: str) -> str:
    """A right answer that no scripted sample has: its first running result is wrong, the last one counts."""
    first, last = solve(prompt)
    return plus(first, 3) + last


def guide(problem, tokenizer, token_ids=None, logps=GUIDE_LOGPS, rewards=(1.0,)) -> Trajectory:
    ids = token_ids or [*tokenizer(guide_text(problem.prompt))["input_ids"], tokenizer.eos_token_id]
    return Trajectory(
        prompt_id=problem.id,
        token_ids=np.array(ids, np.int32),
        logprobs=np.array(logps, np.float32),
        rewards=np.array(rewards, np.float32),
        outcome="correct",
        guide="8f2c",
        guide_step=60,
        sample=0,
        samples=1,
        seed=7,
    ).validate()


def group(right: int, size: int = 8, last: str = WRONG) -> list[str]:
    """`right` right samples, then wrong ones, the last slot as told."""
    return [RIGHT] * right + [WRONG] * (size - 1 - right) + [last]


def of_group(play, index: int, values: torch.Tensor) -> torch.Tensor:
    """The rows of the group that was given as number `index`."""
    size = len(values) // len(play.groups)
    place = play.groups.index(index)
    return values[place * size : (place + 1) * size]


# --- advantages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "replaced"),
    [  # 5 of 8 right on-policy would not pass the gate
        *((right, WRONG) for right in (1, 2, 3, 4, 5)),
        *((right, RIGHT) for right in (1, 2, 3, 4)),
    ],
)
def test_advantages_are_those_of_the_table(play, right, replaced):
    seen = play([group(right - 1, last=replaced)])
    rewards = [1.0] * (right - 1) + [0.0] * (8 - right) + [1.0]
    scale = statistics.stdev(rewards) + STD_SLACK
    expected = [(reward - right / 8) / scale for reward in rewards]
    assert seen.batch["advantages"].tolist() == pytest.approx(expected, abs=2e-6)
    of_right, of_wrong = PAPER_TABLE[right]
    assert expected[-1] == pytest.approx(of_right, abs=1.2e-3)
    assert expected[-2] == pytest.approx(of_wrong, abs=1.2e-3)
    assert seen.log["reward"] == pytest.approx(right / 8)
    assert seen.log["pass_rate"] == pytest.approx((right - 1 + (replaced == RIGHT)) / 8)


@pytest.mark.parametrize(
    ("baseline", "scale", "expected"),
    [
        ("mixed", "none", (-0.125, 0.875)),
        ("on_policy_only", "none", (0.0, 1.0)),
        ("mixed", "group", (-0.3534534, 2.4741741)),  # std 0.3535534, TRL's 1e-4 on it
        ("on_policy_only", "group", (0.0, 2.8276275)),
    ],
)
def test_baseline_of_seven_wrong_and_one_injected(play, baseline, scale, expected):
    seen = play([group(0)], settings={"baseline": baseline}, scale_rewards=scale)
    assert seen.batch["advantages"].tolist() == pytest.approx([expected[0]] * 7 + [expected[1]], abs=1e-6)


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_on_policy_baseline_leaves_out_the_guide_and_no_other(play, scale):
    seen = play([group(3), group(2)], cached=[0], settings={"baseline": "on_policy_only"}, scale_rewards=scale)
    mixed, plain = [1.0] * 3 + [0.0] * 4 + [1.0], [1.0] * 2 + [0.0] * 6
    scales = {
        "none": (1.0, 1.0),
        "batch": (statistics.stdev(mixed + plain) + STD_SLACK,) * 2,
        "group": (statistics.stdev(mixed) + STD_SLACK, statistics.stdev(plain) + STD_SLACK),
    }[scale]
    first, second = (of_group(seen, i, seen.batch["advantages"]).tolist() for i in (0, 1))
    assert first == pytest.approx([(reward - 3 / 7) / scales[0] for reward in mixed], abs=1e-6)
    assert second == pytest.approx([(reward - 2 / 8) / scales[1] for reward in plain], abs=1e-6)


# --- gate and slot -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "right", "tau", "injected"),
    [
        (5, 3, 0.6, False),
        (5, 2, 0.6, True),
        (10, 6, 0.6, False),
        (10, 5, 0.6, True),
        (10, 7, 0.7, False),
        (10, 1, 0.1, False),
        (10, 3, 0.3, False),
        (4, 2, 0.5, False),
        (4, 1, 0.5, True),
        (4, 4, 1.0, False),
        (4, 3, 1.0, True),
        (4, 0, 0.0, False),
    ],
)
def test_gate_is_strictly_below_tau(play, size, right, tau, injected):
    samples = [RIGHT] * right + [WRONG] * (size - right)
    seen = play([samples], settings={"tau_gate": tau})
    assert seen.log["groups/injected"] == float(injected)
    assert seen.trainer.outcomes[0].injected is injected
    assert bool(seen.batch["guide_mask"].any()) is injected


def test_gate_reads_the_slot_that_is_replaced(play):
    """5 of 8 right, one of them in the last slot: 0.625 is not below 0.6, 4 of 7 would be."""
    seen = play([group(4, last=RIGHT)])
    assert seen.log["groups/injected"] == 0
    assert seen.log["reward"] == pytest.approx(5 / 8)


def test_only_the_last_slot_is_replaced_and_by_token_id(play, tokenizer):
    """The guide's ids hold a padding token, which no way over text would keep."""
    odd = {}

    def with_padding(problem, tok):
        first, last = tok(guide_text(problem.prompt))["input_ids"]
        odd[problem.id] = [first, tok.pad_token_id, last, tok.eos_token_id]
        return guide(problem, tok, odd[problem.id], [-0.1, -0.2, -0.3, -0.4])

    samples = [SHORT, RIGHT, WRONG, SHORT]
    seen = play([samples, samples], cached=[1], trajectory=with_padding)
    for index, problem in enumerate(seen.problems):
        ids, mask = (of_group(seen, index, seen.batch[name]) for name in ("completion_ids", "completion_mask"))
        expected = [completion(problem.prompt, kind, tokenizer) for kind in samples]
        if index == 1:
            expected[-1] = odd[problem.id]
        assert [row[: int(kept.sum())].tolist() for row, kept in zip(ids, mask, strict=True)] == expected
        assert [int(kept.sum()) for kept in mask] == [len(row) for row in expected]
        marked = of_group(seen, index, seen.batch["guide_mask"]).sum(1).tolist()
        assert marked == ([0, 0, 0, 4] if index == 1 else [0, 0, 0, 0])
    assert tokenizer.eos_token_id == odd[seen.problems[1].id][-1]


def test_nothing_is_verified_twice_and_the_guide_not_at_all(play):
    groups = [group(0, 4), group(1, 4, RIGHT), group(3, 4, RIGHT), group(0, 4)]
    seen = play(groups, cached=[0, 1, 2])
    assert Counter(id_ for id_, _ in seen.scored) == {problem.id: 4 for problem in seen.problems}
    texts = {text for _, text in seen.scored}
    assert not texts & {guide_text(problem.prompt) for problem in seen.problems}
    assert seen.log["groups/injected"] == 2


def test_a_right_answer_without_an_end_earns_nothing(play):
    seen = play([[RIGHT, CUT, CUT, WRONG]])
    assert seen.log["pass_rate"] == 0.25
    assert seen.log["groups/injected"] == 1


def test_counters_and_outcomes(play):
    """Dead and rescued; dead without a trajectory; injected; all right; above the gate."""
    groups = [group(0, 4), group(0, 4), group(1, 4), group(3, 4, RIGHT), group(3, 4)]
    seen = play(groups, cached=[0, 2, 3, 4])
    counts = {name: seen.log[f"groups/{name}"] for name in ("all_wrong", "all_right", "injected", "rescued")}
    assert counts == {"all_wrong": 2, "all_right": 1, "injected": 2, "rescued": 1}
    assert seen.log["pass_rate"] == pytest.approx((0 + 0 + 0.25 + 1 + 0.75) / 5)
    assert seen.log["reward"] == pytest.approx((0.25 + 0 + 0.5 + 1 + 0.75) / 5)
    outcomes = {o.prompt_id: (o.pass_rate, o.injected) for o in seen.trainer.outcomes}
    wanted = [(0.0, True), (0.0, False), (0.25, True), (1.0, False), (0.75, False)]
    assert outcomes == {problem.id: want for problem, want in zip(seen.problems, wanted, strict=True)}
    assert seen.log["tokens_generated"] == 5 * 4 * 3  # the policy's own, the dropped samples counted
    dead = of_group(seen, 1, seen.batch["advantages"])
    assert dead.tolist() == [0.0] * 4


def test_all_groups_dead_goes_on(play):
    seen = play([group(0, 4), group(0, 4)], cached=[])
    assert seen.log["groups/all_wrong"] == 2
    assert seen.log["loss"] == 0.0
    assert seen.trainer.state.global_step == 1


def test_every_reward_function_takes_the_rewards_of_the_trajectory(play):
    calls = []

    def style(completions, **_):
        calls.append(len(completions))
        return [0.25] * len(completions)

    seen = play(
        [group(0, 4)],
        rewards=[style],
        scale_rewards="none",
        trajectory=lambda problem, tok: guide(problem, tok, rewards=(1.0, 0.75)),
    )
    mean = (3 * 0.25 + 1.75) / 4
    assert seen.batch["advantages"].tolist() == pytest.approx([0.25 - mean] * 3 + [1.75 - mean], abs=1e-6)
    assert calls == [4]


def test_a_trajectory_with_too_few_rewards_is_refused(play):
    with pytest.raises(DataError, match="reward"):
        play([group(0, 4)], rewards=[lambda completions, **_: [0.25] * len(completions)])


def test_evaluation_mode_is_trls(play):
    seen = play([group(0, 4)])
    trainer, before = seen.trainer, len(seen.scored)
    outcomes = trainer.outcomes
    trainer.model.eval()
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    output = trainer._generate_and_score_completions(rows)
    assert "guide_mask" not in output
    assert len(seen.scored) - before == 4
    assert trainer.outcomes is outcomes
    assert output["advantages"].tolist() == [0.0] * 4


def test_data_without_prompt_ids_is_refused(model, tokenizer, train_settings, tmp_path):
    args = grpo_config(train_settings(), seed=0, output=tmp_path, device="cpu")
    data = Dataset.from_list([{"prompt": "1+1+1=", "answer": "23"}] * 8)
    with pytest.raises(ConfigError, match="prompt_id"):
        NPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [0.0],
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            guidance={},
        )


# --- importance sampling and loss ----------------------------------------------------------------------------------


def logps_by_hand(model, tokenizer, prompt: str, ids: list[int]) -> list[float]:
    """Log-probabilities of `ids` after `prompt`, one row alone and without padding."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt_ids, *ids]])).logits[0].double()
    start = len(prompt_ids) - 1
    return [torch.log_softmax(logits[start + i], 0)[token].item() for i, token in enumerate(ids)]


def surrogate(log_ratio: float, advantage: float) -> float:
    """The clipped objective of one token; clip 0.2 below and 0.28 above."""
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)


@pytest.mark.parametrize("scheme", ["off", "guide"])
def test_loss_by_hand(play, base_folder, tokenizer, scheme):
    """Token mean over the mixed groups; with `guide` its tokens alone have a ratio other than 1."""
    fresh = AutoModelForCausalLM.from_pretrained(base_folder)  # before the update
    seen = play([[WRONG, SHORT, SHORT, WRONG], [RIGHT, WRONG, SHORT, SHORT]], settings={"importance_sampling": scheme})
    total, tokens, moved = 0.0, 0, 0.0
    for problem, kinds in zip(seen.problems, [[WRONG, SHORT, SHORT], [RIGHT, WRONG, SHORT]], strict=True):
        rewards = [float(kind == RIGHT) for kind in kinds] + [1.0]
        mean, scale = sum(rewards) / 4, statistics.stdev(rewards) + STD_SLACK
        for kind, reward in zip(kinds, rewards, strict=False):
            count = 2 if kind == SHORT else 3
            total, tokens = total + count * (reward - mean) / scale, tokens + count
        advantage = (1 - mean) / scale
        ids = seen.cache[problem.id].token_ids.tolist()
        policy = logps_by_hand(fresh, tokenizer, problem.prompt, ids)
        for ours, theirs in zip(policy, GUIDE_LOGPS.tolist(), strict=True):
            total, tokens = total + advantage, tokens + 1
            moved += surrogate(ours - theirs, advantage) - advantage
    assert abs(moved) > 0.05 * abs(total)  # the case tells the two schemes apart
    expected = -(total + (moved if scheme == "guide" else 0.0)) / tokens
    assert seen.log["loss"] == pytest.approx(expected, abs=2e-6)


def test_no_old_log_probabilities_without_importance_sampling(play):
    """With one update a batch the ratio is 1 by construction: nothing is computed, stored or compared."""
    seen = play([group(0), group(2)])
    assert "old_per_token_logps" not in seen.batch
    assert all("old_per_token_logps" not in inputs for inputs in seen.losses)
    assert seen.log["clip_ratio/high_mean"] == seen.log["clip_ratio/low_mean"] == 0


@pytest.mark.parametrize("micro_batch", [128, 4])
@pytest.mark.parametrize("updates", [1, 2])
def test_ratio_is_against_the_guide_on_its_tokens_and_the_policy_elsewhere(play, updates, micro_batch):
    seen = play(
        [group(0), group(2)],
        settings={"importance_sampling": "guide"},
        updates_per_batch=updates,
        micro_batch=micro_batch,
        steps=updates,
        learning_rate=0.01,
    )
    assert ("old_per_token_logps" in seen.batch) is (updates == 2)
    passes = len(seen.losses)
    assert passes == max(updates, 16 // micro_batch)
    guides = 0
    for number, inputs in enumerate(seen.losses):
        policy, mask = inputs["policy_logps"], inputs["guide_mask"].bool()
        # With one update, a micro batch without the guide's row needs none: the ratio is then 1.
        old = inputs.get("old_per_token_logps", policy)
        ratio = torch.exp(policy - old)
        for row in mask.any(1).nonzero()[:, 0].tolist():
            stored = torch.tensor(GUIDE_LOGPS)
            assert torch.equal(ratio[row, :3], torch.exp(policy[row, :3] - stored))
            assert not torch.allclose(ratio[row, :3], torch.ones(3))
            guides += 1
        others = ratio[~mask & inputs["completion_mask"].bool()]
        first_update = number < passes // updates
        if updates == 1:
            assert torch.equal(others, torch.ones_like(others))
        elif first_update:
            assert torch.allclose(others, torch.ones_like(others), atol=1e-5)
        else:
            assert not torch.allclose(others, torch.ones_like(others), atol=1e-3)
    assert guides == 2


def test_with_two_updates_and_no_importance_sampling_the_guide_is_like_any_row(play, base_folder, tokenizer):
    """The denominator of every slot, the guide's too, is the policy's own log-probability at generation."""
    fresh = AutoModelForCausalLM.from_pretrained(base_folder)
    seen = play([group(0), group(2)], updates_per_batch=2, steps=2, learning_rate=0.01)
    for index, problem in enumerate(seen.problems):
        old = of_group(seen, index, seen.batch["old_per_token_logps"])
        kinds = [WRONG] * 7 if index == 0 else [RIGHT] * 2 + [WRONG] * 5
        ids = [completion(problem.prompt, kind, tokenizer) for kind in kinds]
        ids.append(seen.cache[problem.id].token_ids.tolist())
        for row, tokens in zip(old, ids, strict=True):
            assert row[:3].tolist() == pytest.approx(logps_by_hand(fresh, tokenizer, problem.prompt, tokens), abs=1e-5)
    assert int(torch.cat([inputs["guide_mask"].any(1) for inputs in seen.losses]).sum()) == 2


def test_distance_to_the_guide_by_hand(play, base_folder, tokenizer):
    fresh = AutoModelForCausalLM.from_pretrained(base_folder)
    seen = play([group(0), group(2), group(7, last=RIGHT)])
    log_r = []
    for problem in seen.problems[:2]:
        policy = logps_by_hand(fresh, tokenizer, problem.prompt, seen.cache[problem.id].token_ids.tolist())
        log_r += [ours - theirs for ours, theirs in zip(policy, GUIDE_LOGPS.tolist(), strict=True)]
    assert seen.log["guide/log_ratio"] == pytest.approx(statistics.fmean(log_r), abs=1e-5)
    k3 = statistics.fmean(math.exp(value) - 1 - value for value in log_r)
    assert seen.log["guide/kl"] == pytest.approx(k3, abs=1e-5)
    assert k3 > 0


def test_the_policys_entropy_leaves_out_the_guides_slots(play):
    """Two dead groups, one of them guided: seven and eight rows of the policy's own count."""
    run = play([[WRONG] * 8, [SHORT] * 8], cached=[0], micro_batch=16)
    [batch], entropies = run.losses, run.trainer.seen_entropies
    guided = batch["guide_mask"].any(1)
    assert guided.sum() == 1
    own = batch["completion_mask"] * ~guided[:, None]
    expected = (entropies * own).sum() / own.sum()
    assert run.log["entropy_on_policy"] == pytest.approx(expected.item(), rel=1e-6)
    of_all = (entropies * batch["completion_mask"]).sum() / batch["completion_mask"].sum()
    assert run.log["entropy"] == pytest.approx(of_all.item(), rel=1e-6) != run.log["entropy_on_policy"]


@pytest.mark.parametrize("guidance", [True, False])
def test_without_a_guides_slot_both_entropies_are_the_same_number(play, guidance):
    run = play([[WRONG] * 8, [SHORT] * 8], cached=[], guidance=guidance)
    assert run.log["entropy_on_policy"] == run.log["entropy"] > 0


def test_no_distance_without_injection(play):
    seen = play([group(7, last=RIGHT)])
    assert "guide/kl" not in seen.log
    assert "guide/log_ratio" not in seen.log


# --- all else is TRL's ---------------------------------------------------------------------------------------------


class Plain(GRPOTrainer):
    """TRL's trainer with the same order of data and the same draws, by the model's own `generate`, and nothing else."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses = []

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        sampler.generator.manual_seed(derive_seed("order", self.args.seed, 0))
        return sampler

    def _generate_single_turn(self, prompt_ids, *args):
        seed = derive_seed("step", self.args.seed, self._step // self.args.steps_per_generation, 0, 0)
        pad = self.processing_class.pad_token_id
        asked = sampling.Sampling(seed, self.max_completion_length, self.eos_token_ids, pad)
        rows = [sampling.Row(tuple(ids), number) for number, ids in enumerate(prompt_ids)]
        drawn = sampling.sample(
            self.model, lambda prompts: [PromptInputs(list(ids)) for ids in prompts], rows, asked, sharded=True
        )
        return [row.token_ids for row in drawn], None

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.append(loss.item())
        return loss


class Ours(NPOTrainer):
    """The trainer under test; keeps the loss of every micro step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses = []

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.append(loss.item())
        return loss


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"updates_per_batch": 2, "micro_batch": 4},
        {"kl_coef": 0.1, "loss": "grpo", "scale_rewards": "batch"},
    ],
    ids=["one update", "two updates, accumulated", "kl, grpo, batch"],
)
@pytest.mark.parametrize("guidance", [None, {}], ids=["no guidance", "empty cache"])
def test_without_guidance_all_is_trls(
    base_folder, tokenizer, problem_set, train_settings, tmp_path, monkeypatch, changes, guidance
):
    """To rounding; TRL's micro batches have rows as they come here, too, for else its updates are others."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)

    def run(kind, **extra):
        seen = []
        accuracy = Rewards(problem_set, {tokenizer.eos_token_id}).accuracy

        def reward(completion_ids, **kwargs):
            seen.append([list(map(int, ids)) for ids in completion_ids])
            return accuracy(completion_ids=completion_ids, **kwargs)

        config = train_settings(**{"steps": 6, "learning_rate": 0.01, **changes})
        trainer = kind(
            AutoModelForCausalLM.from_pretrained(base_folder),
            reward_funcs=reward,
            processing_class=tokenizer,
            args=grpo_config(config, seed=4, output=tmp_path / kind.__name__, device="cpu"),
            train_dataset=training_data(problem_set),
            **extra,
        )
        trainer.train()
        return seen, trainer.losses, trainer.model.state_dict(), trainer.state.log_history

    theirs, ours = run(Plain), run(Ours, guidance=guidance)
    assert ours[0] == theirs[0]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-4, abs=1e-5)
    assert any(ours[1])  # the runs learned something
    torch.testing.assert_close(ours[2], theirs[2], rtol=0, atol=1e-4)
    for mine, other in zip(ours[3], theirs[3], strict=True):
        shared = [
            key
            for key in other
            if "time" not in key
            and "runtime" not in key
            and "per_second" not in key
            and key not in ("loss", "train_loss")
            and (key, changes.get("updates_per_batch"))
            != ("entropy", 2)  # of rows without advantage, it is the rollout's
        ]
        assert {key: mine[key] for key in shared} == pytest.approx(
            {key: other[key] for key in shared}, rel=1e-3, abs=1e-4
        )
