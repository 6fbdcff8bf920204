"""The number that a text gives as its answer: marked, as all that it says, after "answer is", or as the last one."""

import regex

from npo_core.problems.reading.boxes import braces
from npo_core.problems.reading.claims import (
    LAST,
    PATTERN,
    PATTERN_SECONDS,
    WHOLE,
    Claim,
    Given,
    answer_part,
    last_match,
    last_of,
    marked,
    said,
)
from npo_core.problems.reading.normal import CURRENCY, PLAIN, TEXT_CLOSE, TEXT_OPEN, normal
from npo_core.problems.reading.numbers import Number, read_number
from npo_core.problems.reading.words import COUNTS, MULTIPLIERS, NUMBERS, OPERATIONS

BARE = 300  # characters of a text that may be an answer and nothing else


def given_text(text: str, pattern: regex.Pattern) -> Given[str]:
    """What the pattern finds last, as text in its normal form; a box after it that stays open takes it away."""
    text = answer_part(text)
    matches = pattern.findall(text, timeout=PATTERN_SECONDS)
    if not matches:
        return Given(None, None)
    last = matches[-1]
    opened, box = False, text.rfind("\\boxed")
    if box >= 0 and braces(text, box)[0] is None and (match := last_match(text, pattern)) is not None:
        opened = box >= match.start(1)
    said = last.rstrip(".") if PLAIN.fullmatch(last) else plain(last)
    nothing = opened or bool(last and not said)  # a pattern whose group is empty by intention has an empty answer
    return Given(None if nothing else said, Claim(last, PATTERN))


def plain(text: str) -> str:
    """A text in its normal form, without the commas between groups of three digits."""
    text = regex.sub(f"[{TEXT_OPEN}{TEXT_CLOSE}]", " ", normal(text)).replace(CURRENCY, "$")
    text = " ".join(text.split())
    return text if regex.search(r"[(\[{]", text) else GROUPS.sub("", text)


GROUPS = regex.compile(r"(?<=(?<![\d,])[1-9]\d{0,2}(?:,\d{3})*),(?=\d{3}(?:,\d{3})*(?![\d,]))")


def given_number(text: str, pattern: regex.Pattern, *, last: bool) -> Given[Number]:
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
        return Given(number if number and upheld(number, text[claim.end :]) else None, claim)
    return last_number(text) if last else Given(None, None)


def contradicted(number: Number, rest: str) -> bool:
    """Whether what follows a mark claims, or ends with, another number."""
    if not rest.strip():
        return False
    later = said(rest)
    others = [read_number(later.text) if later and later.text else None, last_number(rest).value]
    return any(other is not None and other.value != number.value for other in others)


def upheld(number: Number, rest: str) -> bool:
    """Whether what follows an "answer is" says no number, or the same one at its end."""
    if regex.search(r"\d", rest):
        other = last_number(rest).value
        return other is not None and other.value == number.value
    return not any(word in COUNTS for word in regex.findall(r"\w+", rest.lower()))


# Digits with what is attached to them, groups and mixed numbers as one.
CHUNK = regex.compile(r"(?<!\S)\S*?\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)\S*|(?<!\S)\S*\d+ \d+/\d+\S*|\S*\d\S*")
OPERATED = regex.compile(
    r"(?:[\d)\]}]\s*(?:[-+–−:,;]|or|and|to|\\[a-z]+)|[-–−*/^_×÷±√+<>≠≤≥]|\\[a-zA-Z]+|\d)\s*$"
    r"|\b(?:minus|negative|least|most|than|half of|twice)\s+$",
    regex.IGNORECASE,
)
CHANGES = frozenset(f"{NUMBERS} {OPERATIONS} and or percent".split()) | set(MULTIPLIERS)
DENIED = regex.compile(
    r"\b(?:no|not|never|\w+n't|false|untrue|wrong|incorrect|doubt\w*|says?|said|claims?|if|unless|suppose)\b",
    regex.IGNORECASE,
)


def last_number(text: str) -> Given[Number]:
    """The last number in a text, with what is beside it, where its sentence denies nothing."""
    line = next((line for line in reversed(text.splitlines()) if any(map(str.isdigit, line))), "")
    found = last_of(CHUNK.finditer(line))
    if found is None or OPERATED.search(line[: found.start()]):
        return Given(None, None)
    start = max((m.end() for m in regex.finditer(r"[.!?]\s", line[: found.start()])), default=0)
    sentence = regex.split(r"(?<=[.!?])\s", line[start:], maxsplit=1)[0]
    if DENIED.search(sentence) or regex.match(r"\S*\d\S*[!?]", found[0]) or sentence.endswith("?"):
        return Given(None, None)
    rest = regex.split(r"[,;:!?(]|\.(?:\s|$)", line[found.end() :], maxsplit=1)[0]
    claim = Claim(found[0] + rest, LAST, len(text))
    word = regex.match(r"\W*(\w+)", rest)
    if (number := read_number(claim.text)) is None and not (word and word[1].lower() in CHANGES):
        number = read_number(regex.sub(r"^[(\[\"'*]+|[)\]\"'*,;:.]+$", "", found[0]))
    return Given(number, claim)
