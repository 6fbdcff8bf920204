"""The probe's estimates with engines whose log-probabilities are made by hand."""

import math

import numpy as np
import pytest

from npo_core.control.pool import Mistake
from npo_core.control.probe import choose_mistakes, estimate, from_behind, k3, missed, once_more, roll_out, score
from npo_core.engines import Generated
from npo_core.problems import Problem
from npo_core.problems.problem import graded
from npo_core.timeline import SnapshotRef

AT = SnapshotRef(step=10, snapshot="s10")


class FakeEngine:
    """Answers from a table; scores every token with one log-probability a prompt."""

    def __init__(self, scores: dict[str, float], answers: dict[str, list[str]] | None = None):
        self.scores, self.answers, self.asked = scores, answers, []

    def generate(self, problems, *, samples, max_tokens, seed):
        self.asked.append(([p.prompt for p in problems], samples, max_tokens, seed))
        return [
            [
                Generated([7] * (len(text) + 1), text, finished=text != "cut")
                for text in self.answers[p.prompt][:samples]
            ]
            for p in problems
        ]

    def score(self, problems, completions):
        return [np.full(len(c), self.scores[p.prompt], np.float32) for p, c in zip(problems, completions, strict=True)]


def problem(name: str) -> Problem:
    return Problem(id=name, prompt=f"{name}=", answer=name, difficulty=1)


def judge(completions):
    return [graded(float(c.finished and c.text == c.problem.answer)) for c in completions]


@pytest.fixture
def rollouts():
    """Three failures at steps 2, 5 and 9: a is solved twice, b once, c never; one completion was cut off."""
    policy = FakeEngine({}, {"a=": ["a", "a"], "b=": ["b", "x"], "c=": ["cut", "x"]})
    mistakes = [Mistake("a", 2, 0.0), Mistake("b", 5, 0.25), Mistake("c", 9, 0.0)]
    found = roll_out(policy, mistakes, {n: problem(n) for n in "abc"}, judge, samples=2, max_tokens=6, seed=5)
    assert policy.asked == [(["a=", "b=", "c="], 2, 6, 5)]  # one rollout, nothing else
    return found


def test_a_completion_counts_only_if_it_ended_and_is_right(rollouts):
    assert [r.correct for r in rollouts] == [[True, True], [True, False], [False, False]]


def test_a_cut_off_completion_is_wrong_even_with_the_right_text():
    policy = FakeEngine({}, {"cut=": ["cut"]})
    [found] = roll_out(
        policy, [Mistake("cut", 1, 0.0)], {"cut": problem("cut")}, judge, samples=1, max_tokens=6, seed=5
    )
    assert found.correct == [False]


def test_every_candidate_gets_the_failures_after_it(rollouts):
    current = FakeEngine({"a=": -1.0, "b=": -1.0, "c=": -1.0})
    snapshots = {
        0: ("s0", lambda: FakeEngine({"a=": -1.5, "b=": -0.75, "c=": -1.0})),
        5: ("s5", lambda: FakeEngine({"c=": -1.25})),
        9: ("s9", lambda: pytest.fail("nothing failed after it, so nothing is scored")),
    }
    told = []
    found = estimate(
        rollouts, score(current, rollouts), AT, snapshots, pool=7, progress=lambda *done: told.append(done)
    )
    assert (found.pool, found.prompts, found.samples, found.q) == (7, 3, 2, 0.5)
    # tokens: two of 2 for a, two of 2 for b, 4 and 2 for c
    assert found.tokens == 14 and told == [(1, 3), (2, 3), (3, 3)]
    first, second, third = found.candidates
    assert [c.delta for c in found.candidates] == [10, 5, 1] and [c.snapshot for c in found.candidates] == [
        "s0",
        "s5",
        "s9",
    ]
    assert (first.prompts, first.q, first.length) == (3, 0.5, 14 / 6)
    per_token = {r: math.exp(r) - 1 - r for r in (-0.5, 0.25, 0.0, -0.25)}
    assert first.kl_k3 == pytest.approx((4 * per_token[-0.5] + 4 * per_token[0.25] + 6 * per_token[0.0]) / 14)
    assert first.kl == pytest.approx((4 * 0.5 - 4 * 0.25) / 14)
    assert (second.prompts, second.q, second.length) == (1, 0.0, 3.0)
    assert (second.kl, second.kl_k3) == pytest.approx((0.25, per_token[-0.25]))
    assert (third.prompts, third.q, third.kl, third.kl_k3, third.length) == (0, None, None, None, None)


def test_more_samples_of_what_is_missed(rollouts):
    """Half of all samples are right; of the three whose others are all wrong, b's is and c's two are not."""
    now = once_more(rollouts, AT)
    assert (now.step, now.snapshot, now.delta) == (10, "s10", 0)
    assert (now.prompts, now.kl, now.length) == (3, 0.0, 14 / 6)
    assert now.q == pytest.approx(0.5 + 1 / 3 * 1 / 3)  # a third of the failures is missed
    assert once_more(rollouts[:1], AT).q == 1.0 and once_more([], AT).q is None
    assert estimate(rollouts, [], AT, {}, pool=7).now == now


def test_a_snapshot_behind_is_asked_about_what_is_missed(rollouts):
    fails = [rollout.mistake for rollout in missed(rollouts)]
    assert [mistake.prompt_id for mistake in fails] == ["c"]
    past, place = FakeEngine({"c=": -1.0}, {"c=": ["c", "x"]}), SnapshotRef(step=4, snapshot="s4")
    theirs = roll_out(past, fails, {"c": problem("c")}, judge, samples=2, max_tokens=6, seed=6)
    found = from_behind(rollouts, AT, place, theirs, score(past, theirs), FakeEngine({"c=": -1.5}))
    assert (found.step, found.snapshot, found.delta, found.prompts, found.solved) == (4, "s4", -6, 3, 1.0)
    assert found.q == pytest.approx(0.5 + 1 / 3 * 0.5)
    assert found.kl == pytest.approx(0.5 * (1 / 6) / (2 / 3))  # the policy's own part of Q is no distance away


def test_nothing_to_ask_gives_no_estimate():
    found = estimate([], [], AT, {4: ("s4", lambda: pytest.fail("not loaded"))}, pool=0)
    assert (found.prompts, found.samples, found.q, found.tokens) == (0, 0, None, 0)
    assert found.candidates[0].prompts == 0


def test_k3_is_zero_for_equal_policies_and_never_negative():
    assert k3(np.zeros(5, np.float32)) == 0.0
    assert k3(np.float32([-2.0])) == pytest.approx(math.exp(-2) + 1)
    assert k3(np.float32([0.3, -0.3])) > 0


@pytest.mark.parametrize(
    ("size", "most", "chosen"),
    [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (10, 4, [0, 3, 6, 9]), (4, 1, [0])],
)
def test_a_large_pool_is_thinned_evenly_over_its_age(size, most, chosen):
    pool = [Mistake(str(i), i, 0.0) for i in range(size)]
    assert [mistake.step for mistake in choose_mistakes(pool, most)] == chosen
