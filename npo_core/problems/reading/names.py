"""What may stand before a number or an equals sign: a name, words, a calculation; and what may not."""

import regex

from npo_core.problems.reading.normal import TEXT_CLOSE, TEXT_OPEN
from npo_core.problems.reading.words import HEDGES, NOT_A_NAME

LETTERS = regex.compile(r"\p{L}+(?:['-]\p{L}+)*")
IS = regex.compile(
    r"(?:^|(?<=\s))(?:is|are|was|were|equals|equal to|be|becomes|has|have)\s*:?\s+|:\s+", regex.IGNORECASE
)


HEDGE = regex.compile(r"([a-zA-Z]+)(?=[\s.$])")


def without_name(text: str) -> str:
    """What follows the last "is" or colon, where a plain name stands before it; hedges before the number go, too."""
    ends = [found.end() for found in IS.finditer(text) if found.start() or found[0].strip() != ":"]
    if ends and is_words(text[: ends[-1]], NOT_A_NAME - {"is", "are", "was", "were", "be", "equal", "equals"}):
        text = text[ends[-1] :]
    text = text.strip().lstrip("~")
    hedged = False
    while (word := HEDGE.match(text)) and word[1].lower() in HEDGES:
        text, hedged = text[word.end() :].lstrip(". "), True
    return "" if hedged and text.startswith(("- ", "+ ")) else text  # a dash between them is no sign


def is_words(text: str, refused: frozenset[str]) -> bool:
    """Whether a text is words alone, none of which changes or denies what it is said of."""
    bare = regex.sub(rf"[{TEXT_OPEN}{TEXT_CLOSE}:,'\"]", " ", text)
    words = bare.lower().split()
    if all(len(word) < 4 and word not in SHORT_NAMES for word in words):
        return False  # a product of variables
    return bool(words) and all(LETTERS.fullmatch(word) and word not in refused for word in words)


SHORT_NAMES = frozenset("sum age max min gcd lcm ans avg net tax it he she we they is are was the".split())


NAME = regex.compile(
    r"\s*(?:(?:m\s*)?\\(?!(?:d?frac|sqrt|log|lg|ln|sin|cos|tan|exp|pm|mp|neg|not|pi)(?![a-z]))[a-zA-Z]{2,8}+\s*)?"
    r"(?:\{?(?:[A-Za-z]|[A-Z]{2,4})\}?)?(?:_(?:\w|\{[\w,\s]*\}))?\s*(?:\(\s*[\w\s,.+-]*\s*\))?\s*"
)
INVERSE = regex.compile(r"\s*[a-zA-Z]\s*\^\s*\{?\s*-1\s*\}?\s*\(\s*[a-zA-Z]\s*\)\s*")
SUM = regex.compile(r"\s*([a-zA-Z])(?:\s*\+\s*([a-zA-Z]))+\s*")
ARITHMETIC = regex.compile(
    r"(?:[\d\s+*/().,^!%$€£{}\ue002-]|\\(?:times|cdot|div|frac|sqrt|binom|pi|log|ln|lfloor|rfloor)(?![a-zA-Z])|(?<=\d\s?)x(?=\s?\d))*\d"
    r"(?:[\d\s+*/().,^!%$€£{}\ue002-])*"
)


def is_left_side(text: str) -> bool:
    """Whether this may stand before an equals sign: a name, a sum of names, words, or a calculation with numbers."""
    if not text.strip():
        return True
    if (found := SUM.fullmatch(text)) and len(set(names := found.captures(1) + found.captures(2))) == len(names):
        return True
    return (
        NAME.fullmatch(text) is not None
        or INVERSE.fullmatch(text) is not None
        or is_words(text.strip(" :"), NOT_A_NAME)
        or ARITHMETIC.fullmatch(text) is not None
    )
