"""Accuracy and reward in the real trainer: the gate reads the one, training is on the other, outages on neither."""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from npo_core.config import Execution
from npo_core.config.verifier import ExactVerifier, FormatVerifier, LengthVerifier, Part, WeightedVerifier
from npo_core.guidance.trajectory import Trajectory
from npo_core.problems import Outcome, ProblemSet, Verdict
from npo_core.problems.chain import solve
from npo_core.problems.judge import make_judge
from npo_core.training.build import Rewards
from npo_core.training.recorder import step_row
from npo_core.training.trainer import InjectionSettings
from tests.training.conftest import judged

STD_SLACK = 1e-4  # TRL adds it to the standard deviation
GUIDE = (1.0, 0.75)  # accuracy and reward of every trajectory here
# Two digits of which the last one counts are right in form; three tokens with their end cost half the penalty.
SUM = WeightedVerifier(
    parts=[
        Part(name="accuracy", weight=0.9, verifier=ExactVerifier()),
        Part(name="format", weight=0.1, verifier=FormatVerifier(pattern=r"\A\d\d\Z")),
        Part(name="overlong", weight=1.0, verifier=LengthVerifier(max_tokens=4, buffer=2)),
    ]
)
RIGHT, WRONG, BRIEF = "right", "wrong", "brief"  # brief: right, but the last digit alone
WORTH = {RIGHT: 0.9 + 0.1 - 0.5, WRONG: 0.1 - 0.5, BRIEF: 0.9}


def written(prompt: str, kind: str) -> str:
    first, last = solve(prompt)
    return {RIGHT: first + last, WRONG: first + str((int(last) + 1) % 10), BRIEF: last}[kind]


@pytest.fixture
def play(base_folder, problem_set, train_settings, tmp_path):
    """One update on scripted completions of one prompt, judged as told."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")

    def run(kinds, judge, names=("accuracy", "reward"), guided=False, settings=None, **changes):
        problem = problem_set.train[0]
        problems = ProblemSet([problem], problem_set.held_out, judge, reward_names=names)
        ids = [[*tokenizer(written(problem.prompt, kind))["input_ids"], tokenizer.eos_token_id] for kind in kinds]
        rewards = Rewards(problems, {tokenizer.eos_token_id})
        sizes = {"steps": 1, "prompts_per_step": 1, "group_size": len(kinds), "max_completion_tokens": 4}
        trainer = judged(
            base_folder,
            problems,
            rewards,
            train_settings(**sizes, snapshot_every=1000, **changes),
            tmp_path / "out",
            guidance={problem.id: trajectory(problem, ids[0], GUIDE[: len(names)])} if guided else None,
            injection_settings=InjectionSettings(**(settings or {})),
        )
        trainer._generate_single_turn = lambda *_: (ids, None)
        batches, score = [], trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
        trainer.train()
        return SimpleNamespace(
            advantages=batches[0]["advantages"].tolist(), log=trainer.state.log_history[0], outcomes=trainer.outcomes
        )

    return run


def trajectory(problem, token_ids, rewards) -> Trajectory:
    return Trajectory(
        prompt_id=problem.id,
        token_ids=np.array(token_ids, np.int32),
        logprobs=np.full(len(token_ids), -0.5, np.float32),
        rewards=np.array(rewards, np.float32),
        outcome="correct",
        guide="8f2c",
        guide_step=60,
        sample=0,
        samples=1,
        seed=7,
    ).validate()


def says(*verdicts: Verdict):
    """A judge that says this, whatever it is asked."""
    return lambda completions: list(verdicts)[: len(completions)]


def normalized(rewards: list[float]) -> list[float]:
    """Against mean and unbiased standard deviation of those that are known; 0 for the others."""
    known = [reward for reward in rewards if not math.isnan(reward)]
    mean, scale = statistics.fmean(known), statistics.stdev(known) + STD_SLACK
    return [0.0 if math.isnan(reward) else (reward - mean) / scale for reward in rewards]


@pytest.fixture
def weigh():
    return make_judge(SUM, r"(\d)$", Execution())


@pytest.mark.parametrize("guided", [False, True])
def test_the_gate_reads_the_accuracy_and_training_the_sum(play, weigh, guided):
    """Half are right, below 0.6; by the sum the group would have 0.35."""
    kinds = [RIGHT, BRIEF, WRONG, WRONG]
    seen = play(kinds, weigh, guided=guided)
    worth = [WORTH[kind] for kind in kinds[:-1]] + [GUIDE[1] if guided else WORTH[WRONG]]
    assert seen.log["pass_rate"] == seen.outcomes[0].pass_rate == 0.5
    assert seen.outcomes[0].injected is guided
    assert seen.log["reward"] == pytest.approx(statistics.fmean(worth))
    assert seen.advantages == pytest.approx(normalized(worth), abs=1e-5)
    assert seen.advantages[1] > seen.advantages[0] > seen.advantages[2]


@pytest.mark.parametrize(
    ("accuracies", "rewards", "injected"),
    [
        ((1, 1, 0, 0), (-5, -5, 9, 9), True),
        ((1, 1, 1, 0), (-5, -4, -3, -2), False),
        ((0.5, 0.5, 0.5, 0.5), 4 * (1,), True),
    ],
)
def test_no_reward_opens_or_shuts_the_gate(play, accuracies, rewards, injected):
    verdicts = [Verdict(Outcome.WRONG, float(a), float(r)) for a, r in zip(accuracies, rewards, strict=True)]
    seen = play([WRONG] * 4, says(*verdicts), guided=True)
    assert seen.outcomes[0].injected is injected
    assert seen.log["pass_rate"] == pytest.approx(statistics.fmean(accuracies))


def test_a_dead_group_by_accuracy_still_learns_its_form(play, weigh):
    seen = play([RIGHT, BRIEF], weigh)
    assert seen.log["groups/all_right"] == 1
    assert seen.advantages == pytest.approx(normalized([WORTH[RIGHT], WORTH[BRIEF]]), abs=1e-5)


HUNG = Verdict(Outcome.TIMEOUT, math.nan, math.nan)
HALF_KNOWN = Verdict(Outcome.CRASH, 1.0, math.nan)  # another part than the accuracy crashed
GOOD, BAD = Verdict(Outcome.CORRECT, 1.0, 1.0), Verdict(Outcome.WRONG, 0.0, 0.0)


@pytest.mark.parametrize("names", [("accuracy",), ("accuracy", "reward")])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_an_outage_counts_in_no_pass_rate_and_is_not_trained_on(play, names, scale):
    seen = play([WRONG] * 4, says(GOOD, HUNG, BAD, BAD), names=names, scale_rewards=scale)
    assert seen.log["pass_rate"] == pytest.approx(1 / 3)
    expected = [2 / 3, 0, -1 / 3, -1 / 3] if scale == "none" else normalized([1, math.nan, 0, 0])
    assert seen.advantages == pytest.approx(expected, abs=1e-5)
    assert seen.advantages[1] == 0.0
    assert seen.log["reward"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_an_unknown_reward_with_a_known_accuracy(play, scale):
    seen = play([WRONG] * 4, says(GOOD, HALF_KNOWN, BAD, BAD), scale_rewards=scale)
    assert seen.log["pass_rate"] == 0.5
    expected = [2 / 3, 0, -1 / 3, -1 / 3] if scale == "none" else normalized([1, math.nan, 0, 0])
    assert seen.advantages == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_an_outage_beside_an_injection_with_the_on_policy_baseline(play, scale):
    """The guide takes the last slot; the mean is over the two that are known and not the guide's."""
    seen = play(
        [WRONG] * 4,
        says(GOOD, HUNG, BAD, BAD),
        guided=True,
        settings={"baseline": "on_policy_only"},
        scale_rewards=scale,
    )
    factor = 1 if scale == "none" else statistics.stdev([1, 0, GUIDE[1]]) + STD_SLACK
    expected = [0.5 / factor, 0.0, -0.5 / factor, (GUIDE[1] - 0.5) / factor]
    assert seen.advantages == pytest.approx(expected, abs=1e-5)


def test_a_group_of_outages_takes_no_guidance_and_teaches_nothing(play):
    seen = play([WRONG] * 4, says(HUNG, HUNG, HUNG, HUNG), guided=True)
    assert seen.outcomes[0].injected is False and math.isnan(seen.outcomes[0].pass_rate)
    assert seen.advantages == [0.0] * 4


def test_outcomes_are_counted_in_the_steps_metrics(play):
    unread = Verdict(Outcome.UNPARSABLE, 0.0, 0.0)
    row = step_row(1, play([WRONG] * 6, says(GOOD, unread, HUNG, unread, HALF_KNOWN, unread)).log)
    counted = {name: row[name] for name in ("verified_unparsable", "verified_timeout", "verified_crash")}
    assert counted == {"verified_unparsable": 3, "verified_timeout": 1, "verified_crash": 1}


def test_a_batch_is_judged_once(play, weigh):
    asked = []
    play([RIGHT, WRONG], lambda completions: asked.append(len(completions)) or weigh(completions), guided=True)
    assert asked == [2]
