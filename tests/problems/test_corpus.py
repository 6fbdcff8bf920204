"""What verifiers say of many answers, written down with why: a wrong answer is never found right."""

from pathlib import Path

import pytest
import yaml

from npo_core.config.verifier import ChoiceVerifier, ExactVerifier, MathVerifier, NumericVerifier
from npo_core.problems import Outcome
from npo_core.problems.checks import make_check
from tests.problems.conftest import GSM8K, completion

FOLDER = Path(__file__).parent
VERIFIERS = {
    "numbers": NumericVerifier(),
    "letters": ChoiceVerifier(),
    "math": MathVerifier(),
    "texts": ExactVerifier(),
}
CHECKS = {name: make_check(verifier, GSM8K, accuracy=True) for name, verifier in VERIFIERS.items()}
CASES = [
    pytest.param(name, *case, group["why"], id=f"{name}-{case[0]}-{case[1]}")
    for name in VERIFIERS
    for group in yaml.safe_load((FOLDER / f"corpus_{name}.yaml").read_text())
    for case in group["cases"]
]


@pytest.mark.parametrize(("name", "reference", "text", "verdict", "why"), CASES)
def test_what_is_said_of_an_answer(name, reference, text, verdict, why):
    found = CHECKS[name](completion(text, f"#### {reference}"))
    said = "guess" if found.outcome is Outcome.CORRECT and found.fallback else found.outcome.value
    assert said == verdict, why
