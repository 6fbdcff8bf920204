"""Completions to be judged, and judges of a configuration."""

import pytest

from npo_core.config import Execution
from npo_core.problems import Completion, Problem
from npo_core.problems.judge import make_judge

GSM8K = r"####\s*(.+)$"


def completion(text: str, answer: str = "right", *, tokens: int = 5, finished: bool = True, **row) -> Completion:
    return Completion(Problem("0" * 16, "What is it?", answer, 0, row), text, tokens, finished)


@pytest.fixture
def judge():
    """Makes the judge of a verifier; `execution` are fields of Execution."""

    def make(verifier, pattern: str = GSM8K, example=None, **execution):
        return make_judge(verifier, pattern, Execution(**execution), example)

    return make
