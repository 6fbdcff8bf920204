"""What is asked, and whether an answer to it is right."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a verifier found. Only `CORRECT` earns the reward; the others say why not."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt with its answer.

    Example:
        Problem(id="9f2c...", prompt="7*3-2+9*4+1=", answer="3", difficulty=2)
    """

    id: str  # 16 hex digits, a hash of the prompt and the answer
    prompt: str
    answer: str
    difficulty: int


Verifier = Callable[[str, str], Outcome]  # (completion text, answer) -> outcome


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a run: disjoint training and held-out sets and the verifier that judges both."""

    train: Sequence[Problem]
    held_out: Sequence[Problem]
    verify: Verifier

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when any training problem, or the order of them, changes."""
        digest = hashlib.sha256()
        for problem in self.train:
            digest.update(problem.id.encode())
        return digest.hexdigest()[:16]


def problem_id(prompt: str, answer: str) -> str:
    """The identity of a problem: 16 hex digits of a hash of its content."""
    return hashlib.sha256(f"{prompt}\x1f{answer}".encode()).hexdigest()[:16]
