"""Where a completion claims its answer: in a box, by the pattern, after "answer is", or as all that it says."""

from collections.abc import Iterator
from typing import NamedTuple

import regex

from npo_core.problems.reading.normal import emphasis
from npo_core.problems.reading.words import UNITS

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
        return self.by == BOX


class Given(NamedTuple):
    """What a text answers with: the value as a verifier compares it, or None, and where it stood."""

    value: object
    claim: Claim | None

    @property
    def fallback(self) -> bool:
        return self.claim is not None and self.claim.by == LAST


def pattern_of(text: str) -> regex.Pattern:
    """An answer pattern of the configuration; ^ and $ match at lines."""
    return regex.compile(text, regex.MULTILINE)


def answer_part(text: str) -> str:
    """What follows the thoughts, which are no answer."""
    at = text.rfind(THOUGHT)
    return text if at < 0 else text[at + len(THOUGHT) :]


def last_match(text: str, pattern: regex.Pattern) -> regex.Match | None:
    """The last match of a pattern. Raises TimeoutError where it backtracks without end."""
    found = None
    for found in pattern.finditer(text, timeout=PATTERN_SECONDS):
        pass
    return found if found is not None and found[1] is not None else None


def marked(text: str, pattern: regex.Pattern) -> Claim | None:
    """What the last box or match of the pattern holds, whichever comes last; None without either."""
    match = last_match(text, pattern)
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if at < 0:
        return None if match is None else of_pattern(text, match)
    box = boxed(text, at)
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
    r"\b(?:wait|wrong|incorrect|mistake[ns]?|oops|scratch that|correction|never ?mind|hold on|recheck|re-check|"
    r"(?:is|was|that's|are) not (?:right|correct|the answer)|isn't (?:right|correct)|not correct|should (?:be|have been))\b",
    regex.IGNORECASE,
)


def boxed(text: str, at: int) -> Claim:
    """The content of the box at a place; of several joined ones, of all of them; nothing where it stays open.

    What stands right before or after a box may be punctuation, words and delimiters; where the box is only a part of
    a formula or of a list, it is no answer.
    """
    content, end = braces(text, at)
    if content is None:
        return Claim("", BOX, len(text))
    contents, start = [content], at
    for earlier, start in joined_before(text, at):
        contents.insert(0, earlier)
    if not alone(text, start, end):
        return Claim("", BOX, end)
    if len(set(contents)) > 1:
        return Claim(" , ".join(contents), BOX, end)
    unit = UNIT_AFTER.match(text, end)
    named = unit is not None and content.rstrip()[-1:].isdigit() and unit[1].lower() in UNITS
    return Claim(f"{content} \\text{{{unit[1]}}}" if named else content, BOX, end)


def braces(text: str, at: int) -> tuple[str | None, int]:
    """What the braces after a box's command hold, and where they end; None where they do not."""
    if (opened := OPENED.match(text, at)) is None:
        return None, at
    depth = 1
    for found in BRACE.finditer(text, opened.end()):
        if found[0][0] != "\\":
            depth += 1 if found[0] == "{" else -1
            if depth == 0:
                return text[opened.end() : found.start()], found.end()
    return None, len(text)


OPENED = regex.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = regex.compile(r"\\.|[{}]", regex.DOTALL)
JOIN = regex.compile(
    r"(?:[\s$,;&]|\\[()\[\] ,;]|\\q?quad|\\text\s*\{\s*(?:and|or|,)?\s*\}|\band\b|\bor\b|[A-Za-z](?:_\{?\w+\}?)?\s*=)*"
)


def joined_before(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Content and place of the boxes that a box is in a list with, from the last to the first."""
    while (earlier := text.rfind("\\boxed", 0, at)) >= 0:
        content, end = braces(text, earlier)
        if content is None or end > at or not JOIN.fullmatch(text, end, at):
            return
        yield content, earlier
        at = earlier


# What a box may not have beside it, for then it is a part of something larger.
OPEN = r"(?:[$({]|[^\S\n])*(?:\\[(\[])?[^\S\n]*\Z"
BEFORE = regex.compile(
    r"(?:[\d^_×÷·±√/+−–-]|[\w)}\]]\s*\*|(?<![=-])(?<!</?\w+)>|[<≠]|\\(?:times|cdot|div|pm|mp|neq|ne|not|sqrt|approx\s*-)\s*\{?|"
    r"\\d?frac\s*(?:\{[^{}]*\})?\s*\{?|\b(?:not|isn't|never|than|least|most|minus|negative|half|twice))" + OPEN
)
CLOSED = r"(?:[$})]|[^\S\n]|\\(?:[)\],;! ]|right\)))*"
NEXT = r"[\s$\\(]*(?:-?\d|\\|[a-z]\b|one\b|two\b|three\b|four\b|five\b|six\b|seven\b|eight\b|nine\b|ten\b|a half|half)"
AFTER = regex.compile(
    rf"{CLOSED}(?:\^(?!\s*\{{?\s*\\circ)|[_/+×÷·±]|\*(?=\s?[\d\\a-zA-Z(])|-\s?(?:[\d\\]|[a-z]\b)|!(?=\S)|\d|[<>≤≥≠](?!/?\w+>)"
    rf"|\\(?:times|cdot|div|pm|pi|sqrt|d?frac|infty|pmod|bmod|cup|cap|le|ge|leq|geq|neq|ne|to)(?![a-zA-Z])|,\s*\$?\s*-?\d"
    rf"|(?:and|or|to|plus|minus|times|by)\s{NEXT}|(?:\\text\s*\{{\s*)?(?:million|billion|thousand|hundred|trillion|dozen|k\b|K\b|bn\b|M\b)"
    rf"|\\text\s*\{{\s*(?:and|or)\b|is (?:not|wrong)\b|[b-hj-zB-HJ-Z](?![\w'])|[a-zA-Z]{{1,2}}\()"
)
ATTACHED = regex.compile(r"[A-Za-z0-9({]")
UNIT_AFTER = regex.compile(rf"{CLOSED}(?:\\(?:text|mathrm)\s*\{{\s*)?([a-zA-Z]{{2,}})(?![\w])")


def alone(text: str, start: int, end: int) -> bool:
    """Whether a box is no part of a larger formula, and what follows does not take it back."""
    if BEFORE.search(text[max(0, start - 24) : start]) or AFTER.match(text, end) or ATTACHED.match(text, end):
        return False
    return TAKEN_BACK.search(text, end) is None


ANSWER = regex.compile(
    r"\b(?:answer|ans|(?:correct|right|best|final|answer) (?:option|choice))\b[\s*_\"'`]*(?:is|was|=|:|would be|must be|should be)[\s*_:]*(?:(?:indeed|thus|therefore|simply|clearly|option|choice)\b)?[\s*_:]*",
    regex.IGNORECASE,
)
SUPPOSED = regex.compile(
    r"\b(?:if|suppos\w+|assum\w+|whether|unless|why|says?|said|claims?|thinks?|might|not|never|wrong|incorrect|\w+n't)\b",
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
    content = sentence[0].strip().rstrip("!?")
    if content.count("**") % 2:  # it was opened before "answer"
        content = content.replace("**", "", 1) if content.startswith("**") else content[::-1].replace("**", "", 1)[::-1]
    return Claim("" if TAKEN_BACK.search(text, sentence.end()) else emphasis(content), SAID, sentence.end())
