"""One completion against its reference: a check for every kind of verifier."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from operator import eq
from typing import Any

import regex

from npo_core.config.verifier import (
    ChoiceVerifier,
    ExactVerifier,
    FormatVerifier,
    FunctionVerifier,
    LengthVerifier,
    MathVerifier,
    NumericVerifier,
    PartVerifier,
    Verifier,
    leaves,
)
from npo_core.problems.answers import (
    PATTERN_SECONDS,
    by_pattern,
    in_box,
    letter,
    number,
    pattern_of,
    plain,
    said_letter,
)
from npo_core.problems.functions import OwnFunction
from npo_core.problems.problem import Completion, Outcome, Verdict, found, graded

Check = Callable[[Completion], Verdict]


@dataclass(frozen=True)
class Compared:
    """Finds a value in the reference and in the completion, and compares the two (given, reference)."""

    in_reference: Callable[[str], Any]  # None: there is none
    in_completion: Callable[[str], Any]
    same: Callable[[Any, Any], bool] = eq

    def __call__(self, completion: Completion) -> Verdict:
        given = self.in_completion(completion.text)
        if given is None:
            return found(Outcome.UNPARSABLE)
        right = self.same(given, self.in_reference(completion.problem.answer))
        return found(Outcome.CORRECT if right else Outcome.WRONG)


def make_check(verifier: PartVerifier, answer_pattern: str, *, accuracy: bool) -> Check:
    """The check of a verifier that is no sum; `accuracy`: its value must be in [0, 1].

    Raises:
        ConfigError: a function cannot be imported, or cannot be called as it would be.
    """
    pattern = pattern_of(answer_pattern)
    match verifier:
        case ExactVerifier():
            return exact(pattern)
        case NumericVerifier():
            return numeric(verifier, pattern)
        case ChoiceVerifier():
            return choice(verifier, pattern)
        case MathVerifier():
            return Mathematics(pattern)
        case FormatVerifier():
            return Format(regex.compile(verifier.pattern, regex.DOTALL))
        case LengthVerifier():
            return Overlong(verifier.max_tokens, verifier.buffer)
        case FunctionVerifier():
            return OwnFunction.load(verifier.path, accuracy=accuracy)


def exact(pattern: regex.Pattern) -> Compared:
    def answer(text: str) -> str | None:
        last = by_pattern(text, pattern)
        return None if last is None else plain(last)

    return Compared(answer, answer)


def marked(text: str, pattern: regex.Pattern) -> str | None:
    """What a text marks as its answer: by the box, else by the pattern."""
    box = in_box(text)
    return by_pattern(text, pattern) if box is None else box


def numeric(verifier: NumericVerifier, pattern: regex.Pattern) -> Compared:
    relative, absolute = Fraction(verifier.relative_tolerance), Fraction(verifier.absolute_tolerance)

    def answer(text: str) -> Fraction | None:
        last = marked(text, pattern)
        return number(text, last=True) if last is None else number(last)

    def near(given: Fraction, reference: Fraction) -> bool:
        return abs(given - reference) <= max(relative * abs(reference), absolute)

    return Compared(answer, answer, near)


def choice(verifier: ChoiceVerifier, pattern: regex.Pattern) -> Compared:
    def answer(text: str) -> str | None:
        last = marked(text, pattern)
        alone = letter(text if last is None else last, verifier.letters)
        return said_letter(text, verifier.letters) if alone is None and last is None else alone

    return Compared(answer, answer)


@dataclass(frozen=True)
class Mathematics:
    """math-verify without its own time limit, which needs the main thread and an alarm: the worker has one."""

    pattern: regex.Pattern

    def __post_init__(self):
        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own limit is off

    def __call__(self, completion: Completion) -> Verdict:
        reference = self.written(completion.problem.answer, "${}$")
        if not expressions(reference):
            raise ValueError(f"the reference {completion.problem.answer!r} cannot be read as mathematics")
        given = self.written(completion.text, "{}")
        if not expressions(given):
            return found(Outcome.UNPARSABLE)
        return found(Outcome.CORRECT if equal(reference, given) else Outcome.WRONG)

    def written(self, text: str, unmarked: str) -> str:
        """A text's answer as math-verify reads it; `unmarked` is the form of one without a mark."""
        if (box := in_box(text)) is not None:
            return f"\\boxed{{{box}}}"
        if (last := by_pattern(text, self.pattern)) is not None:
            return f"${last.strip('$ ')}$"
        return text if any(mark in text for mark in ("$", "\\(", "\\[")) else unmarked.format(text.strip())


# The completions of a prompt share its reference, and many of them their answer.


@lru_cache(maxsize=1024)
def expressions(text: str) -> list[Any]:
    """What a text may be read as, by math-verify."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return guarded(lambda: parse(text, targets, parsing_timeout=None, raise_on_error=True), [])


@lru_cache(maxsize=1024)
def equal(reference: str, given: str) -> bool:
    """Whether two texts may be read as the same mathematics."""
    from math_verify import verify

    return any(
        guarded(lambda a=a, b=b: verify(a, b, timeout_seconds=None, raise_on_error=True), False)
        for a, b in product(expressions(reference), expressions(given))
    )


def guarded(call: Callable[[], Any], otherwise: Any) -> Any:
    """The result of a call into math-verify; what sympy cannot do is no equality, what the machine cannot is raised."""
    try:
        return call()
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return otherwise


@dataclass(frozen=True)
class Format:
    """1 where the pattern is found, else 0."""

    pattern: regex.Pattern

    def __call__(self, completion: Completion) -> Verdict:
        return graded(float(self.pattern.search(completion.text, timeout=PATTERN_SECONDS) is not None))


@dataclass(frozen=True)
class Overlong:
    """0 up to `most - buffer` tokens, then falling to -1 at `most` (DAPO, arXiv 2503.14476, eq. 13)."""

    most: int
    buffer: int

    def __call__(self, completion: Completion) -> Verdict:
        over = completion.tokens - (self.most - self.buffer)
        return graded(-min(max(over / self.buffer, 0.0), 1.0))


def unusable(verifier: Verifier, answer_pattern: str, answer: str) -> str | None:
    """What a reference answer lacks, in words, where that is cheap to tell; None: nothing."""
    wanted = {ExactVerifier: "final answer", NumericVerifier: "number", ChoiceVerifier: "letter"}
    for leaf in leaves(verifier):
        if type(leaf) in wanted:
            check = make_check(leaf, answer_pattern, accuracy=False)
            if check.in_reference(answer) is None:
                return wanted[type(leaf)]
    return None
