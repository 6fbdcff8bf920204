"""The number that a text gives as its answer: marked, as all that it says, after "answer is", or as the last one."""

import regex

from npo_core.problems.reading.claims import (
    LAST,
    PATTERN,
    PATTERN_SECONDS,
    WHOLE,
    Claim,
    Given,
    answer_part,
    braces,
    last_match,
    marked,
    said,
)
from npo_core.problems.reading.equality import same
from npo_core.problems.reading.normal import CURRENCY, PLAIN, TEXT_CLOSE, TEXT_OPEN, normal
from npo_core.problems.reading.numbers import Number, read_number
from npo_core.problems.reading.structure import Value, Words, read_math
from npo_core.problems.reading.words import MULTIPLIERS, NUMBERS, OPERATIONS

BARE = 300  # characters of a text that may be an answer and nothing else


def given_text(text: str, pattern: regex.Pattern) -> Given:
    """What the pattern finds last, as text in its normal form; a box after it that stays open takes it away."""
    text = answer_part(text)
    if (match := last_match(text, pattern)) is None:
        return Given(None, None)
    box = text.rfind("\\boxed", match.start(1))
    opened = box >= 0 and braces(text, box)[0] is None
    said = match[1].rstrip(".") if PLAIN.fullmatch(match[1]) else plain(match[1])
    return Given(None if opened else said or None, Claim(match[1], PATTERN, match.end(1)))


def plain(text: str) -> str:
    """A text in its normal form, without the commas between groups of three digits."""
    text = regex.sub(f"[{TEXT_OPEN}{TEXT_CLOSE}]", " ", normal(text)).replace(CURRENCY, "$")
    text = " ".join(text.split())
    return text if regex.search(r"[(\[{]", text) else GROUPS.sub("", text)


GROUPS = regex.compile(r"(?<=(?<![\d,])[1-9]\d{0,2}(?:,\d{3})*),(?=\d{3}(?:,\d{3})*(?![\d,]))")


def given_number(text: str, pattern: regex.Pattern, *, last: bool) -> Given:
    """The number that a text answers with; `last`: the last one that it names counts where none is marked."""
    text = answer_part(text)
    if (claim := marked(text, pattern)) is not None:
        number = read_number(claim.text, math=claim.is_math) if claim.text else None
        return Given(None if number and contradicted(number, text[claim.end :]) else number, claim)
    if len(text) < BARE and (number := read_number(text.strip())) is not None:
        return Given(number, Claim(text.strip(), WHOLE, len(text)))
    claim = said(text)
    if claim is not None and (not claim.text or regex.search(r"\d", claim.text)):
        number = read_number(claim.text) if claim.text else None
        return Given(None if number and contradicted(number, text[claim.end :], strict=True) else number, claim)
    return last_number(text) if last else Given(None, None)


def contradicted(number: Number, rest: str, strict: bool = False) -> bool:
    """Whether what follows a claim claims another number; `strict`: or only ends with another one."""
    if not rest:
        return False
    later = said(rest)
    other = read_number(later.text) if later and later.text else last_number(rest).value if strict else None
    if other is None:
        return strict and regex.search(r"\d", rest) is not None
    return other.value != number.value


CHUNK = regex.compile(r"(?<!\S)\S*?\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)\S*|(?<!\S)\S*\d+ \d+/\d+\S*|\S*\d\S*")
OPERATED = regex.compile(
    r"(?:[\d)\]}]\s*(?:[-+–−:,;]|or|and|to|\\[a-z]+)|[-–−*/^_×÷±√+<>≠≤≥]|\\[a-zA-Z]+|\d)\s*$|\b(?:not|n't|minus|negative|least|most|than|half of|twice)\s+$",
    regex.IGNORECASE,
)
CHANGES = frozenset(f"{NUMBERS} {OPERATIONS} and or percent".split()) | set(MULTIPLIERS)


def last_number(text: str) -> Given:
    """The last number in a text, with what is beside it."""
    found = None
    line = next((line for line in reversed(text.splitlines()) if any(map(str.isdigit, line))), "")
    for found in CHUNK.finditer(line):
        pass
    if found is None or OPERATED.search(line[: found.start()]):
        return Given(None, None)
    rest = regex.split(r"[,;:!?(]|\.(?:\s|$)", line[found.end() :], maxsplit=1)[0]
    claim = Claim(found[0] + rest, LAST, len(text))
    word = regex.match(r"\W*(\w+)", rest)
    if (number := read_number(claim.text)) is None and not (word and word[1].lower() in CHANGES):
        bare = regex.sub(r"^[(\[\"'*]+|[)\]\"'*,;:!?.]+$", "", found[0])
        number = read_number(bare)
    return Given(number, claim)


def given_math(text: str, pattern: regex.Pattern, *, last: bool) -> Given:
    """The mathematics that a text answers with; `last`: the last formula in it counts where none is marked."""
    text = answer_part(text)
    if (claim := marked(text, pattern)) is not None:
        value = read_math(claim.text, math=claim.is_math) if claim.text else None
        return Given(None if value is not None and opposed(value, text[claim.end :]) else value, claim)
    bare = text.strip()
    if len(text) < BARE and (value := read_math(bare, math=False)) is not None:
        return Given(value, Claim(bare, WHOLE, len(text)))
    claim = said(text)
    if claim is not None and (not claim.text or regex.search(r"[\d\\$]", claim.text) or len(claim.text.split()) < 4):
        value = read_math(claim.text, math=False) if claim.text else None
        rest = text[claim.end :]
        return Given(None if value is not None and (regex.search(r"\d|\\[(\[]|\$", rest)) else value, claim)
    return last_formula(text) if last else Given(None, None)


def opposed(value: Value, rest: str) -> bool:
    """Whether what follows a mark claims something else."""
    later = said(rest) if rest else None
    other = read_math(later.text, math=False) if later and later.text else None
    return other is not None and not isinstance(other, Words) and not same(other, value)


FORMULA = regex.compile(r"(?<!\\)\$\$(.+?)\$\$|\\\[(.+?)\\\]|(?<![\\$\d])\$([^$\n]+?)\$|\\\((.+?)\\\)", regex.DOTALL)
TAIL = regex.compile(r"(?:\b(?:is|are|equals|be|get|obtain|have|gives)|[:=])\s+(?=\S)")


def last_formula(text: str) -> Given:
    """The last formula between delimiters, or at the end of the last sentence, else the last number."""
    found = None
    for found in FORMULA.finditer(text, timeout=PATTERN_SECONDS):
        pass
    if found is not None:
        claim = Claim(next(group for group in found.groups() if group), LAST, len(text))
        ends = not regex.search(r"[\d\\]|\b(?:not|n't|or|and)\b", text[found.end() :])
        return Given(read_math(claim.text) if ends else None, claim)
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
    for found in TAIL.finditer(line):
        pass
    if found is not None:
        value = read_math(line[found.end() :], math=False)
        if value is not None and not isinstance(value, Words):
            return Given(value, Claim(line[found.end() :], LAST, len(text)))
    return last_number(text)
