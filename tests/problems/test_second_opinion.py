"""Several verifiers that must agree, and which verdicts may become guidance."""

import math

import pytest

from npo_core.config import parse_config
from npo_core.config.verifier import (
    AllOfVerifier,
    FunctionVerifier,
    MathVerifier,
    NumericVerifier,
    Part,
    WeightedVerifier,
)
from npo_core.errors import ConfigError, VerifierError
from npo_core.problems import Outcome, Verdict
from npo_core.problems.judge import AllOf
from tests.problems.conftest import completion

CORRECT, WRONG, UNPARSABLE = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSABLE
BOTH = AllOfVerifier(parts=[NumericVerifier(), MathVerifier()])
DATA = {"kind": "data", "train": {"path": "train.jsonl"}, "held_out": {"path": "held_out.jsonl"}, "chat": "never"}
VERDICTS = {
    "+": Verdict(CORRECT, 1.0, 1.0),
    "g": Verdict(CORRECT, 1.0, 1.0, fallback=True),
    "-": Verdict(WRONG, 0.0, 0.0),
    "h": Verdict(WRONG, 0.5, 0.5),
    "?": Verdict(Outcome.TIMEOUT, math.nan, math.nan),
}


def test_right_is_what_all_find_right(judge):
    cases = {"\\boxed{3}": CORRECT, "\\boxed{4}": WRONG, "\\boxed{2\\pi}": UNPARSABLE, "nothing": UNPARSABLE}
    assert [v.outcome for v in judge(BOTH)([completion(text, "3") for text in cases])] == list(cases.values())


@pytest.mark.parametrize(
    ("said", "outcome", "accuracy", "fallback"),
    [
        ("++", CORRECT, 1.0, False),
        ("+-", WRONG, 0.0, False),
        ("-+", WRONG, 0.0, False),
        ("?-", WRONG, 0.0, False),
        ("-?", WRONG, 0.0, False),
        ("?+", Outcome.TIMEOUT, None, False),
        ("+?", Outcome.TIMEOUT, None, False),
        ("g+", CORRECT, 1.0, True),
        ("+g", CORRECT, 1.0, True),
        ("+h", WRONG, 0.5, False),
    ],
)
def test_one_that_finds_it_wrong_is_enough(said, outcome, accuracy, fallback):
    """And an outage of one is no verdict where the others find it right."""
    parts = [lambda asked, i=i: [VERDICTS[one.text[i]] for one in asked] for i in (0, 1)]
    [verdict] = AllOf(parts)([completion(said)])
    assert (verdict.outcome, verdict.fallback) == (outcome, fallback)
    assert math.isnan(verdict.accuracy) if accuracy is None else verdict.accuracy == accuracy


def test_later_parts_are_asked_only_of_what_is_not_wrong_yet():
    asked = []

    def second(completions):
        asked.extend(one.text for one in completions)
        return [VERDICTS["+"] for _ in completions]

    first = lambda completions: [VERDICTS[one.text] for one in completions]  # noqa: E731
    AllOf([first, second])([completion(text) for text in "+-?h+"])
    assert asked == ["+", "?", "+"]


def test_it_may_be_the_accuracy_of_a_sum(judge):
    parts = [Part(name="accuracy", weight=0.5, verifier=BOTH)]
    [verdict] = judge(WeightedVerifier(parts=parts))([completion("I got 3", "3")])
    assert (verdict.accuracy, verdict.reward, verdict.fallback) == (1.0, 0.5, True)


@pytest.mark.parametrize(
    ("verdict", "plainly", "accepted"),
    [("+", True, True), ("g", False, True), ("-", False, False), ("h", False, False), ("?", False, False)],
)
def test_what_may_guide(verdict, plainly, accepted):
    assert VERDICTS[verdict].may_guide() is plainly
    assert VERDICTS[verdict].may_guide(accept_fallback=True) is accepted
    assert not VERDICTS[verdict]._replace(reward=math.nan).may_guide(True)


@pytest.mark.parametrize("verifier", [NumericVerifier, MathVerifier], ids=["numeric", "math"])
def test_the_fallback_can_be_turned_off(judge, verifier):
    [guess] = judge(verifier())([completion("she sold 72 clips", "72")])
    assert (guess.outcome, guess.fallback) == (CORRECT, True)
    [none] = judge(verifier(fallback="none"))([completion("she sold 72 clips", "72")])
    assert (none.outcome, none.fallback) == (UNPARSABLE, False)


def test_a_reference_that_cannot_be_read_is_an_outage_and_no_wrong_answer(judge):
    [verdict] = judge(NumericVerifier())([completion("\\boxed{3}", "3 or 4")])
    assert verdict.outcome is Outcome.CRASH and verdict.correct is None
    with pytest.raises(VerifierError, match="there is no number in the reference"):
        judge(NumericVerifier())([completion("\\boxed{3}", "3 or 4") for _ in range(20)])


def config(problems, **guidance):
    return parse_config({"problems": problems, "model": {"kind": "pretrained", "path": "x"}, "guidance": guidance})


def test_a_second_opinion_in_a_configuration():
    opinion = {"kind": "all_of", "parts": [{"kind": "numeric"}, {"kind": "function", "path": "a:b"}]}
    found = config(DATA | {"verifier": {"kind": "math"}}, verifier=opinion, accept_fallback=True).guidance
    assert found.verifier == AllOfVerifier(parts=[NumericVerifier(), FunctionVerifier(path="a:b")])
    assert (
        config(DATA).guidance.model_dump().keys().isdisjoint({"verifier", "accept_fallback"})
    )  # ids stay as they were


@pytest.mark.parametrize(
    ("problems", "guidance", "words"),
    [
        ({"kind": "chain"}, {"verifier": {"kind": "exact"}}, ["guidance.verifier = exact", "problems.kind = chain"]),
        (DATA, {"verifier": {"kind": "length", "max_tokens": 9, "buffer": 1}}, ["guidance.verifier", "length"]),
        (DATA | {"verifier": {"kind": "all_of", "parts": [{"kind": "math"}]}}, {}, ["problems.verifier.parts", "2"]),
        (
            DATA | {"verifier": {"kind": "numeric", "fallback": "first"}},
            {},
            ["problems.verifier.fallback", "'last_number' or 'none'"],
        ),
    ],
)
def test_what_makes_no_sense_is_refused(problems, guidance, words):
    with pytest.raises(ConfigError) as caught:
        if problems["kind"] == "chain":
            parse_config({"problems": problems, "guidance": guidance})
        config(problems, **guidance)
    for word in words:
        assert word in str(caught.value)
