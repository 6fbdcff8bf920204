"""What may stand after a number: a unit, a currency, percent, a power of ten in words, a name."""

import regex

from npo_core.problems.reading.names import LETTERS
from npo_core.problems.reading.normal import CURRENCY as DOLLAR
from npo_core.problems.reading.normal import TEXT_CLOSE, TEXT_OPEN
from npo_core.problems.reading.words import CHANGING, CURRENCY, MULTIPLIERS, SINGLE, UNITS

WORDS = 8  # words beside a number, at most
FOREIGN = regex.compile(
    r".*[^\p{Latin}'-]|m[iy]l|mrd|mio|bil|mega|giga|tera|micro|tril|tn|trn|quad|tausend|hundert|cien|thou|grand|lac|rib|jut|tys"
)
SMALL_WORDS = {"a", "an", "in", "of", "/", "at", "on", "by"}
UNIT_WORD = regex.compile(
    rf"(?P<text>{TEXT_OPEN}[^{TEXT_OPEN}{TEXT_CLOSE}]*{TEXT_CLOSE})|(?P<word>\p{{L}}+(?:['-]\p{{L}}+)*)\.?|(?P<percent>%)"
    rf"|(?P<degree>\^\s*\\circ(?![a-zA-Z])|\^\s*\{{\s*\\circ\s*\}})|(?P<power>\^\s*(?:\{{\s*-?[1-3]\s*\}}|[1-3]))(?![\d.])"
    rf"|(?P<by>/|\\cdot(?![a-zA-Z]))|(?P<symbol>[{DOLLAR}$€£¥₹₩₽¢])"
)


def suffix(text: str, math: bool, unit: str | None) -> tuple[int, str | None] | None:
    """What a number's rest means: a power of ten and a unit; None where it is more than a unit or a name.

    Example:
        suffix(" million dollars", False, None) == (6, "usd"); suffix(" or 4", False, None) is None
    """
    if not text.strip():
        return 0, unit
    pieces, factor = beside(text, math), 0
    if pieces is None or len(pieces) > WORDS:
        return None
    if pieces and pieces[0] in MULTIPLIERS:
        factor, pieces = MULTIPLIERS[pieces[0]], pieces[1:]
    if any(piece in CHANGING for piece in pieces):
        return None
    if unit is not None and pieces and len(pieces[0]) < 3 and pieces[0] not in SMALL_WORDS:
        return None  # $30 m may be a million
    return factor, unit or unit_of(pieces)


def beside(text: str, math: bool, inside: bool = False) -> list[str] | None:
    """The words and signs after a number, in lower case; None where there is anything else.

    `inside`: of \\text{...}, where a letter beside the number is a unit.
    """
    pieces: list[str] = []
    at, text = 0, regex.sub(r"^\s*\((?=[^()\d]*\)\s*$)|(?<=^[^()]*)\)\s*$", " ", text)
    if math and regex.match(r"[A-Za-z]", text) and LETTERS.match(text)[0].lower() not in UNITS:
        return None  # a product
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        found = UNIT_WORD.match(text, at)
        if found is None or (found["power"] and not (pieces and pieces[-1].isalpha())):
            return None
        after_unit = len(pieces) > 1 and pieces[-1] == "/"
        if (more := words_of(found, math and not after_unit, attached=at == 0 and not inside)) is None:
            return None
        pieces += more
        at = found.end()
    return None if pieces and pieces[-1] == "/" else pieces


def words_of(found: regex.Match, math: bool, attached: bool) -> list[str] | None:
    """The words of one match of UNIT_WORD; None where a letter is a variable, or a word may be a product of such."""
    if found["text"]:
        inner = found["text"][1:-1].strip()
        return beside(inner, False, inside=True) if inner else []
    if found["word"]:
        return word_of(found["word"], math, attached)
    if found["power"]:
        return ["^" + regex.sub(r"[^-\d]", "", found["power"])]
    if found["percent"] or found["degree"]:
        return ["%" if found["percent"] else "degree"]
    return ["/"] if found[0] == "/" else [] if found["by"] else [CURRENCY.get(found[0].replace(DOLLAR, "$"), "other")]


def word_of(word: str, math: bool, attached: bool) -> list[str] | None:
    """A word beside a number, in lower case; None where it may be a product of variables, or a foreign number word."""
    low = word.lower()
    if len(word) == 1:
        return None if math or attached or word not in SINGLE | {"a"} else [low]
    if low in UNITS and word not in ("MM", "MB"):
        return [low]
    strange = FOREIGN.match(low) or regex.match(r"[a-z]+[A-Z]|[A-Z]{2}$", word)
    changing = any(part in CHANGING for part in low.split("-"))
    if low in MULTIPLIERS or (changing and not attached):
        return [low] if "-" not in low else None
    return None if strange or attached or (math and len(word) < 4) else [low]


SQUARE = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


def unit_of(pieces: list[str]) -> str | None:
    """The unit that words name, where all of them are known; None: it cannot be told."""
    said, raised = "", ""
    for piece in pieces:
        if piece in SQUARE and not raised:
            raised = SQUARE[piece]
        elif piece in UNITS or piece in CURRENCY.values():
            said, raised = said + " " * bool(said[-1:].strip("/")) + UNITS.get(piece, piece) + raised, ""
        elif piece in ("per", "/"):
            said += "/"
        elif piece[0] == "^":
            said += piece
        elif piece != "of":
            return None
    return None if raised or not said else said
