"""The mathematics that a text gives as its answer."""

import regex

from npo_core.problems.reading.claims import (
    LAST,
    PATTERN_SECONDS,
    WHOLE,
    Claim,
    Given,
    answer_part,
    last_of,
    marked,
    said,
)
from npo_core.problems.reading.equality import same
from npo_core.problems.reading.given import BARE, DENIED, last_number
from npo_core.problems.reading.structure import read_math
from npo_core.problems.reading.values import Value, Words


def given_math(text: str, pattern: regex.Pattern, *, last: bool) -> Given[Value]:
    """The mathematics that a text answers with; `last`: the last formula in it counts where none is marked."""
    text = answer_part(text)
    if (claim := marked(text, pattern)) is not None:
        value = read_math(claim.text, math=claim.is_math) if claim.text else None
        return Given(None if value is not None and opposed(value, text[claim.end :]) else value, claim)
    bare = text.strip()
    claim = said(text)
    value = read_math(bare, math=False) if len(text) < BARE else None
    if value is not None and not (claim and isinstance(value, Words)):
        return Given(value, Claim(bare, WHOLE, len(text)))
    if claim is not None and (not claim.text or regex.search(r"[\d\\$]", claim.text) or len(claim.text.split()) < 4):
        value = read_math(claim.text, math=False) if claim.text else None
        rest = text[claim.end :]
        return Given(None if value is not None and (regex.search(r"\d|\\[(\[]|\$", rest)) else value, claim)
    return last_formula(text) if last else Given(None, None)


def opposed(value: Value, rest: str) -> bool:
    """Whether what follows a mark claims, or ends with, something else."""
    if not rest.strip():
        return False
    later = said(rest)
    claimed = read_math(later.text, math=False) if later and later.text else None
    others: list[Value | None] = [claimed, last_number(rest).value]
    return any(other is not None and not isinstance(other, Words) and not same(other, value) for other in others)


FORMULA = regex.compile(r"(?<!\\)\$\$(.+?)\$\$|\\\[(.+?)\\\]|(?<![\\$\d])\$([^$\n]+?)\$|\\\((.+?)\\\)", regex.DOTALL)
TAIL = regex.compile(r"(?:\b(?:is|are|equals|be|get|obtain|have|gives)|[:=])\s+(?=\S)")


def last_formula(text: str) -> Given[Value]:
    """The last formula between delimiters, or at the end of the last sentence, else the last number."""
    found = last_of(FORMULA.finditer(text, timeout=PATTERN_SECONDS))
    if found is not None:
        claim = Claim(next(group for group in found.groups() if group), LAST, len(text))
        line = text[text.rfind("\n", 0, found.start()) + 1 :]
        ends = (
            not text[found.end() :].lstrip().startswith("?")
            and not regex.search(r"[\d\\]|\b(?:or|and)\b", text[found.end() :])
            and not DENIED.search(line)
        )
        return Given(read_math(claim.text) if ends else None, claim)
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
    found = last_of(TAIL.finditer(line))
    if found is not None and not DENIED.search(line):
        value = read_math(line[found.end() :], math=False)
        if value is not None and not isinstance(value, Words):
            return Given(value, Claim(line[found.end() :], LAST, len(text)))
    return last_number(text)
