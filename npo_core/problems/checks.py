"""One completion against its reference: a check for every kind of verifier."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from operator import eq
from typing import Generic, TypeVar

import regex

from npo_core.config.verifier import (
    ChoiceVerifier,
    ExactVerifier,
    FormatVerifier,
    FunctionVerifier,
    LeafVerifier,
    LengthVerifier,
    MathVerifier,
    NumericVerifier,
    TaskVerifier,
    Verifier,
    leaves,
)
from npo_core.problems.functions import OwnFunction
from npo_core.problems.problem import Completion, Outcome, Verdict, found, graded
from npo_core.problems.reading.claims import BOX, PATTERN, PATTERN_SECONDS, Given, pattern_of
from npo_core.problems.reading.equality import readable, same
from npo_core.problems.reading.formulas import given_math
from npo_core.problems.reading.given import given_number, given_text
from npo_core.problems.reading.letters import given_letter
from npo_core.problems.reading.numbers import Number, same_number
from npo_core.problems.reading.values import Value, Words
from npo_core.problems.tasks import OfTask

REFERENCES = 4096  # whose reading is kept: the completions of a prompt share its reference
Check = Callable[[Completion], Verdict]
QuickVerifier = ExactVerifier | NumericVerifier | ChoiceVerifier  # whose references are read in no time
T = TypeVar("T")


class Unreadable(ValueError):
    """A reference that a verifier cannot compare with anything."""


class Reads(ABC, Generic[T]):
    """A check that finds an answer in a text, in reference and completion by the same grammar.

    lacks      what a reference must have
    reading    what a reference says, and where
    reference  its value, kept for the next completion; None: it cannot be read
    given      what a completion says, and where
    """

    lacks: str
    reading: Callable[[str], Given[T]]
    reference: Callable[[str], T | None]
    given: Callable[[str], Given[T]]

    def lacking(self, answer: str) -> str | None:
        """What a reference answer lacks, in words; None: nothing."""
        return self.lacks if self.reference(answer) is None else None

    @abstractmethod
    def __call__(self, completion: Completion) -> Verdict: ...


class Compared(Reads[T]):
    """Finds a value in the reference and in the completion, and compares the two (given, reference)."""

    def __init__(
        self,
        lacks: str,
        reference: Callable[[str], Given[T]],
        given: Callable[[str], Given[T]],
        same: Callable[[T, T], bool] = eq,
    ):
        self.lacks, self.reading, self.given, self.same = lacks, reference, given, same
        self.reference = lru_cache(REFERENCES)(lambda answer: reference(answer).value)

    def __call__(self, completion: Completion) -> Verdict:
        wanted = self.reference(completion.problem.answer)
        if wanted is None:
            raise Unreadable(f"there is no {self.lacks} in the reference {completion.problem.answer[-80:]!r}")
        given = self.given(completion.text)
        if given.value is None:
            return found(Outcome.UNPARSABLE)
        right = self.same(given.value, wanted)
        return found(Outcome.CORRECT if right else Outcome.WRONG, given.fallback)


def make_check(verifier: LeafVerifier, answer_pattern: str, *, accuracy: bool) -> Check:
    """The check of a verifier without parts; `accuracy`: its value must be in [0, 1].

    Raises:
        ConfigError: a function cannot be imported, or cannot be called as it would be.
    """
    pattern = pattern_of(answer_pattern)
    match verifier:
        case ExactVerifier() | NumericVerifier() | ChoiceVerifier():
            return compared(verifier, pattern)
        case MathVerifier():
            return Mathematics(pattern, verifier.fallback != "none")
        case FormatVerifier():
            return Format(regex.compile(verifier.pattern, regex.DOTALL))
        case LengthVerifier():
            return Overlong(verifier.max_tokens, verifier.buffer)
        case FunctionVerifier():
            return OwnFunction.load(verifier.path, accuracy=accuracy)
        case TaskVerifier():
            return OfTask(pattern)


def compared(verifier: QuickVerifier, pattern: regex.Pattern) -> Compared[str] | Compared[Number]:
    """The check of a verifier whose references are read in no time."""
    if isinstance(verifier, NumericVerifier):
        return numeric(verifier, pattern)
    if isinstance(verifier, ChoiceVerifier):
        letters = verifier.letters
        return same_reading("letter", lambda text: given_letter(text, letters, pattern))
    return same_reading("final answer", lambda text: given_text(text, pattern))


def same_reading(lacks: str, read: Callable[[str], Given[str]]) -> Compared[str]:
    """The check of what is read from reference and completion in the same way, and has to be equal."""
    return Compared(lacks, read, read)


def numeric(verifier: NumericVerifier, pattern: regex.Pattern) -> Compared[Number]:
    """The check of a number, within the verifier's tolerances."""
    relative = None if verifier.relative_tolerance is None else Fraction(verifier.relative_tolerance)
    absolute = Fraction(verifier.absolute_tolerance)

    def near(given: Number, reference: Number) -> bool:
        return same_number(given, reference, relative, absolute)

    return Compared(
        "number",
        lambda text: given_number(text, pattern, last=False),
        lambda text: given_number(text, pattern, last=verifier.fallback != "none"),
        near,
    )


class Mathematics(Reads[Value]):
    """Mathematical equality; may take as long as sympy likes, so that it needs a worker with a time limit."""

    lacks = "mathematics that can be read in one way"

    def __init__(self, pattern: regex.Pattern, last: bool):
        self.given = lambda text: given_math(text, pattern, last=last)
        self.reading = lambda answer: given_math(answer, pattern, last=False)
        self.reference = lru_cache(REFERENCES)(lambda answer: mathematics(given_math(answer, pattern, last=False)))
        self.same = lru_cache(REFERENCES)(same)

    def __call__(self, completion: Completion) -> Verdict:
        wanted = self.reference(completion.problem.answer)
        if wanted is None:
            raise Unreadable(f"the reference {completion.problem.answer[-80:]!r} cannot be read as mathematics")
        given = self.given(completion.text)
        said_so = given.claim is not None and given.claim.by in (BOX, PATTERN)
        if given.value is None or (isinstance(given.value, Words) and not isinstance(wanted, Words) and not said_so):
            return found(Outcome.UNPARSABLE)
        if self.same(given.value, wanted):
            return found(Outcome.CORRECT, given.fallback)
        return found(Outcome.WRONG if readable(given.value) else Outcome.UNPARSABLE)


def mathematics(given: Given[Value]) -> Value | None:
    """A reference's value, where the parser reads all of it."""
    return given.value if given.value is not None and readable(given.value) else None


@dataclass(frozen=True)
class Format:
    """1 where the pattern is found, else 0. A thought that the prompt opened belongs to what is looked at."""

    pattern: regex.Pattern

    def __call__(self, completion: Completion) -> Verdict:
        opened = OPENED.search(completion.problem.prompt[-64:])
        texts = [completion.text, *([opened[0] + completion.text] if opened else [])]
        return graded(float(any(self.pattern.search(text, timeout=PATTERN_SECONDS) is not None for text in texts)))


OPENED = regex.compile(r"<think>\s*\Z")


@dataclass(frozen=True)
class Overlong:
    """0 up to `most - buffer` tokens, then falling to -1 at `most` (DAPO, arXiv 2503.14476, eq. 13)."""

    most: int
    buffer: int

    def __call__(self, completion: Completion) -> Verdict:
        over = completion.tokens - (self.most - self.buffer)
        return graded(-min(max(over / self.buffer, 0.0), 1.0))


def unusable(verifier: Verifier, answer_pattern: str, answer: str) -> str | None:
    """What a reference answer lacks, in words, for the kinds where that is told in no time; None: nothing."""
    for leaf in leaves(verifier):
        if isinstance(leaf, QuickVerifier) and (what := reference_check(leaf, answer_pattern).lacking(answer)):
            return what
    return None


@lru_cache(maxsize=64)
def reference_check(leaf: QuickVerifier, answer_pattern: str) -> Compared[str] | Compared[Number]:
    """The check that reads the references of a leaf."""
    return compared(leaf, pattern_of(answer_pattern))
