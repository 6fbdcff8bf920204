"""The structure of mathematics: numbers, words, expressions, and lists, intervals, sets, matrices of such."""

from functools import lru_cache

import regex

from npo_core.problems.reading.brackets import BRACKETS, balanced, depths, split, top_level
from npo_core.problems.reading.expressions import expression
from npo_core.problems.reading.names import is_left_side
from npo_core.problems.reading.normal import TEXT_CLOSE, TEXT_OPEN, normal, outer
from npo_core.problems.reading.numbers import Number, number_in, unwrapped
from npo_core.problems.reading.units import beside, unit_of
from npo_core.problems.reading.values import Expression, Items, Matrix, Relation, Value, Words
from npo_core.problems.reading.words import CHANGING, HEDGES

INFINITY = {"+": Expression(r"\infty"), "-": Expression(r"-\infty")}
WORDS = regex.compile(r"\p{L}[\p{L}\s'.,-]*")
CONSTANTS = {"pi": r"\pi", "infinity": r"\infty", "inf": r"\infty"}


@lru_cache(maxsize=1024)
def read_math(text: str, *, math: bool = True) -> Value | None:
    """What a marked answer says as mathematics; None where that cannot be told for certain.

    Example:
        read_math("[0, 1)").kind == "[)"; read_math("x > 3") == read_math("(3, \\\\infty)"); read_math("3 | 4") is None
    """
    text = normal(text)
    return read(text, math) if len(text) <= 2000 else None


def read(text: str, math: bool = True) -> Value | None:
    """As `read_math`, of a text in its normal form."""
    text = unwrapped(outer(text))
    if "=" not in text and (number := number_in(text, math)) is not None:
        return number
    if (constant := CONSTANTS.get(text.lower())) is not None:
        return Expression(constant)
    bare = regex.sub(rf"[{TEXT_OPEN}{TEXT_CLOSE}]", " ", text)
    if WORDS.fullmatch(bare.strip(" ()")) and len(regex.sub(r"[^\p{L}]", "", bare)) > 1:
        return Words(" ".join(bare.strip(" ()").casefold().split()))
    if RATIO.fullmatch(text):
        return gathered(":", text.split(":"))
    return Words(text) if DRAWN.fullmatch(text) else structured(connected(text))


RATIO = regex.compile(r"\s*\d+(?:\s*:\s*\d+)+\s*")
DRAWN = regex.compile(r"\\(?:overline|angle|triangle|vec|overrightarrow|widehat)\s*\{?\s*[A-Za-z]{1,4}\s*\}?")


def connected(text: str) -> str:
    """\\text{and} and \\text{or} as words, and \\text{x} of one letter as the letter."""
    text = regex.sub(rf"{TEXT_OPEN}\s*(and|or|,|;)\s*{TEXT_CLOSE}", r" \1 ", text)
    letter = "[A-Za-z]" if text.count(TEXT_OPEN) == 1 and text[0] == TEXT_OPEN and text[-1] == TEXT_CLOSE else "[eid]"
    return regex.sub(rf"{TEXT_OPEN}\s*\(?({letter})\)?\s*{TEXT_CLOSE}", r"\1", text)


def structured(text: str) -> Value | None:
    """Lists, then relations, unions, brackets, matrices, and what has none of these."""
    text = text.strip()
    if not text or not balanced(text):
        return None
    parts = split(text, LISTED)
    if len(parts) > 1:
        if any(" and " in f" {between} " for between in separators(text)) and RELATED.search(text):
            return None  # an intersection
        if HEDGED.search(text) or (found := gathered("", parts)) is None:
            return None
        names = {item.left for item in found.items if isinstance(item, Relation)}
        either = len(names) > 1 and any("or" in between for between in separators(text))
        return None if either else found  # x = 1 or y = 2
    if RELATED.search(text):
        return related(text)
    if len(parts := split(text, UNITED)) > 1:
        return gathered("U", parts)
    if text.count("\\pm") == 1 and "\\mp" not in text:
        return gathered("", [text.replace("\\pm", "+"), text.replace("\\pm", "-")])
    return bracketed(text) or matrix(text) or measured(text)


LISTED = regex.compile(r"\s*(?:[,;]\s*(?:(?:and|or)(?![a-zA-Z]))?|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z]))\s*")
HEDGED = regex.compile(rf"\b(?:{'|'.join(word for word in HEDGES if len(word) > 2)})\b", regex.IGNORECASE)
UNITED = regex.compile(r"\s*\\cup(?![a-zA-Z])\s*")
RELATED = regex.compile(r"\\(?:le|ge|neq|in|approx|to|mapsto|equiv|sim)(?![a-zA-Z])|[<>=]")
ONE_RELATION = regex.compile(r"\s*(<=|>=|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\in(?![a-zA-Z])|<|>|=)\s*")
OPERATOR = {"\\le": "<=", "\\ge": ">="}


def separators(text: str) -> list[str]:
    """The separators of a list outside brackets."""
    return [found[0] for found in top_level(text, LISTED)]


def gathered(kind: str, parts: list[str]) -> Items | None:
    """The values of parts; None where one of them has none."""
    values = [read(part) for part in parts]
    items = tuple(value for value in values if value is not None and not isinstance(value, Words))
    return Items(kind, items) if len(items) == len(values) else None


def related(text: str) -> Value | None:
    """An equation, an inequality, or membership."""
    operators = [OPERATOR.get(found[1], found[1]) for found in top_level(text, ONE_RELATION)]
    sides = split(text, ONE_RELATION)
    if not operators or any(RELATED.search(side) and "\\sum" not in side and "\\prod" not in side for side in sides):
        return None
    if operators == ["\\in"]:
        return read(sides[1]) if is_left_side(sides[0]) else None
    if set(operators) == {"="}:
        return equation(sides)
    return inequality(operators, sides)


def equation(sides: list[str]) -> Relation | None:
    """What a name is said to be, the end of a calculation, or two sides that are equal."""
    if all(is_left_side(side) and side.strip() for side in sides[:-1]):
        value, numbers = read(sides[-1]), [number_in(side, True) for side in sides[:-1]]
        if isinstance(value, Number) and any(number and number.value != value.value for number in numbers):
            return None  # 0 = 3
        return None if value is None else Relation("=", sides[0].strip(), sides[-1].strip(), value)
    readable = len(sides) == 2 and all(measured(side) is not None for side in sides)
    return Relation("=", sides[0].strip(), sides[1].strip()) if readable else None


def inequality(operators: list[str], sides: list[str]) -> Value | None:
    """An interval where a variable is compared with values, else a relation of two sides."""
    if any(operator[0] not in "<>" for operator in operators) or len({operator[0] for operator in operators}) > 1:
        return None
    if operators[0][0] == ">":
        operators, sides = [operator.replace(">", "<") for operator in operators[::-1]], sides[::-1]
    variable = [
        regex.fullmatch(r"\s*(?:[a-zA-Z]|\\[a-z]+)\s*", side) is not None and side.strip() != "\\infty"
        for side in sides
    ]
    ends = {0: "[" if operators[0] == "<=" else "(", 1: "]" if operators[-1] == "<=" else ")"}
    values = [None if is_variable else read(side) for side, is_variable in zip(sides, variable, strict=True)]
    if any(value is None and not is_variable for value, is_variable in zip(values, variable, strict=True)):
        return None
    if sum(variable) == 1 and variable in ([False, True, False], [True, False], [False, True]):
        lower, upper = values[0] or INFINITY["-"], values[-1] or INFINITY["+"]
        opens = "(" if values[0] is None else ends[0]
        closes = ")" if values[-1] is None else ends[1]
        kind = "][" if opens + closes == "()" else opens + closes
        return Items(kind, (lower, upper), sides[variable.index(True)].strip())
    return Relation(operators[0], sides[0].strip(), sides[1].strip()) if len(sides) == 2 else None


def bracketed(text: str) -> Value | None:
    """What one pair of brackets around all of a text holds."""
    found = BRACKETS.match(text)
    closing = next((at for at, depth in depths(text) if depth == 0), None)
    if found is None or closing is None or not (last := BRACKETS.fullmatch(text, closing)):
        return None
    inside = text[found.end() : closing]
    parts = [part for part in split(inside, COMMA)]
    if found[0] == "\\{":
        return gathered("{}", parts) if last[0] == "\\}" and not regex.search(r"\||\\mid|:", inside) else None
    if found[0] in ("(", "{") and last[0] in (")", "}") and len(parts) == 1:
        return read(inside)
    if len(parts) < 2 or found[0] == "{" or last[0] in ("}", "\\}"):
        return None
    if "\\langle" in found[0]:
        return gathered("()", parts)
    return gathered(found[0] + last[0], parts) if found[0] + last[0] in ("()", "[]") or len(parts) == 2 else None


COMMA = regex.compile(r"\s*[,;]\s*")
ENVIRONMENT = regex.compile(r"\\begin\s*\{([pb]?matrix|array)\}(?:\s*\{[clr|\s]*\})?(.*?)\\end\s*\{\1\}", regex.DOTALL)


def matrix(text: str) -> Matrix | None:
    """The matrix of a LaTeX environment; None where an entry cannot be read."""
    found = ENVIRONMENT.fullmatch(text)
    if found is None:
        return None
    rows = [row for row in found[2].split("\\\\") if row.strip()]
    values = [[read(cell) for cell in row.split("&")] for row in rows]
    entries = tuple(tuple(value for value in row if value is not None) for row in values)
    return Matrix(entries) if list(map(len, entries)) == list(map(len, values)) else None


TRIGONOMETRY = regex.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


def measured(text: str) -> Expression | None:
    """An expression, and the unit in \\text{...} or the degrees that stand after it."""
    unit = None
    if found := regex.search(
        rf"\s*({TEXT_OPEN}[^{TEXT_OPEN}]*{TEXT_CLOSE}(?:\s*\^\s*(?:\{{[23]\}}|[23]))?|\^\s*\{{?\s*\\circ\s*\}}?)\s*$",
        text,
    ):
        pieces = beside(found[1], True)
        if pieces is None or any(piece in CHANGING for piece in pieces):
            return None
        text, unit = text[: found.start()], unit_of(pieces)
        if unit == "deg" and TRIGONOMETRY.search(text):
            return None
    latex = expression(text)
    return None if latex is None else Expression(latex, unit)
