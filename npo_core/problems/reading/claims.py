"""Where a completion claims its answer: in a box, by the pattern, after "answer is", or as all that it says."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import regex

from npo_core.problems.reading.boxes import last_box
from npo_core.problems.reading.normal import emphasis

T_co = TypeVar("T_co", covariant=True)
PATTERN_SECONDS = 1.0  # a pattern that takes longer on one text is caught in backtracking
THOUGHT = "</think>"
BOX, PATTERN, SAID, WHOLE, LAST = "box", "pattern", "answer is", "whole text", "last"


class Claim(NamedTuple):
    """What a text gives as its answer; `text` is empty where it takes its claim away, or makes two that differ."""

    text: str
    by: str
    end: int = 0  # where it ends in the text that follows the thoughts

    @property
    def is_math(self) -> bool:
        """Whether the answer is in a box, so that it is LaTeX."""
        return self.by == BOX


class Given(NamedTuple, Generic[T_co]):
    """What a text answers with: the value as a verifier compares it, or None, and where it stood."""

    value: T_co | None
    claim: Claim | None

    @property
    def fallback(self) -> bool:
        """Whether the answer is only the last one in the text."""
        return self.claim is not None and self.claim.by == LAST


def pattern_of(text: str) -> regex.Pattern:
    """An answer pattern of the configuration; ^ and $ match at lines."""
    return regex.compile(text, regex.MULTILINE)


def answer_part(text: str) -> str:
    """What follows the thoughts, which are no answer, up to one that stays open."""
    at = text.rfind(THOUGHT)
    text = text if at < 0 else text[at + len(THOUGHT) :]
    return text if (opened := text.find("<think>")) < 0 else text[:opened]


def last_match(text: str, pattern: regex.Pattern) -> regex.Match | None:
    """The last match of a pattern. Raises TimeoutError where it backtracks without end."""
    found = last_of(pattern.finditer(text, timeout=PATTERN_SECONDS))
    return found if found is not None and found[1] is not None else None


def last_of(matches: Iterable[regex.Match]) -> regex.Match | None:
    """The last match; None without any."""
    return [None, *matches][-1]


def marked(text: str, pattern: regex.Pattern) -> Claim | None:
    """What the last box or match of the pattern holds, whichever comes last; None without either."""
    match = last_match(text, pattern)
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if at < 0:
        return None if match is None else of_pattern(text, match)
    content, end = last_box(text, at)
    box = Claim("" if TAKEN_BACK.search(text, end) else content, BOX, end)
    if match is not None and box.text and box.end <= match.start(1):
        return of_pattern(text, match)
    return box


def of_pattern(text: str, match: regex.Match) -> Claim:
    """A pattern's group; of no worth where it cuts through a number."""
    start, end = match.span(1)
    cut = CUT_AFTER.match(text, end) or (
        text[start : start + 1].isdigit() and CUT_BEFORE.search(text[max(0, start - 2) : start])
    )
    return Claim("" if cut or TAKEN_BACK.search(text, end) else match[1], PATTERN, end)


CUT_AFTER = regex.compile(r"\d|[.,/:]\d|\s?[/^*×]\s?\d|\\(?:frac|times|cdot|pi|sqrt)")
CUT_BEFORE = regex.compile(r"\d[.,/]?$|[-−–./^]$|\\frac$")
TAKEN_BACK = regex.compile(
    r"\b(?:wait|wrong|incorrect|mistake[ns]?|oops|sorry|i meant?|"
    r"scratch that|correction|never ?mind|hold on|re-?check|untrue|false|"
    r"fails?|doubt\w*|nope|actually|instead|contradict\w*|maybe|perhaps|"
    r"not (?:quite |the )?(?:right|correct|answer|it\b|true|sure)|"
    r"(?:isn't|can't|cannot|couldn't|won't|can not|not) be|isn't|(?:should|must) (?:be|have been) [-\d$\\])"
    r"|(?:\G|[.!?;,:(\n—-])\s*(?:hmm+|no|or|not)\b(?!\s+(?:more|other|matter|need|further|longer|doubt|units?|problem))",
    regex.IGNORECASE,
)


ANSWER = regex.compile(
    r"\b(?:answer|ans|(?:correct|right|best|final|answer) (?:option|choice))\b[\s*_\"'`]*"
    r"(?:is|was|=|:|would be|must be|should be)[\s*_:]*"
    r"(?:(?:indeed|thus|therefore|simply|clearly|option|choice)\b)?[\s*_:]*",
    regex.IGNORECASE,
)
SUPPOSED = regex.compile(
    r"\b(?:if|suppos\w+|assum\w+|whether|unless|why|says?|said|claims?|thinks?|might|not|never|wrong|incorrect|\w+n't|"
    r"doubt\w*|den(?:y|ies)|false|untrue|impossible|unlikely|cannot|absurd|worst|opposite)\b",
    regex.IGNORECASE,
)
SENTENCE = regex.compile(r"[^\n]*?(?:[.!?](?=\s|$)|(?=\n)|$)")


def said(text: str) -> Claim | None:
    """What follows the last "answer is" or "answer:", to the end of its sentence; None without such words."""
    found = None
    for match in ANSWER.finditer(text):
        before = text[max(text.rfind("\n", 0, match.start()), text.rfind(". ", 0, match.start())) + 1 : match.start()]
        if not SUPPOSED.search(before):
            found = match
    if found is None:
        return None
    start = found.end() + len(text[found.end() :]) - len(text[found.end() :].lstrip())
    sentence = SENTENCE.match(text, start)
    content = regex.sub(r"(?<=[a-zA-Z*])!+$", "", sentence[0].strip())  # after a digit it would be a factorial
    if content.endswith("?"):
        return Claim("", SAID, sentence.end())
    if content.count("**") % 2:  # it was opened before "answer"
        content = content.replace("**", "", 1) if content.startswith("**") else content[::-1].replace("**", "", 1)[::-1]
    return Claim("" if TAKEN_BACK.search(text, sentence.end()) else emphasis(content), SAID, sentence.end())
