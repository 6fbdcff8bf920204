"""Properties of what is read: all ways to write a number agree, its neighbours do not, and two numbers are none."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import gsm8k

from npo_core.config.verifier import ExactVerifier, MathVerifier, NumericVerifier
from npo_core.problems import Outcome
from npo_core.problems.checks import make_check, unusable
from npo_core.problems.reading.evaluation import parsed
from npo_core.problems.reading.numbers import read_number
from tests.problems.conftest import GSM8K, completion

CHECKS = [make_check(verifier, GSM8K, accuracy=True) for verifier in (NumericVerifier(), MathVerifier())]
DATA = Path(__file__).parents[3] / "shared/data/gsm8k"
MARKS = ["#### {}", "so \\boxed{{{}}}", "$$\\boxed{{{}}}$$.", "The answer is {}.", "**Answer:** {}", "{}"]
IN_TEXT = ["{} apples", "${}", "about {}", "{} %", "€{}", "x = {}", "**{}**", "The total is {}", "{} km/h"]
IN_MATH = ["{}\\text{{ cm}}", "\\${}", "x = {}", "{}\\%", "\\text{{{}}}", "{}^\\circ", "\\,{}\\,"]
integers = st.integers(-(10**12), 10**12)
decimals = st.tuples(st.integers(-(10**9), 10**9), st.integers(1, 6))
marks = st.sampled_from(MARKS)


def outcomes(text: str, reference: str) -> list[Outcome]:
    return [check(completion(text, f"#### {reference}")).outcome for check in CHECKS]


def grouped(number: int, separator: str) -> str:
    return f"{number:,}".replace(",", separator)


def ways(number: int) -> list[str]:
    """A whole number as people and models write it."""
    groups = [grouped(number, separator) for separator in (",", "\u202f", "\u00a0", "\\,", "{,}", "~", " ")]
    minus = str(number).replace("-", "\u2212"), str(number).replace("-", "- "), str(number).replace("-", "\u2013")
    ratio = f"\\frac{{{3 * number}}}{{3}}"
    return [str(number), f"{number}.0", ratio, f"{2 * number}/2", *groups, *minus]


@settings(max_examples=60)
@given(number=integers, mark=marks, data=st.data())
def test_a_number_in_any_way_is_right_and_its_neighbour_in_no_way(number, mark, data):
    step = data.draw(st.sampled_from([-1, 1]))
    for written, verdict in ((number, Outcome.CORRECT), (number + step, Outcome.WRONG)):
        way = data.draw(st.sampled_from(ways(written)))
        assert outcomes(mark.format(way), str(number)) == [verdict] * 2, way


@settings(max_examples=60)
@given(number=integers, form=st.sampled_from(IN_TEXT), boxed=st.sampled_from(IN_MATH))
def test_what_stands_beside_a_number_is_no_part_of_it(number, form, boxed):
    percent = "%" in form + boxed  # of which math says more
    for text in (f"#### {form.format(number)}", f"\\boxed{{{boxed.format(number)}}}"):
        for written, verdict in ((number, Outcome.CORRECT), (number + 1, Outcome.WRONG)):
            said = outcomes(text.replace(str(number), str(written)), str(number))
            assert said[0] == verdict and (percent or said[1] == verdict), text


@settings(max_examples=60)
@given(digits=decimals, mark=marks)
def test_decimals_are_told_apart_by_their_last_digit(digits, mark):
    unit = Fraction(1, 10 ** digits[1])
    value = digits[0] * unit
    reference, other = (f"{float(v):.{digits[1]}f}" for v in (value, value + unit))
    assert outcomes(mark.format(reference), reference) == [Outcome.CORRECT] * 2
    assert outcomes(mark.format(other), reference) == [Outcome.WRONG] * 2


@settings(max_examples=60)
@given(
    numbers=st.tuples(st.integers(-999, 999), st.integers(-999, 999)).filter(lambda two: two[0] != two[1]),
    joint=st.sampled_from([", ", " or ", " and ", "; ", " to ", " \\text{ or } ", " | ", ": ", " \\pm ", " + ", " & "]),
    mark=st.sampled_from(MARKS[:4]),
)
def test_two_numbers_are_no_answer(numbers, joint, mark):
    first, second = map(str, numbers)
    for reference in (first, second):
        said = outcomes(mark.format(first + joint + second), reference)
        assert said[0] == Outcome.UNPARSABLE and said[1] != Outcome.CORRECT


@settings(max_examples=60)
@given(mantissa=st.integers(100, 999), exponent=st.integers(-40, 40), other=st.integers(-40, 40))
def test_powers_of_ten_are_compared_relatively(mantissa, exponent, other):
    written = [
        f"{mantissa / 100:.2f}{form.format(e)}" for form in ("\\times 10^{{{}}}", "e{}") for e in (exponent, other)
    ]
    verdict = Outcome.CORRECT if exponent == other else Outcome.WRONG
    assert outcomes(f"\\boxed{{{written[0]}}}", written[2]) == [Outcome.CORRECT] * 2
    assert outcomes(f"\\boxed{{{written[1]}}}", written[0]) == [verdict] * 2


@settings(max_examples=200)
@given(text=st.text(alphabet="0123456789.,-+/ $%^\\{}()xeπ½²kM!", max_size=14))
def test_what_is_read_as_a_number_is_that_number(text):
    """Whatever is read agrees with math-verify's parser, where that reads the bare number as such."""
    found = read_number(text, math=True)
    if found is not None and "\\!" not in text and not any(char in text for char in " ,e½²%"):
        other = parsed(text.replace("$", "").replace("\\", "").rstrip(". "))
        assert other is None or not other.is_Rational or found.value == Fraction(int(other.p), int(other.q))


def references() -> list[str]:
    """Those of GSM8K, where the data lies beside the project, else of a few rows in its form."""
    files = sorted(DATA.glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()] if files else gsm8k()
    return [row["answer"] for row in rows]


@pytest.mark.parametrize("verifier", [NumericVerifier(), ExactVerifier()], ids=lambda v: v.kind)
def test_references_of_gsm8k_are_read_and_agree_with_themselves(verifier):
    check = make_check(verifier, GSM8K, accuracy=True)
    for answer in references():
        assert unusable(verifier, GSM8K, answer) is None, answer
        assert check(completion(answer, answer)).outcome is Outcome.CORRECT, answer
        last = answer.split("####")[-1].strip()
        assert check(completion(f"#### 9{last}", answer)).outcome is not Outcome.CORRECT, answer
