"""What evaluation, probe and guidance make of answers of which nobody knows whether they are right."""

import math
from dataclasses import replace

import numpy as np
import pytest

from npo_core.control.pool import Mistake
from npo_core.control.probe import pass_rate, roll_out
from npo_core.engines import Generated
from npo_core.engines.rounds import InRounds
from npo_core.errors import VerifierError
from npo_core.evaluation.passrate import evaluate, score
from npo_core.guidance.generate import GuideSource, Judging, Request, Sampling, generate_guidance
from npo_core.guidance.shards import read_shard_ids
from npo_core.problems import Outcome, Problem, ProblemSet, Verdict
from npo_core.timeline.store import Store

VERDICTS = {
    "+": Verdict(Outcome.CORRECT, 1.0, 1.0),
    "-": Verdict(Outcome.WRONG, 0.0, 0.0),
    "?": Verdict(Outcome.TIMEOUT, math.nan, math.nan),
    "~": Verdict(Outcome.CRASH, 1.0, math.nan),  # right, but another part crashed
    "%": Verdict(Outcome.WRONG, 0.5, 0.5),
}


class Scripted(InRounds):
    """An engine whose samples are the letters of the problem's answer."""

    def generate(self, problems, *, samples, max_tokens, seed):
        return [[Generated([1, 2], text, True) for text in p.answer[:samples]] for p in problems]

    def score(self, problems, completions):
        return [np.full(len(tokens), -0.5, np.float32) for tokens in completions]


def problems(*answers: str) -> ProblemSet:
    given = [Problem(f"{i:016x}", f"prompt {i}", answer, difficulty=i % 2) for i, answer in enumerate(answers)]
    return ProblemSet(given, given, lambda completions: [VERDICTS[c.text] for c in completions])


def test_evaluation_leaves_them_out():
    """1/2 of the first is known and right, 1/1 of the second; of the third nothing is known."""
    asked = problems("+-", "+?", "??", "--")
    found = score(Scripted(), asked.held_out, asked.judge, samples=2, max_tokens=2, seed=0)
    assert found.pass_rate == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert (found.problems, found.unverified, found.samples) == (3, 3, 2)
    assert found.pass_at_k == {1: pytest.approx(0.5), 2: pytest.approx(0.5)}
    assert found.pass_at_k_error == {1: pytest.approx(12**-0.5), 2: pytest.approx(0.5)}  # of 1/2, 1, 0 and of 1, 0
    assert found.by_difficulty == {0: pytest.approx(0.5), 1: pytest.approx(0.5)}


def test_every_data_set_has_a_score_of_its_own():
    others = {"hard": problems("--", "+-", "--").train, "easy": problems("++").train}
    asked = replace(problems("++", "+-"), benchmarks=others)
    found = evaluate(Scripted(), asked, samples=2, max_tokens=2, seed=0).model_dump(mode="json")
    assert found["pass_rate"] == pytest.approx(0.75) and found["problems"] == 2
    assert {name: part["pass_rate"] for name, part in found["benchmarks"].items()} == {
        "hard": pytest.approx(1 / 6),
        "easy": 1.0,
    }
    hard = found["benchmarks"]["hard"]
    assert hard["by_difficulty"] == {"0": 0.0, "1": 0.5} and hard["by_difficulty_error"] == {"0": 0.0, "1": 0.0}
    assert hard["standard_error"] == pytest.approx(1 / 6) and hard["pass_at_k"]["2"] == pytest.approx(1 / 3)
    assert hard["tokens"] == 12
    alone = evaluate(Scripted(), replace(asked, benchmarks={}), samples=2, max_tokens=2, seed=0)
    assert found == alone.model_dump(mode="json") | {"benchmarks": found["benchmarks"]}


def test_an_evaluation_without_any_verdict_is_no_pass_rate():
    asked = problems("??", "??")
    with pytest.raises(VerifierError, match="None of the 4 held-out answers"):
        score(Scripted(), asked.held_out, asked.judge, samples=2, max_tokens=2, seed=0)


def test_a_probe_leaves_them_out():
    asked = problems("+-", "+?", "??")
    mistakes = [Mistake(problem.id, 1, 0.0) for problem in asked.train]
    by_id = {problem.id: problem for problem in asked.train}
    found = roll_out(Scripted(), mistakes, by_id, asked.judge, samples=2, max_tokens=2, seed=0)
    assert [rollout.correct for rollout in found] == [[True, False], [True, None], [None, None]]
    assert pass_rate(found) == pytest.approx(2 / 3)
    assert pass_rate(found[2:]) is None


def test_guidance_is_what_is_right_and_has_its_rewards(tmp_path):
    """Neither the unknown, nor the right with an unknown reward, nor the half right guide; the later right one does."""
    asked, store = problems("?+", "~-", "%%", "-+"), Store(tmp_path)
    sampling = Sampling(2, 2, "first", True, chunk_prompts=8, max_tokens=2, seed=0)
    generate_guidance(
        [Request(problem, 1) for problem in asked.train],
        [GuideSource("8f2c", 4, lambda: Scripted())],
        sampling,
        Judging(asked),
        store,
        rollback=lambda: pytest.fail("asked without need"),
        seed_of=lambda *parts: 1,
    )
    assert sorted(read_shard_ids(store, 0)) == [asked.train[0].id, asked.train[3].id]
