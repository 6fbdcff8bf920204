"""Every kind of verifier on answers as models and data sets write them."""

import math
from fractions import Fraction

import pytest

from npo_core.config.verifier import (
    ChoiceVerifier,
    ExactVerifier,
    FormatVerifier,
    LengthVerifier,
    MathVerifier,
    NumericVerifier,
    Part,
    WeightedVerifier,
    paper_verifier,
)
from npo_core.errors import VerifierError
from npo_core.problems import Outcome
from npo_core.problems.checks import unusable
from npo_core.problems.reading.numbers import read_number
from tests.problems.conftest import completion

CORRECT, WRONG, UNPARSABLE = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSABLE
SOLUTION = "She has 48/2 = <<48/2=24>>24 in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"
DEAR = "They cost 130,000 + 80,000 = <<130000+80000=210000>>210,000.\n#### 210,000"
LONG = "a" * 60 + "b"


def outcomes(judge, verifier, cases):
    """What it says of (reference, text) pairs, judged together."""
    return [verdict.outcome for verdict in judge(verifier)([completion(text, answer) for answer, text in cases])]


EXACT = [
    (SOLUTION, "24 and 48 make\n#### 72", CORRECT),
    (SOLUTION, "#### 27\nNo:\n#### 72.", CORRECT),
    (DEAR, "#### 210000", CORRECT),
    (SOLUTION, "#### 72 clips", WRONG),
    (SOLUTION, "#### 72\n#### 24", WRONG),
    (SOLUTION, "The answer is 72.", UNPARSABLE),
    (SOLUTION, "", UNPARSABLE),
]
NUMERIC = [
    (SOLUTION, "#### 72 clips", CORRECT),
    (SOLUTION, "The answer is \\boxed{72.0}.", CORRECT),
    (SOLUTION, "she sold 72 clips.", CORRECT),
    (SOLUTION, "72, which is not 73", UNPARSABLE),
    (DEAR, "It makes $210,000.00", CORRECT),
    (DEAR, "\\boxed{210{,}000}", CORRECT),
    ("#### 0.5", "\\boxed{\\frac{1}{2}}", CORRECT),
    ("#### 1/3", "#### 0.3333333", CORRECT),
    ("#### 1/3", "#### 0.333", WRONG),
    ("-7", "it is \u22127", CORRECT),
    ("7", "5 - 7", UNPARSABLE),
    ("12", "12 km/h", CORRECT),
    ("3e8", "300000000", CORRECT),
    ("5", "1e999999999", UNPARSABLE),
    ("5", "nothing of the kind", UNPARSABLE),
    ("5", "\\boxed{five}", UNPARSABLE),
    ("5", "7/0", UNPARSABLE),
]
CHOICE = [
    ("B", "The answer is (B).", CORRECT),
    ("(B)", "\\boxed{\\text{B}}", CORRECT),
    ("B", "B) 42 km", CORRECT),
    ("b", "**Answer: B**", CORRECT),
    ("B", "Option A is tempting, but the correct choice is B.", CORRECT),
    ("B", "\\boxed{C}, though many say the answer is B", WRONG),
    ("B", "A", WRONG),
    ("A", "A dog would know", UNPARSABLE),
    ("A", "The answer is a mystery", UNPARSABLE),
]
MATHS = [
    ("\\frac{1}{2}", "So \\boxed{\\frac12}", CORRECT),
    ("#### 1/2", "\\boxed{0.5}", CORRECT),
    ("$x^2+2x+1$", "\\boxed{(x+1)^2}", CORRECT),
    ("\\{1,2,3\\}", "\\boxed{\\{3, 2, 1\\}}", CORRECT),
    ("\\{1,2,3\\}", "\\boxed{\\{1,2\\}}", WRONG),
    ("10\\text{ cm}", "\\boxed{10\\text{ cm}}", CORRECT),
    ("[0,1)", "the interval \\boxed{[0,1)}", CORRECT),
    ("[0,1)", "\\boxed{[0,1]}", WRONG),
    ("\\frac{\\sqrt{2}}{2}", "$\\frac{1}{\\sqrt{2}}$", CORRECT),
    ("3", "\\boxed{x=3}", CORRECT),
    ("50\\%", "\\boxed{0.5}", CORRECT),
    (SOLUTION, "First \\boxed{24}, then \\boxed{72}.", CORRECT),
    (SOLUTION, "#### 72", CORRECT),
    (SOLUTION, "\\boxed{24}", WRONG),
    ("3", "I cannot say.", UNPARSABLE),
]


@pytest.mark.parametrize(
    ("verifier", "cases"),
    [(ExactVerifier(), EXACT), (NumericVerifier(), NUMERIC), (ChoiceVerifier(), CHOICE), (MathVerifier(), MATHS)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_real_answers(judge, verifier, cases):
    said = outcomes(judge, verifier, [case[:2] for case in cases])
    wrong = [(*case, outcome) for case, outcome in zip(cases, said, strict=True) if case[2] != outcome]
    assert wrong == []


@pytest.mark.parametrize(
    ("tolerance", "text", "right"),
    [
        ({"relative_tolerance": 0.01}, "101", True),
        ({"relative_tolerance": 0.01}, "101.1", False),
        ({"relative_tolerance": 0}, "100.0000001", False),
        ({"absolute_tolerance": 0.5}, "99.5", True),
        ({"absolute_tolerance": 0.5}, "99.4", False),
    ],
)
def test_tolerance(judge, tolerance, text, right):
    [verdict] = judge(NumericVerifier(**tolerance))([completion(text, "100")])
    assert verdict.correct is right


def test_numbers_by_hand():
    for text, expected in [
        ("about $1,250.50 a year", Fraction(2501, 2)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        (".5", Fraction(1, 2)),
        ("1,2,3", None),
        ("A4 paper", None),
        ("9" * 5000, None),
    ]:
        found = read_number(text)
        assert (found and found.value) == expected, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>\nhm\n</think>\nSo \\boxed{3}", 1.0),
        (" <think>a</think>\\boxed{3}.\n", 1.0),
        ("<think></think>\\boxed{3}", 0.0),
        ("So \\boxed{3}", 0.0),
        ("<think>a</think> 3", 0.0),
    ],
)
def test_format(judge, text, value):
    [verdict] = judge(FormatVerifier())([completion(text)])
    assert (verdict.accuracy, verdict.reward) == (value, value)


@pytest.mark.parametrize(("tokens", "penalty"), [(1, 0), (80, 0), (85, -0.25), (90, -0.5), (100, -1), (120, -1)])
def test_length_by_hand(judge, tokens, penalty):
    """Half of the buffer used up costs half; the accuracy is untouched."""
    verifier = WeightedVerifier(
        parts=[
            Part(name="accuracy", weight=1, verifier=ExactVerifier()),
            Part(name="overlong", weight=1, verifier=LengthVerifier(max_tokens=100, buffer=20)),
        ]
    )
    [verdict] = judge(verifier)([completion("#### 7", "#### 7", tokens=tokens)])
    assert (verdict.outcome, verdict.accuracy, verdict.reward) == (CORRECT, 1.0, pytest.approx(1 + penalty))


def test_the_papers_reward(judge):
    """0.9 accuracy + 0.1 format + soft overlong penalty, 10 tokens of which the last 4 cost."""
    thought = "<think>a</think> \\boxed{18}"
    verdicts = judge(paper_verifier(10, 4))(
        [
            completion(thought, "18"),
            completion("\\boxed{18}", "18"),
            completion("<think>a</think> \\boxed{17}", "18"),
            completion(thought, "18", tokens=8),
            completion(thought, "18", tokens=10, finished=False),
            completion("nothing", "18"),
        ]
    )
    assert [v.reward for v in verdicts] == pytest.approx([1.0, 0.9, 0.1, 0.5, -0.9, 0.0])
    assert [v.accuracy for v in verdicts] == [1, 1, 0, 1, 0, 0]
    assert [v.outcome for v in verdicts] == [CORRECT, CORRECT, WRONG, CORRECT, WRONG, UNPARSABLE]


@pytest.mark.parametrize("verifier", [ExactVerifier(), NumericVerifier(), MathVerifier()], ids=lambda v: v.kind)
def test_a_completion_that_was_cut_off_is_wrong_whatever_it_says(judge, verifier):
    [verdict] = judge(verifier)([completion("#### 7", "#### 7", finished=False)])
    assert (verdict.outcome, verdict.accuracy) == (WRONG, 0.0)


def test_patterns_that_backtrack_without_end_stop_it_soon(judge):
    """Three are more than 0.1 of 20; the fifteen after them, a second each, are not looked at."""
    with pytest.raises(VerifierError, match="3 of 18 answers .* by format .*pattern takes too long"):
        judge(FormatVerifier(pattern=r"\A(?:a|aa)+\Z"))([completion(LONG)] * 18)


def test_a_pattern_that_backtracks_without_end_is_a_timeout_and_no_wrong_answer(judge):
    verdicts = judge(FormatVerifier(pattern=r"\A(?:a|aa)+\Z"))([completion(text) for text in ("aaaa", LONG, "b")])
    assert [v.outcome for v in verdicts] == [CORRECT, Outcome.TIMEOUT, WRONG]
    assert math.isnan(verdicts[1].accuracy) and verdicts[1].correct is None


@pytest.mark.parametrize(
    ("verifier", "answer", "lacks"),
    [
        (ExactVerifier(), "72", "final answer"),
        (ExactVerifier(), SOLUTION, None),
        (NumericVerifier(), "seventy-two", "number"),
        (NumericVerifier(), "72", None),
        (ChoiceVerifier(), "yes", "letter"),
        (ChoiceVerifier(letters="AB"), "C", "letter"),
        (MathVerifier(), "72", None),
        (paper_verifier(), "72", None),
    ],
)
def test_references_that_cannot_be_compared_are_found_before(verifier, answer, lacks):
    assert unusable(verifier, r"####\s*(.+)$", answer) == lacks
