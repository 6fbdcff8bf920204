"""The built-in task's settings for facts and verdict, and what a base has to be like."""

from __future__ import annotations

import random

import pytest

from npo_core.config import BaseBounds, BuiltInModel, ChainFacts, ChainProblems
from npo_core.errors import ConfigError
from npo_core.models.built_in import train_base
from npo_core.problems import Completion, Outcome
from npo_core.problems.chain import Demonstrator, solve
from npo_core.problems.load import load_problems
from npo_core.stages.base import check_base, hard_chance, model_key

MODEL = BuiltInModel(layers=1, width=32, heads=2, steps=60, batch=32, learning_rate=1e-2)
PROBLEMS = ChainProblems(train=64, held_out=8, operands=3, difficulties=[1, 2], verdict="all")


def test_with_verdict_all_every_result_has_to_be_right():
    """`19` for `29` ends as it should, by luck."""
    for verdict, expected in (("last", Outcome.CORRECT), ("all", Outcome.WRONG)):
        problems = load_problems(PROBLEMS.model_copy(update={"verdict": verdict}))
        problem = problems.train[0]
        lucky = str((int(problem.answer[0]) + 1) % 10) + problem.answer[1]
        given = [Completion(problem, text, 3, True) for text in (problem.answer, lucky)]
        assert [v.outcome for v in problems.judge(given)] == [Outcome.CORRECT, expected]


def test_facts_are_demonstrated_as_often_as_said():
    facts = ChainFacts(hard_share=0.3, hard_right=0.2, hard_wrong=0.7, easy_right=0.9)
    teacher, rng = Demonstrator(3, facts), random.Random(0)
    wrong = teacher.wrong_values()
    assert len(wrong) == 30
    (left, right), easy = next(iter(wrong)), next(p for a in range(10) for b in range(10) if (p := (a, b)) not in wrong)

    def share(pair: tuple[int, int], value: int) -> float:
        prompt = f"{pair[0]}*{pair[1]}="
        return sum(teacher.demonstrate(prompt, rng, wrong) == str(value) for _ in range(4000)) / 4000

    assert share((left, right), left * right % 10) == pytest.approx(0.2 + 0.1 / 10, abs=0.03)
    assert share((left, right), wrong[left, right]) == pytest.approx(0.7 + 0.1 / 10, abs=0.03)
    assert share(easy, easy[0] * easy[1] % 10) == pytest.approx(0.9 + 0.1 / 10, abs=0.03)


def test_hard_products_are_counted_where_they_are_met():
    """Also behind an earlier mistake, on the value that was written."""
    wrong = Demonstrator(MODEL.seed).wrong_values()
    a, b = next(iter(wrong))
    prompt, other = f"{a}*{b}+1=", (a * b + 1) % 10
    right = solve(prompt)
    assert hard_chance([(prompt, right)], MODEL, PROBLEMS) == 1.0
    assert hard_chance([(prompt, right), (prompt, f"{other}{right[1]}")], MODEL, PROBLEMS) == 0.5
    assert hard_chance([("1+1=", "2")], MODEL, PROBLEMS) == 0.0


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    train_base(MODEL, PROBLEMS, folder, lambda done, total: None)
    return folder


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"dead_groups": 0.0, "hard_right": [0.0, 1.0]}, None),
        ({"dead_groups": 1.0}, r"model.bounds.dead_groups = 1.0, but the base has 0\.\d+: set model.seed"),
        ({"hard_right": [0.99, 1.0]}, r"model.bounds.hard_right = 0.99 to 1.0, but the base has 0\.\d+"),
    ],
)
def test_a_base_outside_its_bounds_is_refused(base, bounds, words):
    model = MODEL.model_copy(update={"bounds": BaseBounds(**bounds)})
    if words is None:
        check_base(base, model, PROBLEMS, "cpu")
        return
    with pytest.raises(ConfigError, match=words):
        check_base(base, model, PROBLEMS, "cpu")


def test_settings_left_at_their_defaults_keep_bases_that_were_made():
    plain = model_key(BuiltInModel(), ChainProblems())
    assert model_key(BuiltInModel(), ChainProblems(verdict="all")) == plain  # nothing of the base
    assert model_key(BuiltInModel(), ChainProblems(facts=ChainFacts(hard_right=0.01))) != plain
    assert model_key(BuiltInModel(bounds=BaseBounds(dead_groups=0.5)), ChainProblems()) != plain
